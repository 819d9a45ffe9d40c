"""Fails loudly where Ray has changed something that it does not document."""

from __future__ import annotations

import inspect
import json
import traceback
from pathlib import Path
from unittest.mock import MagicMock, Mock

import gymnasium
import numpy as np
import pytest
import ray
import torch
from ray import train, tune
from ray.air.integrations import wandb
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo.ppo_torch_policy import PPOTorchPolicy
from ray.rllib.evaluation import rollout_worker
from ray.rllib.policy.policy import Policy
from ray.rllib.policy.sample_batch import SampleBatch
from ray.train._internal import checkpoint_manager, storage
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.logger.json import JsonLoggerCallback
from ray.tune.registry import register_env
from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, PopulationBasedTraining, TrialScheduler

from rllib_tag.experiment.loggers import WANDB_MODE
from rllib_tag.places import CHECKPOINT
from rllib_tag.plugin import ray_internals
from rllib_tag.training.train import TrialEnd


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


def test_from_which_ray_on_ppos_policies_read_use_kl_loss() -> None:
    losses = []
    for kl_coeff in (0.0, 1.0):
        config = PPOConfig().api_stack(enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False)
        config.framework("torch").training(use_kl_loss=False, kl_coeff=kl_coeff)
        spaces = gymnasium.spaces.Box(-1, 1, (2,), np.float32), gymnasium.spaces.Discrete(2)
        policy = PPOTorchPolicy(*spaces, config.to_dict())
        for weight in policy.model.parameters():
            torch.nn.init.zeros_(weight)
        zeros, ones = torch.zeros(4), torch.ones(4)
        columns = {
            "obs": torch.zeros(4, 2), "actions": zeros, "action_dist_inputs": torch.tensor([[0.0, 2.0]] * 4),
            "action_logp": zeros, "advantages": ones, "value_targets": zeros, "vf_preds": zeros,
        }  # fmt: skip
        losses.append(policy.loss(policy.model, policy.dist_class, SampleBatch(columns)).item())
    reads = losses[0] == losses[1]
    assert reads == (ray_internals.RAY_VERSION >= ray_internals.READS_USE_KL_LOSS)


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


def test_the_whole_message_of_the_last_exception_is_what_ended_a_trial(tmp_path: Path) -> None:
    def fail(message: str) -> None:
        try:
            int("x")
        except ValueError as error:
            raise LookupError(message) from error

    file = tmp_path / "error.txt"
    trial = Mock(error_file=str(file))
    assert ray_internals.trial_error(trial) is None
    for number, message in enumerate(("one line", "first,\nKeyError: second,\n  third."), start=1):
        try:
            fail(message)
        except LookupError:
            with file.open("a") as opened:  # as Tune does
                opened.write(f"Failure # {number} (occurred at 2026-11-25_06-30-04)\n{traceback.format_exc()}\n")
    assert ray_internals.trial_error(trial) == "LookupError: first, KeyError: second, third."
    with file.open("a") as opened:
        opened.write("Failure # 3 (occurred at 2026-11-25_06-30-04)\nThe actor died.\n\tpid: 7\nIts node is gone.\n")
    assert ray_internals.trial_error(trial) == "The actor died. pid: 7 Its node is gone."


def test_a_ray_that_ends_is_told_from_one_that_does_not(monkeypatch: pytest.MonkeyPatch, ray_session: None) -> None:
    assert not ray_internals.own_ray_has_ended()
    monkeypatch.setattr(ray_internals.ray_worker._global_node, "dead_processes", lambda: [("log_monitor", None)])
    assert not ray_internals.own_ray_has_ended()
    dead = [("dashboard", None), ("log_monitor", None)]  # the first two to end, within 0.03 s
    monkeypatch.setattr(ray_internals.ray_worker._global_node, "dead_processes", lambda: dead)
    assert ray_internals.own_ray_has_ended()
    monkeypatch.setattr(ray_internals.ray_worker, "_global_node", None)  # no Ray, or somebody else's
    assert not ray_internals.own_ray_has_ended()


def test_files_of_checkpoints_and_tunes_state(trained: TrialEnd) -> None:
    (checkpoint,) = trained.folder.glob("checkpoint_*")
    assert CHECKPOINT.fullmatch(f"{checkpoint}/")
    mark, policy_state = ray_internals.RLLIB_MARK, ray_internals.POLICY_STATE
    files = {mark, ray_internals.ALGORITHM_STATE}
    files |= {f"policies/{policy}/{name}" for policy in ("class_a", "class_b") for name in (mark, policy_state)}
    written = {str(file.relative_to(checkpoint)) for file in checkpoint.rglob("*") if file.is_file()}
    assert written - {".is_checkpoint", "sampling_state.pkl"} == files  # the second is TeamPPO's own
    assert sorted(json.loads((checkpoint / mark).read_text())["policy_ids"]) == ["class_a", "class_b"]
    (state,) = trained.folder.parent.glob(f"{ray_internals.TUNE_STATE}*.json")
    assert ray_internals.state_contains(state.read_bytes(), str(checkpoint))
    assert not ray_internals.state_contains(state.read_bytes(), f"{checkpoint}_no_such")


