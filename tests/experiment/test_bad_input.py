"""Everything that a file may get wrong: one clear line before any worker starts, and nothing written."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import EXPERIMENTS
from ray.rllib.algorithms.ppo import PPO

from rllib_tag.cli import main
from rllib_tag.errors import ConfigError
from rllib_tag.experiment.apply_options import apply_options
from rllib_tag.experiment.config_check import STACK_FLAGS
from rllib_tag.experiment.experiment import parse_experiments
from rllib_tag.experiment.options import TrainOptions
from rllib_tag.experiment.spec import load_experiments
from rllib_tag.experiment.variant import resources_of
from rllib_tag.plugin.ray_internals import algorithm_names
from rllib_tag.training.preflight import check_resources

QUICK = yaml.safe_load((EXPERIMENTS / "tag_quick.yaml").read_text())
Change = Callable[[dict[str, Any]], object]


def config(**keys: Any) -> Change:
    return lambda spec: spec["config"].update(keys)


def env_config(**keys: Any) -> Change:
    return lambda spec: spec["config"]["env_config"].update(keys)


def model(**keys: Any) -> Change:
    return lambda spec: spec["config"]["model"]["custom_model_config"].update(keys)


def multiagent(**keys: Any) -> Change:
    return lambda spec: spec["config"]["multiagent"].update(keys)


def own(**keys: Any) -> Change:
    """A policy's own config."""
    return multiagent(policies={"class_a": [None, None, None, keys], "class_b": [None, None, None, {}]})


def mapping(**keys: Any) -> Change:
    return multiagent(
        policy_mapping_fn={"type": "rllib_tag.ClassPolicyMapping", "num_class_a": 2, "num_class_b": 2, **keys}
    )


def fragments(run: str, **keys: Any) -> Change:
    """Another algorithm, with what it knows of the demo's config."""

    def change(spec: dict[str, Any]) -> None:
        names = ("framework", "env_config", "model", "multiagent", "callbacks", "gamma", *STACK_FLAGS)
        spec["config"] = {**{name: spec["config"][name] for name in names}, "num_gpus": 0, **keys}
        spec["config"]["env_config"]["backend"] = "auto"
        spec["run"] = run

    return change


