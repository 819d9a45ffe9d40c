"""One resolved RLlib config, checked before any worker starts. What RLlib ignores in silence is an error here."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.callbacks import DefaultCallbacks
from ray.rllib.evaluation.collectors.sample_collector import SampleCollector
from ray.rllib.models.torch.torch_modelv2 import TorchModelV2
from ray.rllib.utils import exploration as explorations
from ray.rllib.utils.exploration.exploration import Exploration

from rllib_tag.errors import ConfigError, check_choice, check_keys, check_number
from rllib_tag.nn.config import CommConfig
from rllib_tag.plugin.class_paths import resolve_subclass
from rllib_tag.plugin.env import TagEnv
from rllib_tag.plugin.mapping import ClassPolicyMapping
from rllib_tag.plugin.model import CommModel
from rllib_tag.plugin.ray_internals import (
    MODEL_DEFAULTS,
    algorithm_defaults,
    algorithm_names,
    env_is_registered,
    required_resources,
)
from rllib_tag.runs.backend import why_plain

OLD_KEYS = {
    "sgd_minibatch_size": "minibatch_size",
    "num_sgd_iter": "num_epochs",
    "num_workers": "num_env_runners",
    "num_rollout_workers": "num_env_runners",
    "num_envs_per_worker": "num_envs_per_env_runner",
    "num_cpus_per_worker": "num_cpus_per_env_runner",
    "num_gpus_per_worker": "num_gpus_per_env_runner",
    "num_cpus_for_driver": "num_cpus_for_main_process",
    "num_cpus_for_local_worker": "num_cpus_for_main_process",
    "create_env_on_driver": "create_env_on_local_worker",
    "horizon": "env_config: {max_cycles: …}",
    "evaluation_num_episodes": "evaluation_duration",
    "evaluation_num_workers": "evaluation_num_env_runners",
    "ignore_worker_failures": "ignore_env_runner_failures",
    "recreate_failed_workers": "restart_failed_env_runners",
}
MULTIAGENT_KEYS = ("policies", "policy_mapping_fn", "policies_to_train", "policy_map_capacity", "count_steps_by")
STACK_FLAGS = ("enable_rl_module_and_learner", "enable_env_runner_and_connector_v2")
SCHEDULED = ("lr", "entropy_coeff")
# Keys that RLlib translates before it sets them, and what it sets.
TRANSLATED = {"callbacks": "callbacks_class", "framework": "framework_str", "lambda": "lambda_", "input": "input_"}
# Values that the model, or acting with restored weights alone, relies on.
FIXED: dict[str, tuple[Any, str]] = {
    "framework": ("torch", "the model is a TorchModelV2"),
    "observation_filter": ("NoFilter", "masks and links are no quantities to rescale"),
    "normalize_actions": (True, "restored teams act so"),
    "input": ("sampler", "this project samples"),
    "env_runner_cls": (None, "backend in env_config says how to sample"),
}
FIXED_MODEL: dict[str, tuple[Any, str]] = {
    "use_lstm": (False, "the model reads histories itself"),
    "use_attention": (False, "the model reads histories itself"),
    "_disable_preprocessor_api": (False, "the model reads what the preprocessor made"),
}


def check_config(run: str, env: str, config: Mapping[str, Any]) -> None:
    """Checks a config without unresolved search values.

    Args:
        run: The algorithm's name.
        env: The environment's import path or registered name.
        config: RLlib's config.

    Raises:
        ConfigError: On the first thing that does not fit.
    """
    check_choice("run", run, algorithm_names())
    if "env" in config:
        raise ConfigError(f"config: expected env beside config, got it within: {config['env']!r}. Move it there.")
    defaults = algorithm_defaults(run)
    _check_keys("config", config, defaults)
    flags = [config.get(flag) for flag in STACK_FLAGS]
    if flags != [False, False]:
        raise ConfigError(
            f"config: expected {' and '.join(f'{flag}: false' for flag in STACK_FLAGS)}, got {flags}: "
            "TorchModelV2 runs on RLlib's old API stack only. Set both."
        )
    _check_types(config, defaults)
    _check_class_paths(config)
    env_class = _env_class(env)
    team = None
    if env_class is not None and issubclass(env_class, TagEnv):
        team = _build_env(env_class, config.get("env_config", {}))
        _check_shaping(team, config.get("gamma", defaults.gamma))
    _check_evaluation(config.get("evaluation_config"), defaults, config.get("env_config", {}), env_class)
    _check_model(config, team)
    _check_multiagent(config.get("multiagent", {}), team, defaults)
    if team is not None and team.config.backend == "batched":
        reason = why_plain(run, env, config)
        if reason is not None:
            raise ConfigError(
                f"config: env_config: backend: batched: expected a run that can be sampled on arrays, got {reason}. "
                "Change that, or set backend: auto."
            )
    resources_of(run, env, config)


def resources_of(run: str, env: str, config: Mapping[str, Any]) -> dict[str, float]:
    """What a trial asks Ray for, evaluation workers included; RLlib's own validation runs on the way.

    Raises:
        ConfigError: If RLlib refuses the config.
    """
    try:
        return required_resources(run, {**copy.deepcopy(dict(config)), "env": env})
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError) as error:
        said = " ".join(str(error).split()).partition(" To suppress all validation errors")[0]
        raise ConfigError(f"config: expected one that RLlib accepts, got: {said} Change it.") from error


def check_resources(asked: Mapping[str, float], available: Mapping[str, float]) -> None:
    """Raises where a trial asks for more than there is: it would wait for ever, or do without in silence.

    Args:
        asked: From `resources_of`.
        available: CPUs and GPUs of this machine or cluster.

    Raises:
        ConfigError: If more is asked for than there is.
    """
    for kind, advice in (
        ("GPU", "Set num_gpus: 0 and num_gpus_per_env_runner: 0 to train on the CPU"),
        ("CPU", "Lower num_env_runners, num_cpus_per_env_runner or num_cpus_for_main_process"),
    ):
        if asked.get(kind, 0) > available.get(kind, 0):
            raise ConfigError(
                f"config: expected a trial that asks for at most the {available.get(kind, 0):g} {kind}s that are here, "
                f"got {asked[kind]:g}. {advice}."
            )


def _check_keys(what: str, config: Mapping[str, Any], defaults: AlgorithmConfig) -> None:
    for key in config:
        if key in OLD_KEYS:
            raise ConfigError(f"{what}: old key {key!r}: expected {OLD_KEYS[key]}; RLlib would ignore it. Rename it.")
    known = {key for key in vars(defaults) if not key.startswith("_")} - set(TRANSLATED.values())
    check_keys(what, config, known | set(TRANSLATED) | {"multiagent"}, "RLlib would ignore it in silence")
    model = config.get("model", {})
    if not isinstance(model, dict):
        raise ConfigError(f"{what}: model: expected a mapping, got {model!r}. Write one.")
    check_keys(f"{what}: model", model, MODEL_DEFAULTS, "RLlib would ignore it in silence")
    for where, given, fixed in ((what, config, FIXED), (f"{what}: model", model, FIXED_MODEL)):
        for key, (value, reason) in fixed.items():
            if key in given and given[key] != value:
                raise ConfigError(f"{where}: {key}: expected {value}, got {given[key]!r}: {reason}. Leave it out.")


def _check_types(config: Mapping[str, Any], defaults: AlgorithmConfig) -> None:
    """A value must be of its default's kind, where the default is a plain number or flag."""
    for key, value in config.items():
        default = getattr(defaults, TRANSLATED.get(key, key), None)
        if isinstance(default, bool):
            if not isinstance(value, bool):
                raise ConfigError(f"config: {key}: expected true or false, got {value!r}. Write one of the two.")
        elif isinstance(default, (int, float)):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                hint = " YAML reads 1e-3 as text; write 1.0e-3." if isinstance(value, str) else " Write one."
                raise ConfigError(f"config: {key}: expected a number, got {value!r}.{hint}")
            if default >= 0 and not value >= 0:
                raise ConfigError(f"config: {key}: expected a number of at least 0, got {value!r}. Raise it.")
    for key in SCHEDULED:
        if key in config and config.get(f"{key}_schedule") is not None:
            raise ConfigError(f"config: expected {key} or {key}_schedule, got both; the schedule would win. Drop one.")
    for key in ("gamma", "lambda"):
        check_number(f"config: {key}", config.get(key, 1), 0, 1)
    batch_modes = ("truncate_episodes", "complete_episodes")
    check_choice("config: batch_mode", config.get("batch_mode", batch_modes[0]), batch_modes)


