"""What is counted of an episode, always from MPE's own rewards and the true world."""

from __future__ import annotations

from typing import Any

import numpy as np

from rllib_tag.world.roster import GOOD_POLICY, POLICIES, Roster

# The stable names under which an episode's figures appear everywhere: custom metrics, CSV, tables.
METRICS = (
    "return_adversary",
    "return_class_a",
    "return_class_b",
    "return_good",
    "contacts",
    "captured",
    "steps_to_first_contact",
    "mean_links",
)


class EpisodeStats:
    """Counts an episode step by step.

    Args:
        roster: Who is who.
        max_cycles: Steps of an episode, which stand for the first contact when there is none.
    """

    def __init__(self, roster: Roster, max_cycles: int) -> None:
        self._roster, self._max_cycles = roster, max_cycles
        self._returns = dict.fromkeys((*roster.adversaries, *roster.good_agents), 0.0)
        self._contacts, self._links, self._steps = 0, 0.0, 0
        self._first: int | None = None

    def step(self, world: Any, rewards: dict[str, float], linked: np.ndarray) -> None:
        """Counts one step.

        Args:
            world: MPE's world after the step.
            rewards: MPE's own rewards of the step.
            linked: (N, N) links after the step.
        """
        self._steps += 1
        for name, reward in rewards.items():
            self._returns[name] += reward
        hunters = [agent for agent in world.agents if agent.adversary]
        prey = [agent for agent in world.agents if not agent.adversary]
        offsets = np.array([[h.state.p_pos - p.state.p_pos for p in prey] for h in hunters])
        touching = np.sqrt(np.square(offsets).sum(-1)) < hunters[0].size + prey[0].size
        contacts = int(touching.sum())
        if contacts and self._first is None:
            self._first = self._steps
        self._contacts += contacts
        self._links += (linked.sum() - len(linked)) / len(linked)

    def summary(self) -> dict[str, float]:
        """The episode's figures under the names of `METRICS`.

        `return_*`: undiscounted sum of MPE's own reward, mean over the agents named; a class without
        members has no entry. `contacts`: adversary-prey contacts summed over the steps. `captured`: 1 if
        there was any. `steps_to_first_contact`: `max_cycles` if there was none. `mean_links`: teammates
        that an adversary is linked to, mean over adversaries and steps.
        """
        groups = {"return_adversary": self._roster.adversaries}
        groups |= {f"return_{name}": self._roster.members(name) for name in (*POLICIES, GOOD_POLICY)}
        out = {
            name: float(np.mean([self._returns[agent] for agent in agents]))
            for name, agents in groups.items()
            if agents
        }
        return out | {
            "contacts": float(self._contacts),
            "captured": float(self._contacts > 0),
            "steps_to_first_contact": float(self._first or self._max_cycles),
            "mean_links": float(self._links / max(self._steps, 1)),
        }
