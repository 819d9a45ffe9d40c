"""Seeded episodes with a trained team or a yardstick, and what came of them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rllib_tag.errors import ConfigError, check_int, check_keys
from rllib_tag.plugin.env import STATS_KEY, TagEnv
from rllib_tag.runs.controllers import YARDSTICKS, Controller, scripted_controller, team_controller, with_prey
from rllib_tag.runs.files import provenance, write_csv, write_json
from rllib_tag.runs.restore import TrainedTeam, restore

# Episodes i of an evaluation have the seeds FIRST_SEED + i. No training run starts there.
FIRST_SEED = 1_000_000
PARALLEL_ENVS = 32
TEAM = "team"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Episodes of one or more controllers on the same seeds.

    Args:
        rows: One mapping an episode: controller, seed and the figures of `METRICS`.
        env_config: The game that was played.
        source: What the team was restored from: trial and checkpoint, or the exported folder.
        deterministic: Whether the team took its likeliest actions.
    """

    rows: list[dict[str, Any]]
    env_config: Mapping[str, Any]
    source: str
    deterministic: bool

    def summary(self) -> dict[str, dict[str, dict[str, float]]]:
        """Mean and standard error over the episodes, by controller and metric."""
        out: dict[str, dict[str, dict[str, float]]] = {}
        for name in dict.fromkeys(row["controller"] for row in self.rows):
            rows = [row for row in self.rows if row["controller"] == name]
            metrics = [key for key in rows[0] if key not in ("controller", "seed")]
            values = {key: np.array([row[key] for row in rows]) for key in metrics}
            out[name] = {
                key: {
                    "mean": float(v.mean()),
                    "standard_error": float(v.std(ddof=1) / len(v) ** 0.5) if len(v) > 1 else 0.0,
                }
                for key, v in values.items()
            }
        return out

    def write(self, folder: str | os.PathLike[str]) -> tuple[Path, Path]:
        """Writes `episodes.csv`, one row an episode, and `summary.json` into a folder.

        Returns:
            The two paths.

        Raises:
            ConfigError: If the folder cannot be written.
        """
        rows, summary = Path(folder) / "episodes.csv", Path(folder) / "summary.json"
        write_csv(rows, self.rows)
        write_json(
            summary,
            {
                "source": self.source,
                "episodes": sum(row["controller"] == self.rows[0]["controller"] for row in self.rows),
                "first_seed": self.rows[0]["seed"],
                "deterministic": self.deterministic,
                "env_config": dict(self.env_config),
                "summary": self.summary(),
                **provenance(),
            },
        )
        return rows, summary


def evaluate(
    team: TrainedTeam | str | os.PathLike[str],
    *,
    episodes: int = 128,
    first_seed: int = FIRST_SEED,
    deterministic: bool = True,
    yardsticks: tuple[str, ...] = (),
    on_episodes: Callable[[int], None] | None = None,
    **env_overrides: Any,
) -> Evaluation:
    """Plays seeded episodes with a trained team and, on the same seeds, with yardsticks.

    Args:
        team: A restored team, or a path for `restore`.
        episodes: Episodes of each. Default: 128.
        first_seed: Seed of the first episode; the others follow. Default: 1,000,000.
        deterministic: Whether the team takes its likeliest actions. Default: True.
        yardsticks: Names of `YARDSTICKS` to play as well. Default: none.
        on_episodes: Called with the number of episodes that have just ended. Default: nothing.
        **env_overrides: Keys of `TagEnv` that differ from training, such as `num_class_a=3`.

    Returns:
        The episodes, from MPE's own reward whatever the training's shaping was.

    Raises:
        ConfigError: If the team cannot be restored or cannot play that game.
    """
    team = team if isinstance(team, TrainedTeam) else restore(team)
    check_int("episodes", episodes, 1)
    check_int("first_seed", first_seed, 0)
    for name in yardsticks:
        check_keys("yardstick", [name], YARDSTICKS)
    config = team.env_config_for(**env_overrides)
    env_config = {**team.env_config, **env_overrides}
    controllers: dict[str, Controller] = {TEAM: team_controller(team, config.policies, deterministic)}
    for name in yardsticks:
        scripted = scripted_controller(name)
        controllers[name] = with_prey(scripted, team, deterministic) if config.good_policy == "learned" else scripted
    seeds = range(first_seed, first_seed + episodes)
    rows = []
    for name, controller in controllers.items():
        for start in range(0, episodes, PARALLEL_ENVS):
            chunk = seeds[start : start + PARALLEL_ENVS]
            played = play(env_config, controller, chunk)
            rows += [{"controller": name, "seed": s, **stats} for s, stats in zip(chunk, played, strict=True)]
            if on_episodes:
                on_episodes(len(chunk))
    return Evaluation(rows, env_config, "/".join(team.source.parts[-2:]), deterministic)


def play(env_config: Mapping[str, Any], controller: Controller, seeds: range) -> list[dict[str, float]]:
    """Plays one episode a seed, side by side, and returns their figures."""
    envs = [TagEnv(env_config) for _ in seeds]
    rngs = [np.random.default_rng([seed, 2]) for seed in seeds]  # stream 1 is the prey's
    observations = [env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)]
    stats: list[dict[str, float]] = [{} for _ in envs]
    running = list(range(len(envs)))
    while running:
        actions = controller([envs[i] for i in running], [observations[i] for i in running], [rngs[i] for i in running])
        still = []
        for i, action in zip(running, actions, strict=True):
            observations[i], _, terminateds, truncateds, infos = envs[i].step(action)
            if terminateds["__all__"] or truncateds["__all__"]:
                stats[i] = infos["__common__"][STATS_KEY]
            else:
                still.append(i)
        running = still
    for env in envs:
        env.close()
    return stats


def parse_overrides(**options: Any) -> dict[str, Any]:
    """The options that were given, as overrides of the environment's configuration.

    Raises:
        ConfigError: If a count is negative.
    """
    for key, value in options.items():
        if value is not None and key.startswith("num_") and value < 0:
            raise ConfigError(f"--{key.replace('_', '-')}: expected 0 or more, got {value}. Raise it.")
    return {key: value for key, value in options.items() if value is not None}
