"""What a run takes from a checkpoint, and what stays as its own config says."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray import cloudpickle as pickle
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.policy.policy import Policy

from rllib_tag import ClassPolicyMapping
from rllib_tag.nn.weights import Exported, save_exported
from rllib_tag.playing.restore import restore
from rllib_tag.plugin.old_api_stack.from_exported import ALGORITHMS
from rllib_tag.plugin.ray_internals import on_each_runner

from .conftest import FRAGMENT, NUM_ENVS, RUNNERS, build

WAYS = [(True, PPOConfig), (False, PPOConfig), (False, APPOConfig)]


class Swapped(ClassPolicyMapping):
    """Whoever RLlib's checkpoint maps otherwise."""

    def __call__(self, *args: Any, **kwargs: Any) -> str:
        return {"class_a": "class_b", "class_b": "class_a"}[super().__call__(*args, **kwargs)]


def groups(policy: Policy) -> list[dict[str, Any]]:
    return [group for optimizer in policy._optimizers for group in optimizer.param_groups]


def moments(policy: Policy) -> list[torch.Tensor]:
    return [state["exp_avg"] for optimizer in policy._optimizers for state in optimizer.state.values()]


@pytest.mark.parametrize(("batched", "kind"), WAYS)
def test_a_restored_run_keeps_its_own_hyperparameters(
    batched: bool, kind: type, ray_session: None, tmp_path: Path
) -> None:
    """What a file says, or a population changed, survives the checkpoint, on all workers."""
    first = {"lr": 0.001, "clip_param": 0.2, "entropy_coeff": 0.01, "lambda": 0.9, "gamma": 0.9, "kl_coeff": 0.3}
    donor = build(batched, {}, kind, env_runner_cls=RUNNERS[batched], **first)
    for name in ("class_a", "class_b"):
        (optimizer,) = donor.get_policy(name)._optimizers
        for parameter in donor.get_policy(name).model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    donor.save(str(tmp_path))
    donor.stop()
    changed = {
        "lr": 0.0007, "clip_param": 0.13, "entropy_coeff": 0.003, "lambda": 0.5, "gamma": 0.8, "kl_coeff": 0.1,
        "clip_actions": True,
    }  # fmt: skip
    taker = build(
        batched,
        {},
        kind,
        env_runner_cls=RUNNERS[batched],
        num_env_runners=1,
        num_cpus_per_env_runner=0.5,
        **changed,
    )
    try:
        own = {name: taker.get_policy(name).action_connectors for name in ("class_a", "class_b")}
        taker.restore(str(tmp_path))
        for name in ("class_a", "class_b"):
            policy = taker.get_policy(name)
            assert [group["lr"] for group in groups(policy)] == [0.0007]
            assert (policy.entropy_coeff, policy.kl_coeff) == (0.003, 0.1)
            kept = pickle.loads((tmp_path / "policies" / name / "policy_state.pkl").read_bytes())
            for ours, theirs in zip(moments(policy), kept["_optimizer_variables"][0]["state"].values(), strict=True):
                np.testing.assert_array_equal(ours, theirs["exp_avg"])
            assert policy.action_connectors is own[name]
            for config in on_each_runner(taker, lambda worker: worker.policy_map[name].config):  # noqa: B023
                assert {key: config[key] for key in changed} == changed
    finally:
        taker.stop()


@pytest.mark.parametrize("batched", [True, False])
def test_a_restored_run_goes_on_where_its_schedules_stood(batched: bool, ray_session: None, tmp_path: Path) -> None:
    schedules = {"lr_schedule": [[0, 0.001], [1000, 0.0]], "entropy_coeff_schedule": [[0, 0.1], [1000, 0.0]]}
    first = build(batched, {}, env_runner_cls=RUNNERS[batched], kl_coeff=0.7, **schedules)
    first.train()
    first.get_policy("class_b").kl_coeff = 0.35  # as it adapts
    first.save(str(tmp_path))
    again = build(batched, {}, env_runner_cls=RUNNERS[batched], kl_coeff=0.7, **schedules)
    again.restore(str(tmp_path))
    left = 1 - 4 * NUM_ENVS * FRAGMENT / 1000  # four adversaries' steps
    for algo in (first, again):
        policy = algo.get_policy("class_b")
        assert [group["lr"] for group in groups(policy)] == pytest.approx([0.001 * left])
        assert policy.entropy_coeff == pytest.approx(0.1 * left)
        assert policy.kl_coeff == 0.35


