"""A game of tag that goes on and on, in which a person moves the prey of a trained team."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from rllib_tag.errors import ConfigError, check_bool, check_int, check_number, dataclass_from_mapping
from rllib_tag.names import POLICIES
from rllib_tag.nn.network import AdversaryNet
from rllib_tag.playing.channel import Channel, Condition
from rllib_tag.playing.controllers import class_parts
from rllib_tag.playing.games import Games
from rllib_tag.playing.influence import receiver_attention
from rllib_tag.playing.restore import TrainedTeam
from rllib_tag.plugin.env_config import TagEnvConfig, choices_of
from rllib_tag.world.roster import CLASS_A, CLASS_B
from rllib_tag.world.simulator import SIZE

PREY = "agent_0"
STEPS_PER_SECOND = 20
ROUND = 30 * STEPS_PER_SECOND  # steps
MOST = 6  # of each class, and of landmarks
EVERYWHERE = 99.0  # a range, for JSON, which has no infinity
GAME_KEYS = ("num_class_a", "num_class_b", "num_obstacles", "comm_range")  # of `env_config` and of `Settings`


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a person may change.

    Args:
        num_class_a: The number of adversaries that see the landmarks. Default: 2.
        num_class_b: The number of adversaries that see the prey. Default: 2.
        num_obstacles: The number of landmarks. Default: 2.
        comm_range: The range of links in world units; 0 cuts all. Default: 1.
        lost: The share of messages that are lost. Default: 0.
        cut: Whether nobody hears anybody. Default: False.

    Raises:
        ConfigError: If a value is invalid.
    """

    num_class_a: int = 2
    num_class_b: int = 2
    num_obstacles: int = 2
    comm_range: float = 1.0
    lost: float = 0.0
    cut: bool = False

    def __post_init__(self) -> None:
        for name in ("num_class_a", "num_class_b", "num_obstacles"):
            check_int(name, getattr(self, name), 0)
            check_number(name, getattr(self, name), 0, MOST)
        if not self.num_class_a + self.num_class_b:
            raise ConfigError("num_class_a, num_class_b: expected at least one adversary, got none. Add one.")
        check_number("comm_range", self.comm_range, 0)
        check_number("lost", self.lost, 0, 1)
        check_bool("cut", self.cut)

    @classmethod
    def as_trained(cls, env_config: Mapping[str, Any], **changes: Any) -> Settings:
        """Returns the settings that a team was trained with, or the largest of several, with some changed."""
        trained = {key: max(choices_of(env_config[key])) for key in GAME_KEYS if key in env_config}
        sizes = {key: min(value, MOST) for key, value in trained.items() if key != "comm_range"}
        return cls(**{**trained, **sizes, **changes})

    @property
    def size(self) -> tuple[int, int, int]:
        """What another game is needed for."""
        return self.num_class_a, self.num_class_b, self.num_obstacles