def _check_class_paths(config: Mapping[str, Any]) -> None:
    if config.get("callbacks") is not None:
        resolve_subclass("config: callbacks", config["callbacks"], DefaultCallbacks)
    if config.get("sample_collector") is not None:
        resolve_subclass("config: sample_collector", config["sample_collector"], SampleCollector)
    exploration = config.get("exploration_config", {})
    if not isinstance(exploration, dict):
        raise ConfigError(f"config: exploration_config: expected a mapping, got {exploration!r}. Write one.")
    kind = exploration.get("type")
    if isinstance(kind, str) and "." not in kind:
        check_choice("config: exploration_config: type", kind, sorted(explorations.__all__))
    elif kind is not None:
        resolve_subclass("config: exploration_config: type", kind, Exploration)
    _refuse_types({key: value for key, value in exploration.items() if key != "type"}, "config: exploration_config")
    checked = ("exploration_config", "multiagent", "env_config")
    _refuse_types({key: value for key, value in config.items() if key not in checked}, "config")


def _refuse_types(value: Any, where: str) -> None:
    """RLlib builds whatever stands under `type`; only the places checked one by one may have it."""
    if isinstance(value, dict):
        if "type" in value:
            raise ConfigError(f"{where}: expected no 'type' here, got {value['type']!r}. Remove it.")
        for key, inner in value.items():
            _refuse_types(inner, f"{where}: {key}")
    elif isinstance(value, list):
        for inner in value:
            _refuse_types(inner, where)


