"""What population-based training may change in a config."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from rllib_tag.errors import ConfigError, check_keys, under
from rllib_tag.experiment.sampled import sampled, sampled_places, with_samplers

# Hyperparameters that the learner reads again at every step.
MUTABLE = ("lr", "lambda", "gamma", "clip_param", "entropy_coeff", "vf_loss_coeff", "grad_clip", "num_epochs")


@dataclasses.dataclass(frozen=True)
class Population:
    """The hyperparameters that population-based training changes, and their ranges.

    Args:
        mutations: For each key of the config, a list of values or a range such as `{uniform: [0.1, 0.9]}`.

    Raises:
        ConfigError: If a key may not be changed, or a value is neither a list nor a range.
    """

    mutations: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not isinstance(self.mutations, Mapping) or not self.mutations:
            raise ConfigError(
                "scheduler: pbt: expected hyperparam_mutations: {key: what to try}, "
                f"got {self.mutations!r}. Name at least one of {', '.join(MUTABLE)}."
            )
        check_keys("scheduler: hyperparam_mutations", self.mutations, MUTABLE)
        for key, value in self.mutations.items():
            _check_mutation(f"scheduler: hyperparam_mutations: {key}", value)

    def changed(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a config with the mutations in place of the values that it starts with."""
        lists = {key: {"choice": value} for key, value in self.mutations.items() if isinstance(value, list)}
        return {**config, **self.mutations, **lists}

    def arguments(self) -> dict[str, Any]:
        """Returns the arguments for Tune's scheduler."""
        return {"hyperparam_mutations": with_samplers(self.mutations), "custom_explore_fn": self}

    def __call__(self, config: dict[str, Any]) -> dict[str, Any]:
        """Returns a config that Tune has perturbed, with its values clipped to their ranges."""
        ends = {key: ends for (key, *_), ends in sampled_places(self.mutations) if "choice" not in self.mutations[key]}
        return {**config, **{key: min(max(config[key], low), high) for key, (low, high) in ends.items()}}


def _check_mutation(what: str, value: Any) -> None:
    """Rejects other mappings, which Tune would take for nested keys and fail on at the first perturbation."""
    with under(what):
        found = sampled(value)
    choices = found[1] if found is not None else value
    if not isinstance(choices, list) or not choices or any(isinstance(choice, (list, Mapping)) for choice in choices):
        raise ConfigError(
            f"{what}: expected a list of values, or a range such as {{uniform: [0.1, 0.9]}}, got {value!r}. "
            "Use one of these forms."
        )
