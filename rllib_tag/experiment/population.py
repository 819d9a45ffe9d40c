"""What population-based training may change of a config."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from rllib_tag.errors import ConfigError, check_keys, under
from rllib_tag.experiment.sampled import sampled, sampled_places, with_samplers

# Numbers that the learner reads anew in every step.
MUTABLE = ("lr", "lambda", "gamma", "clip_param", "entropy_coeff", "vf_loss_coeff", "grad_clip", "num_epochs")


@dataclasses.dataclass(frozen=True)
class Population:
    """What a population changes while it is trained, and within which ranges.

    Args:
        mutations: By a config's key, a list of values or a range such as `{uniform: [0.1, 0.9]}`.

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
        """A config with all that it may be changed to in place of what it begins with."""
        lists = {key: {"choice": value} for key, value in self.mutations.items() if isinstance(value, list)}
        return {**config, **self.mutations, **lists}

    def arguments(self) -> dict[str, Any]:
        """What Tune's scheduler takes."""
        return {"hyperparam_mutations": with_samplers(self.mutations), "custom_explore_fn": self}

    def __call__(self, config: dict[str, Any]) -> dict[str, Any]:
        """A config whose values, which Tune has perturbed by its factors, are within their ranges again."""
        ends = {key: ends for (key, *_), ends in sampled_places(self.mutations) if "choice" not in self.mutations[key]}
        return {**config, **{key: min(max(config[key], low), high) for key, (low, high) in ends.items()}}


def _check_mutation(what: str, value: Any) -> None:
    """Tune would take any other mapping for further keys, and find out at the first perturbation."""
    with under(what):
        found = sampled(value)
    choices = found[1] if found is not None else value
    if not isinstance(choices, list) or not choices or any(isinstance(choice, (list, Mapping)) for choice in choices):
        raise ConfigError(
            f"{what}: expected a list of values, or a range such as {{uniform: [0.1, 0.9]}}, got {value!r}. Write one."
        )
