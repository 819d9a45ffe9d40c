"""Parses experiments: each is checked and resolved before any worker starts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rllib_tag.errors import ConfigError, check_bool, check_choice, check_int, check_keys, under
from rllib_tag.experiment.apply_options import apply_options
from rllib_tag.experiment.config_check import resolve_config
from rllib_tag.experiment.loggers import check_loggers
from rllib_tag.experiment.metrics import TIMES, full_name
from rllib_tag.experiment.options import TrainOptions
from rllib_tag.experiment.sampled import corners
from rllib_tag.experiment.spec import Specs, check_shape
from rllib_tag.experiment.sweeps import check_sweep
from rllib_tag.experiment.team_check import try_game
from rllib_tag.experiment.variant import Variant
from rllib_tag.places import Place
from rllib_tag.plugin.env import TagEnv
from rllib_tag.plugin.ray_internals import is_of_new_api_stack

CHECKPOINT_KEYS = (
    "checkpoint_at_end", "checkpoint_frequency", "num_to_keep", "checkpoint_score_attribute", "checkpoint_score_order",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One checked experiment.

    Args:
        name: Its name.
        spec: What the file and the command line say about it.
        variants: The configs that its trials may start with: the whole grid, and the ends of each sampled range.
        stop: Stop criteria, by the full names of metrics.
        checkpoint_config: Which checkpoints to write and keep, also by full names.
        default_sampler_reason: Why it needs RLlib's default sampler; None if the batched sampler is used.
    """

    name: str
    spec: Mapping[str, Any]
    variants: tuple[Variant, ...]
    stop: Mapping[str, float]
    checkpoint_config: Mapping[str, Any]
    default_sampler_reason: str | None

    @classmethod
    def of(cls, name: str, spec: Mapping[str, Any]) -> Experiment:
        """Checks a specification of the right shape in every variant: values, class paths, team and model.

        Raises:
            ConfigError: On the first value that does not fit.
        """
        config = spec.get("config", {})
        stop = _stop(spec.get("stop"), config)
        checkpoint_config = _checkpoint_config(spec.get("checkpoint_config", {}), config)
        population = check_sweep(spec)
        check_loggers(spec.get("loggers", {}))
        variants = tuple(resolve_config(spec["run"], spec["env"], corner) for corner in corners(config))
        changed = () if population is None else corners(population.changed(config))
        _try_games((*variants, *(resolve_config(spec["run"], spec["env"], corner) for corner in changed)))
        return cls(name, spec, variants, stop, checkpoint_config, _default_sampler_reason(variants))

    @property
    def storage(self) -> Place:
        """The folder in which the folder of its results is created."""
        return Place.at(self.spec["storage_path"])

    @property
    def place(self) -> Place:
        """The folder of its results."""
        return self.storage / self.name

    @property
    def restored(self) -> Path | None:
        """The checkpoint, or exported weights, that it starts from."""
        return Path(self.spec["restore"]) if self.spec.get("restore") else None

    @property
    def tag_config(self) -> Mapping[str, Any] | None:
        """The keys of `TagEnv` that all of its trials start with; None if they differ, or if it is another game."""
        views = [variant.training for variant in self.variants]
        config: Mapping[str, Any] = views[0].config.env_config
        return config if all(view.comm is TagEnv and view.config.env_config == config for view in views) else None

    @property
    def has_team(self) -> bool:
        """Whether its checkpoints have policies that `restore` reads."""
        return self.variants[0].training.has_comm_model

    @property
    def starts_over(self) -> bool:
        """Whether it would start from a checkpoint whose counters it does not continue."""
        restored, on_new_stack = self.restored, self.variants[0].new_api_stack
        return restored is not None and on_new_stack and not is_of_new_api_stack(restored)


def parse_experiments(specs: Specs, options: TrainOptions | None = None) -> list[Experiment]:
    """Checks every variant of every experiment, with the command line's options applied.

    Args:
        specs: Specifications by name, as in an experiment file.
        options: What the command line sets. Default: nothing.

    Raises:
        ConfigError: On the first value that does not fit.
    """
    check_shape(specs)
    specs = apply_options(specs, options or TrainOptions())
    check_shape(specs)
    out = []
    for name, spec in specs.items():
        with under(name):
            out.append(Experiment.of(name, spec))
    return out


def _try_games(variants: tuple[Variant, ...]) -> None:
    """Plays some steps of each game that runs custom code, once however many variants have it."""
    tried: list[Any] = []
    for view in (view for variant in variants for view in (variant.training, variant.evaluation)):
        game = view.comm, view.config.env_config
        if game not in tried:
            tried.append(game)
            try_game(view)


def _default_sampler_reason(variants: tuple[Variant, ...]) -> str | None:
    reasons = (variant.default_sampler_reason for variant in variants)
    reason = next((reason for reason in reasons if reason is not None), None)
    if reason is not None and any(variant.training.must_be_batched for variant in variants):
        raise ConfigError(
            f"config: env_config: backend: batched: expected variants that the batched sampler supports, got one with "
            f"{reason}. All variants of an experiment use the same sampler. Split them into two experiments."
        )
    return reason


def _stop(stop: Any, config: Mapping[str, Any]) -> dict[str, float]:
    if not isinstance(stop, dict) or not stop:
        raise ConfigError(
            f"stop: expected a mapping such as {{timesteps_total: 100000}}, got {stop!r}. "
            "Without it, training never ends."
        )
    out = {}
    for key, value in stop.items():
        name = full_name("stop", key, config)
        lowest = 0 if name in TIMES else -math.inf  # a return may well be below 0
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not lowest < value < math.inf:
            above = " above 0" if lowest == 0 else ""
            raise ConfigError(f"stop: {key}: expected a finite number{above}, got {value!r}. Set one.")
        out[name] = value
    return out


def _checkpoint_config(given: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    check_keys("checkpoint_config", given, CHECKPOINT_KEYS)
    for key, minimum in (("checkpoint_frequency", 0), ("num_to_keep", 1)):
        if given.get(key) is not None:
            check_int(f"checkpoint_config: {key}", given[key], minimum)
    check_bool("checkpoint_config: checkpoint_at_end", given.get("checkpoint_at_end", False))
    check_choice(
        "checkpoint_config: checkpoint_score_order", given.get("checkpoint_score_order", "max"), ("max", "min")
    )
    metric = given.get("checkpoint_score_attribute")
    if metric is None:
        return dict(given)
    full = full_name("checkpoint_config: checkpoint_score_attribute", metric, config)
    return {**given, "checkpoint_score_attribute": full}