def test_checkpoints_hold_what_a_team_is_restored_from(trained: TrialEnd) -> None:
    (checkpoint,) = trained.folder.glob("checkpoint_*")
    policies = ray_internals.checkpoint_policies(checkpoint, lambda *_: None)
    assert sorted(policies) == ["class_a", "class_b"]
    for name, policy in policies.items():
        rllibs = Policy.from_checkpoint(str(checkpoint / "policies" / name))
        assert policy.config["num_gpus"] == 0
        assert (policy.observation_space, policy.action_space) == (rllibs.observation_space, rllibs.action_space)
        ours, theirs = policy.get_weights(), rllibs.get_weights()
        assert ours.keys() == theirs.keys()
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key])
    assert ray_internals.checkpoint_env_steps(checkpoint) == trained.result["num_env_steps_sampled"] == 400


def test_a_checkpoints_counters_have_the_names_of_the_results(trained: TrialEnd) -> None:
    (checkpoint,) = trained.folder.glob("checkpoint_*")
    config = ray_internals.algorithm_defaults("PPO")
    counters = ray_internals.checkpoint_counters(checkpoint, config)
    assert len(counters) == 5
    assert counters == {name: trained.result[name] for name in counters}
    config.multi_agent(count_steps_by="agent_steps")
    assert ray_internals.checkpoint_counters(checkpoint, config)["timesteps_total"] == 1600


def test_games_get_the_seeds_of_rllibs_default_sampler() -> None:
    game = Mock()
    rollout_worker._update_env_seed_if_necessary(game, 7, 3, 11)
    game.reset.assert_called_once_with(seed=ray_internals.sub_environment_seed(7, worker_index=3, index=11))


def test_tune_deletes_and_writes_on_the_file_system_that_it_is_given() -> None:
    """`LateDeletion` keeps checkpoints from one, and looks at each state that comes by the other."""
    assert "fs.delete_dir(fs_path)" in inspect.getsource(storage._delete_fs_path)
    assert "_delete_fs_path(fs=checkpoint.filesystem" in inspect.getsource(checkpoint_manager)
    assert "pyarrow.fs.copy_files(" in inspect.getsource(storage._pyarrow_fs_copy_files)


def test_what_is_read_of_trials() -> None:
    trial = Trial("stub", stub=True, stopping_criterion={"training_iteration": 3}, experiment_tag="5_lr=0.1")
    assert (trial.experiment_tag, trial.stopping_criterion) == ("5_lr=0.1", {"training_iteration": 3})
    assert trial.status == Trial.PENDING
    assert not trial.last_result.get("done")
    assert "Path(trial.local_path, EXPR_RESULT_FILE)" in inspect.getsource(JsonLoggerCallback)