CASES: list[tuple[Change, str]] = [
    (lambda spec: spec.update(cofnig={}), "unknown key 'cofnig'. Did you mean 'config'?"),
    (lambda spec: spec.pop("stop"), "stop: expected a mapping such as"),
    (lambda spec: spec.update(stop={}), "training never ends"),
    (lambda spec: spec.update(stop={"timestep_total": 5}), "Did you mean 'timesteps_total'?"),
    (
        lambda spec: spec.update(stop={"timesteps_total": "many"}),
        "stop: timesteps_total: expected a finite number above 0, got 'many'",
    ),
    (
        lambda spec: spec.update(stop={"env_runners/custom_metrics/return_adversry_mean": 5}),
        "stop: unknown key 'env_runners/custom_metrics/return_adversry_mean'. Did you mean",
    ),
    (
        lambda spec: spec.update(checkpoint_config={"checkpoint_score_attribute": "return_adversry_mean"}),
        "checkpoint_score_attribute: unknown key 'return_adversry_mean'. Did you mean 'return_adversary_mean'",
    ),
    (
        lambda spec: (spec["config"].pop("callbacks"), spec.update(scheduler={"type": "asha"})),
        "metric: expected callbacks: rllib_tag.TagCallbacks in config",
    ),
    (lambda spec: spec.pop("run"), "run: expected a name"),
    (lambda spec: spec.update(run="PP0"), "run: expected one of"),
    (lambda spec: spec.update(env="rllib_tag.TagEnvs"), "cannot import 'rllib_tag.TagEnvs'"),
    (lambda spec: spec.update(env="rllib_tag.CommModel"), "expected a subclass of Env, got 'rllib_tag.CommModel'"),
    (lambda spec: spec.update(env="TagEnv"), "expected an import path such as rllib_tag.TagEnv"),
    (lambda spec: spec.update(checkpoint_freq=3), "old key 'checkpoint_freq'"),
    (lambda spec: spec.update(checkpoint_config={"num_to_kep": 1}), "Did you mean 'num_to_keep'?"),
    (lambda spec: spec.update(checkpoint_config={"num_to_keep": 0}), "num_to_keep: expected an integer of at least 1"),
    (lambda spec: spec.update(config=[]), "config: expected a mapping"),
    (config(env="rllib_tag.TagEnv"), "config: expected env next to config, got it inside"),
    (config(lr={"grid_search": None}), "lr: grid_search: expected a list, got None"),
    (config(lr={"grid_search": []}), "lr: grid_search: expected a list, got []"),
    (config(gama=0.9), "unknown key 'gama'. Did you mean 'gamma'?"),
    (config(sgd_minibatch_size=64), "old key 'sgd_minibatch_size': expected minibatch_size"),
    (config(num_sgd_iter=3), "old key 'num_sgd_iter': expected num_epochs"),
    (config(num_workers=3), "old key 'num_workers': expected num_env_runners"),
    (config(lr="1e-3"), "lr: expected a number, got '1e-3'. YAML reads 1e-3 as text"),
    (config(num_env_runners=-1), "num_env_runners: expected a number of at least 0, got -1"),
    (config(use_kl_loss=1), "use_kl_loss: expected true or false, got 1"),
    (config(gamma=[1]), "gamma: expected a number, got [1]"),
    (config(enable_rl_module_and_learner=True), "both true for RLlib's new API stack or both false for the old one"),
    (config(framework="tf2"), "framework: expected torch, got 'tf2'"),
    (config(callbacks="rllib_tag.TagEnv"), "expected a subclass of"),
    (config(callbacks="os.system"), "callbacks: expected a class of an installed package, got 'os.system' of Python's"),
    (
        config(env_runner_cls="os.system"),
        "env_runner_cls: expected None, got 'os.system'",
    ),
    (config(exploration_config={"type": "ray.init"}), "expected a subclass of Exploration"),
    (config(tf_session_args={"type": "os.system"}), "expected no 'type' here, got 'os.system'"),
    (config(lr={"eval": "__import__('os').system('true')"}), "'eval' key, which Tune would run as code"),
    (config(model={"custom_model": "ray.init"}), "custom_model: expected a subclass of TorchModelV2"),
    (config(model={"custom_model": "rllib_tag.TagEnv"}), "custom_model: expected a subclass of TorchModelV2"),
    (config(model={"custom_modle": "rllib_tag.CommModel"}), "Did you mean 'custom_model'?"),
    (config(model={}), "expected custom_model: rllib_tag.CommModel"),
    (model(hidden_dims=3), "Did you mean 'hidden_dim'?"),
    (model(num_heads=3), "even multiple of num_heads = 3, got 64"),
    (model(gnn="sage"), "gnn: expected one of"),
    (env_config(com_range=1), "Did you mean 'comm_range'?"),
    (env_config(comm_range=-1), "comm_range: expected a number of at least 0, got -1"),
    (env_config(comm_range=float("nan")), "comm_range: expected a number of at least 0, got nan"),
    (env_config(history_length=0), "history_length: expected an integer of at least 1"),
    (env_config(num_class_a=0, num_class_b=0), "at least one adversary"),
    (env_config(wrappers=[{"type": "ray.init", "address": "x"}]), "expected a SuperSuit wrapper"),
    (
        env_config(good_policy="learned"),
        "policies: expected exactly those that the agents use, ['class_a', 'class_b', 'good']",
    ),
    (env_config(num_class_a=3), "disagree on (num_class_a, num_class_b): expected (3, 2) as in env_config, got (2, 2)"),
    (mapping(num_class_b=3), "disagree on"),
    (mapping(num_classes=3), "num_classes"),
    (mapping(type="ray.init"), "expected a subclass of ClassPolicyMapping, got 'ray.init'"),
    (mapping(type="rllib_tag.TagEnv"), "expected a subclass of ClassPolicyMapping, got 'rllib_tag.TagEnv'"),
    (multiagent(policies=["class_a"]), "policies: expected exactly those"),
    (multiagent(policies_to_train=["class_c"]), "policies_to_train: unknown key 'class_c'"),
    (multiagent(policy_map_capacity="x"), "policy_map_capacity: expected an integer of at least 1, got 'x'"),
    (multiagent(policy_states_are_swappable=1), "policy_states_are_swappable: expected true or false, got 1"),
    (multiagent(count_steps_by="rounds"), "count_steps_by: expected one of env_steps, agent_steps, got 'rounds'"),
    (lambda spec: spec.update(stop={"return_good_mean": -5}), ""),
    (lambda spec: spec.update(stop={"training_iteration": 0}), "expected a finite number above 0, got 0"),
    *(
        (
            lambda spec, run=run: spec.update(run=run),
            f"run: expected PPO, APPO or IMPALA with rllib_tag.TagEnv or rllib_tag.CommModel, got {run}: ",
        )
        for run in ("DQN", "SAC", "BC", "MARWIL", "CQL", "IQL", "DreamerV3")
        if run in algorithm_names()  # older versions of Ray have no IQL
    ),
    *(
        (
            fragments("APPO", rollout_fragment_length=steps),
            f"expected a length that divides the 32 steps on which RLlib first tests the loss of APPO, got {steps}.",
        )
        for steps in (3, 5, 6, 7)
    ),
    (fragments("IMPALA", rollout_fragment_length="auto"), "rollout_fragment_length: expected an integer of at least 1"),
    (
        fragments("IMPALA", train_batch_size=120),
        "expected a length that divides the 120 steps on which RLlib first tests",
    ),
    (
        fragments("APPO", evaluation_interval=1, evaluation_duration=7, evaluation_duration_unit="timesteps"),
        "evaluation_config: evaluation_duration: expected a length that divides the 32 steps",
    ),
    *((fragments("APPO", rollout_fragment_length=steps), "") for steps in (1, 4, 9, 50)),
    (model(hidden_dim={"a": 1}), "hidden_dim: expected an integer"),
    (lambda spec: spec["config"]["model"].update(custom_model_config=3), "custom_model_config: expected a mapping"),
    (multiagent(policy_maping_fn=1), "Did you mean 'policy_mapping_fn'?"),
    (lambda spec: spec["config"]["multiagent"].pop("policy_mapping_fn"), "expected policy_mapping_fn"),
    (lambda spec: spec.update(num_samples=-1), "num_samples: expected an integer of at least 1, got -1"),
    (
        lambda spec: spec.update(num_samples=3),
        "num_samples: expected trials that differ, got 3 of each config, all with seed",
    ),
    (lambda spec: spec.update(storage_path=3), "storage_path: expected a path or a URI, got 3"),
    (
        lambda spec: spec.update(restore=300 * "x"),
        "checkpoint: expected a folder or one of evasive_prey, generalist, random_prey, got xxx",
    ),
    (lambda spec: spec.update(restore=None), "restore: expected a local path, got None"),
    (
        lambda spec: spec.update(restore="s3://bucket/checkpoint"),
        "restore: expected a local path, got 's3://bucket/checkpoint'",
    ),
    (lambda spec: spec.update(max_failures="x"), "max_failures: expected an integer"),
    (lambda spec: spec.update(time_budget_s=9), "old key 'time_budget_s': expected stop: {time_total_s: …}"),
    (lambda spec: spec.update(stop={"timesteps_total": float("inf")}), "expected a finite number above 0, got inf"),
    (lambda spec: spec.update(checkpoint_config=[1]), "checkpoint_config: expected a mapping"),
    (
        lambda spec: spec.update(checkpoint_config={"checkpoint_score_order": "up"}),
        "expected one of max, min",
    ),
    (lambda spec: spec.update(resources_per_trial={"cpu": {"eval": "1"}}), "got an 'eval' key, which Tune would run"),
    (lambda spec: spec.update(resources_per_trial={"cpu": 1}), "unknown key 'resources_per_trial'"),
    (lambda spec: spec.update(env=".rllib_tag.TagEnv"), "expected an import path such as package.module.Name"),
    (config(num_gpus=None), "num_gpus: expected a number, got None"),
    (config(num_env_runners=1.5), "expected values that RLlib accepts"),
    (config(minibatch_size=99999), "expected values that RLlib accepts, got: `minibatch_size` (99999) must be <="),
    (config(rollout_fragment_length=77), "expected values that RLlib accepts, got: Your desired"),
    (config(gamma=1.5), "gamma: expected a number between 0 and 1, got 1.5"),
    (config(lr=["a"]), "lr: expected a number, got ['a']"),
    (own(lr=0.1), "policies: class_a: expected lr or lr_schedule, got both"),
    (own(clip_param="0.1"), "policies: class_a: clip_param: expected a number"),
    (own(callbacks="ray.init"), "policies: class_a: callbacks: expected a subclass of"),
    (own(exploration_config={"type": "ray.init"}), "policies: class_a: exploration_config: type: expected a"),
    (own(model={"custom_model": "ray.init"}), "policies: class_a: model: custom_model: expected a subclass"),
    (own(env_config={}), "policies: class_a: expected no env_config, which holds for the whole run"),
    (config(evaluation_config={"callbacks": "ray.init"}), "evaluation_config: callbacks: expected a subclass"),
    (config(evaluation_config={"env": "ray.init"}), "evaluation_config: env: expected a subclass of Env"),
    (config(evaluation_config={"model": {"custom_model": "os.system"}}), "evaluation_config: model: custom_model"),
    (config(evaluation_config={"env_config": 3}), "evaluation_config: env_config: expected a mapping, got 3"),
    (config(evaluation_config={"num_epochs": 1.5}), "evaluation_config: num_epochs: expected an integer"),
    (config(num_envs_per_env_runner=0), "num_envs_per_env_runner: expected an integer of at least 1, got 0"),
    (config(rollout_fragment_length=0), "rollout_fragment_length: expected an integer of at least 1, got 0"),
    (config(num_epochs=1.5), "num_epochs: expected an integer of at least 1, got 1.5"),
    (config(minibatch_size=0), "minibatch_size: expected an integer of at least 1, got 0"),
    (config(seed="abc"), "seed: expected an integer of at least 0, got 'abc'"),
    (config(grad_clip=None), ""),
    (own(grad_clip=None), "encoder: shared: expected one grad_clip, got {'class_a': None, 'class_b': 1.0}"),
    (lambda spec: (model(encoder="class")(spec), own(grad_clip=None)(spec)), ""),
    (config(grad_clip="1e-1"), "grad_clip: expected a number of at least 0, got '1e-1'"),
    (config(lr_schedule="abc"), "lr_schedule: expected [[steps, value], …], got 'abc'"),
    (config(lr_schedule=[[0, "1e-3"]]), "lr_schedule: value: expected a number of at least 0, got '1e-3'"),
    (config(lr_schedule=[[5, 0.1], [5, 0]]), "lr_schedule: steps: expected an integer of at least 6, got 5"),
    (
        lambda spec: spec.update(checkpoint_config={"checkpoint_score_attribute": 3}),
        "checkpoint_score_attribute: unknown key 3",
    ),
    (config(lr=0.1), "expected lr or lr_schedule, got both; the schedule would win"),
    (config(entropy_coeff_schedule=[[0, 0.1]]), "expected entropy_coeff or entropy_coeff_schedule, got both"),
    (config(batch_mode=3), "batch_mode: expected one of truncate_episodes, complete_episodes, got 3"),
    (config(observation_filter="MeanStdFilter"), "observation_filter: expected NoFilter"),
    (config(normalize_actions=False), "normalize_actions: expected True"),
    (config(input="os.system"), "input: expected sampler, or the path of recorded data, got 'os.system'"),
    (config(framework_str="tf2"), "unknown key 'framework_str'"),
    (config(sample_collector="ray.init"), "expected a subclass of SampleCollector, got 'ray.init'"),
    (config(exploration_config={"type": "Nope"}), "exploration_config: type: expected one of"),
    (config(exploration_config={"type": "Curiosity", "sub": {"type": "os.system"}}), "expected no 'type' here"),
    (config(tf_session_args=[{"type": "os.system"}]), "tf_session_args: expected no 'type' here"),
    (config(evaluation_config={"gama": 1}), "evaluation_config: unknown key 'gama'. Did you mean 'gamma'?"),
    (config(evaluation_config={"num_sgd_iter": 1}), "evaluation_config: old key 'num_sgd_iter'"),
    (config(evaluation_config={"env_config": {"num_clas_a": 2}}), "Did you mean 'num_class_a'?"),
    (config(gamma=0.9), "shaping_gamma: expected the training's gamma, 0.9, got 0.99"),
    (lambda spec: spec["config"]["model"].update(use_lstm=True), "use_lstm: expected False, got True"),
    (env_config(wrappers=[{"type": "supersuit.delay_observations_v0", "delay": "x"}]), "wrappers"),
    (env_config(wrappers=["pettingzoo.test.parallel_api_test"]), "expected a SuperSuit wrapper"),
    (
        mapping(type="functools.partial"),
        "policy_mapping_fn: expected a class of an installed package, got 'functools.pa",
    ),
    (multiagent(policies=[1, "class_b"]), "policies: expected a list of names"),
    (
        multiagent(policies={"class_a": ["os.system", None, None, {}], "class_b": None}),
        "RLlib does not resolve class paths",
    ),
    (own(lr_=1), "class_a: unknown key 'lr_'"),
    (multiagent(policies={"class_a": [None, None, None, {}], "class_b": None}), "class_b: expected [null, null, null,"),
    (multiagent(policies={name: [None, None, None, {"clip_param": 0.1}] for name in ("class_a", "class_b")}), ""),
    (
        lambda spec: (model(critic="shared", encoder="class")(spec), config(num_gpus=2)(spec)),
        "critic: shared: expected at most one GPU",
    ),
    (config(num_gpus=2), "encoder: shared: expected at most one"),
    (multiagent(policies_to_train=["class_b"]), "policies_to_train: expected all of the team's policies, got none of"),
    (lambda spec: (model(encoder="class")(spec), multiagent(policies_to_train=["class_b"])(spec)), ""),
    (model(critic="shared"), ""),
    (
        config(
            evaluation_duration="auto",
            evaluation_interval=1,
            evaluation_num_env_runners=1,
            evaluation_parallel_to_training=True,
        ),
        "",
    ),
]


