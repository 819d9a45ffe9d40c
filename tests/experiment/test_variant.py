"""Keys that stand in several places of a file are checked as RLlib merges them, and what can be evaluated is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import EXPERIMENTS
from ray.tune.registry import register_env
from small_runs import run, small

from rllib_tag import ClassPolicyMapping, TagEnv
from rllib_tag.errors import ConfigError
from rllib_tag.experiment.config_check import resolve_config
from rllib_tag.experiment.experiment import parse_experiments
from rllib_tag.experiment.team_check import TRIAL_STEPS
from rllib_tag.experiment.variant import views
from rllib_tag.playing.restore import restore
from rllib_tag.training.preflight import check_architecture
from rllib_tag.training.train import TrialEnd

SPECS = {
    name: yaml.safe_load((EXPERIMENTS / f"{name}.yaml").read_text())[name] for name in ("tag_quick", "tag_selfplay")
}


class OnePolicy(ClassPolicyMapping):
    """Maps all agents to one policy."""

    def __call__(self, agent_id: str, *args: Any, **kwargs: Any) -> str:
        """Always class A's."""
        return "class_a"


class Broken(ClassPolicyMapping):
    """Fails."""

    def __call__(self, agent_id: str, *args: Any, **kwargs: Any) -> str:
        """Raises."""
        raise LookupError(agent_id)


class HardTagEnv(TagEnv):
    """A lab's own game to be evaluated on."""


def evaluated(**keys: Any) -> Callable[[dict[str, Any]], object]:
    return lambda config: config.update(evaluation_interval=1, evaluation_config=keys)


def played(**keys: Any) -> Callable[[dict[str, Any]], object]:
    return evaluated(env_config=keys)


def own(**keys: Any) -> Callable[[dict[str, Any]], object]:
    """What class A has of its own."""
    policies = {"class_a": [None, None, None, keys], "class_b": [None, None, None, {}]}
    return lambda config: config["multiagent"].update(policies=policies)


