"""Checkpoints of RLlib's new API stack: runs that go on exactly, and settings that stay this run's."""

from __future__ import annotations

import copy
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rllib_tag
from rllib_tag.nn.config import ARCHITECTURE
from rllib_tag.playing.restore import restore
from rllib_tag.plugin.exact_resume import NOTE
from rllib_tag.plugin.new_api_stack.team_ppo import TeamPPO, TeamPPOConfig, _report
from rllib_tag.plugin.ray_internals import on_each_runner
from rllib_tag.plugin.runner_errors import RunnerError
from rllib_tag.plugin.team_rows import standardize_advantages

from .conftest import build, build_old, nets_of, weights_of
from .test_learner import update

OPTIONS: dict[str, Any] = {
    "explore": True,
    "lr_schedule": [[0, 1e-2], [600, 0]],  # agent steps, 4 of each env step
    "entropy_coeff_schedule": [[0, 0.1], [600, 0.0]],
    "use_kl_loss": True,
    "kl_coeff": 0.2,
    "model": {"encoder": "shared"},
}


def figures(result: dict[str, Any]) -> dict[str, float]:
    """What a result says about learning and about the games."""
    keys = ("policy_loss", "vf_loss", "own_learning_rate", "curr_entropy_coeff", "curr_kl_coeff")
    learned = {key: float(result["learners"]["class_a"][key]) for key in keys}
    custom = result["env_runners"].get("custom_metrics", {})  # there are none before the first episode has ended
    return {**learned, **custom, "steps": result["timesteps_total"]}


@pytest.mark.parametrize("runners", [0, 1])
def test_a_run_goes_on_as_if_it_had_not_been_interrupted(runners: int, ray_session: None, tmp_path: Path) -> None:
    first = build(True, {}, num_env_runners=runners, **OPTIONS)
    for _ in range(3):
        first.train()
    first.save_checkpoint(str(tmp_path))
    again = build(True, {}, num_env_runners=runners, **OPTIONS)
    again._trial_info = first._trial_info
    again.load_checkpoint(str(tmp_path))
    states = torch.get_rng_state(), np.random.get_state()  # both algorithms share this process's generators
    wanted = [first.train() for _ in range(2)]
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    found = [again.train() for _ in range(2)]
    assert "return_adversary_mean" in figures(wanted[0])
    for one, other in zip(found, wanted, strict=True):
        assert NOTE not in one
        assert figures(one) == pytest.approx(figures(other))
    assert figures(found[1])["own_learning_rate"] == pytest.approx(1e-2 * (1 - 5 * 60 / 600))
    for name, net in nets_of(first)[1].items():
        for key, value in weights_of(net).items():
            np.testing.assert_array_equal(weights_of(nets_of(again)[1][name])[key], value, err_msg=key)


def test_hyperparameters_are_this_runs(ray_session: None, tmp_path: Path) -> None:
    first = build(True, {}, lr=1e-2, kl_coeff=0.5, use_kl_loss=True)
    first.train()
    first.save_checkpoint(str(tmp_path))
    other = build(True, {}, lr=1e-3, kl_coeff=0.25, use_kl_loss=True)
    other.load_checkpoint(str(tmp_path))
    learner = other.learner_group._learner
    assert {group["lr"] for each in learner._named_optimizers.values() for group in each.param_groups} == {1e-3}
    assert float(learner.curr_kl_coeffs_per_module["class_a"]) == 0.25
    assert all(each.state for each in learner._named_optimizers.values())  # moments
    result = other.train()
    assert figures(result)["own_learning_rate"] == pytest.approx(1e-3)