@pytest.mark.parametrize(("change", "message"), CASES, ids=[message[:40] or "valid" for _, message in CASES])
def test_one_clear_error(change: Change, message: str) -> None:
    experiments = copy.deepcopy(QUICK)
    change(experiments["tag_quick"])
    if not message:
        parse_experiments(experiments)
        return
    with pytest.raises(ConfigError) as error:
        parse_experiments(experiments)
    assert str(error.value).startswith("tag_quick: ")
    assert message in str(error.value)


def test_a_grid_is_checked_in_every_variant() -> None:
    experiments = copy.deepcopy(QUICK)
    experiments["tag_quick"]["config"]["clip_param"] = {"grid_search": [0.1, 0.2]}
    parse_experiments(experiments)
    experiments["tag_quick"]["config"]["env_config"]["comm_range"] = {"grid_search": [1.0, -2.0]}
    with pytest.raises(ConfigError, match=r"comm_range: expected a number of at least 0, got -2\.0"):
        parse_experiments(experiments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "expected plain YAML"),
        ("!!python/object/apply:os.system ['true']", "expected plain YAML"),
        ("", "expected a mapping of experiment names"),
        ("[1, 2]", "expected a mapping of experiment names"),
        ("name: 3", "expected a name and a mapping"),
        ("a: 2024-99-99", "expected plain YAML"),
        ("[" * 3000, "expected plain YAML"),
        ("name: &me {x: *me}", "expected plain YAML"),
        ("name: {stop: 1, stop: 2}", "duplicate key 'stop'"),
        ("name:\n  a: 1\n  a: 2\n", r"got: duplicate key 'a', in line 3, column 3\. Edit the file\.$"),
        (
            "a:\n  b: [1,\n",
            r"got: .* but found '<stream end>' while parsing a flow node, in line 3, column 1\. ",
        ),
        ("a: \x01", r"got: special characters are not allowed, at position 3\. Edit the file\.$"),
    ],
)
def test_files_that_are_no_experiments(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_experiments(tmp_path / "bad.yaml")


def test_merge_keys_spare_repetition(tmp_path: Path) -> None:
    text = "a: &a {run: PPO, stop: {training_iteration: 1}}\nb: &b {<<: *a, run: DQN}\nc: {<<: *b, env: x}"
    (tmp_path / "merged.yaml").write_text(text)
    stop = {"training_iteration": 1}
    assert load_experiments(tmp_path / "merged.yaml") == {
        "a": {"run": "PPO", "stop": stop},
        "b": {"run": "DQN", "stop": stop},
        "c": {"run": "DQN", "stop": stop, "env": "x"},
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"run": "PPO", "config": {"observation_filter": "MeanStdFilter", "model": {"use_lstm": True}}},
        {"run": "SAC", "env": "Pendulum-v1", "config": {"replay_buffer_config": {"type": "ReplayBuffer"}}},
        {"run": "MARWIL", "config": {"input": str(EXPERIMENTS)}},
        {"run": "PPO", "config": {"multiagent": {"policies": ["a"], "policy_mapping_fn": {"type": f"{__name__}.ToA"}}}},
        {"run": "PPO", "config": {"exploration_config": {"type": "Random", "sub_exploration": {"type": "Random"}}}},
    ],
)
def test_other_games_and_models_are_left_to_rllib(changes: dict[str, Any]) -> None:
    """What only `TagEnv` and `CommModel` rely on is asked of no other run."""
    stack = {"enable_rl_module_and_learner": False, "enable_env_runner_and_connector_v2": False}
    spec = {"env": "CartPole-v1", "stop": {"training_iteration": 1}, **changes}
    parse_experiments({"lab": {**spec, "config": {**stack, **spec["config"]}}})
    spec["config"] = {**stack, **spec["config"], "multiagent": {"policy_mapping_fn": {"type": "rllib_tag.TagEnv"}}}
    with pytest.raises(ConfigError, match="policy_mapping_fn: expected a subclass of Callable"):
        parse_experiments({"lab": spec})