def mapped(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda config: config["multiagent"].update(policy_mapping_fn={"type": f"{__name__}.{name}"})


def both(*changes: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    return lambda config: [change(config) for change in changes]


SPEC_NET = SPECS["tag_quick"]["config"]["model"]["custom_model_config"]
TINY = {"custom_model_config": {"hidden_dim": 32, "encoder": "class"}}
CASES: list[tuple[str, Callable[[dict[str, Any]], object], str]] = [
    # What a policy says of its own
    ("tag_quick", own(model=TINY), ""),
    ("tag_quick", own(model={"custom_model_config": {"hidden_dims": 3}}), "class_a: model: custom_model_config: unk"),
    ("tag_quick", own(model={"custom_model": None}), "class_a: model: expected custom_model: rllib_tag.CommModel"),
    ("tag_quick", own(model={"use_lstm": True}), "policies: class_a: model: use_lstm: expected False, got True"),
    ("tag_quick", own(observation_filter="MeanStdFilter"), "class_a: observation_filter: expected NoFilter"),
    ("tag_quick", own(gamma=0.9), "shaping_gamma: expected the training's gamma, 0.9 of class_a, got 0.99"),
    ("tag_quick", both(own(gamma=0.9), lambda c: c["env_config"].update(shaping=0)), ""),
    ("tag_quick", both(
            own(gamma=0.9, model={"custom_model_config": {**SPEC_NET, "encoder": "class"}}),
            lambda c: c["multiagent"].update(policies_to_train=["class_b"]),
        ), ""),
    ("tag_quick", own(num_epochs=3), "class_a: expected no num_epochs, which holds for the whole run, got 3"),
    ("tag_quick", own(enable_rl_module_and_learner=True), "expected no enable_rl_module_and_learner, which holds"),
    (
        "tag_quick",
        both(
            own(model={"custom_model_config": {"hidden_dim": 32, "critic": "shared", "encoder": "class"}}),
            lambda c: c["model"]["custom_model_config"].update(critic="shared"),
        ),
        "critic: shared: expected one hidden_dim, got {'class_a': 32, 'class_b': 64}",
    ),
    (
        "tag_quick",
        both(
            own(model={"custom_model_config": {**SPEC_NET, "gnn": "gatv2", "encoder": "shared"}}),
            lambda c: c["model"]["custom_model_config"].update(encoder="shared"),
        ),
        "encoder: shared: expected one gnn, got {'class_a': 'gatv2', 'class_b': 'gat'}",
    ),
    # Who acts by what
    ("tag_quick", both(mapped("OnePolicy"), lambda c: c["multiagent"].update(policies=["class_a"])), ""),
    ("tag_quick", mapped("Broken"), "policy_mapping_fn: expected a policy for each of adversary_0"),
    (
        "tag_selfplay",
        both(mapped("OnePolicy"), lambda c: c["multiagent"].update(policies=["class_a"])),
        "expected the same observation space for all agents of 'class_a'",
    ),
    # What can be evaluated
    ("tag_quick", played(num_class_a=3, num_class_b=1), ""),
    ("tag_quick", played(num_class_a=1, num_class_b=3), ""),
    ("tag_quick", played(num_class_a=3, num_class_b=3, num_good=2, num_obstacles=0), ""),
    ("tag_quick", played(num_class_a=0), ""),
    ("tag_quick", played(comm_range=0, comm_hops=1, history_length=7, full_observation=True, max_cycles=7), ""),
    ("tag_quick", played(good_policy="evasive"), ""),
    ("tag_quick", evaluated(env=f"{__name__}.HardTagEnv"), ""),
    (
        "tag_quick",
        both(evaluated(env=f"{__name__}.HardTagEnv"), lambda c: c["env_config"].update(backend="batched")),
        f"backend: batched: expected a run that the batched sampler supports, got env: {__name__}.HardTagEnv",
    ),
    ("tag_quick", evaluated(explore=False, gamma=0.5, seed=3), ""),
    ("tag_quick", evaluated(multiagent={"policies_to_train": []}), ""),
    ("tag_selfplay", played(good_policy="random"), ""),
    ("tag_selfplay", played(good_policy="evasive", num_class_b=0), ""),
    ("tag_quick", both(own(model=TINY), evaluated(model=TINY)), "model: hidden_dim: expected 64 as in the"),
    ("tag_quick", evaluated(model={"custom_model": "rllib_tag.CommModel"}), ""),
    # What cannot
    ("tag_quick", played(continuous_actions=True), "evaluation_config: env_config: expected actions of class_a in"),
    ("tag_quick", played(good_policy="learned"), "in which agents act by good, which it does not train"),
    ("tag_quick", played(num_class_a=0, num_class_b=0), "evaluation_config: env_config: num_class_a and num_class_b"),
    ("tag_quick", evaluated(model=TINY), "evaluation_config: model: hidden_dim: expected 64 as in the training"),
    ("tag_quick", evaluated(model={"custom_model": None}), "evaluation_config: model: expected custom_model"),
    ("tag_quick", evaluated(env="CartPole-v1"), "evaluation_config: env: expected a TagEnv as in training"),
    ("tag_quick", evaluated(env="nowhere"), "evaluation_config: env: expected an import path such as"),
    ("tag_quick", evaluated(multiagent={"policies": ["class_a"]}), "expected no policies, which hold for the whole"),
    ("tag_quick", evaluated(num_env_runners=2), "num_env_runners: expected evaluation_num_env_runners next to"),
    ("tag_quick", evaluated(normalize_actions=False), "evaluation_config: normalize_actions: expected True"),
    (
        "tag_quick",
        lambda config: config.update(evaluation_config={"env_config": {"num_class_b": 0}}, evaluation_interval=1)
        or config["multiagent"]["policy_mapping_fn"].update(num_class_a=3),
        "disagree on (num_class_a, num_class_b): expected (2, 2) as in env_config, got (3, 2)",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "message"), CASES)
def test_parts_are_checked_against_each_other(name: str, change: Callable[..., object], message: str) -> None:
    spec = copy.deepcopy(SPECS[name])
    spec["config"]["env_config"]["backend"] = "auto"
    change(spec["config"])
    if not message:
        parse_experiments({name: spec})
        return
    with pytest.raises(ConfigError) as error:
        parse_experiments({name: spec})
    assert message in str(error.value)


def test_views_are_what_rllib_merges() -> None:
    config = copy.deepcopy(SPECS["tag_quick"]["config"])
    own(gamma=0.7, model=TINY)(config)
    config["evaluation_config"] = {"explore": False, "gamma": 0.5, "env_config": {"num_class_a": 3}}
    before = copy.deepcopy(config)
    training, evaluation = views("PPO", "rllib_tag.TagEnv", config)
    assert config == before
    gammas = [{name: policy.gamma for name, policy in view.policies.items()} for view in (training, evaluation)]
    assert gammas == [{"class_a": 0.7, "class_b": 0.99}, {"class_a": 0.7, "class_b": 0.5}]
    assert training.policies["class_a"].model["custom_model_config"] == TINY["custom_model_config"]
    assert training.policies["class_a"].model["custom_model"] is training.config.model["custom_model"]
    assert evaluation.config.env_config == {**config["env_config"], "num_class_a": 3}
    assert (training.config.explore, evaluation.config.explore) == (True, False)


def test_a_registered_name_may_look_like_a_path() -> None:
    register_env("lab.game", lambda config: TagEnv(config))
    spec = {**copy.deepcopy(SPECS["tag_quick"]), "env": "lab.game"}
    parse_experiments({"registered": spec})


@pytest.mark.parametrize("backend", ["batched", pytest.param("mpe2", marks=pytest.mark.nightly)])
def test_another_game_is_evaluated_by_those_who_play_it(ray_session: None, tmp_path: Path, backend: str) -> None:
    experiments = small("tag_selfplay", hidden_dim=28, encoder="class")
    config = experiments["tag_selfplay"]["config"]
    config["env_config"]["backend"] = backend
    config["multiagent"]["policies"] = {
        "class_a": [None, None, None, {"model": TINY}], "class_b": [None] * 3 + [{}], "good": [None] * 3 + [{}],
    }  # fmt: skip
    played(good_policy="random", num_class_a=3, num_class_b=3)(config)
    config["evaluation_duration"] = 2
    end = run(experiments, tmp_path)
    assert set(end.result["evaluation"]["env_runners"]["policy_reward_mean"]) == {"class_a", "class_b"}
    assert set(end.result["info"]["learner"]) == {"class_a", "class_b", "good"}
    team = restore(end.folder)
    assert {name: net.config.hidden_dim for name, net in team.nets.items()} == {
        "class_a": 32,
        "class_b": 28,
        "good": 28,
    }
    check_architecture(Path(team.source), [resolve_config("PPO", "rllib_tag.TagEnv", config)])
    config["multiagent"]["policies"]["class_b"][3] = {"model": TINY}
    with pytest.raises(ConfigError, match=r"of class_b \(hidden_dim: 32, num_layers: 2\), got hidden_dim: 28"):
        check_architecture(Path(team.source), [resolve_config("PPO", "rllib_tag.TagEnv", config)])


def test_a_trained_run_fits_its_own_file(trained: TrialEnd) -> None:
    (experiment,) = parse_experiments(small("tag_quick"))
    check_architecture(Path(restore(trained.folder).source), experiment.variants)


def test_a_wrapped_game_is_tried_once_however_many_variants_play_it(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    step = TagEnv.step
    monkeypatch.setattr(
        TagEnv, "step", lambda self, actions: (steps.append(self.config.max_cycles), step(self, actions))[1]
    )
    spec = copy.deepcopy(SPECS["tag_quick"])
    wrapped = {"backend": "auto", "wrappers": [{"type": "supersuit.frame_skip_v0", "num_frames": 2}]}
    spec["config"] |= {
        "lr_schedule": None, "lr": {"grid_search": [0.1, 0.01, 0.001]},
        "env_config": spec["config"]["env_config"] | wrapped | {"max_cycles": {"grid_search": [100, 200]}},
    }  # fmt: skip
    (experiment,) = parse_experiments({"tag_quick": spec})
    assert len(experiment.variants) == 6
    assert sorted(steps) == [100] * TRIAL_STEPS + [200] * TRIAL_STEPS
