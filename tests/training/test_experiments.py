"""Every shipped experiment builds and trains; what it leaves behind is as promised."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
import yaml
from conftest import EXPERIMENTS, as_batch, play_on, random_actions
from ray import tune
from ray.rllib.utils.spaces.space_utils import unsquash_action
from small_runs import run, small

from rllib_tag import TagEnv, evaluate
from rllib_tag.errors import ConfigError
from rllib_tag.experiment.experiment import parse_experiments
from rllib_tag.experiment.rllib_checkpoints import load_policies
from rllib_tag.experiment.spec import load_experiments
from rllib_tag.names import METRICS
from rllib_tag.playing.restore import TrainedTeam, export, restore
from rllib_tag.training import train as training
from rllib_tag.training.train import TrainOptions, TrialEnd, train

SHIPPED = sorted(path.stem for path in EXPERIMENTS.glob("*.yaml"))
TRAINABLE = [name for name in SHIPPED if name != "tag_ppo_gpu"]


def test_all_experiments_of_the_readme_are_there() -> None:
    table = (EXPERIMENTS / "README.md").read_text()
    variants = ["", "_no_comm", "_gcn", "_relational", "_shared_critic", "_continuous", "_gpu", "_generalist"]
    assert sorted(["tag_quick", "tag_selfplay", *(f"tag_ppo{variant}" for variant in variants)]) == SHIPPED
    for name in SHIPPED:
        assert f"`{name}.yaml`" in table


@pytest.mark.parametrize("path", sorted((EXPERIMENTS / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_sweeps_are_sound(path: Path) -> None:
    experiments = load_experiments(path)
    parse_experiments(experiments)
    assert f"`sweeps/{path.name}`" in (EXPERIMENTS / "README.md").read_text()


@pytest.mark.parametrize("name", TRAINABLE)
def test_it_trains_one_iteration(name: str, trained: TrialEnd, tmp_path: Path) -> None:
    experiments = small(name)
    end = trained if name == "tag_quick" else run(experiments, tmp_path)
    metrics = end.result["env_runners"]["custom_metrics"]
    for metric in METRICS:
        assert math.isfinite(metrics[f"{metric}_mean"])
    for learned in end.result["info"]["learner"].values():
        assert all(math.isfinite(float(value)) for value in learned["learner_stats"].values())
    assert sorted(end.result["info"]["learner"]) == sorted(
        load_experiments(EXPERIMENTS / f"{name}.yaml")[name]["config"]["multiagent"]["policies"]
    )
    team = restore(end.folder)
    assert sorted(team.nets) == sorted(end.result["info"]["learner"])
    check_actions(team)
    if name == "tag_selfplay":
        check_prey(team, tmp_path)


def check_actions(team: TrainedTeam) -> None:
    """Restored teams act as RLlib's own policies do, as the environment gets it."""
    env = TagEnv(team.env_config)
    steps = play_on(env, 20)
    for name, policy in load_policies(team.source).items():
        rows = [step[agent] for step in steps for agent in env.roster.members(name) if agent in step]
        batch = as_batch(rows)
        flat = np.concatenate([batch[key].flatten(1).numpy() for key in sorted(batch)], axis=1)
        expected, _, _ = policy.compute_actions(flat, explore=False)
        if env.config.continuous_actions:
            expected = unsquash_action(expected, policy.action_space_struct)
        np.testing.assert_allclose(team.actions(name, batch), expected, atol=1e-6)


def check_prey(team: TrainedTeam, folder: Path) -> None:
    """Trained prey plays against baselines, and frozen in another game."""
    rows = evaluate(team, episodes=2, baselines=("random",), num_good=2, num_class_a=1).rows
    assert [row["controller"] for row in rows] == ["team", "team", "random", "random"]
    weights = export(team.source, folder / "weights")
    frozen, learned = TagEnv(good_policy=str(weights)), TagEnv(good_policy="learned")
    rng = np.random.default_rng(0)
    frozen.reset(seed=3)
    seen, _ = learned.reset(seed=3)
    for _ in range(10):
        actions = random_actions(frozen, rng)
        frozen.step(actions)
        prey = team.actions("good", as_batch([seen["agent_0"]]))[0]
        seen, *_ = learned.step({**actions, "agent_0": prey})
        np.testing.assert_array_equal(frozen.positions, learned.positions)