class ToA:
    """A lab's own mapping."""

    def __call__(self, *args: Any, **kwargs: Any) -> str:
        """Always the same policy."""
        return "a"


def test_paths_are_absolute_wherever_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("prey", "learned", "data"):
        (tmp_path / name).mkdir()
    prey, data = str(tmp_path / "prey"), str(tmp_path / "data")
    config = {
        "input": "data",
        "env_config": {"good_policy": {"grid_search": ["random", "prey", {"choice": ["learned", "./prey", "none"]}]}},
        "evaluation_config": {"env_config": {"good_policy": "prey", "backend": "prey"}},
    }
    changed = apply_options({"x": {"config": config}}, TrainOptions())["x"]["config"]
    assert changed == {
        "input": data,
        "env_config": {"good_policy": {"grid_search": ["random", prey, {"choice": ["learned", prey, "none"]}]}},
        "evaluation_config": {"env_config": {"good_policy": prey, "backend": "prey"}},
    }


def test_what_a_script_gets_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "calm").mkdir()
    script = {"type": "labs_prey.Herd", "style": "calm", "input": "calm"}
    config = {"env_config": {"good_policy": {"grid_search": [script, "calm"]}}}
    (one, other) = apply_options({"x": {"config": config}}, TrainOptions())["x"]["config"]["env_config"]["good_policy"][
        "grid_search"
    ]
    assert (one, other) == (script, str(tmp_path / "calm"))


