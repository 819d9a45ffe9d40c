"""What a message holds and where: the numbers of every class of a game, in one layout so that messages stack."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rllib_tag.errors import ConfigError, check_int


@dataclasses.dataclass(frozen=True)
class ClassView:
    """What the n agents of one class see, over any leading axes.

    Args:
        own: (..., n, d) numbers about the agent itself, the first two of which are its position.
        entities: For each kind that the class sees, (..., n, K, D) numbers of K entities, the first two of which are a
            position in the same coordinates.

    Example:
        >>> one_agent, three_landmarks = np.zeros((1, 4)), np.ones((1, 3, 2))
        >>> ClassView(one_agent, {"landmarks": three_landmarks}).entities["landmarks"].shape
        (1, 3, 2)
    """

    own: np.ndarray
    entities: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Senses:
    """What a network must know of a game to act in it: sizes that do not depend on how many there are of anything.

    Args:
        classes: Names of the classes.
        own: Numbers about itself that an agent of each class sees.
        kinds: Numbers of one entity, by kind.
        state: Numbers of one entity of the critics' state, by kind; `team` is there always, without the class.
    """

    classes: tuple[str, ...]
    own: tuple[int, ...]
    kinds: Mapping[str, int]
    state: Mapping[str, int]

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Senses:
        """Builds it from a mapping such as JSON's.

        Raises:
            ConfigError: If something is missing or does not fit.
        """
        fitting = (
            isinstance(mapping, Mapping)
            and mapping.keys() == {"classes", "own", "kinds", "state"}
            and all(isinstance(mapping[key], (list, tuple)) and mapping[key] for key in ("classes", "own"))
            and all(isinstance(mapping[key], Mapping) for key in ("kinds", "state"))
            and len(mapping["classes"]) == len(mapping["own"])
            and all(isinstance(name, str) for name in (*mapping["classes"], *mapping["kinds"], *mapping["state"]))
            and "team" in mapping["state"]
        )
        if not fitting:
            raise ConfigError(
                f"senses: expected classes and own, as many of both, kinds, and state with team, got {mapping!r}."
            )
        for number in (*mapping["own"], *mapping["kinds"].values(), *mapping["state"].values()):
            check_int("senses", number, 2)
        own, classes = (tuple(mapping[key]) for key in ("own", "classes"))
        return cls(classes, own, dict(mapping["kinds"]), dict(mapping["state"]))


@dataclasses.dataclass(frozen=True)
class MessageLayout:
    """Where the parts of a message stand: own numbers, entities by kind, a flag for each kind seen, class one-hot.

    What a sender does not see is zero and flagged as unseen; own numbers of a class that has fewer than another are
    filled up with zeros.

    Args:
        senses: The game's.
        counts: Entities of each kind in this game.
    """

    senses: Senses
    counts: Mapping[str, int]

    @property
    def width(self) -> int:
        """F, the numbers of one message."""
        return self._flags + len(self.senses.kinds) + len(self.senses.classes)

    @property
    def own(self) -> slice:
        """The sender's own numbers."""
        return slice(0, max(self.senses.own))

    def entities(self, kind: str) -> slice:
        """The entities of a kind, one after the other."""
        start = self.own.stop
        for name, dim in self.senses.kinds.items():
            end = start + dim * self.counts[name]
            if name == kind:
                return slice(start, end)
            start = end
        raise KeyError(kind)

    def seen(self, kind: str) -> int:
        """Index of the flag that the sender sees a kind."""
        return self._flags + list(self.senses.kinds).index(kind)

    @property
    def one_hot(self) -> slice:
        """The sender's class."""
        return slice(self.width - len(self.senses.classes), self.width)

    @property
    def _flags(self) -> int:
        return self.own.stop + sum(dim * self.counts[kind] for kind, dim in self.senses.kinds.items())

    def messages(self, views: Sequence[ClassView]) -> np.ndarray:
        """The message that every agent of a team sends.

        Args:
            views: What the agents of each class see, in the order of the classes, which is that of the team.

        Returns:
            (..., N, F) float32.
        """
        sizes = [view.own.shape[-2] for view in views]
        out = np.zeros((*views[0].own.shape[:-2], sum(sizes), self.width), np.float32)
        end = 0
        for k, (view, size) in enumerate(zip(views, sizes, strict=True)):
            rows, end = out[..., end : end + size, :], end + size
            rows[..., : view.own.shape[-1]] = view.own
            for kind, entities in view.entities.items():
                rows[..., self.entities(kind)] = entities.reshape(*entities.shape[:-2], -1)
                rows[..., self.seen(kind)] = 1
            rows[..., self.one_hot.start + k] = 1
        return out