def test_a_runner_that_was_killed_comes_back(ray_session: None) -> None:
    new = build(True, {}, num_env_runners=2, train_batch_size=30, explore=True)
    new.train()
    pid = on_each_runner(new, lambda _: os.getpid(), local_env_runner=False)[0]
    os.kill(pid, signal.SIGKILL)
    steps = 0
    for _ in range(20):
        steps = new.train().get("num_env_steps_sampled_lifetime", 0)
        if len(on_each_runner(new, lambda _: os.getpid(), local_env_runner=False)) == 2:
            break
        time.sleep(0.5)
    pids = on_each_runner(new, lambda _: os.getpid(), local_env_runner=False)
    assert len(pids) == 2
    assert pid not in pids
    assert steps > 0
    weights = on_each_runner(new, lambda runner: weights_of(runner.module["class_a"].net), local_env_runner=False)
    for key, value in weights[0].items():
        np.testing.assert_array_equal(weights[1][key], value)
    new.stop()


@pytest.mark.parametrize(("arrays", "runners"), [(True, 0), (True, 1), (False, 1)])
def test_an_exception_in_a_game_ends_the_run_and_names_its_place(arrays: bool, runners: int, ray_session: None) -> None:
    new = build(arrays, {}, num_env_runners=runners)

    def poison(runner: Any) -> None:
        if arrays and runner.env is not None:
            runner._games.world.vec.positions[0, 0, 0] = np.nan
        elif runner.env is not None:
            runner.env.envs[0].unwrapped.par_env.unwrapped.world.agents[0].state.p_pos[0] = np.nan
            runner._needs_initial_reset = False

    if not arrays:
        new.train()
    on_each_runner(new, poison)
    with pytest.raises(RunnerError, match=rf"env runner {runners}: FloatingPointError: .*expected finite numbers"):
        new.train()
    new.stop()


@pytest.mark.parametrize("runners", [0, 1])
def test_evaluation_reports_all_of_its_episodes(runners: int, ray_session: None) -> None:
    new = build(
        True, {}, evaluation_interval=1, evaluation_duration=5, evaluation_num_env_runners=runners,
        evaluation_config={"explore": False, "env_config": {"good_policy": "evasive", "max_cycles": 9}},
    )  # fmt: skip
    played = new.train()["evaluation"]["env_runners"]
    assert played["num_episodes"] >= 5
    assert played["episode_len_mean"] == 9
    assert played["episode_reward_mean"] == played["episode_return_mean"]
    low, mean, high = (played["custom_metrics"][f"mean_links_{kind}"] for kind in ("min", "mean", "max"))
    assert 0 < low <= mean <= high
    new.stop()


def test_metrics_are_those_of_the_last_episodes(ray_session: None) -> None:
    """Of a window, the iteration's own episodes if there are more; never NaN once an episode has ended."""
    recent: dict[tuple[str, ...], list[float]] = {}
    seen = []
    for new in ([], [1.0, 2.0], [], [6.0], [1.0, 2.0, 3.0, 4.0]):
        logged: Any = new or float("nan")
        played = {"episodes": {"episode_return": logged, "custom_metrics": {"contacts": logged}}}
        _report(played, recent, at_least=3)
        assert "episodes" not in played
        assert played.get("episode_reward_mean") == played.get("custom_metrics", {}).get("contacts_mean")
        seen.append([played.get(f"episode_return_{kind}") for kind in ("mean", "min", "max")])
    assert seen == [[None] * 3, [1.5, 1, 2], [1.5, 1, 2], [3, 1, 6], [2.5, 1, 4]]
    _report(played := {"episodes": {"episode_len": [4.0, 8.0]}}, {}, at_least=0)
    assert played == {"episode_len_mean": 6, "episode_len_min": 4, "episode_len_max": 8}


def test_an_older_checkpoint_replaces_the_weights_everywhere(ray_session: None, tmp_path: Path) -> None:
    new = build(True, {}, num_env_runners=1, explore=True, lr=1e-2)
    new.train()
    new.save_checkpoint(str(tmp_path))
    before = weights_of(nets_of(new)[1]["class_a"])
    new.train()
    new.train()
    new.load_checkpoint(str(tmp_path))
    for weights in on_each_runner(new, lambda runner: weights_of(runner.module["class_a"].net)):
        for key, value in weights.items():
            np.testing.assert_array_equal(value, before[key], err_msg=key)
    new.stop()


