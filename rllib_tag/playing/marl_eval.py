"""Writes episodes in the layout that marl-eval reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rllib_tag.plugin.env_config import TagEnvConfig

ENVIRONMENT = "simple_tag"
TEAM = "team"
# Keys that change nothing in an evaluation.
TRAINING_ONLY = ("shaping", "shaping_gamma", "backend", "render_mode")
# The order of a game's keys in its name.
ORDER = (
    "num_class_a", "num_class_b", "num_good", "num_obstacles", "max_cycles", "continuous_actions", "full_observation",
    "comm_range", "comm_hops", "history_length", "good_policy",
)  # fmt: skip


def marl_eval_layout(
    rows: Sequence[Mapping[str, Any]],
    env_config: Mapping[str, Any],
    training: Mapping[str, Mapping[str, int | None]],
) -> dict[str, Any]:
    """Returns episodes by environment, task, algorithm (the controller), run (the training seed) and step.

    Baselines, and the team under channel interventions, are under the team's run, since marl-eval requires the same
    runs and steps for every algorithm. Layouts of several runs are merged by joining the entries of each algorithm.

    Args:
        rows: One mapping per episode: controller, seed and metrics. Only metrics that all rows have are kept.
        env_config: The game, which names the task.
        training: `seed` and `env_steps` of each trained team's run, by controller. Without a seed, a run is called
            `run_1`; without steps, only the absolute metrics are given.

    Source: README of marl-eval (Gorsane et al. 2022), "Data Structure for Raw Experiment data". Its tools write all
    names in lower case.
    """
    metrics = [key for key in rows[0] if key not in ("controller", "seed") and all(key in row for row in rows)]
    algorithms = {}
    for name in dict.fromkeys(row["controller"] for row in rows):
        run = training.get(name, training[TEAM])
        values = {key: [row[key] for row in rows if row["controller"] == name] for key in metrics}
        steps = {} if run["env_steps"] is None else {"step_1": {"step_count": run["env_steps"], **values}}
        label = "run_1" if run["seed"] is None else f"seed_{run['seed']}"
        algorithms[name.lower()] = {label: {**steps, "absolute_metrics": values}}
    environment = str(env_config["game"]).rpartition(".")[2].lower() if "game" in env_config else ENVIRONMENT
    return {environment: {task_name(env_config): algorithms}}


def task_name(env_config: Mapping[str, Any]) -> str:
    """Returns the task's name: the team, and every key that is not at its default, as in `2a2b_num_good_2`."""
    if "game" in env_config:
        given = {key: value for key, value in env_config.items() if key not in (*TRAINING_ONLY, "game")}
        return "_".join(f"{key}_{value}" for key, value in given.items()).lower() or "as_by_default"
    defaults = {field.name: field.default for field in dataclasses.fields(TagEnvConfig)}
    game = {**dict.fromkeys(ORDER), **defaults, **env_config}
    parts = [f"{_said(game.pop('num_class_a'))}a{_said(game.pop('num_class_b'))}b"]
    parts += [
        f"{key}_{_said(value)}"
        for key, value in game.items()
        if key not in TRAINING_ONLY and value != defaults[key] and key != "wrappers"
    ]
    return "_".join([*parts, *(["wrapped"] if game["wrappers"] else [])]).lower()


def _said(value: Any) -> str:
    """Returns a value as a part of a name: of a path its end, of numbers to draw from each, of a class its path."""
    if isinstance(value, Mapping):
        return "_".join([str(value["type"]), *(f"{key}_{_said(each)}" for key, each in value.items() if key != "type")])
    if isinstance(value, (list, tuple)):
        return "or".join(map(str, value))
    return str(value).rstrip("/").rpartition("/")[2]
