"""Shipped files with both flags set to true: trained, resumed, restored and evaluated."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import as_batch, play_on
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core.columns import Columns
from small_runs import run, small

from rllib_tag import TagEnv, evaluate
from rllib_tag.errors import ConfigError
from rllib_tag.experiment.new_api_stack import STACK_FLAGS
from rllib_tag.names import METRICS
from rllib_tag.playing.restore import export, restore
from rllib_tag.plugin.new_api_stack.team_ppo import TeamPPO
from rllib_tag.results import RETURN, read_results
from rllib_tag.training import train as training
from rllib_tag.training.train import TrainOptions, TrialEnd, train


def on_new_stack(name: str, num_env_runners: int = 0, **config: Any) -> dict[str, Any]:
    """A small shipped experiment with both flags set to true."""
    specs = small(name, num_env_runners)
    for spec in specs.values():
        spec["config"].update(dict.fromkeys(STACK_FLAGS, True), **config)
    return specs


@pytest.fixture(scope="module")
def ended(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> TrialEnd:
    """Two iterations of the demo's experiment, with an evaluation in each."""
    specs = on_new_stack("tag_quick", 1, evaluation_interval=1, evaluation_duration=2)
    return run(specs, tmp_path_factory.mktemp("new"), iterations=2)


def test_results_have_the_old_stacks_names(ended: TrialEnd, trained: TrialEnd) -> None:
    result, old = ended.result, trained.result
    assert result["timesteps_total"] == result["num_env_steps_sampled"] == old["timesteps_total"] == 400
    for where in (result, result["evaluation"]):
        for metric in METRICS:
            for kind in ("mean", "min", "max"):
                assert math.isfinite(where["env_runners"]["custom_metrics"][f"{metric}_{kind}"])
    assert result["env_runners"]["custom_metrics"].keys() == old["env_runners"]["custom_metrics"].keys()
    for kind in ("mean", "min", "max"):
        assert math.isfinite(result["env_runners"][f"episode_reward_{kind}"])
    for learned in (result["learners"]["class_a"], result["learners"]["class_b"]):
        assert all(math.isfinite(learned[key]) for key in ("policy_loss", "vf_loss", "entropy"))


def test_a_checkpoint_is_restored_evaluated_and_exported(ended: TrialEnd, tmp_path: Path) -> None:
    team = restore(ended.folder)
    assert team.env_steps == 400
    assert team.seed == 1
    assert team.nets["class_a"].encoder is team.nets["class_b"].encoder
    played = evaluate(team, episodes=2, first_seed=5).summary()["team"]
    export(ended.folder, tmp_path / "exported")
    assert evaluate(restore(tmp_path / "exported"), episodes=2, first_seed=5).summary()["team"] == played
    algorithm = Algorithm.from_checkpoint(str(sorted(ended.folder.glob("checkpoint_*"))[-1]))
    observations = play_on(TagEnv(team.env_config), 3)[-1]
    for policy, agent in (("class_a", "adversary_0"), ("class_b", "adversary_3")):
        batch = as_batch([observations[agent]])
        with torch.no_grad():
            wanted = algorithm.get_module(policy).forward_inference({Columns.OBS: batch})[Columns.ACTION_DIST_INPUTS]
        chosen = team.actions(policy, {key: value.numpy() for key, value in batch.items()})
        np.testing.assert_array_equal(chosen, wanted.argmax(-1).numpy())
    algorithm.stop()


def test_a_run_goes_on_from_its_checkpoint(ended: TrialEnd, tmp_path: Path) -> None:
    again = run(on_new_stack("tag_quick"), tmp_path, iterations=3, restore=str(ended.folder))
    assert again.result["training_iteration"] == 3
    assert again.result["timesteps_total"] == 600


