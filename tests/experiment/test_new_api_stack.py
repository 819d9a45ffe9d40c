"""Files for RLlib's new API stack: the same keys, and what it would ignore."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from conftest import EXPERIMENTS

from rllib_tag import TagCallbacks
from rllib_tag.errors import ConfigError
from rllib_tag.experiment.experiment import parse_experiments
from rllib_tag.experiment.new_api_stack import STACK_FLAGS
from rllib_tag.experiment.spec import load_experiments

FILES = ("tag_quick", "tag_ppo", "tag_selfplay", "tag_ppo_generalist", "tag_ppo_shared_critic", "tag_ppo_continuous")


def on_new_stack(name: str) -> dict[str, Any]:
    """A shipped file with both flags set to true."""
    specs = load_experiments(EXPERIMENTS / f"{name}.yaml")
    for spec in specs.values():
        spec["config"].update(dict.fromkeys(STACK_FLAGS, True))
    return specs


@pytest.mark.parametrize("name", FILES)
def test_a_shipped_file_with_both_flags_set_to_true(name: str) -> None:
    (old,) = parse_experiments(load_experiments(EXPERIMENTS / f"{name}.yaml"))
    (new,) = parse_experiments(on_new_stack(name))
    assert [variant.new_api_stack for variant in (*old.variants, *new.variants)] == [False, True]
    assert new.default_sampler_reason == old.default_sampler_reason
    assert new.stop == old.stop
    assert new.variants[0].resources == old.variants[0].resources


def test_without_flags_it_is_the_new_stack_as_in_rllib() -> None:
    specs = on_new_stack("tag_quick")
    for flag in STACK_FLAGS:
        del specs["tag_quick"]["config"][flag]
    assert parse_experiments(specs)[0].variants[0].new_api_stack


class OldHooks(TagCallbacks):
    """Callbacks of which RLlib's new API stack never calls one."""

    def on_learn_on_batch(self, **kwargs: Any) -> None:
        """Does nothing."""


def config(**keys: Any) -> Callable[[dict[str, Any]], object]:
    return lambda spec: spec["config"].update(keys)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda spec: spec.update(run="APPO"), "run: expected PPO on RLlib's new API stack, got APPO"),
        (
            config(compress_observations=True),
            "compress_observations: expected False on RLlib's new API stack, got True",
        ),
        (config(shuffle_batch_per_epoch=False), "shuffle_batch_per_epoch: expected True on RLlib's new API stack"),
        (config(num_gpus=1, num_gpus_per_learner=1), "expected num_gpus or num_gpus_per_learner, got both"),
        (config(callbacks=f"{__name__}.OldHooks"), "expected no on_learn_on_batch, which is never called"),
        (config(exploration_config={"type": "Random"}), "exploration_config: expected None on RLlib's new API stack"),
        (
            lambda spec: (
                spec["config"]["multiagent"].update(
                    policies={"class_a": [None, None, None, {"lambda": 0.1}], "class_b": [None, None, None, {}]}
                )
                or spec["config"]["env_config"].update(backend="mpe2")
            ),
            "policies: class_a: lambda: expected 0.4 on RLlib's new API stack, got 0.1",
        ),
        (
            config(evaluation_interval=1, evaluation_config=dict.fromkeys(STACK_FLAGS, False)),
            "got enable_rl_module_and_learner in evaluation_config. Set both, for the whole run.",
        ),
        (
            config(enable_rl_module_and_learner=False),
            "both true for RLlib's new API stack or both false for the old one",
        ),
        (lambda spec: spec.update(stop={"num_agent_steps_sampled": 5}), "stop: unknown key 'num_agent_steps_sampled'"),
        (lambda spec: spec.update(env="CartPole-v1"), "on RLlib's new API stack"),
        (config(train_batch_size=77), "config: expected values that RLlib accepts, got: "),
    ],
)
def test_what_it_would_ignore_is_refused(change: Callable[[dict[str, Any]], object], message: str) -> None:
    specs = copy.deepcopy(on_new_stack("tag_quick"))
    change(specs["tag_quick"])
    with pytest.raises(ConfigError) as error:
        parse_experiments(specs)
    assert message in str(error.value)