def _env_class(env: str) -> type[gym.Env] | None:
    """The environment's class, or None for a name that is registered with Tune or gymnasium."""
    if "." in env:
        return resolve_subclass("env", env, gym.Env)
    if not env_is_registered(env) and env not in gym.registry:
        raise ConfigError(
            f"env: expected an import path such as rllib_tag.TagEnv or a registered name, got {env!r}. Write one."
        )
    return None


def _build_env(env_class: type[TagEnv], env_config: Any) -> TagEnv:
    """Builds the environment, and plays a step where foreign wrappers have a part in it."""
    if not isinstance(env_config, dict):
        raise ConfigError(f"config: env_config: expected a mapping, got {env_config!r}. Write one.")
    env = env_class(env_config)
    if env.config.wrappers:
        try:
            env.reset(seed=0)
            env.step({agent: env.action_spaces[agent].sample() for agent in env.agents})
        except Exception as error:  # a wrapper may raise anything
            raise ConfigError(
                f"config: env_config: wrappers: expected a game that can be played, "
                f"got {type(error).__name__}: {error}. Change the wrappers or their arguments."
            ) from error
    env.close()
    return env


def _check_shaping(team: TagEnv, gamma: float) -> None:
    if team.config.shaping and team.config.shaping_gamma != gamma:
        raise ConfigError(
            f"config: env_config: shaping_gamma: expected the training's gamma, {gamma}, "
            f"got {team.config.shaping_gamma}; otherwise shaping changes what is optimal. Make them equal."
        )


def _check_evaluation(
    config: Any, defaults: AlgorithmConfig, env_config: Mapping[str, Any], env_class: type[gym.Env] | None
) -> None:
    if config is None:
        return
    if not isinstance(config, dict):
        raise ConfigError(f"config: evaluation_config: expected a mapping, got {config!r}. Write one.")
    _check_keys("config: evaluation_config", config, defaults)
    if "env_config" in config and env_class is not None and issubclass(env_class, TagEnv):
        _build_env(env_class, {**env_config, **config["env_config"]})


