"""What is raised in an env runner, near or far, ends the run with its cause and place."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from ray import cloudpickle
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.evaluation.rollout_worker import RolloutWorker
from ray.tune.registry import register_env

from rllib_tag import TagEnv
from rllib_tag.plugin.old_api_stack.sampler import BatchedSampler
from rllib_tag.plugin.ray_internals import on_each_runner
from rllib_tag.plugin.runner_errors import RunnerError

from .conftest import FRAGMENT, NUM_ENVS, RUNNERS, build


@pytest.fixture(autouse=True)
def _by_value() -> Iterator[None]:
    """Other processes do not know this file."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


PLACE = r"KeyError: 'gone' \(.*test_runner.py:\d+, in broken\)"


def spoil(worker: RolloutWorker) -> None:
    """Lets a worker's games raise from now on."""

    def broken(*args: Any) -> None:
        raise KeyError("gone")

    if worker.env is None:  # only far away are games played
        return
    if isinstance(worker, BatchedSampler):
        worker._player.games.step = broken
    else:
        worker.async_env.get_sub_environments()[1].step = broken


def on_each(group: Any) -> Any:
    return getattr(group, "foreach_env_runner", None) or group.foreach_worker  # its name before Ray 2.41


@pytest.mark.parametrize(
    ("batched", "kind", "runners"),
    [(True, PPOConfig, 0), (True, PPOConfig, 1), (False, PPOConfig, 0), (False, PPOConfig, 1), (False, APPOConfig, 1)],
)
def test_an_environment_that_raises_ends_the_run(batched: bool, kind: type, runners: int, ray_session: None) -> None:
    algorithm = build(batched, {}, kind, num_env_runners=runners, env_runner_cls=RUNNERS[batched])
    try:
        on_each_runner(algorithm, spoil)
        with pytest.raises(RunnerError, match=f"env runner {runners}: {PLACE}"):
            algorithm.train()
    finally:
        algorithm.stop()


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("runners", [0, 1])
def test_an_evaluation_that_raises_ends_the_run(batched: bool, runners: int, ray_session: None) -> None:
    algorithm = build(
        batched, {}, env_runner_cls=RUNNERS[batched], evaluation_interval=1, evaluation_num_env_runners=runners,
        evaluation_duration=2, evaluation_config={"num_cpus_per_env_runner": 0.5},
    )  # fmt: skip
    try:
        on_each(algorithm.eval_env_runner_group)(spoil)
        with pytest.raises(RunnerError, match=f"evaluation env runner {runners}: {PLACE}"):
            algorithm.train()
    finally:
        algorithm.stop()


@pytest.mark.parametrize("batched", [True, False])
def test_a_constructor_that_raises_far_away_ends_the_run(batched: bool, ray_session: None) -> None:
    def create(context: Any) -> TagEnv:
        if context.worker_index > 0:
            raise OSError("no licence")
        return TagEnv(context)

    register_env("fails_far_away", create)
    with pytest.raises(RunnerError, match=r"env runner 1: OSError: no licence \(.*test_runner.py:\d+, in create\)"):
        build(batched, {}, env="fails_far_away", env_runner_cls=RUNNERS[batched], num_env_runners=1).train()


def test_whatever_is_asked_of_a_runner_ends_the_run_if_it_raises(ray_session: None) -> None:
    algorithm = build(False, {}, env_runner_cls=RUNNERS[False], num_env_runners=1)
    try:
        on_each_runner(algorithm, lambda worker: worker.async_env.nothing, local_env_runner=False)
        with pytest.raises(RunnerError, match=r"env runner 1: AttributeError: .* has no attribute 'nothing'"):
            algorithm.train()
    finally:
        algorithm.stop()


@pytest.mark.nightly
def test_rllibs_own_tolerance_stays_what_it_is(ray_session: None) -> None:
    algorithm = build(
        False, {}, env_runner_cls=RUNNERS[False], num_env_runners=2, num_cpus_per_env_runner=0.5,
        train_batch_size=2 * NUM_ENVS * FRAGMENT, ignore_env_runner_failures=True, restart_failed_env_runners=False,
    )  # fmt: skip
    try:
        on_each(algorithm.env_runner_group)(spoil, local_env_runner=False, remote_worker_ids=[1])
        assert algorithm.train()["num_env_steps_sampled"] > 0
        assert algorithm.env_runner_group.num_healthy_remote_workers() == 1
    finally:
        algorithm.stop()
    algorithm = build(False, {}, env_runner_cls=RUNNERS[False], restart_failed_sub_environments=True)
    spoil(algorithm.env_runner)
    spoilt = algorithm.env_runner.async_env.get_sub_environments()[1]
    assert algorithm.train()["num_env_steps_sampled"] > 0
    assert algorithm.env_runner.async_env.get_sub_environments()[1] is not spoilt


@pytest.mark.parametrize(
    ("batched", "message"),
    [
        (True, r"TagGame.step: expected finite numbers, got positions\[1, 2, 0\] = nan"),
        (False, r"TagGame.step: expected finite numbers, got observations/\w+\[\d+\] = nan"),
    ],
)
def test_numbers_that_are_not_finite_end_the_run_from_a_remote_runner(
    batched: bool, message: str, ray_session: None
) -> None:
    def spoil(worker: Any) -> None:
        if isinstance(worker, BatchedSampler):
            worker._player.games.world.vec.positions[1, 2, 0] = np.nan
        else:
            worker.async_env.get_sub_environments()[1].par_env.unwrapped.world.agents[2].state.p_pos[0] = np.nan

    algo = build(batched, {}, num_env_runners=1, env_runner_cls=RUNNERS[batched])
    algo.train()
    before = copy.deepcopy(algo.get_policy("class_a").get_weights())
    on_each_runner(algo, spoil, local_env_runner=False)
    with pytest.raises(RunnerError, match=f"env runner 1: FloatingPointError: {message}"):
        algo.train()
    for key, value in algo.get_policy("class_a").get_weights().items():
        np.testing.assert_array_equal(value, before[key])
