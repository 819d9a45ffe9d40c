"""Plays a trained team on teams of other sizes, without further training."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rllib_tag.errors import ConfigError, check_int
from rllib_tag.names import BASELINES, GAME
from rllib_tag.playing.evaluate import FIRST_SEED, evaluate
from rllib_tag.playing.restore import TrainedTeam, restore
from rllib_tag.plugin.env_config import TagEnvConfig, choices_of

LARGEST = 6  # members per class
OTHER_GOOD, OTHER_OBSTACLES = (2, 3), (0, 1, 3, 4)
SAME = ("good_policy", "max_cycles", "continuous_actions")  # what all games of a grid have in common
NATIVE = "native"
METRICS = ("return_adversary", "contacts", "captured", "steps_to_first_contact", "mean_links")


def transfer_games(config: TagEnvConfig, largest: int = LARGEST) -> list[dict[str, Any]]:
    """Returns the games of a transfer grid, by the keys of `GAME`.

    These are all teams of up to `largest` members per class, except the empty one; the trained team, if it is larger;
    and the trained team with other numbers of good agents and of landmarks. Where training drew a number, the default
    counts if it was among them, else the smallest.
    """
    check_int("largest", largest, 1)
    defaults = {field.name: field.default for field in dataclasses.fields(TagEnvConfig)}
    trained = {}
    for key in GAME:
        choices = choices_of(getattr(config, key))
        trained[key] = defaults[key] if defaults[key] in choices else min(choices)
    sizes = range(largest + 1)
    games = [{**trained, "num_class_a": a, "num_class_b": b} for a in sizes for b in sizes if a + b]
    others = [trained, *({**trained, "num_good": count} for count in OTHER_GOOD)]
    others += [{**trained, "num_obstacles": count} for count in OTHER_OBSTACLES]
    return games + [game for game in others if game not in games]


def transfer(
    team: TrainedTeam | str | os.PathLike[str],
    *,
    natives: Sequence[TrainedTeam | str | os.PathLike[str]] = (),
    largest: int = LARGEST,
    episodes: int = 128,
    first_seed: int = FIRST_SEED,
    on_game: Callable[[list[dict[str, Any]]], None] | None = None,
) -> list[dict[str, Any]]:
    """Plays a trained team on every game of the grid, and all baselines on the same seeds.

    Args:
        team: A restored team, or a path for `restore`.
        natives: Teams trained on other games of the grid, each to be played on its own game; several teams of one
            game are named by their training seeds. Default: none.
        largest: Maximum number of members per class. Default: 6.
        episodes: Episodes of each controller on each game. Default: 128.
        first_seed: Seed of the first episode; the others follow. Default: 1,000,000.
        on_game: Called with the rows of each game as it ends. Default: nothing.

    Returns:
        One mapping per game and controller: the keys of `GAME`, `controller`, `episodes`, and mean and standard error
        of each of `METRICS`.

    Raises:
        ConfigError: If a team cannot be restored, or a native team's game is not in the grid.
    """
    team = team if isinstance(team, TrainedTeam) else restore(team)
    config = team.tag_config_for("transfer")
    games = transfer_games(config, largest)
    at_home: dict[tuple[int, ...], dict[str, TrainedTeam]] = {}
    for given in natives:
        native = given if isinstance(given, TrainedTeam) else restore(given)
        own = native.tag_config_for("native")
        home = {key: getattr(own, key) for key in GAME}
        is_same = all(getattr(own, key) == getattr(config, key) for key in SAME)
        if home not in games or not is_same:
            raise ConfigError(
                f"native: expected a team trained on a game of the grid, with the team's {', '.join(SAME)}; "
                f"got {home} from {native.source}. Leave it out."
            )
        name = NATIVE if native.seed is None else f"{NATIVE}_{native.seed}"
        beside = at_home.setdefault(tuple(home.values()), {})
        if name in beside:
            raise ConfigError(
                f"native: expected one team per game and training seed, got a second {name}: {home}. Leave it out."
            )
        beside[name] = native
    rows = []
    for game in games:
        result = evaluate(
            team, episodes=episodes, first_seed=first_seed, baselines=tuple(BASELINES),
            beside=at_home.get(tuple(game.values())), **game,
        )  # fmt: skip
        found = [
            {**game, "controller": name, "episodes": episodes, **_columns(metrics)}
            for name, metrics in result.summary().items()
        ]
        rows += found
        if on_game:
            on_game(found)
    return rows


def _columns(metrics: Mapping[str, Mapping[str, float | None]]) -> dict[str, float | None]:
    return {
        f"{key}_{short}": metrics[key][statistic]
        for key in METRICS
        for short, statistic in (("mean", "mean"), ("se", "standard_error"))
    }