@pytest.mark.parametrize(
    ("style", "message"),
    [
        ("alone", ""),
        (
            "one",
            r"expected a script that can move prey, got ValueError: Herd\.act: .* of shape \(8,\), got int64 of sh",
        ),
        ("all", "expected an action that depends only on that prey's own observation, got "),
        ("steps", "expected an action that depends only on that prey's own observation, got "),
        ("late", "expected an action that depends only on that prey's own observation, got "),
        ("dice", r"Let act keep nothing, draw nothing at random, and compute each row by itself\."),
        ("raises", r"expected a script that can move prey, got KeyError: 'hares', raised in Herd\.act \(.*script\.$"),
    ],
)
def test_a_script_that_does_not_move_each_prey_by_itself_is_refused(style: str, message: str) -> None:
    specs = load_experiments(EXPERIMENTS / "tag_quick.yaml")
    specs["tag_quick"]["config"]["env_config"]["good_policy"] = {"type": "labs_prey.Herd", "style": style}
    if not message:
        parse_experiments(specs)
        return
    with pytest.raises(ConfigError, match=rf"^tag_quick: config: env_config: good_policy: .*{message}"):
        parse_experiments(specs)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"cannot read no_such\.yaml"):
        load_experiments("no_such.yaml")


def test_names_stay_inside_the_storage_folder() -> None:
    with pytest.raises(ConfigError, match="expected letters, digits"):
        parse_experiments({"../out": QUICK["tag_quick"]})