def test_tunes_logger_for_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs no key where a variable says so; what is given wins over what it would itself."""
    monkeypatch.setenv(WANDB_MODE, "offline")
    wandb._set_api_key()
    assert "_set_api_key(" in inspect.getsource(wandb.WandbLoggerCallback.setup)
    assert "wandb_init_kwargs.update(self.kwargs)" in inspect.getsource(wandb.WandbLoggerCallback.log_trial_start)


def test_the_warning_of_new_processes() -> None:
    assert ray_internals.PBT_WARNING in inspect.getsource(tune.tune)


def test_a_state_that_tune_cannot_read_is_told_from_others(trained: TrialEnd) -> None:
    assert "Restarting experiment." in inspect.getsource(TuneController.__init__)  # so would Tune, in silence
    (state,) = trained.folder.parent.glob(f"{ray_internals.TUNE_STATE}*.json")
    ray_internals.check_state(state.read_text())
    content = json.loads(state.read_text())
    gone = {"_type": "CLOUDPICKLE_FALLBACK", "value": b"cno_such_module\nName\n.".hex()}
    content["trial_data"][0][0] = json.dumps({**json.loads(content["trial_data"][0][0]), "storage": gone})
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        ray_internals.check_state(json.dumps(content))


def test_decisions_that_wait_are_kept_in_tunes_state() -> None:
    assert "self._cached_trial_decisions = {}" in inspect.getsource(TuneController.__init__)
    assert "_cached_trial_decisions" not in inspect.getsource(TuneController.__getstate__)
    state = {"trial_data": [["a", "b"]], "runner_data": {"_cached_trial_decisions": {"t": "STOP"}, "_iteration": 3}}
    kept = json.loads(ray_internals.without_decisions(json.dumps(state)))
    assert kept == {"trial_data": [["a", "b"]], "runner_data": {"_cached_trial_decisions": {}, "_iteration": 3}}


def tuned(kind: type) -> TrialScheduler:
    """A scheduler that stops or changes whoever is worse than half of those that it has seen at iteration 1."""
    arguments = {
        AsyncHyperBandScheduler: {"grace_period": 1, "max_t": 7, "reduction_factor": 2},
        MedianStoppingRule: {"grace_period": 1, "min_samples_required": 3, "min_time_slice": 0},
        PopulationBasedTraining: {"perturbation_interval": 1, "hyperparam_mutations": {"lr": tune.uniform(0.1, 0.9)}},
    }[kind]
    return kind(time_attr="training_iteration", metric="score", mode="max", **arguments)


def tell(scheduler: TrialScheduler, trial: Trial, score: float) -> str:
    result = {"training_iteration": 1, "score": score, "time_total_s": 1.0}
    controller = MagicMock(**{"_schedule_trial_save.return_value": None})
    return scheduler.on_trial_result(controller, trial, result)


@pytest.mark.parametrize("kind", [AsyncHyperBandScheduler, MedianStoppingRule, PopulationBasedTraining])
def test_a_scheduler_takes_up_what_it_had_seen(kind: type) -> None:
    first = tuned(kind)
    trials = [Trial("stub", trial_id=f"t{i}", stub=True, config={"lr": 0.5}) for i in range(5)]
    for trial in trials:
        first.on_trial_add(Mock(), trial)
    for trial in trials[:4]:
        tell(first, trial, 9.0)
    state = ray_internals.SchedulerState(first).get_state()

    again = [Trial("stub", trial_id=f"t{i}", stub=True, config={"lr": 0.5}) for i in range(5)]  # of another process
    fresh, restored = tuned(kind), tuned(kind)
    for scheduler in (fresh, restored):
        for trial in again:
            scheduler.on_trial_add(Mock(), trial)
    callback = ray_internals.SchedulerState(restored)
    callback.set_state(state)
    callback.on_step_begin(0, again)
    if kind is PopulationBasedTraining:
        scores = [[scheduler._trial_state[trial].last_score for trial in again] for scheduler in (fresh, restored)]
        assert scores == [5 * [None], [9.0, 9.0, 9.0, 9.0, None]]
    else:
        said = [tell(scheduler, trial, 1.0) for scheduler, trial in ((first, trials[4]), (restored, again[4]))]
        assert said == 2 * [TrialScheduler.STOP]
        assert tell(fresh, again[4], 1.0) == TrialScheduler.CONTINUE


def test_a_trial_that_is_not_taken_up_counts_as_ended() -> None:
    population = tuned(PopulationBasedTraining)
    for trial in (Trial("stub", trial_id=name, stub=True, config={"lr": 0.5}) for name in ("a", "b")):
        population.on_trial_add(Mock(), trial)
        tell(population, trial, 9.0)
    callback = ray_internals.SchedulerState(population)
    callback.set_state(callback.get_state())
    callback.on_step_begin(0, [Trial("stub", trial_id="a", stub=True)])
    assert {trial.trial_id: trial.is_finished() for trial in population._trial_state} == {"a": False, "b": True}


def test_a_checkpoint_that_is_being_written_is_left_out_of_a_schedulers_state() -> None:
    population, trial = tuned(PopulationBasedTraining), Trial("stub", trial_id="t", stub=True)
    population.on_trial_add(Mock(), trial)
    population._trial_state[trial].last_checkpoint = train._internal.session._FutureTrainingResult(Mock())
    callback = ray_internals.SchedulerState(population)
    callback.set_state(callback.get_state())
    callback.on_step_begin(0, [trial])
    assert population._trial_state[trial].last_checkpoint is None


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


def test_policies_get_the_configs_that_rllib_gives_them() -> None:
    """Of what RLlib merges, `get_multi_agent_setup` shows what the workers' policies are built with."""
    own = {"gamma": 0.5, "model": {"custom_model_config": {"a": 3}}, "env_config": {"deep": {"b": 5}}}
    given = {
        "model": {"custom_model_config": {"c": 7}}, "env_config": {"deep": {"d": 11}},
        "multiagent": {"policies": {"x": [None, None, None, own], "y": [None, None, None, {}]}},
        "evaluation_config": {"gamma": 0.25, "model": {"fcnet_hiddens": [13]}},
    }  # fmt: skip
    training = ray_internals.merged_config("PPO", given)
    evaluation = ray_internals.evaluation_config(training)
    assert (training.gamma, evaluation.gamma, evaluation.in_evaluation) == (0.99, 0.25, True)
    space = gymnasium.spaces.Discrete(17)
    for config in (training, evaluation):
        specs, _ = config.get_multi_agent_setup(spaces=dict.fromkeys("xy", (space, space)))
        merged = ray_internals.policy_configs(config)
        for name in "xy":
            for key in ("gamma", "model", "env_config"):
                assert merged[name][key] == specs[name].config[key], (name, key)
    assert ray_internals.policy_configs(training)["x"].env_config == {"deep": {"d": 11, "b": 5}}
    assert set(ray_internals.policy_configs(ray_internals.merged_config("PPO", {}))) == {"default_policy"}


def test_a_cluster_is_told_from_something_else(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = ray.get_runtime_context().gcs_address
    assert ray_internals.is_cluster(address, timeout_s=60.0)
    assert not ray_internals.is_cluster(address, timeout_s=0.01)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert ray_internals.running_cluster(None) is None
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("192.0.2.1:6379")
    assert ray_internals.running_cluster(None) == "192.0.2.1:6379"