class LiveGame:
    """Rounds of one game, each `ROUND` steps long.

    Args:
        team: The trained team, of tag.
        settings: What the game starts with.
        seed: Of the first round; the others count up.

    Attributes:
        settings: The settings.

    Raises:
        ConfigError: If the team plays another game than tag, or has no policy for a class.
    """

    def __init__(self, team: TrainedTeam, settings: Settings, seed: int) -> None:
        check_int("seed", seed, 0)
        self._team, self._seed = team, seed
        self._best: dict[Settings, float] = {}
        self.settings: Settings
        self._games: Games
        team.tag_config_for("play")  # other games have no prey
        self._start(settings)

    def change(self, **changes: Any) -> None:
        """Changes settings; another team or other landmarks start another round.

        A round in which settings change does not count for the best score.

        Raises:
            ConfigError: If a value is invalid. Then nothing changes.
        """
        given = {**dataclasses.asdict(self.settings), **changes}
        settings = dataclass_from_mapping(Settings, "settings", given)
        if settings.size != self.settings.size:
            self._start(settings)
        elif settings != self.settings:
            self.settings, self._channel, self._counts = settings, _channel(settings), False
            self._games.comm_ranges[:] = settings.comm_range

    def step(self, across: float, up: float) -> None:
        """Plays a step; after the last one of a round, it starts the next.

        Args:
            across: Where the prey goes: -1 is left, 1 is right.
            up: -1 is down, 1 is up.
        """
        continuous = self._config.continuous_actions
        self._games.step({**self._actions, PREY: _move(across, up, continuous)[None]})
        if self._games.stats[0]:
            if self._counts:
                self._best[self.settings] = max(self._score(), self._best.get(self.settings, -math.inf))
            self._seed += 1
            self._start(self.settings)
        else:
            self._look()

    def state(self) -> dict[str, Any]:
        """Returns what a page shows.

        Returns:
            `positions` (N + 1, 2) and `velocities` of the adversaries and the prey, `landmarks` (z, 2), `classes` (N),
            `sizes`, `links`, `heard` and `attention` (N, N), [receiver, sender], `knows` (N, 2), who sees or hears
            where the landmarks and the prey are, `step` of `steps`, `score`, `best` with these settings (None before
            the first such round has ended), `contacts`, the `settings`, and `everywhere`, the range that stands for
            infinity.
        """
        games, roster = self._games, self._config.roster
        settings = dataclasses.asdict(self.settings)
        return {
            "positions": games.positions[0].round(3).tolist(),
            "velocities": games.velocities[0].round(3).tolist(),
            "landmarks": games.facts["landmarks"][0].round(3).tolist(),
            "classes": roster.classes.tolist(),
            "sizes": {kind: SIZE[kind] for kind in ("adversary", "good", "landmark")},
            "links": games.links[0].astype(int).tolist(),
            "heard": self._heard.astype(int).tolist(),
            "attention": self._attention.round(3).tolist(),
            "knows": (self._heard @ np.array([self._sees(kind) for kind in roster.classes], bool)).tolist(),
            "step": games.steps,
            "steps": ROUND,
            "steps_per_second": STEPS_PER_SECOND,
            "everywhere": EVERYWHERE,
            "most": MOST,
            "score": round(self._score(), 1),
            "best": self._best.get(self.settings),
            "contacts": games.metrics_so_far()[0]["contacts"],
            "settings": {**settings, "comm_range": min(settings["comm_range"], EVERYWHERE)},
        }

    def _start(self, settings: Settings) -> None:
        changed = {key: getattr(settings, key) for key in GAME_KEYS}
        keys = {**self._team.env_config, **changed, "num_good": 1, "max_cycles": ROUND, "good_policy": "learned"}
        config = TagEnvConfig.from_mapping({**keys, "terminate_on_success": False})
        self._team.check_plays(config, [name for name in POLICIES if config.game.members(name)])
        self.settings, self._config, self._games = settings, config, Games(config, [self._seed])
        self._channel, self._counts = _channel(settings), True
        self._look()

    def _sees(self, kind: int) -> tuple[bool, bool]:
        """Returns whether a class sees the landmarks, and whether it sees the prey."""
        everything = self._config.full_observation
        return everything or kind == CLASS_A, everything or kind == CLASS_B

    def _look(self) -> None:
        """Computes what each adversary hears, its attention and its action."""
        games, game = self._games, self._config.game
        N = len(game.team)
        self._actions: dict[str, np.ndarray] = {}
        self._heard, self._attention = np.eye(N, dtype=bool), np.zeros((N, N))
        for name, members in game.classes.items():
            for policy, places, rows in class_parts(self._team, name, games, self._channel):
                chosen = self._team.actions(policy, rows, layout=games.layout)
                self._actions |= {members[place]: chosen[i : i + 1] for i, place in enumerate(places)}
                receivers = [game.team.index(members[place]) for place in places]
                net = self._team.nets[policy]
                assert isinstance(net, AdversaryNet)
                if net.config.listens:
                    self._heard[receivers] |= (rows["message_mask"][:, :, -1] > 0).numpy()
                self._attention[receivers] = receiver_attention(net, rows, games.layout).numpy()

    def _score(self) -> float:
        """The prey's return: MPE takes 10 for each contact, and fines prey that leaves."""
        return self._games.metrics_so_far()[0]["return_good"]


def _channel(settings: Settings) -> Channel | None:
    if settings.cut:
        return Channel(Condition("cut"))
    return Channel(Condition("drop", settings.lost)) if settings.lost else None


def _move(across: float, up: float, continuous: bool) -> np.ndarray:
    """Returns an action of MPE that goes somewhere; of two directions, a discrete action takes the larger."""
    push = np.array([0, max(-across, 0), max(across, 0), max(-up, 0), max(up, 0)], np.float32).clip(0, 1)
    return push if continuous else np.array(push.argmax())