@pytest.mark.parametrize("batched", [True, False])
def test_a_restored_run_keeps_its_own_team_mapping_and_policies_to_train(
    batched: bool, ray_session: None, tmp_path: Path
) -> None:
    evaluated = {
        "evaluation_interval": 1, "evaluation_duration": 1, "env_runner_cls": RUNNERS[batched],
        "evaluation_config": {"env_config": {"num_class_a": 0, "num_class_b": 2}},
    }  # fmt: skip
    mapping = {"policies": ["class_a", "class_b"], "policies_to_train": ["class_a"]}
    donor = build(batched, {}, multiagent=mapping | {"policy_mapping_fn": Swapped(2, 2)}, **evaluated)
    donor.save(str(tmp_path))
    taker = build(
        batched, {"num_class_a": 3, "num_class_b": 1}, **evaluated,
        multiagent=mapping | {"policy_mapping_fn": ClassPolicyMapping(3, 1), "policies_to_train": ["class_b"]},
    )  # fmt: skip
    taker.restore(str(tmp_path))
    for worker in (taker.env_runner, taker.eval_env_runner):
        assert type(worker.policy_mapping_fn) is ClassPolicyMapping
        assert list(worker.get_policies_to_train()) == ["class_b"]
    assert list(taker.eval_env_runner.policy_map.keys()) == ["class_b"]
    trained = taker.train()["info"]["learner"]
    assert list(trained) == ["class_b"]
    taker.eval_env_runner.set_policy_mapping_fn(Swapped(3, 1))  # as a callback may
    assert isinstance(taker.eval_env_runner.policy_mapping_fn, Swapped)


def test_a_policy_that_was_added_while_a_run_was_trained_comes_back_with_its_mapping(
    ray_session: None, tmp_path: Path
) -> None:
    def league(agent: str, *args: Any, **kwargs: Any) -> str:
        return "rival" if agent == "adversary_0" else ClassPolicyMapping(2, 2)(agent)

    donor, taker = (build(False, {}, env_runner_cls=RUNNERS[False]) for _ in range(2))
    spaces = {key: getattr(donor.get_policy("class_a"), key) for key in ("observation_space", "action_space")}
    donor.add_policy("rival", type(donor.get_policy("class_a")), policy_mapping_fn=league, **spaces)
    donor.save(str(tmp_path))
    taker.restore(str(tmp_path))
    assert taker.env_runner.policy_mapping_fn("adversary_0", None, worker=taker.env_runner) == "rival"
    assert taker.get_policy("rival") is not None


@pytest.mark.parametrize(("batched", "kind"), WAYS)
def test_a_run_starts_with_exported_weights(batched: bool, kind: type, ray_session: None, tmp_path: Path) -> None:
    donor = build(batched, {}, kind, env_runner_cls=RUNNERS[batched])
    nets = {name: donor.get_policy(name).model.net for name in ("class_a", "class_b")}
    save_exported(Exported(nets, {"num_class_a": 2, "num_class_b": 2}), tmp_path / "exported")
    donor.stop()
    starting = functools.partial(kind, algo_class=ALGORITHMS[kind().algo_class.__name__])
    taker = build(
        batched, {"num_class_a": 3}, starting, env_runner_cls=RUNNERS[batched], num_env_runners=1,
        num_cpus_per_env_runner=0.5,
    )  # fmt: skip
    try:
        taker.restore(str(tmp_path / "exported"))
        for name, net in nets.items():
            for worker in on_each_runner(taker, lambda worker: worker.policy_map[name].get_weights()):  # noqa: B023
                for key, value in net.state_dict().items():
                    np.testing.assert_array_equal(worker[f"net.{key}"], value)
            policy = taker.get_policy(name)
            for target in getattr(policy, "target_models", {}).values():
                for key, value in net.state_dict().items():
                    np.testing.assert_array_equal(target.net.state_dict()[key], value)
            assert not moments(policy)
        assert taker.iteration == 0
        taker.save(str(tmp_path / "checkpoint"))
        taker.restore(str(tmp_path / "checkpoint"))
    finally:
        taker.stop()


def test_a_restored_team_knows_the_environment_steps_it_was_trained_for(ray_session: None, tmp_path: Path) -> None:
    """Whatever counts steps of each agent, and however large the team was at first."""
    multiagent = {"policies": ["class_a", "class_b"], "count_steps_by": "agent_steps"}
    first = build(
        False, {"num_class_a": 3},
        multiagent=multiagent | {"policy_mapping_fn": ClassPolicyMapping(3, 2)},
    )  # fmt: skip
    first.train()
    first.save(str(tmp_path / "first"))
    steps = first._counters["num_env_steps_sampled"]
    assert 0 < steps < first._counters["num_agent_steps_sampled"]
    assert restore(tmp_path / "first").env_steps == steps
    again = build(
        False, {}, env_runner_cls=RUNNERS[False],
        multiagent=multiagent | {"policy_mapping_fn": ClassPolicyMapping(2, 2)},
    )  # fmt: skip
    again.restore(str(tmp_path / "first"))
    again.save(str(tmp_path / "again"))
    assert restore(tmp_path / "again").env_steps == steps
