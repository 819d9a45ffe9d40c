"""Channel interventions, which change messages on their way to show what a trained team makes of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rllib_tag.errors import ConfigError, check_choice, check_number, did_you_mean
from rllib_tag.nn.team import between, reach
from rllib_tag.playing.games import Games, Rows
from rllib_tag.plugin.env_config import EnvConfig
from rllib_tag.world.streams import CHANNEL

# What each kind does, with the name of its value after the colon.
KINDS = {
    "cut": "nobody hears anybody",
    "swap": "the messages that a receiver hears are exchanged among their senders",
    "shuffle": "a receiver hears what its senders said in another episode of the same team; nothing without one",
    "silence:NAME": "nobody hears this sender, or anything through it",
    "delay:STEPS": "a receiver hears what it would have heard this many steps ago",
    "drop:P": "each message on each link is lost with this probability, drawn again at every step",
    "range:R": "links have this range in world units; inf links everybody",
    "quantize:BITS": "each number of a learned message is rounded to this many bits",
}
ALL = "all"
MOST_BITS = 16
# The smallest and the largest value of kinds that take whole numbers, and what they count.
WHOLE = {"delay": (1, math.inf, "steps"), "quantize": (1, MOST_BITS, "bits")}
DELAYS, DROPS = (1, 2, 4, 8), (0.1, 0.25, 0.5, 0.75, 0.9)
RANGES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, math.inf)


@dataclasses.dataclass(frozen=True)
class Condition:
    """A channel intervention (cut, delay, drop, …) as the command line names it.

    Args:
        kind: One of `KINDS`, without its value.
        value: A sender's name, a number of steps, a probability or a range. Default: None.
    """

    kind: str
    value: str | int | float | None = None

    def __str__(self) -> str:
        return self.kind if self.value is None else f"{self.kind}:{self.value}"

    @property
    def env_overrides(self) -> dict[str, Any]:
        """The keys of `TagEnv` that it changes."""
        return {"comm_range": self.value} if self.kind == "range" else {}


def read_conditions(texts: Sequence[str], config: EnvConfig) -> list[Condition]:
    """Reads channel interventions from their names; `all` stands for a series of them.

    Args:
        texts: Names such as `cut`, `drop:0.5`, `silence:adversary_2` or `all`; `silence` alone stands for every
            sender in turn. `all` leaves out `quantize`, which needs learned messages.
        config: The game, for the names of its senders.

    Raises:
        ConfigError: If a name is unknown or a value does not fit.
    """
    out: list[Condition] = []
    for text in texts:
        out += _series(config) if text == ALL else _read(text, config)
    return list(dict.fromkeys(out))


def _series(config: EnvConfig) -> list[Condition]:
    return [
        *(Condition(kind) for kind in ("cut", "swap", "shuffle")),
        *(Condition("silence", name) for name in config.game.team),
        *(Condition("delay", steps) for steps in DELAYS),
        *(Condition("drop", probability) for probability in DROPS),
        *(Condition("range", reach) for reach in RANGES),
    ]


def _read(text: str, config: EnvConfig) -> list[Condition]:
    kind, colon, given = text.partition(":")
    takes_value = {name.partition(":")[0]: ":" in name for name in KINDS}
    if kind not in takes_value or (colon and not takes_value[kind]):
        near = did_you_mean(kind, [*takes_value, ALL]) if kind not in takes_value else ""
        raise ConfigError(
            f"messages: expected one of {', '.join([*KINDS, ALL])}, got {text!r}. {near}Choose one of these."
        )
    if kind == "silence":
        if colon:
            check_choice("messages: silence", given, config.game.team)
        return [Condition(kind, name) for name in ([given] if colon else config.game.team)]
    if not takes_value[kind]:
        return [Condition(kind)]
    value = _number(text, given)
    if kind in WHOLE:
        least, most, unit = WHOLE[kind]
        if not least <= value <= most or value % 1:
            up_to = "at least 1" if most == math.inf else f"{least} to {most}"
            raise ConfigError(
                f"messages: {kind}: expected a whole number of {unit} of {up_to}, got {given!r}. Write such a number."
            )
        return [Condition(kind, int(value))]
    check_number(f"messages: {kind}", value, 0, 1 if kind == "drop" else math.inf)
    return [Condition(kind, value)]


def _number(text: str, given: str) -> float:
    try:
        return float(given)
    except ValueError:
        kind = text.partition(":")[0]
        (form,) = (name for name in KINDS if name.startswith(f"{kind}:"))
        raise ConfigError(
            f"messages: {kind}: expected {form} with a number, got {text!r}. Add the number after a colon."
        ) from None


class Channel:
    """Applies a channel intervention, to one set of games after the other.

    Args:
        condition: The intervention.
    """

    def __init__(self, condition: Condition) -> None:
        self.condition = condition
        self._games: Games | None = None

    def _begin(self, games: Games) -> None:
        self._games = games
        self._past: dict[str, list[Rows]] = {}
        self._rngs = [np.random.default_rng([seed, CHANNEL]) for seed in games.seeds]
        self._kept: tuple[int, Tensor] = (-1, torch.empty(0))

    def apply(self, policy: str, rows: Rows, games: Games) -> Rows:
        """Returns what a policy's agents observe instead.

        Args:
            policy: The policy that gets the rows.
            rows: (B * n, ...) by key of `TagEnv`.
            games: The B games.
        """
        if games is not self._games:
            self._begin(games)
        kind, hops = self.condition.kind, games.config.comm_hops
        if kind == "cut":
            return alone(rows)
        if kind == "silence":
            sender = games.config.game.team.index(str(self.condition.value))
            return silenced(rows, sender, hops)
        if kind == "swap":
            return swapped(rows)
        if kind == "shuffle":
            return self._shuffled(rows, games)
        if kind == "delay":
            past = self._past.setdefault(policy, [])
            past.append(rows)
            steps = int(self.condition.value or 0)
            return mixed(rows, past.pop(0) if len(past) > steps else alone(rows))
        if kind == "drop":
            kept = self._kept_links(games).repeat_interleave(len(rows["self"]) // len(games.seeds), 0)
            return relinked(rows, (rows["links"] > 0) & kept, hops)
        return rows  # the environment applies a range, and the network rounds

    def _kept_links(self, games: Games) -> Tensor:
        """Returns the links (B, N, N) that are not lost in this step, the same for all receivers of a game."""
        if games.steps != self._kept[0]:
            N = len(games.config.game.team)
            draws = np.stack([rng.random((N, N)) for rng in self._rngs])
            kept = torch.from_numpy(draws >= float(self.condition.value or 0)) | torch.eye(N, dtype=torch.bool)
            self._kept = games.steps, kept
        return self._kept[1]

    @staticmethod
    def _shuffled(rows: Rows, games: Games) -> Rows:
        partners = _partners(games.present)
        said = games.said()[partners]  # (B, N, T, F)
        n = len(rows["self"]) // len(games.seeds)
        heard = rows["message_mask"][..., None] * said.repeat_interleave(n, 0)
        lone = torch.from_numpy(partners == np.arange(len(partners))).repeat_interleave(n)
        shuffled, deaf = mixed(rows, {**rows, "messages": heard}), alone(rows)
        return {key: torch.where(_at_rows(lone, value), deaf[key], value) for key, value in shuffled.items()}


def _partners(present: np.ndarray) -> np.ndarray:
    """Returns for each game (B,) another one of the same team, or itself if there is none; `present` is (B, N)."""
    out = np.arange(len(present))
    _, teams = np.unique(present, axis=0, return_inverse=True)
    for team in range(teams.max() + 1):
        same = np.flatnonzero(teams == team)
        out[same] = np.roll(same, 1)
    return out


def _at_rows(which: Tensor, values: Tensor) -> Tensor:
    """Returns booleans (M,) in a shape that selects rows of values (M, ...)."""
    return which.view(-1, *[1] * (values.dim() - 1))


def relinked(rows: Rows, links: Tensor, comm_hops: int) -> Rows:
    """Returns rows with fewer links, without what no longer arrives over a chain of at most `comm_hops` of them.

    Args:
        rows: (M, ...) by key of `TagEnv`.
        links: (M, N, N) booleans, [receiver, sender], true on the diagonal where anything arrived.
        comm_hops: Links that information may cross in one step.
    """
    arrived = reach(links, comm_hops)[torch.arange(len(links)), rows["self"].argmax(1)]  # (M, N)
    return {
        **rows,
        "messages": rows["messages"] * arrived[..., None, None],
        "message_mask": rows["message_mask"] * arrived[..., None],
        "links": between(links, arrived).float(),
    }


def alone(rows: Rows) -> Rows:
    """Returns rows of receivers that hear only themselves."""
    N = rows["self"].shape[-1]
    return relinked(rows, torch.eye(N, dtype=torch.bool).expand_as(rows["links"]), 0)


def silenced(rows: Rows, sender: int, comm_hops: int) -> Rows:
    """Returns rows of receivers that hear nothing from a sender or through it. The sender's own rows stay the same."""
    N = rows["self"].shape[-1]
    lost = torch.zeros(N, N, dtype=torch.bool)
    lost[:, sender] = True
    lost[sender, sender] = False
    other = rows["self"][:, sender] == 0  # (M,)
    return relinked(rows, (rows["links"] > 0) & ~(lost & other[:, None, None]), comm_hops)


def swapped(rows: Rows) -> Rows:
    """Returns rows in which each message that a receiver hears from others is replaced by the next sender's.

    The messages stay where they are, class by class as the encoder reads them. The links change places instead.
    """
    M, N = rows["self"].shape
    others = (rows["message_mask"][:, :, -1] > 0) & (rows["self"] == 0)
    places = torch.arange(N)
    source, free = places.expand(M, N).clone(), others.clone()
    for shift in range(1, N):
        following = (places + shift) % N
        taken = free & others[:, following]
        source = torch.where(taken, following, source)
        free &= ~taken
    place = source.argsort(1)  # (M, N): where the message of each sender arrives from
    lines = torch.arange(M)[:, None, None]
    return {**rows, "links": rows["links"][lines, place.unsqueeze(2), place.unsqueeze(1)]}


def mixed(own: Rows, others: Rows) -> Rows:
    """Returns rows with the receiver's own message from one set of rows, and all else that it hears from another."""
    me = own["self"] > 0  # (M, N)
    return {
        **own,
        "messages": torch.where(me[..., None, None], own["messages"], others["messages"]),
        "message_mask": torch.where(me[..., None], own["message_mask"], others["message_mask"]),
        "links": others["links"],
    }