def test_the_old_stacks_checkpoints_go_on_with_their_moments(ray_session: None, tmp_path: Path) -> None:
    """An old checkpoint after three iterations, and one more update on the same rows by either stack."""
    options = {"explore": True, "model": {"encoder": "shared"}, "lr": 1e-3}
    old = build_old(True, {}, **options, minibatch_size=0, num_epochs=1)
    for _ in range(3):
        old.train()
    old.save_checkpoint(str(tmp_path))
    new = build(True, {}, **options)
    new.load_checkpoint(str(tmp_path))
    sampling, learning = nets_of(new)
    for name, net in learning.items():
        for key, value in weights_of(old.get_policy(name).model.net).items():
            np.testing.assert_array_equal(weights_of(net)[key], value, err_msg=key)
            np.testing.assert_array_equal(weights_of(sampling[name])[key], value, err_msg=key)
    steps = {
        float(state["step"])
        for optimizer in new.learner_group._learner._named_optimizers.values()
        for state in optimizer.state.values()
    }
    assert steps == {3.0}
    batch = standardize_advantages(old.env_runner.sample())
    update(new, copy.deepcopy(batch))
    old._learn(batch)
    for name, net in learning.items():
        for key, value in weights_of(old.get_policy(name).model.net).items():
            np.testing.assert_allclose(weights_of(net)[key], value, rtol=0, atol=2e-5, err_msg=key)


@pytest.mark.parametrize("learners", [0, 2])
def test_exported_weights_are_a_start(learners: int, ray_session: None) -> None:
    folder = Path(rllib_tag.__file__).parent / "pretrained" / "evasive_prey"
    team = restore(folder)
    model = {key: getattr(team.nets["class_a"].config, key) for key in ARCHITECTURE}
    new = build(True, {"history_length": 1}, model=model, learners=learners)
    new.load_checkpoint(str(folder))
    for name, net in nets_of(new)[0].items():
        for key, value in weights_of(team.nets[name]).items():
            np.testing.assert_array_equal(weights_of(net)[key], value, err_msg=key)
    assert new.train()["training_iteration"] == 1
    new.stop()


@pytest.mark.parametrize("learners", [0, 2])
def test_weights_that_do_not_fit_end_the_run(learners: int, ray_session: None) -> None:
    folder = Path(rllib_tag.__file__).parent / "pretrained" / "evasive_prey"
    new = build(True, {}, learners=learners)
    with pytest.raises(RuntimeError, match=r"size mismatch|Missing key|Unexpected key"):
        new.load_checkpoint(str(folder))
    new.stop()


def test_the_old_stacks_keys_mean_the_same() -> None:
    given = {
        "env": "rllib_tag.TagEnv",
        "env_config": {"num_class_a": [1, 3], "num_class_b": 2},
        "train_batch_size": 4000,
        "minibatch_size": 100,
        "num_learners": 2,
        "num_gpus": 1,
        "lr_schedule": [[0, 1e-3], [4000, 0]],
        "model": {"custom_model": "rllib_tag.CommModel", "custom_model_config": {"hidden_dim": 16}},
    }
    config = TeamPPOConfig().update_from_dict(given)
    assert config.train_batch_size_per_learner == 2000
    assert config.total_train_batch_size == 4000
    assert config.minibatch_size == 50
    assert config.num_gpus_per_learner == 0.5
    assert config.lr == [[0, 1e-3], [1000, 0]]  # 4 agents act on average
    assert config.lr_schedule is None
    assert config.model_config["custom_model_config"] == {"hidden_dim": 16}
    assert given["train_batch_size"] == 4000
    with pytest.raises(Exception, match="config: model: unknown"):
        TeamPPOConfig().update_from_dict({"model": {"fcnet_hiddens": [3]}})
    assert issubclass(config.algo_class, TeamPPO)
