"""Sweeps from experiment files: what they may say, and that Tune does it."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray import cloudpickle
from ray.tune.schedulers import AsyncHyperBandScheduler, PopulationBasedTraining
from ray.tune.schedulers.pbt import _explore
from ray.tune.search.sample import Categorical, Float, Integer
from small_runs import small
from typer.testing import CliRunner

from rllib_tag.cli import app
from rllib_tag.errors import ConfigError
from rllib_tag.experiment.experiment import parse_experiments
from rllib_tag.experiment.metrics import COUNTERS, RLLIB_METRICS, full_name, needs_callbacks
from rllib_tag.experiment.new_api_stack import STACK_FLAGS
from rllib_tag.experiment.sampled import corners, with_samplers
from rllib_tag.experiment.sweeps import TIMES, metric_of, scheduler_of, search_of
from rllib_tag.plugin.old_api_stack.team_ppo import TeamPPO
from rllib_tag.plugin.ray_internals import on_each_runner
from rllib_tag.report.sweep import read_sweep
from rllib_tag.results import CUSTOM, EPISODE_REWARD, read_results
from rllib_tag.training import train as training
from rllib_tag.training.train import TrainOptions, TrialEnd, train

PBT = {"type": "pbt", "hyperparam_mutations": {"lr": {"loguniform": [0.0001, 0.01]}}}


def test_sampled_values_are_tunes_own() -> None:
    config = {
        "lr": {"loguniform": [0.0001, 0.01]}, "num_epochs": {"randint": [2, 7]}, "gamma": 0.99,
        "model": {"custom_model_config": {"gnn": {"choice": ["gat", "mean"]}}}, "lambda": {"uniform": [0.3, 0.9]},
    }  # fmt: skip
    space = with_samplers(config)
    assert isinstance(space["lr"], Float)
    assert (space["lr"].lower, space["lr"].upper) == (0.0001, 0.01)
    assert isinstance(space["num_epochs"], Integer)
    assert isinstance(space["model"]["custom_model_config"]["gnn"], Categorical)
    assert space["gamma"] == 0.99
    assert config["lr"] == {"loguniform": [0.0001, 0.01]}


def test_the_ends_of_a_sweep_are_checked_beforehand() -> None:
    config = {
        "lr": {"uniform": [3, 5]}, "seed": {"grid_search": [7, 11]}, "net": {"width": {"choice": [2, 13, 17]}},
        "epochs": {"randint": [1, 4]},
    }  # fmt: skip
    found = corners(config)
    seen = {(each["lr"], each["net"]["width"], each["epochs"], each["seed"]) for each in found}
    assert seen == {
        (lr, width, epochs, seed)
        for lr, width, epochs in ((3, 2, 1), (5, 2, 1), (3, 13, 1), (3, 17, 1), (3, 2, 3))
        for seed in (7, 11)
    }
    assert len(found) == len(seen)


def test_values_are_sampled_wherever_they_stand() -> None:
    """A policy's own config stands in a list."""
    config = {"policies": {"class_a": [None, None, None, {"lr": {"uniform": [3, 5]}}]}}
    assert isinstance(with_samplers(config)["policies"]["class_a"][3]["lr"], Float)
    found = [each["policies"]["class_a"] for each in corners(config)]
    assert found == [[None, None, None, {"lr": lr}] for lr in (3, 5)]
    assert config["policies"]["class_a"][3] == {"lr": {"uniform": [3, 5]}}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"uniform": 3}, r"lr: uniform: expected a list, got 3"),
        ({"uniform": [1]}, r"lr: uniform: expected \[lowest, highest\], got \[1\]"),
        ({"uniform": [5, 3]}, r"lr: uniform: expected \[lowest, highest\], got \[5, 3\]. Put the lower"),
        ({"loguniform": [0, 1]}, r"lr: loguniform: expected a number of at least"),
        ({"randint": [1, 2.5]}, r"lr: randint: expected integers"),
        ({"choice": []}, r"lr: choice: expected a list, got \[\]"),
        ({"uniform": [0, float("nan")]}, r"lr: uniform: expected a number"),
    ],
)
def test_a_bad_range_is_named(value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        corners({"lr": value})


def test_a_bad_value_within_a_sweep_is_found_before_the_first_trial() -> None:
    experiments = small("tag_quick", gnn={"choice": ["gat", "gta"]})
    with pytest.raises(ConfigError, match=r"gnn: .*'gta'"):
        parse_experiments(experiments)


def test_metrics_that_exist() -> None:
    assert metric_of({}) == (f"{CUSTOM}return_adversary_mean", "max")
    assert metric_of({"metric": "contacts_min", "mode": "min"}) == (f"{CUSTOM}contacts_min", "min")
    assert metric_of({"metric": "time_total_s"}) == ("time_total_s", "max")
    with pytest.raises(
        ConfigError, match=r"metric: unknown key 'return_adversry_mean'\. Did you mean 'return_adversary_"
    ):
        metric_of({"metric": "return_adversry_mean"})
    with pytest.raises(ConfigError, match=r"mode: .*'most'"):
        metric_of({"mode": "most"})


def test_metrics_that_a_config_adds() -> None:
    old_stack = dict.fromkeys(STACK_FLAGS, False)
    evaluated = {**old_stack, "evaluation_interval": 1, "multiagent": {"policies": ["class_a"]}}
    assert full_name("stop", "return_good_mean", {}) == f"{CUSTOM}return_good_mean"
    for name in (f"evaluation/{CUSTOM}contacts_mean", "evaluation/env_runners/policy_reward_min/class_a"):
        assert full_name("stop", name, evaluated) == name
        with pytest.raises(ConfigError, match="stop: unknown key"):
            full_name("stop", name, {})
    own = {"callbacks": "lab.Callbacks"}
    assert full_name("stop", f"{CUSTOM}own_mean", own) == f"{CUSTOM}own_mean"
    for name, config in ((f"{CUSTOM}own_mean", {}), (f"{CUSTOM}own", own), (f"evaluation/{CUSTOM}own_mean", own)):
        with pytest.raises(ConfigError, match="stop: unknown key"):
            full_name("stop", name, config)
    assert needs_callbacks(f"evaluation/{CUSTOM}contacts_mean")
    assert not needs_callbacks("evaluation/env_runners/episode_reward_mean")


def test_runs_are_stopped_and_kept_by_metrics_of_evaluation(ray_session: None, tmp_path: Path) -> None:
    experiments = small("tag_quick")
    spec, name = experiments["tag_quick"], f"evaluation/{CUSTOM}return_good_mean"
    spec["config"] |= {"evaluation_interval": 2, "evaluation_duration": 2, "num_env_runners": 0}
    spec["stop"] = {name: -1e9, "training_iteration": 5}
    spec["checkpoint_config"] = {
        "checkpoint_score_attribute": name, "checkpoint_frequency": 1, "checkpoint_at_end": True, "num_to_keep": 1,
    }  # fmt: skip
    (end,) = train(experiments, TrainOptions(storage_path=str(tmp_path)), lambda *_: None)
    assert (end.status, end.result["training_iteration"]) == ("TERMINATED", 2)


def test_every_known_metric_is_in_a_result(trained: TrialEnd) -> None:
    results = read_results(trained.folder / "result.json")
    assert [result["training_iteration"] for result in results] == [1, 2]
    assert {*RLLIB_METRICS, *COUNTERS, *TIMES, metric_of({})[0], EPISODE_REWARD} <= results[0].keys()


def test_schedulers() -> None:
    asha = scheduler_of({"scheduler": {"type": "asha", "max_t": 30, "grace_period": 3, "reduction_factor": 3}})
    assert isinstance(asha, AsyncHyperBandScheduler)
    assert (asha._max_t, asha._metric) == (30, f"{CUSTOM}return_adversary_mean")
    assert isinstance(scheduler_of({"scheduler": PBT}), PopulationBasedTraining)
    for scheduler, message in (
        ("asha", "scheduler: expected a mapping with its type, got 'asha'"),
        ({"type": "ahsa"}, "scheduler: type: .*'ahsa'"),
        ({"type": "asha", "graceperiod": 3}, "scheduler: asha: unknown key 'graceperiod'. Did you mean 'grace_period'"),
        (
            {"type": "asha", "max_t": 1, "grace_period": 3},
            "scheduler: asha: expected arguments that it accepts",
        ),
        ({"type": "asha", "time_attr": "steps"}, "scheduler: time_attr: .*'steps'"),
        ({"type": "pbt"}, "expected hyperparam_mutations"),
        ({"type": "pbt", "hyperparam_mutations": {"lrr": [1]}}, "hyperparam_mutations: unknown key 'lrr'"),
        ({"type": "fifo", "max_t": 3}, "scheduler: fifo: unknown key 'max_t'"),
        ({"type": "asha", "metric": "captured_mean"}, "scheduler: asha: unknown key 'metric'"),
        (
            {"type": "pbt", "hyperparam_mutations": {"lr": {"grid_search": [0.1]}}},
            "lr: expected a list of values, or a",
        ),
        ({"type": "pbt", "hyperparam_mutations": {"lr": {"a": [0.1]}}}, "lr: expected a list of values, or a range"),
        (
            {"type": "pbt", "hyperparam_mutations": {"lr": {"choice": [{"uniform": [0, 1]}]}}},
            "lr: expected a list of va",
        ),
        ({"type": "pbt", "hyperparam_mutations": {"lr": []}}, "lr: expected a list of values, or a range"),
        ({"type": "pbt", "hyperparam_mutations": {"lr": 0.1}}, "lr: expected a list of values, or a range"),
        (
            {"type": "pbt", "hyperparam_mutations": {"lr": {"uniform": 3}}},
            "hyperparam_mutations: lr: uniform: expected",
        ),
        ({**PBT, "custom_explore_fn": "math.exp"}, "scheduler: pbt: unknown key 'custom_explore_fn'"),
    ):
        with pytest.raises(ConfigError, match=message):
            scheduler_of({"scheduler": scheduler, "stop": {"training_iteration": 7}})


@pytest.mark.parametrize(
    ("given", "stop", "time", "end"),
    [
        ({}, {"training_iteration": 110}, "training_iteration", 110),
        ({}, {"time_total_s": 7.5, "timesteps_total": 1300}, "timesteps_total", 1300),
        ({"time_attr": "time_total_s"}, {"time_total_s": 7.5, "training_iteration": 13}, "time_total_s", 7.5),
        ({"max_t": 17}, {"training_iteration": 110}, "training_iteration", 17),
        ({"time_attr": "num_env_steps_sampled"}, {"num_env_steps_sampled": 1100}, "num_env_steps_sampled", 1100),
    ],
)
def test_asha_lets_trials_run_as_long_as_stop_says(given: Any, stop: Any, time: str, end: float) -> None:
    scheduler = scheduler_of({"scheduler": {"type": "asha", **given}, "stop": stop})
    assert (scheduler._time_attr, scheduler._max_t) == (time, end)
    lowest = min(rung[0] for bracket in scheduler._brackets for rung in bracket._rungs)
    assert lowest == max(1, end // 100)  # as Tune's own defaults, 1 of 100


@pytest.mark.parametrize(
    ("given", "stop", "message"),
    [
        (
            {"type": "asha"},
            {"env_runners/episode_reward_mean": 5},
            "asha: expected max_t, or training_iteration or",
        ),
        ({"type": "asha", "time_attr": "time_total_s"}, {"training_iteration": 5}, "max_t, or time_total_s in stop"),
        (
            {"type": "median_stopping"},
            {"time_total_s": 50},
            "median_stopping: expected grace_period, got none: it would be 60",
        ),
        ({**PBT, "time_attr": "training_iteration"}, {"training_iteration": 50}, "pbt: expected perturbation_interval"),
    ],
)
def test_a_default_that_contradicts_stop_is_said(given: Any, stop: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        scheduler_of({"scheduler": given, "stop": stop})
    scheduler_of(
        {"scheduler": {**given, "max_t": 5} if given["type"] == "asha" else given, "stop": {"time_total_s": 70}}
    )


def test_a_population_stays_within_its_ranges() -> None:
    mutations = {"lambda": {"uniform": [0.2, 0.95]}, "num_epochs": {"randint": [1, 4]}, "lr": [0.1, 0.2]}
    scheduler = scheduler_of({"scheduler": {"type": "pbt", "hyperparam_mutations": mutations}})
    values = [{"lambda": 0.5, "num_epochs": 3, "lr": 0.1}]
    random.seed(0)  # Tune draws from Python's stream
    for _ in range(100):
        changed, _ = _explore(values[-1], scheduler._hyperparam_mutations, 0, (1.5, 0.5), scheduler._custom_explore_fn)
        values.append(changed)
    assert (min(v["lambda"] for v in values), max(v["lambda"] for v in values)) == (0.2, 0.95)
    assert {v["num_epochs"] for v in values} <= {1, 2, 3}
    assert {v["lr"] for v in values} == {0.1, 0.2}


def population(**mutations: Any) -> dict[str, Any]:
    """The demo's experiment as a population."""
    (spec,) = small("tag_quick").values()
    return {**spec, "checkpoint_config": {}, "scheduler": {"type": "pbt", "hyperparam_mutations": mutations}}


def test_a_population_keeps_enough_checkpoints() -> None:
    spec = population(clip_param=[0.1])
    parse_experiments({"pbt": spec})
    with pytest.raises(ConfigError, match="expected checkpoint_config: num_to_keep of at least 3, got 2"):
        parse_experiments({"pbt": {**spec, "checkpoint_config": {"num_to_keep": 2}}})


@pytest.mark.parametrize(
    ("mutations", "message"),
    [
        ({"lr": {"uniform": [0.1, 0.2]}}, "expected lr or lr_schedule, got both"),
        ({"gamma": {"uniform": [0.5, 5]}}, "shaping_gamma: expected the training's gamma, 0.5, got 0.99"),
        ({"clip_param": [0.1, "a"]}, "clip_param: expected a number, got 'a'"),
        ({"num_epochs": {"choice": [1, 1.5]}}, "num_epochs: expected an integer of at least 1, got 1.5"),
    ],
)
def test_what_a_population_may_try_is_checked(mutations: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_experiments({"pbt": population(**mutations)})


def test_searches() -> None:
    space = {"lr": {"loguniform": [0.0001, 0.01]}}
    assert search_of({}) is None
    assert search_of({"search": {"type": "random"}}) is None
    for spec, message in (
        ({"search": {"type": "optuna"}, "config": {}}, "search: optuna: expected values to sample in config, got none"),
        (
            {"search": {"type": "optuna"}, "config": {**space, "seed": {"grid_search": [1, 2]}}},
            "got a grid_search, too",
        ),
        ({"search": {"type": "optuna", "sead": 1}, "config": space}, "unknown key 'sead'. Did you mean 'seed'"),
        ({"search": {"type": "optunna"}, "config": space}, "search: type: .*'optunna'"),
    ):
        with pytest.raises(ConfigError, match=message):
            search_of(spec)


def sweep(
    tmp_path: Path, lr: Any, iterations: int, num_env_runners: int = 1, max_cycles: Any = 100, **more: Any
) -> tuple[list[TrialEnd], Path]:
    """A sweep of the demo's experiment, one core a trial."""
    experiments = small("tag_quick")
    spec = experiments["tag_quick"]
    del spec["config"]["lr_schedule"]
    spec["config"] |= {
        "lr": lr, "num_env_runners": num_env_runners, "num_cpus_per_env_runner": 0.5,
        "num_cpus_for_main_process": 0.5 if num_env_runners else 1,
    }  # fmt: skip
    spec["config"]["env_config"]["max_cycles"] = max_cycles
    spec |= {"stop": {"training_iteration": iterations}, **more}
    ends = train(experiments, TrainOptions(storage_path=str(tmp_path)), lambda *_: None, lambda note: None)
    return ends, tmp_path / "tag_quick"


def test_asha_stops_the_worst(ray_session: None, tmp_path: Path) -> None:
    # The best trials start first, so later ones are among the worst whatever the order of reports.
    lengths = [50, 25, 20, 10]
    scheduler = {"type": "asha", "max_t": 4, "grace_period": 1, "reduction_factor": 2}
    by_length: dict[str, Any] = {"metric": "env_runners/episode_len_mean", "mode": "max", "scheduler": scheduler}
    ends, folder = sweep(tmp_path, 0.001, 4, 0, max_cycles={"grid_search": lengths}, **by_length)
    assert all(end.status == "TERMINATED" for end in ends)
    iterations = {end.result["env_runners"]["episode_len_mean"]: end.result["training_iteration"] for end in ends}
    assert (iterations[50], iterations[20], iterations[10]) == (4, 1, 1)
    found = read_sweep(folder)
    assert found.varied == ["env_config/max_cycles"]
    assert sorted(row["env_config/max_cycles"] for row in found.rows) == sorted(lengths)


@pytest.mark.nightly
def test_optuna_suggests_within_the_range_and_the_command_names_the_best(ray_session: None, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    (spec,) = small("tag_quick").values()
    del spec["config"]["lr_schedule"]
    spec["config"] |= {"lr": {"loguniform": [0.0001, 0.01]}, "num_env_runners": 0}
    spec |= {"stop": {"training_iteration": 1}, "search": {"type": "optuna", "seed": 3}, "num_samples": 3}
    file, folder = tmp_path / "sweep.yaml", tmp_path / "sweep"
    file.write_text(yaml.safe_dump({"sweep": spec}))
    result = CliRunner().invoke(app, ["train", "file", str(file), "--storage-path", f"file://{tmp_path}"])
    assert result.exit_code == 0, result.output
    found = read_sweep(folder)
    rows = found.rows
    assert len({row["lr"] for row in rows}) == 3
    assert all(0.0001 <= row["lr"] <= 0.01 for row in rows)
    best = max(rows, key=lambda row: row[found.metric])["trial"]
    assert f"best: file://{folder}/{best}/checkpoint_000000\n" in result.output
    assert (
        f"its config: file://{folder}/{best}/params.json; to see this again: rllib sweep report file://{folder}\n"
        in (result.output)
    )


@pytest.mark.parametrize("loggers", ["on", "off"])
def test_a_sweep_that_has_no_metric_to_compare_by_is_done(
    loggers: str, ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1" if loggers == "off" else "0")
    (spec,) = small("tag_quick").values()
    spec["config"] |= {
        "rollout_fragment_length": 5, "num_envs_per_env_runner": 1, "num_env_runners": 0, "train_batch_size": 5,
        "minibatch_size": 5, "seed": {"grid_search": [3, 5]},
    }  # fmt: skip
    spec |= {"stop": {"training_iteration": 1}}  # no episode ends
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({"sweep": spec}))
    result = CliRunner().invoke(app, ["train", "file", str(tmp_path / "sweep.yaml"), "--storage-path", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert result.output.count("done: ") == 2
    assert result.output.count("none of Tune's loggers wrote its results") == (2 if loggers == "off" else 0)
    assert result.output.count("no table of the trials: sweep: expected numbers under") == int(loggers == "on")


class WatchedPPO(TeamPPO):
    """Says which learning rate the optimizers use, and which lambda the samplers."""

    def training_step(self) -> dict[str, Any]:
        result = super().training_step()
        policy = self.get_policy("class_a")
        result["used_lr"] = policy._optimizers[0].param_groups[0]["lr"]
        result["used_lambda"] = on_each_runner(self, lambda worker: worker.policy_map["class_a"].config["lambda"])
        return result


@pytest.mark.nightly
def test_a_population_uses_what_it_changed(ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the trials' processes do not know this file
    monkeypatch.setattr(training, "TeamPPO", WatchedPPO)
    scheduler = {
        "type": "pbt", "time_attr": "training_iteration", "perturbation_interval": 1, "quantile_fraction": 0.5,
        "resample_probability": 0, "synch": True,
        "hyperparam_mutations": {"lr": {"uniform": [0.0001, 0.1]}, "lambda": {"uniform": [0.1, 0.9]}},
    }  # fmt: skip
    keep = {"num_to_keep": 3}
    ends, _ = sweep(tmp_path, {"grid_search": [0.001, 0.002]}, 2, scheduler=scheduler, checkpoint_config=keep)
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    rates = set()
    for end in ends:
        assert end.status == "TERMINATED", end.error
        for line in (end.folder / "result.json").read_text().splitlines():
            result = json.loads(line)
            rates.add(result["config"]["lr"])
            assert result["info"]["learner"]["used_lr"] == pytest.approx(result["config"]["lr"])
            assert result["info"]["learner"]["used_lambda"] == pytest.approx([result["config"]["lambda"]] * 2)
    assert rates > {0.001, 0.002}  # something was changed on the way