def test_a_broken_run_is_resumed_exactly(ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In other processes; its curve is that of a run that did not break."""
    broken = tmp_path / "broken"

    class Breaks(TeamPPO):
        def step(self) -> dict[str, Any]:
            if self.iteration == 2 and broken.exists():
                raise OSError("broken")
            return TeamPPO.step(self)

    monkeypatch.setattr(training, "_algorithm", lambda *_: (Breaks, None))
    specs = on_new_stack("tag_quick", 1)
    specs["tag_quick"] |= {"stop": {"training_iteration": 4}, "checkpoint_config": {"checkpoint_frequency": 1}}
    whole, cut = (TrainOptions(storage_path=str(tmp_path / name)) for name in ("whole", "cut"))
    (end,) = train(copy.deepcopy(specs), whole, lambda *_: None)
    broken.touch()
    (first,) = train(copy.deepcopy(specs), cut, lambda *_: None)
    assert first.status == "ERROR"
    broken.unlink()
    (again,) = train(copy.deepcopy(specs), dataclasses.replace(cut, resume=True), lambda *_: None)
    assert again.error is None
    assert (again.status, again.result["training_iteration"]) == ("TERMINATED", 4)
    curves = [read_results(each.folder / "result.json") for each in (end, again)]
    assert [result["training_iteration"] for result in curves[1]] == [1, 2, 3, 4]
    for one, other in zip(*curves, strict=True):
        for key in ("learners/class_a/policy_loss", "learners/class_b/vf_loss", "timesteps_total", RETURN):
            assert one.get(key) == other.get(key), key


def test_the_worst_of_a_population_goes_on_from_the_best_with_a_learning_rate_of_its_own(
    ray_session: None, tmp_path: Path
) -> None:
    specs = on_new_stack("tag_quick")
    spec = specs["tag_quick"]
    del spec["config"]["lr_schedule"]
    spec["config"]["lr"] = 0.001
    spec["config"]["env_config"]["max_cycles"] = {"grid_search": [50, 25]}
    spec |= {
        "stop": {"training_iteration": 4}, "checkpoint_config": {},
        "metric": "env_runners/episode_len_mean", "mode": "max",
        "scheduler": {
            "type": "pbt", "time_attr": "training_iteration", "perturbation_interval": 2, "quantile_fraction": 0.5,
            "synch": True, "hyperparam_mutations": {"lr": [0.0002, 0.0003]},
        },
    }  # fmt: skip
    ends = train(specs, TrainOptions(storage_path=str(tmp_path)), lambda *_: None, lambda note: None)
    assert [end.error for end in ends] == [None, None]
    best, worst = (read_results(end.folder / "result.json") for end in ends)
    assert [result["training_iteration"] for result in worst] == [1, 2, 3, 4]
    assert [result["env_runners/episode_len_mean"] for result in worst] == [25, 25, 50, 50]
    assert worst[2]["timesteps_total"] == best[2]["timesteps_total"]
    rates = [result["learners/class_a/own_learning_rate"] for result in worst]
    assert rates[:2] == [0.001, 0.001]
    assert rates[2] == rates[3] == ends[1].result["config"]["lr"] in (0.0002, 0.0003)


def test_a_checkpoint_does_not_go_back(ended: TrialEnd, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a checkpoint of RLlib's old API stack, as this run is for"):
        run(small("tag_quick"), tmp_path, restore=str(ended.folder))


def test_a_run_goes_on_from_the_old_stacks_checkpoint(trained: TrialEnd, tmp_path: Path) -> None:
    end = run(on_new_stack("tag_quick"), tmp_path, restore=str(trained.folder))
    assert end.result["training_iteration"] == 1
    assert end.result["timesteps_total"] == 200


@pytest.mark.parametrize("name", ["tag_ppo_continuous", "tag_selfplay", "tag_ppo_generalist", "games/speaker_listener"])
def test_other_shipped_files(name: str, ray_session: None, tmp_path: Path) -> None:
    end = run(on_new_stack(name), tmp_path)
    metrics = end.result["env_runners"]["custom_metrics"]
    assert all(math.isfinite(value) for key, value in metrics.items() if key.endswith("_mean"))
    classes = {"speaker", "listener"} if name.startswith("games/") else {"class_a", "class_b"}
    assert set(restore(end.folder).nets) >= classes


def test_what_is_not_batched_is_sampled_by_rllib(ray_session: None, tmp_path: Path) -> None:
    specs = on_new_stack("tag_quick")
    specs["tag_quick"]["config"]["env_config"]["backend"] = "mpe2"
    end = run(specs, tmp_path)
    assert end.result["timesteps_total"] == 200
    assert math.isfinite(end.result["env_runners"]["custom_metrics"]["return_adversary_mean"])
    assert evaluate(restore(end.folder), episodes=1).summary()["team"]["contacts"]["mean"] >= 0
