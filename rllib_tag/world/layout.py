"""The layout of messages: the same for all classes of a game, so that the messages of a team can be stacked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rllib_tag.errors import ConfigError, check_int


def present_key(kind: str) -> str:
    """Returns the key of which entities of a kind there are, (..., K), in observations of games that vary in size."""
    return f"{kind}_present"


@dataclasses.dataclass(frozen=True)
class ClassView:
    """What the n agents of one class see, with any leading axes.

    Args:
        own: (..., n, d) numbers about the agent itself; the first two are its position.
        entities: For each kind of entity that the class sees, (..., n, K, D) numbers of K entities; the first two of
            an entity are its position in the same coordinates.
        present: For each kind of which the number varies from game to game, which of its entities there are,
            (..., n, K) booleans that are true for the first ones; the numbers of the others must be 0. Default: all.

    Examples:
        >>> one_agent, three_landmarks = np.zeros((1, 4)), np.ones((1, 3, 2))
        >>> ClassView(one_agent, {"landmarks": three_landmarks}).entities["landmarks"].shape
        (1, 3, 2)
    """

    own: np.ndarray
    entities: Mapping[str, np.ndarray]
    present: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Senses:
    """What a network must know about a game to act in it: sizes that do not depend on the number of agents or entities.

    Args:
        classes: The names of the classes.
        own: For each class, how many numbers an agent sees about itself.
        kinds: The size of an entity, by kind.
        state: The size of an entity of the critics' state, by kind; always contains `team`, without the class one-hot.
    """

    classes: tuple[str, ...]
    own: tuple[int, ...]
    kinds: Mapping[str, int]
    state: Mapping[str, int]

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Senses:
        """Builds it from a mapping such as parsed JSON.

        Raises:
            ConfigError: If something is missing or invalid.
        """
        is_valid = (
            isinstance(mapping, Mapping)
            and mapping.keys() == {"classes", "own", "kinds", "state"}
            and all(isinstance(mapping[key], (list, tuple)) and mapping[key] for key in ("classes", "own"))
            and all(isinstance(mapping[key], Mapping) for key in ("kinds", "state"))
            and len(mapping["classes"]) == len(mapping["own"])
            and all(isinstance(name, str) for name in (*mapping["classes"], *mapping["kinds"], *mapping["state"]))
            and "team" in mapping["state"]
        )
        if not is_valid:
            raise ConfigError(
                "senses: expected classes and own of equal length, kinds, and a state that contains team, got "
                f"{mapping!r}."
            )
        for number in (*mapping["own"], *mapping["kinds"].values(), *mapping["state"].values()):
            check_int("senses", number, 2)
        own, classes = (tuple(mapping[key]) for key in ("own", "classes"))
        return cls(classes, own, dict(mapping["kinds"]), dict(mapping["state"]))


@dataclasses.dataclass(frozen=True)
class MessageLayout:
    """The positions of a message's parts: own numbers, entities by kind, a flag for each kind seen, class one-hot.

    Whatever a sender does not see is zero and flagged as unseen. If a class has fewer own numbers than another, they
    are padded with zeros.

    Args:
        senses: The sizes of what is seen in the game.
        counts: The number of entities of each kind in this game.
        sees: The kinds that each class sees; empty if unknown. Default: unknown.
        sizes: The number of agents of each class; None if unknown. Default: unknown.
        varies: Whether the numbers of agents and entities vary from game to game, up to `sizes` and `counts`. The flag
            of a kind that is seen is then 1 more than the number of its entities. Default: False.
    """

    senses: Senses
    counts: Mapping[str, int]
    sees: tuple[tuple[str, ...], ...] = ()
    sizes: tuple[int, ...] | None = None
    varies: bool = False

    @property
    def width(self) -> int:
        """F, the length of one message."""
        return self._flags + len(self.senses.kinds) + len(self.senses.classes)

    @property
    def own(self) -> slice:
        """The slice of the sender's own numbers."""
        return slice(0, max(self.senses.own))

    def entities(self, kind: str) -> slice:
        """Returns the slice of all entities of a kind, one after another."""
        start = self.own.stop
        for name, dim in self.senses.kinds.items():
            end = start + dim * self.counts[name]
            if name == kind:
                return slice(start, end)
            start = end
        raise KeyError(kind)

    def seen(self, kind: str) -> int:
        """Returns the index of the flag that is 1 or more if the sender sees a kind, and 0 otherwise."""
        return self._flags + list(self.senses.kinds).index(kind)

    @property
    def one_hot(self) -> slice:
        """The slice of the sender's class one-hot."""
        return slice(self.width - len(self.senses.classes), self.width)

    @property
    def _flags(self) -> int:
        return self.own.stop + sum(dim * self.counts[kind] for kind, dim in self.senses.kinds.items())

    def messages(self, views: Sequence[ClassView]) -> np.ndarray:
        """Returns the messages that all agents of a team send.

        Args:
            views: What the agents of each class see, in the order of the classes.

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
                number = view.present[kind].sum(-1) if kind in view.present else entities.shape[-2]
                rows[..., self.seen(kind)] = 1 + number if self.varies else 1
            rows[..., self.one_hot.start + k] = 1
        return out
