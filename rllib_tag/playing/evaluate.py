"""Evaluates trained teams and baselines on seeded episodes."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rllib_tag.errors import ConfigError, check_int, under
from rllib_tag.files import as_csv, as_json, provenance, write_files
from rllib_tag.names import TAG, team_return
from rllib_tag.playing.channel import Channel, Condition, read_conditions
from rllib_tag.playing.controllers import (
    Controller,
    baselines_of,
    play,
    scripted_controller,
    team_controller,
    with_others,
)
from rllib_tag.playing.influence import Influence
from rllib_tag.playing.marl_eval import marl_eval_layout
from rllib_tag.playing.quantized import Quantized
from rllib_tag.playing.restore import TrainedTeam, restore
from rllib_tag.plugin.env_config import EnvConfig, read_env_config

# Episode i of an evaluation has the seed FIRST_SEED + i. No training run starts there.
FIRST_SEED = 1_000_000
AT_ONCE = 128  # batched games that are played side by side
AT_ONCE_ON_MPE2 = 32
TEAM = "team"
FILES = ("episodes.csv", "summary.json", "marl_eval.json", "influence.csv")
# Keys that describe a team's senses, and not the game.
SENSES = ("full_observation", "comm_range", "comm_hops", "history_length")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Episodes of one or more controllers on the same seeds.

    Args:
        rows: One mapping per episode: controller, seed and metrics.
        influence: One mapping per episode and class, with the metrics of `Influence`; empty unless channel
            interventions were played.
        conditions: The controllers that are the team under a channel intervention.
        env_config: The game that was played.
        sources: What each trained team was restored from, by controller: trial and checkpoint, or the exported folder.
        training: `seed` and `env_steps` of each team's training run, by controller; None if not known.
        deterministic: Whether the teams took their most likely actions.
    """

    rows: list[dict[str, Any]]
    influence: list[dict[str, Any]]
    conditions: Sequence[str]
    env_config: Mapping[str, Any]
    sources: Mapping[str, str]
    training: Mapping[str, Mapping[str, int | None]]
    deterministic: bool

    def summary(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """Returns mean and standard error over the episodes, by controller and metric.

        The standard error of a single episode is None. Controllers other than the team have one more metric,
        `return_minus_team`: the difference from the team on the same seeds.
        """
        returns = team_return(self.rows[0])
        team = {row["seed"]: row[returns] for row in self.rows if row["controller"] == TEAM}
        out: dict[str, dict[str, dict[str, float | None]]] = {}
        for name in dict.fromkeys(row["controller"] for row in self.rows):
            rows = [row for row in self.rows if row["controller"] == name]
            out[name] = _means(rows, [key for row in rows for key in row if key not in ("controller", "seed")])
            if name != TEAM:
                less = [{"return_minus_team": row[returns] - team[row["seed"]]} for row in rows]
                out[name] |= _means(less, ["return_minus_team"])
        return out

    def influence_summary(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """Returns mean and standard error over the episodes of each class's influence metrics."""
        out = {}
        for policy in dict.fromkeys(row["policy"] for row in self.influence):
            rows = [row for row in self.influence if row["policy"] == policy]
            out[policy] = _means(rows, [key for row in rows for key in row if key not in ("policy", "seed")])
        return out

    def as_json(self) -> dict[str, Any]:
        """Returns the content of `summary.json`: means, what was played, and the command and versions behind them."""
        return {
            "sources": dict(self.sources),
            "training": dict(self.training),
            "episodes": sum(row["controller"] == TEAM for row in self.rows),
            "first_seed": self.rows[0]["seed"],
            "deterministic": self.deterministic,
            "env_config": dict(self.env_config),
            "summary": self.summary(),
            "conditions": list(self.conditions),
            "influence": self.influence_summary(),
            **provenance(),
        }

    def write(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Writes the results into a folder, in place of those of an earlier evaluation.

        Returns:
            The paths of `episodes.csv`, one row per episode; `summary.json`; `marl_eval.json`, the layout that
            marl-eval reads; and, if channel interventions were played, `influence.csv`, one row per episode and class.

        Raises:
            ConfigError: If the folder cannot be written.
        """
        contents = (
            as_csv(self.rows),
            as_json(self.as_json()),
            as_json(marl_eval_layout(self.rows, self.env_config, self.training)),
            as_csv(self.influence) if self.influence else None,
        )
        return write_files(folder, dict(zip(FILES, contents, strict=True)))


def _means(rows: Sequence[Mapping[str, float]], keys: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Returns mean and standard error of each key, over the rows that have it."""
    out = {}
    for key in dict.fromkeys(keys):
        values = np.array([row[key] for row in rows if key in row])
        error = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
        out[key] = {"mean": float(values.mean()), "standard_error": error}
    return out


def evaluate(
    team: TrainedTeam | str | os.PathLike[str],
    *,
    episodes: int = 128,
    first_seed: int = FIRST_SEED,
    deterministic: bool = True,
    baselines: Sequence[str] = (),
    beside: Mapping[str, TrainedTeam | str | os.PathLike[str]] | None = None,
    messages: Sequence[str] = (),
    on_episodes: Callable[[int], None] | None = None,
    **env_overrides: Any,
) -> Evaluation:
    """Plays seeded episodes with a trained team and, on the same seeds, with whatever it is compared with.

    Args:
        team: A restored team, or a path for `restore`.
        episodes: Episodes of each controller. Default: 128.
        first_seed: Seed of the first episode; the others follow. Default: 1,000,000.
        deterministic: Whether trained teams take their most likely actions. Default: True.
        baselines: Names of `BASELINES` to play as well. Default: none.
        beside: Other trained teams to play in the same game, by name, each with its own `SENSES`. Default: none.
        messages: Channel interventions to play the team under as well, such as `cut`; see `read_conditions`.
            Default: none.
        on_episodes: Called with the number of episodes that have just ended. Default: nothing.
        **env_overrides: Keys of `TagEnv` that differ from training, such as `num_class_a=3`.

    Returns:
        The episodes, with the game's own rewards, whatever shaping training used.

    Raises:
        ConfigError: If a team cannot be restored or cannot play that game, or a name is unknown.

    Examples:
        >>> from rllib_tag import restore
        >>> summary = evaluate(restore(), episodes=4, num_class_a=1, baselines=["random"]).summary()
        >>> summary["team"]["return_adversary"]["mean"] > summary["random"]["return_adversary"]["mean"]
        True
    """
    if "yardsticks" in env_overrides:
        warnings.warn("evaluate: yardsticks is now called baselines.", DeprecationWarning, stacklevel=2)
        baselines = (*baselines, *env_overrides.pop("yardsticks"))
    team = team if isinstance(team, TrainedTeam) else restore(team)
    check_int("episodes", episodes, 1)
    check_int("first_seed", first_seed, 0)
    config = team.env_config_for(**env_overrides)
    others = {
        name: other if isinstance(other, TrainedTeam) else restore(other) for name, other in (beside or {}).items()
    }
    conditions = read_conditions(messages, config)
    parts = _parts(team, config, baselines, others, conditions, deterministic)
    seeds = range(first_seed, first_seed + episodes)
    if any(condition.kind == "shuffle" for condition in conditions) and episodes < 2:
        raise ConfigError("messages: shuffle: expected at least 2 episodes, got 1. Play more.")
    rows: list[dict[str, Any]] = []
    influence: list[dict[str, Any]] = []
    for name, (game, controller) in parts.items():
        at_once = AT_ONCE if game.unbatched_reason is None else AT_ONCE_ON_MPE2
        for chunk in np.array_split(seeds, -(-episodes // at_once)):
            played = [int(seed) for seed in chunk]
            watcher = Influence(team) if conditions and name == TEAM else None
            games = play(game, controller, played, watcher.watch if watcher else None)
            influence += watcher.rows(games) if watcher else []
            rows += [{"controller": name, "seed": s, **stats} for s, stats in zip(played, games.stats, strict=True)]
            if on_episodes:
                on_episodes(len(played))
    teams = {TEAM: team, **others}
    return Evaluation(
        rows,
        influence,
        list(map(str, conditions)),
        {**team.env_config, **env_overrides},
        {name: "/".join(Path(one.source).parts[-2:]) for name, one in teams.items()},
        {name: {"seed": one.seed, "env_steps": one.env_steps} for name, one in teams.items()},
        deterministic,
    )


def baseline_returns(env_config: Mapping[str, Any], episodes: int = 128) -> dict[str, float]:
    """Returns the mean return of an agent of the team for each baseline, on the first episodes of evaluations.

    Args:
        env_config: The keys of `TagEnv`.
        episodes: The number of episodes. Default: 128, as many as `evaluate` plays.

    Returns:
        Returns by baseline; none where other agents learn, or where episodes cannot be played side by side.
    """
    config = read_env_config(env_config)
    if config.game.others_learn or config.unbatched_reason is not None:
        return {}
    seeds = range(FIRST_SEED, FIRST_SEED + episodes)
    played = {name: play(config, scripted_controller(name, config), seeds) for name in baselines_of(config)}
    return {
        name: float(np.mean([stats[team_return(stats)] for stats in games.stats])) for name, games in played.items()
    }


def _parts(
    team: TrainedTeam,
    config: EnvConfig,
    baselines: Sequence[str],
    others: Mapping[str, TrainedTeam],
    conditions: Sequence[Condition],
    deterministic: bool,
) -> dict[str, tuple[EnvConfig, Controller]]:
    """Returns who plays which game, by name: the team, baselines, other teams, the team under interventions."""
    classes = [policy for policy in config.policies if policy in config.game.classes]

    def joined(adversaries: Controller) -> Controller:
        return with_others(adversaries, team, config, deterministic)

    parts = {TEAM: (config, team_controller(team, config.policies, deterministic))}
    for name in baselines:
        parts[name] = config, joined(scripted_controller(name, config))
    for name, other in others.items():
        taken = {taken.lower() for taken in (*parts, *map(str, conditions))}  # marl-eval knows only lower case
        if name.lower() in taken:
            raise ConfigError(f"beside: expected a name that is still free, got {name!r}. Choose another one.")
        game = {key: value for key, value in config.as_mapping().items() if key not in SENSES}
        played, trained = game.get("game", TAG), other.env_config.get("game", TAG)
        if TAG in (played, trained) and played != trained:
            raise ConfigError(f"beside: {name}: expected a team of {played}, got one of {trained}. Use another team.")
        with under(f"beside: {name}"):
            own = read_env_config({**other.env_config, **game})
        other.check_plays(own, classes)
        parts[name] = own, joined(team_controller(other, classes, deterministic))
    for condition in conditions:
        changed = dataclasses.replace(config, **condition.env_overrides)
        moved = team_controller(team, config.policies, deterministic, Channel(condition))
        if condition.kind == "quantize":
            team.check_sends(config, str(condition))
            moved = Quantized(team, moved, int(condition.value or 0), config)
        parts[str(condition)] = changed, moved
    return parts


def parse_overrides(**options: Any) -> dict[str, Any]:
    """Returns the options that were given, as overrides of the environment's config.

    Raises:
        ConfigError: If a count is negative.
    """
    for key, value in options.items():
        if value is not None and key.startswith("num_") and value < 0:
            raise ConfigError(f"--{key.replace('_', '-')}: expected 0 or more, got {value}. Raise it.")
    return {key: value for key, value in options.items() if value is not None}
