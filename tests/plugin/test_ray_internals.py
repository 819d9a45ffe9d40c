"""Fails loudly where Ray has changed something that it does not document."""

from __future__ import annotations

import inspect
import json

import pytest
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.evaluation import rollout_worker
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.registry import register_env

from rllib_tag.plugin import ray_internals


def test_algorithms_and_their_keys() -> None:
    assert "PPO" in ray_internals.algorithm_names()
    defaults = vars(ray_internals.algorithm_defaults("PPO"))
    expected = {
        "minibatch_size",
        "num_epochs",
        "lambda_",
        "framework_str",
        "callbacks_class",
        "env_runner_cls",
        "clip_param",
    }
    assert expected <= set(defaults)
    assert {"custom_model", "custom_model_config"} <= set(ray_internals.MODEL_DEFAULTS)


def test_registered_environments() -> None:
    register_env("internals_test", lambda config: config)
    assert ray_internals.env_is_registered("internals_test")
    assert not ray_internals.env_is_registered("no_such_env")


def test_search_values_are_expanded() -> None:
    configs = ray_internals.variants({"a": {"grid_search": [1, 2]}, "b": {"c": {"grid_search": [3, 5]}}})
    assert configs == [{"a": a, "b": {"c": c}} for c in (3, 5) for a in (1, 2)]


def test_the_worker_being_built_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hasattr(rollout_worker, "_global_worker")
    source = inspect.getsource(rollout_worker.RolloutWorker.__init__)
    assert source.index("_global_worker = self") < source.index("self._update_policy_map(")
    assert source.index("self._update_policy_map(") < source.index("self.weights_seq_no")
    worker = type("Worker", (), {})()
    monkeypatch.setattr(rollout_worker, "_global_worker", worker)
    assert ray_internals.worker_being_built() is worker
    worker.weights_seq_no = None
    assert ray_internals.worker_being_built() is None


def test_trials_tell_how_they_ended() -> None:
    assert isinstance(Trial.error_file, property)


def test_decisions_that_wait_are_kept_in_tunes_state() -> None:
    assert "self._cached_trial_decisions = {}" in inspect.getsource(TuneController.__init__)
    assert "_cached_trial_decisions" not in inspect.getsource(TuneController.__getstate__)
    state = {"trial_data": [["a", "b"]], "runner_data": {"_cached_trial_decisions": {"t": "STOP"}, "_iteration": 3}}
    kept = json.loads(ray_internals.without_decisions(json.dumps(state)))
    assert kept == {"trial_data": [["a", "b"]], "runner_data": {"_cached_trial_decisions": {}, "_iteration": 3}}


def test_the_episodes_behind_a_result_are_known() -> None:
    assert "self._episode_history = []" in inspect.getsource(Algorithm.__init__)


def test_what_batched_sampling_relies_on() -> None:
    assert ray_internals.RolloutMetrics(custom_metrics={"a": 1.0}).custom_metrics == {"a": 1.0}
    builder = ray_internals.LearnerInfoBuilder()
    for loss in (1.0, 3.0):
        builder.add_learn_on_batch_results({ray_internals.LEARNER_STATS_KEY: {"loss": loss}}, "class_a")
    assert builder.finalize()["class_a"][ray_internals.LEARNER_STATS_KEY]["loss"] == 2.0
    parameters = inspect.signature(ray_internals.synchronous_parallel_sample).parameters
    assert {"worker_set", "max_env_steps", "sample_timeout_s"} <= set(parameters)
