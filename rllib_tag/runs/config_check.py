"""One resolved RLlib config, checked before any worker starts. What RLlib ignores in silence is an error here."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.callbacks import DefaultCallbacks
from ray.rllib.models.torch.torch_modelv2 import TorchModelV2
from ray.rllib.utils.exploration.exploration import Exploration

from rllib_tag.errors import ConfigError, check_choice, check_keys
from rllib_tag.nn.config import CommConfig
from rllib_tag.plugin.class_paths import resolve, resolve_subclass
from rllib_tag.plugin.env import TagEnv
from rllib_tag.plugin.mapping import ClassPolicyMapping
from rllib_tag.plugin.model import CommModel
from rllib_tag.plugin.ray_internals import MODEL_DEFAULTS, algorithm_defaults, algorithm_names, env_is_registered

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
    "worker_cls": "env_runner_cls",
}
MULTIAGENT_KEYS = (
    "policies", "policy_mapping_fn", "policies_to_train", "policy_map_capacity", "policy_states_are_swappable",
    "observation_fn", "count_steps_by",
)  # fmt: skip
STACK_FLAGS = ("enable_rl_module_and_learner", "enable_env_runner_and_connector_v2")
# Keys that RLlib translates before it sets them.
TRANSLATED = {"callbacks": "callbacks_class", "framework": "framework_str", "lambda": "lambda_", "input": "input_"}


def check_config(run: str, env: str, config: Mapping[str, Any]) -> None:
    """Checks a config without unresolved search values.

    Args:
        run: The algorithm's name.
        env: The environment's import path or registered name.
        config: RLlib's config.

    Raises:
        ConfigError: On the first thing that does not fit.
    """
    defaults = _defaults(run)
    _check_keys(config, defaults)
    _check_types(config, defaults)
    _check_class_paths(config)
    env_class = _env_class(env)
    team = None
    if env_class is not None and issubclass(env_class, TagEnv):
        team = _build_env(env_class, config.get("env_config", {}))
    _check_model(config, team)
    _check_multiagent(config.get("multiagent", {}), team)


@functools.cache
def _defaults(run: str) -> AlgorithmConfig:
    check_choice("run", run, algorithm_names())
    return algorithm_defaults(run)


def _check_keys(config: Mapping[str, Any], defaults: AlgorithmConfig) -> None:
    for key in config:
        if key in OLD_KEYS:
            raise ConfigError(f"config: old key {key!r}: expected {OLD_KEYS[key]}; RLlib would ignore it. Rename it.")
    known = {key for key in vars(defaults) if not key.startswith("_")}
    check_keys(
        "config", config, known | set(TRANSLATED) | {"multiagent", "_fake_gpus"}, "RLlib would ignore it in silence"
    )
    model = config.get("model", {})
    if not isinstance(model, dict):
        raise ConfigError(f"config: model: expected a mapping, got {model!r}.")
    check_keys("config: model", model, MODEL_DEFAULTS, "RLlib would ignore it in silence")
    flags = [config.get(flag) for flag in STACK_FLAGS]
    if flags != [False, False]:
        raise ConfigError(
            f"config: expected {' and '.join(f'{flag}: false' for flag in STACK_FLAGS)}, got {flags}: "
            "TorchModelV2 runs on RLlib's old API stack only. Set both."
        )
    check_choice("config: framework", config.get("framework", "torch"), ["torch"])


def _check_types(config: Mapping[str, Any], defaults: AlgorithmConfig) -> None:
    """A value must be of its default's kind, where the default is a plain number or flag."""
    for key, value in config.items():
        default = getattr(defaults, TRANSLATED.get(key, key), None)
        if isinstance(default, bool):
            if not isinstance(value, bool):
                raise ConfigError(f"config: {key}: expected true or false, got {value!r}.")
        elif isinstance(default, (int, float)) and value is not None:
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            schedule = isinstance(value, list) and key in ("lr", "entropy_coeff")
            if not number and not schedule and not (key == "rollout_fragment_length" and value == "auto"):
                hint = " YAML reads 1e-3 as text; write 1.0e-3." if isinstance(value, str) else ""
                raise ConfigError(f"config: {key}: expected a number, got {value!r}.{hint}")
            if number and not value >= 0 and default >= 0:
                raise ConfigError(f"config: {key}: expected a number of at least 0, got {value!r}.")


def _check_class_paths(config: Mapping[str, Any]) -> None:
    callbacks = config.get("callbacks", config.get("callbacks_class"))
    if callbacks is not None:
        resolve_subclass("config: callbacks", callbacks, DefaultCallbacks)
    for key in ("env_runner_cls", "sample_collector"):
        if config.get(key) is not None and not isinstance(resolve(f"config: {key}", config[key]), type):
            raise ConfigError(f"config: {key}: expected the import path of a class, got {config[key]!r}.")
    exploration = config.get("exploration_config")
    if isinstance(exploration, dict) and "." in str(exploration.get("type", "")):
        resolve_subclass("config: exploration_config: type", exploration["type"], Exploration)
    allowed = ("exploration_config", "multiagent", "env_config")
    _refuse_types({key: value for key, value in config.items() if key not in allowed}, "config")