def _check_model(config: Mapping[str, Any], team: TagEnv | None) -> None:
    path = config.get("model", {}).get("custom_model")
    if path is None:
        if team is not None:
            raise ConfigError("config: model: expected custom_model: rllib_tag.CommModel, got none. Add it.")
        return
    model = resolve_subclass("config: model: custom_model", path, TorchModelV2)
    if issubclass(model, CommModel):
        comm = CommConfig.from_mapping(config["model"].get("custom_model_config", {}))
        if comm.critic == "shared" and config.get("num_gpus", 0) > 1:
            raise ConfigError(
                "config: critic: shared: expected at most one GPU for the learner, "
                f"got num_gpus: {config['num_gpus']}; RLlib keeps a copy of the model on each. "
                "Set num_gpus: 1 or critic: class."
            )


def _check_multiagent(multiagent: Any, team: TagEnv | None, defaults: AlgorithmConfig) -> None:
    if not isinstance(multiagent, dict):
        raise ConfigError(f"config: multiagent: expected a mapping, got {multiagent!r}. Write one.")
    check_keys("config: multiagent", multiagent, MULTIAGENT_KEYS)
    policies = _policy_names(multiagent.get("policies", []), defaults)
    to_train = multiagent.get("policies_to_train")
    if to_train is not None:
        if not isinstance(to_train, list):
            raise ConfigError(
                f"config: multiagent: policies_to_train: expected a list of names, got {to_train!r}. Write one."
            )
        check_keys("config: multiagent: policies_to_train", to_train, policies)
    mapping = _build_mapping(multiagent.get("policy_mapping_fn"))
    if team is None:
        return
    if mapping is None:
        raise ConfigError(
            "config: multiagent: expected policy_mapping_fn: {type: rllib_tag.ClassPolicyMapping, …}, got none. Add it."
        )
    ours = (mapping.roster.num_class_a, mapping.roster.num_class_b)
    theirs = (team.config.num_class_a, team.config.num_class_b)
    if ours != theirs:
        raise ConfigError(
            f"config: policy_mapping_fn and env_config disagree on (num_class_a, num_class_b): expected {theirs} "
            f"as in env_config, got {ours}. Make them equal."
        )
    needed = {mapping(agent, None) for agent in team.possible_agents}
    if needed != set(policies):
        raise ConfigError(
            f"config: multiagent: policies: expected exactly those that agents act by, {sorted(needed)}, "
            f"got {sorted(policies)}. Name these."
        )


def _policy_names(policies: Any, defaults: AlgorithmConfig) -> list[str]:
    """The names in a list, or in a mapping to RLlib's quadruples, of which a file may fill the last place."""
    if not isinstance(policies, (list, dict)) or not all(isinstance(name, str) for name in policies):
        raise ConfigError(f"config: multiagent: policies: expected a list of names, got {policies!r}. Write one.")
    if isinstance(policies, dict):
        for name, spec in policies.items():
            what = f"config: multiagent: policies: {name}"
            if not isinstance(spec, list) or spec[:3] != [None] * 3 or len(spec) != 4 or not isinstance(spec[3], dict):
                raise ConfigError(
                    f"{what}: expected [null, null, null, {{…}}] with a policy's own config last, got {spec!r}; "
                    "RLlib resolves no class path here. Write it so."
                )
            _check_keys(what, spec[3], defaults)
    return list(policies)


def _build_mapping(entry: Any) -> ClassPolicyMapping | None:
    if entry is None:
        return None
    what = "config: multiagent: policy_mapping_fn"
    if not isinstance(entry, dict) or "type" not in entry:
        raise ConfigError(f"{what}: expected {{type: rllib_tag.ClassPolicyMapping, …}}, got {entry!r}. Write it so.")
    arguments = dict(entry)
    path = arguments.pop("type")
    found = resolve_subclass(what, path, ClassPolicyMapping)
    try:
        inspect.signature(found).bind(**arguments)
    except TypeError as error:
        raise ConfigError(
            f"{what}: {path}: expected the arguments {inspect.signature(found)}, got: {error}. Use these."
        ) from error
    return found(**arguments)