def test_the_gpu_experiment_reaches_its_check(ray_session: None, tmp_path: Path) -> None:
    experiments = load_experiments(EXPERIMENTS / "tag_ppo_gpu.yaml")
    parse_experiments(experiments)
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here, so the check has nothing to refuse")
    with pytest.raises(ConfigError, match="requests at most the 0 GPUs that are here, got 1"):
        train(experiments, TrainOptions(storage_path=str(tmp_path)), lambda *_: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_learner_runs_on_a_gpu(tmp_path: Path) -> None:
    experiments = small("tag_ppo_gpu")
    run(experiments, tmp_path)


def test_plain_tune_runs_the_main_experiment_unchanged(ray_session: None, tmp_path: Path) -> None:
    """The file as it is, without our command: only batch and stop are made small."""
    spec = yaml.safe_load((EXPERIMENTS / "tag_ppo.yaml").read_text())
    spec["tag_ppo"]["config"].update(small("tag_ppo", num_env_runners=1)["tag_ppo"]["config"])
    spec["tag_ppo"].update(stop={"training_iteration": 1}, storage_path=str(tmp_path))
    (trial,) = tune.run_experiments(spec, verbose=0)
    assert trial.last_result["timesteps_total"] == 200


def test_options_alone_train_the_same(ray_session: None, tmp_path: Path) -> None:
    config = {**small("tag_quick")["tag_quick"]["config"], "seed": 3}
    experiments = {"default": {"run": "PPO", "env": "rllib_tag.TagEnv", "config": config, "stop": {}}}
    assert run(experiments, tmp_path).result["timesteps_total"] == 200


def test_a_run_explains_itself(trained: TrialEnd) -> None:
    (record,) = trained.folder.parent.glob("run_*.json")
    content = json.loads(record.read_text())
    assert content["experiment"]["config"]["seed"] == 1
    assert content["versions"]["ray"] == ray.__version__
    assert content["command"]


def weights_of(part: str, folder: Path) -> list[dict[str, np.ndarray]]:
    """The weights of a part of both class policies in a checkpoint."""
    policies = load_policies(folder)
    weights = [policies[name].get_weights() for name in ("class_a", "class_b")]
    return [{k: v for k, v in each.items() if k.startswith(f"net.{part}.")} for each in weights]


def test_what_is_shared_stays_shared_through_training_checkpoint_restore_and_export(
    ray_session: None, tmp_path: Path
) -> None:
    experiments = small("tag_ppo_shared_critic", hidden_dim=16, encoder="shared", frame="receiver", message_dim=6)
    first = run(copy.deepcopy(experiments), tmp_path / "first", iterations=2)
    checkpoint = sorted(first.folder.glob("checkpoint_*"))[-1]
    again = run(experiments, tmp_path / "again", iterations=4, restore=str(checkpoint))
    assert again.result["training_iteration"] == 4
    last = sorted(again.folder.glob("checkpoint_*"))[-1]
    for part in ("critic", "encoder"):
        before, after = weights_of(part, checkpoint), weights_of(part, last)
        for a, b in (before, after):
            assert len(a) > 5
            for key in a:
                np.testing.assert_array_equal(a[key], b[key])
        assert any((before[0][key] != after[0][key]).any() for key in before[0])
    exported = restore(export(again.folder, tmp_path / "weights"))
    ours, theirs = (exported.nets[name].encoder.state_dict() for name in ("class_a", "class_b"))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    check_actions(restore(again.folder))


def test_class_critics_differ(trained: TrialEnd) -> None:
    a, b = weights_of("critic", sorted(trained.folder.glob("checkpoint_*"))[-1])
    assert any((a[key] != b[key]).any() for key in a)


@pytest.mark.parametrize("sizes", [{"ray_num_cpus": 3}, {"ray_num_gpus": 0}, {"ray_object_store_memory": 10**9}])
def test_sizes_are_those_of_a_ray_of_its_own(sizes: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another Ray runs on this machine, to which `ray.init` would connect by itself."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(training.ray, "init", lambda **arguments: given.update(arguments))
    monkeypatch.setattr(training, "cluster_address", lambda asked: "127.0.0.1:6379")
    options = TrainOptions(**sizes)
    training._start_ray(options, training._address(options))
    assert given["address"] == "local"
    assert {given["num_cpus"], given["num_gpus"], given["object_store_memory"]} == {None, *sizes.values()}