def _refuse_types(value: Any, where: str) -> None:
    """RLlib builds whatever stands under `type`; only the places checked one by one may have it."""
    if isinstance(value, dict):
        if "type" in value:
            raise ConfigError(f"{where}: expected no 'type' here, got {value['type']!r}. Remove it.")
        for key, inner in value.items():
            _refuse_types(inner, f"{where}: {key}")


def _env_class(env: str) -> type[gym.Env] | None:
    """The environment's class, or None for a name that is registered with Tune or gymnasium."""
    if "." in env:
        return resolve_subclass("env", env, gym.Env)
    if not env_is_registered(env) and env not in gym.registry:
        raise ConfigError(f"env: expected an import path such as rllib_tag.TagEnv or a registered name, got {env!r}.")
    return None


def _build_env(env_class: type[TagEnv], env_config: Any) -> TagEnv:
    if not isinstance(env_config, dict):
        raise ConfigError(f"config: env_config: expected a mapping, got {env_config!r}.")
    env = env_class(env_config)
    env.close()
    return env


def _check_model(config: Mapping[str, Any], team: TagEnv | None) -> None:
    path = config.get("model", {}).get("custom_model")
    if path is None:
        if team is not None:
            raise ConfigError(
                "config: model: expected custom_model: rllib_tag.CommModel for this environment, got none."
            )
        return
    model = resolve_subclass("config: model: custom_model", path, TorchModelV2)
    if issubclass(model, CommModel):
        comm = CommConfig.from_mapping(config["model"].get("custom_model_config", {}))
        if comm.critic == "shared" and config.get("num_gpus", 0) > 1:
            raise ConfigError(
                f"config: critic: shared expects at most one GPU for the learner, got num_gpus: {config['num_gpus']}; "
                "RLlib keeps a copy of the model on each. Set num_gpus: 1 or critic: class."
            )


def _check_multiagent(multiagent: Any, team: TagEnv | None) -> None:
    if not isinstance(multiagent, dict):
        raise ConfigError(f"config: multiagent: expected a mapping, got {multiagent!r}.")
    check_keys("config: multiagent", multiagent, MULTIAGENT_KEYS)
    mapping = _build_mapping(multiagent.get("policy_mapping_fn"))
    if team is None:
        return
    if mapping is None:
        raise ConfigError(
            "config: multiagent: expected policy_mapping_fn: {type: rllib_tag.ClassPolicyMapping, …}, got none."
        )
    policies = multiagent.get("policies", [])
    if not isinstance(policies, (list, dict)):
        raise ConfigError(f"config: multiagent: policies: expected a list of names, got {policies!r}.")
    if isinstance(mapping, ClassPolicyMapping):
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
            f"got {sorted(policies)}."
        )
    to_train = multiagent.get("policies_to_train")
    if to_train is not None:
        if not isinstance(to_train, list):
            raise ConfigError(f"config: multiagent: policies_to_train: expected a list of names, got {to_train!r}.")
        check_keys("config: multiagent: policies_to_train", to_train, policies)


def _build_mapping(entry: Any) -> Any:
    if entry is None:
        return None
    what = "config: multiagent: policy_mapping_fn"
    if not isinstance(entry, dict) or "type" not in entry:
        raise ConfigError(f"{what}: expected {{type: rllib_tag.ClassPolicyMapping, …}}, got {entry!r}.")
    arguments = dict(entry)
    path = arguments.pop("type")
    found = resolve(what, path)
    if not isinstance(found, type) or "__call__" not in vars(found):
        raise ConfigError(f"{what}: expected a class whose instances map agents to policies, got {path!r}.")
    try:
        inspect.signature(found).bind(**arguments)
    except TypeError as error:
        raise ConfigError(f"{what}: {path}: {error}. Its signature is {inspect.signature(found)}.") from error
    return found(**arguments)


def check_gpus(config: Mapping[str, Any], available: float) -> None:
    """Raises where a GPU is asked for and absent: RLlib would train on the CPU in silence.

    Args:
        config: RLlib's config.
        available: GPUs of this machine or cluster.

    Raises:
        ConfigError: If more are asked for than there are.
    """
    runners = config.get("num_env_runners", 2)
    asked = config.get("num_gpus", 0) + config.get("num_gpus_per_env_runner", 0) * runners
    if asked > available:
        raise ConfigError(
            f"config: num_gpus + num_gpus_per_env_runner x num_env_runners: expected at most the {available:g} GPUs "
            f"that are here, got {asked:g}. Set num_gpus: 0 and num_gpus_per_env_runner: 0 to train on the CPU."
        )


def check_cpus(config: Mapping[str, Any], available: float) -> None:
    """Raises where a trial asks for more CPUs than there are: Tune would wait for ever.

    Args:
        config: RLlib's config.
        available: CPUs of this machine or cluster.

    Raises:
        ConfigError: If more are asked for than there are.
    """
    runners = config.get("num_env_runners", 2)
    asked = config.get("num_cpus_for_main_process", 1) + config.get("num_cpus_per_env_runner", 1) * runners
    if asked > available:
        raise ConfigError(
            f"config: num_cpus_for_main_process + num_cpus_per_env_runner x num_env_runners: expected at most the "
            f"{available:g} CPUs that are here, got {asked:g}. Lower num_env_runners or num_cpus_per_env_runner."
        )
