"""A game of tag that goes on and on, in which a person moves the prey of a trained team."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from rllib_tag.errors import ConfigError, check_bool, check_int, check_number, dataclass_from_mapping
from rllib_tag.names import POLICIES
from rllib_tag.nn.network import AdversaryNet
from rllib_tag.playing.channel import Channel, Condition
from rllib_tag.playing.games import Games, rows_of
from rllib_tag.playing.influence import receiver_attention
from rllib_tag.playing.restore import TrainedTeam
from rllib_tag.plugin.env_config import TagEnvConfig
from rllib_tag.world.simulator import SIZE

PREY = "agent_0"
ROUND = 600  # steps; half a minute at 20 steps a second
MOST = 6  # of each class, and of landmarks


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
        self._team, self.settings, self._seed = team, settings, seed
        self._best: dict[tuple[int, int, int], float] = {}
        team.tag_config_for("play")  # other games have no prey
        self._start()

    def change(self, **changes: Any) -> None:
        """Changes settings; another team or other landmarks start another round.

        Raises:
            ConfigError: If a value is invalid. Then nothing changes.
        """
        given = {**dataclasses.asdict(self.settings), **changes}
        settings = dataclass_from_mapping(Settings, "settings", given)
        is_other, self.settings = settings.size != self.settings.size, settings
        self._channel = self._new_channel()
        if is_other:
            self._start()
        else:
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
            size = self.settings.size
            self._best[size] = max(self._score(), self._best.get(size, -math.inf))
            self._seed += 1
            self._start()
        else:
            self._look()

    def state(self) -> dict[str, Any]:
        """Returns what a page shows.

        Returns:
            `positions` (N + 1, 2) and `velocities` of the adversaries and the prey, `landmarks` (z, 2), `classes` (N),
            `sizes`, `links`, `heard` and `attention` (N, N), [receiver, sender], `knows` (N, 2), who was told or sees
            where the landmarks and the prey are, `step` of `steps`, `score`, `best` (None before the first round
            ended), `contacts` and the `settings`.
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
            "knows": np.stack([self._heard[:, roster.classes == kind].any(1) for kind in (0, 1)], 1).tolist(),
            "step": games.steps,
            "steps": ROUND,
            "score": round(self._score(), 1),
            "best": self._best.get(self.settings.size),
            "contacts": games.metrics_so_far()[0]["contacts"],
            "settings": {**settings, "comm_range": min(settings["comm_range"], 99.0)},
        }

    def _start(self) -> None:
        wanted = dataclasses.asdict(self.settings)
        sizes = {key: wanted[key] for key in ("num_class_a", "num_class_b", "num_obstacles", "comm_range")}
        keys = {**self._team.env_config, **sizes, "num_good": 1, "max_cycles": ROUND, "good_policy": "learned"}
        self._config = TagEnvConfig.from_mapping({**keys, "terminate_on_success": False})
        self._team.check_plays(self._config, [name for name in POLICIES if self._config.game.members(name)])
        self._games = Games(self._config, [self._seed])
        self._channel = self._new_channel()
        self._look()

    def _new_channel(self) -> Channel | None:
        if self.settings.cut:
            return Channel(Condition("cut"))
        return Channel(Condition("drop", self.settings.lost)) if self.settings.lost else None

    def _look(self) -> None:
        """Finds what everybody hears, makes of it and does about it."""
        games, game = self._games, self._config.game
        N = len(game.team)
        self._actions: dict[str, np.ndarray] = {}
        self._heard, self._attention = np.eye(N, dtype=bool), np.zeros((N, N))
        for name, members in game.classes.items():
            if not members:
                continue
            rows = games.rows(name)
            if self._channel is not None:
                rows = self._channel.apply(name, rows, games)
            for policy, places in self._team.parts(game, name):
                own = rows_of(rows, places, len(members))
                chosen = self._team.actions(policy, own, layout=games.layout)
                self._actions |= {members[place]: chosen[i : i + 1] for i, place in enumerate(places)}
                receivers = [game.team.index(members[place]) for place in places]
                self._heard[receivers] |= (own["message_mask"][:, :, -1] > 0).numpy()
                net = self._team.nets[policy]
                assert isinstance(net, AdversaryNet)
                self._attention[receivers] = receiver_attention(net, own, games.layout).numpy()

    def _score(self) -> float:
        """The prey's return: MPE takes 10 for each contact, and fines prey that leaves."""
        return self._games.metrics_so_far()[0]["return_good"]


def _move(across: float, up: float, continuous: bool) -> np.ndarray:
    """Returns an action of MPE that goes somewhere; of two directions, a discrete action takes the larger."""
    push = np.array([0, max(-across, 0), max(across, 0), max(-up, 0), max(up, 0)], np.float32).clip(0, 1)
    return push if continuous else np.array(push.argmax())
