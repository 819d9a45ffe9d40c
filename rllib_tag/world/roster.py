"""The agents of a game of tag: names, classes and counts."""

from __future__ import annotations

import dataclasses
import itertools
from functools import cached_property

import numpy as np

from rllib_tag.errors import ConfigError, check_int
from rllib_tag.names import GOOD_POLICY, POLICIES

CLASS_A, CLASS_B = 0, 1


@dataclasses.dataclass(frozen=True)
class Roster:
    """The agents of a game of tag, with MPE's names.

    `adversary_0 ... adversary_{nA-1}` are class A, the next nB adversaries are class B, and
    `agent_0 ...` are the good agents.

    Args:
        num_class_a: The number of adversaries that see the landmarks.
        num_class_b: The number of adversaries that see the good agents.
        num_good: The number of good agents.

    Raises:
        ConfigError: If a count is not an integer or is negative, or if there are no adversaries or no good agents.
    """

    num_class_a: int
    num_class_b: int
    num_good: int

    def __post_init__(self) -> None:
        check_int("num_class_a", self.num_class_a, 0)
        check_int("num_class_b", self.num_class_b, 0)
        check_int("num_good", self.num_good, 1)
        if self.num_adversaries == 0:
            raise ConfigError(
                "num_class_a and num_class_b: expected at least one adversary, got 0 of both. "
                "Set one of them to 1 or more."
            )

    @property
    def num_adversaries(self) -> int:
        """N, the number of adversaries of both classes."""
        return self.num_class_a + self.num_class_b

    @cached_property
    def adversaries(self) -> tuple[str, ...]:
        """The adversaries' names, class A first."""
        return tuple(f"adversary_{i}" for i in range(self.num_adversaries))

    @cached_property
    def good_agents(self) -> tuple[str, ...]:
        """The good agents' names."""
        return tuple(f"agent_{i}" for i in range(self.num_good))

    @cached_property
    def classes(self) -> np.ndarray:
        """The class of every adversary, `CLASS_A` or `CLASS_B`: (N,) integers."""
        return np.repeat([CLASS_A, CLASS_B], [self.num_class_a, self.num_class_b])

    @cached_property
    def group_of(self) -> dict[str, str]:
        """The policy of each agent: `class_a`, `class_b` or `good`."""
        return {agent: policy for policy in (*POLICIES, GOOD_POLICY) for agent in self.members(policy)}

    def members(self, policy: str) -> tuple[str, ...]:
        """The agents that act by `policy` (`class_a`, `class_b` or `good`)."""
        if policy == GOOD_POLICY:
            return self.good_agents
        split = self.num_class_a
        return self.adversaries[:split] if policy == POLICIES[CLASS_A] else self.adversaries[split:]


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Games of tag of different sizes, of which each episode draws one.

    Teams, numbers of good agents and numbers of landmarks are drawn independently and evenly; a team of nobody is never
    drawn. A drawn game has room for the largest one: its class A adversaries have the first places of those of class A,
    its class B adversaries the first places of those of class B, and so on.

    Args:
        num_class_a: The numbers of class A adversaries to draw from.
        num_class_b: The numbers of class B adversaries.
        num_good: The numbers of good agents.
        num_obstacles: The numbers of landmarks.
    """

    num_class_a: tuple[int, ...]
    num_class_b: tuple[int, ...]
    num_good: tuple[int, ...]
    num_obstacles: tuple[int, ...]

    @cached_property
    def teams(self) -> list[tuple[int, int]]:
        """The numbers of adversaries of both classes to draw from."""
        return [pair for pair in itertools.product(self.num_class_a, self.num_class_b) if sum(pair)]

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Returns who takes part in an episode: (N + y + z,) booleans for adversaries, good agents and landmarks."""
        team = self.teams[rng.integers(len(self.teams))]
        counts = (*team, *(choices[rng.integers(len(choices))] for choices in (self.num_good, self.num_obstacles)))
        largest = (max(choices) for choices in dataclasses.astuple(self))
        return np.concatenate([np.arange(size) < count for size, count in zip(largest, counts, strict=True)])