def test_what_the_machine_lacks_is_named() -> None:
    spec = copy.deepcopy(QUICK["tag_quick"])
    spec["config"].update(evaluation_interval=1, evaluation_num_env_runners=3)
    asked = resources_of(PPO, {**spec["config"], "env": spec["env"]})
    assert asked["CPU"] == 1 + 2 * 0.5 + 3 * 0.5
    with pytest.raises(ConfigError, match=r"at most the 2 CPUs that are here, got 3\.5\. Lower num_env_runners"):
        check_resources(asked, {"CPU": 2})
    gpu = load_experiments(EXPERIMENTS / "tag_ppo_gpu.yaml")["tag_ppo_gpu"]
    asked = resources_of(PPO, {**gpu["config"], "env": gpu["env"]})
    assert asked["GPU"] == 1
    with pytest.raises(ConfigError, match=r"at most the 0\.5 GPUs that are here, got 1"):
        check_resources(asked, {"CPU": 9, "GPU": 0.5})
    check_resources(asked, {"CPU": 9, "GPU": 1})


def test_a_worker_that_requests_nothing_is_refused() -> None:
    spec = copy.deepcopy(QUICK["tag_quick"])
    spec["config"].update(num_env_runners=1, num_cpus_per_env_runner=0)
    with pytest.raises(ConfigError, match="expected CPUs or GPUs for each env runner and learner"):
        parse_experiments({"tag_quick": spec})


def command(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["rllib", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err + captured.out
    return int(end.value.code or 0), captured.err


COMMANDS = [
    (["train", "file", "no_such.yaml"], "cannot read no_such.yaml"),
    (["train", "file", "{bad}"], "Did you mean 'gamma'?"),
    (["train", "file", "{quick}", "--stop", "[1]"], "--stop: expected a JSON object"),
    (["train", "file", "{quick}", "--stop", '{{"timesteps": 1}}'], "stop: unknown key 'timesteps'"),
    (
        ["train", "file", "{quick}", "--stop", '{{"timesteps_totl": 1}}'],
        "stop: unknown key 'timesteps_totl'. Did you mean 'timesteps_total'?\n",
    ),
    (["train", "{bad}"], "bad.yaml`. Add the word `file`."),
    (["train", "no_such.yml", "--stop", "{{}}"], "train: expected `train file no_such.yml`, got `train no_such.yml`."),
    (["train", "file", "{quick}", "--storage-path", "/proc/none"], "expected a writable folder"),
    (
        ["train", "file", "{quick}", "--storage-path", "{tmp}/out", "--resume"],
        "--resume: expected an experiment started before",
    ),
    (["train", "file", "{quick}", "--storage-path", "{tmp}/out", "--restore", "{tmp}"], "The checkpoint is missing"),
    (["train", "file", "{quick}", "--scheduler", "none"], "scheduler: type: expected one of"),
    (["train", "file", "{quick}", "--scheduler-config", '{{"max_t": 3}}'], "expected --scheduler as well"),
    (["train", "--algo", "PPO"], "expected --algo and --env"),
    (["train", "--algo", "PPO", "--env", "rllib_tag.TagEnv", "--config", "{{"], "--config: expected JSON"),
    (["train", "--algo", "PPO", "--env", "rllib_tag.TagEnv"], "default: stop: expected a mapping"),
    (["train", "--stop", "{{}}", "file", "{quick}"], "expected the options after `file F.yaml`"),
    (["evaluate", "{tmp}/nothing"], "expected a folder"),
    (["evaluate", "{tmp}", "--out", "{tmp}/ev"], "found neither"),
    (["evaluate", "{tmp}", "--num-class-a", "-1"], "--num-class-a: expected 0 or more, got -1"),
    (["evaluate", "{tmp}", "--out", "/proc/none"], "expected a writable folder"),
    (["rollout", "{tmp}", "--video", "avi"], "--video: expected one of gif, mp4, html, none"),
    (["evaluate", "{tmp}", "--beside", "x"], "--beside: expected NAME=CHECKPOINT"),
    (["evaluate", "{tmp}", "--beside", "x={tmp}", "--beside", "x={tmp}"], "--beside: expected NAME=CHECKPOINT, each"),
    (["transfer", "{tmp}"], "found neither"),
    (["transfer", "{tmp}", "--out", "/proc/none"], "expected a writable folder"),
    (["export", "{tmp}"], "found neither"),
    (["plot", "{tmp}"], "expected the results of one trial"),
    (["sweep", "report", "{tmp}"], "sweep: expected trials with results"),
    (["plot", "{bad}"], "expected a readable result.json or progress.csv"),
    (["plot", "{tmp}", "{tmp}"], "--label: expected different labels"),
    (["rollout", "{tmp}", "--seed", "-1"], "found neither"),
    (["train", "file", "{gpu}"], "expected a trial that requests at most the 0 GPUs that are here, got 1"),
    (["train", "file", "{quick}", "--num-samples", "0"], "num_samples: expected an integer of at least 1, got 0"),
    (["train", "file", "{quick}", "--ray-address", "127.0.0.1:1"], "--ray-address: expected a cluster at 127.0.0.1:1"),
    (["plot", "{tmp}", "--label", "a", "--label", "b"], "--label: expected one for each of the 1 runs, got 2"),
]


@pytest.mark.parametrize(("arguments", "message"), COMMANDS, ids=[message for _, message in COMMANDS])
def test_the_command_line_gives_one_line_and_no_traceback(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "{gpu}" in arguments and torch.cuda.is_available():
        pytest.skip("this machine has a GPU, so the run would begin")
    bad = copy.deepcopy(QUICK)
    bad["tag_quick"]["config"]["gama"] = 1
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(bad))
    names = {
        "tmp": tmp_path,
        "quick": EXPERIMENTS / "tag_quick.yaml",
        "gpu": EXPERIMENTS / "tag_ppo_gpu.yaml",
        "bad": tmp_path / "bad.yaml",
    }
    monkeypatch.chdir(tmp_path)
    status, stderr = command([argument.format(**names) for argument in arguments], monkeypatch, capsys)
    assert status == 2
    assert message in stderr
    assert len(stderr.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


def test_unknown_options_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    status, stderr = command(["evaluate", "x", "--num-clas-a", "1"], monkeypatch, capsys)
    assert status == 2
    assert "--num-clas-a" in stderr


def test_a_switch_that_an_old_ray_ignores_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rllib_tag.experiment.config_check.RAY_VERSION", (2, 57))
    specs = load_experiments(EXPERIMENTS / "tag_quick.yaml")
    parse_experiments(specs)
    specs["tag_quick"]["config"]["kl_coeff"] = 0.2
    with pytest.raises(ConfigError, match=r"expected kl_coeff: 0 .* before Ray 2\.58, got 0\.2"):
        parse_experiments(specs)
    specs["tag_quick"]["config"].update(dict.fromkeys(STACK_FLAGS, True))
    parse_experiments(specs)
