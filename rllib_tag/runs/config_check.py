"""One resolved RLlib config, checked before any worker starts. What RLlib ignores in silence is an error here."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
from ray.rllib.models.torch.torch_modelv2 import TorchModelV2

from rllib_tag.errors import ConfigError, check_choice, check_keys
from rllib_tag.nn.config import CommConfig
from rllib_tag.plugin.class_paths import resolve_subclass
from rllib_tag.plugin.env import TagEnv
from rllib_tag.plugin.mapping import ClassPolicyMapping
from rllib_tag.plugin.model import CommModel
from rllib_tag.plugin.ray_internals import (
    algorithm_defaults,
    algorithm_names,
    env_is_registered,
    required_resources,
)
from rllib_tag.runs.backend import why_plain
from rllib_tag.runs.value_check import check_values

MULTIAGENT_KEYS = ("policies", "policy_mapping_fn", "policies_to_train", "policy_map_capacity", "count_steps_by")
STACK_FLAGS = ("enable_rl_module_and_learner", "enable_env_runner_and_connector_v2")


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
    check_values("config", config, defaults, config)
    flags = [config.get(flag) for flag in STACK_FLAGS]
    if flags != [False, False]:
        raise ConfigError(
            f"config: expected {' and '.join(f'{flag}: false' for flag in STACK_FLAGS)}, got {flags}: "
            "TorchModelV2 runs on RLlib's old API stack only. Set both."
        )
    env_class = _env_class(env)
    team = None
    if env_class is not None and issubclass(env_class, TagEnv):
        team = _build_env(env_class, config.get("env_config", {}))
        _check_shaping(team, config.get("gamma", defaults.gamma))
    _check_model("config", config, team)
    if config.get("evaluation_config") is not None:
        what = "config: evaluation_config"
        part = _check_part(what, config["evaluation_config"], config, ("env", "multiagent"), team, run)
        if "env_config" in part and isinstance(team, TagEnv):
            _build_env(type(team), {**config.get("env_config", {}), **part["env_config"]})
    own_configs = _check_multiagent(config.get("multiagent", {}), team)
    for name, own in own_configs.items():
        what = f"config: multiagent: policies: {name}"
        _check_part(what, own, config, ("env", "env_config", "multiagent"), team, run)
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


def _check_part(
    what: str, part: Any, config: Mapping[str, Any], elsewhere: tuple[str, ...], team: TagEnv | None, run: str
) -> dict[str, Any]:
    """Checks what overrides a config for evaluation, or for one policy."""
    if not isinstance(part, dict):
        raise ConfigError(f"{what}: expected a mapping, got {part!r}. Write one.")
    for key in elsewhere:
        if key in part:
            raise ConfigError(f"{what}: expected no {key}, which is the whole run's, got {part[key]!r}. Remove it.")
    check_values(what, part, algorithm_defaults(run), config)
    if "model" in part:
        _check_model(what, {**config, "model": {**config.get("model", {}), **part["model"]}}, team)
    if not isinstance(part.get("env_config", {}), dict):
        raise ConfigError(f"{what}: env_config: expected a mapping, got {part['env_config']!r}. Write one.")
    return part


def _check_model(what: str, config: Mapping[str, Any], team: TagEnv | None) -> None:
    path = config.get("model", {}).get("custom_model")
    if path is None:
        if team is not None:
            raise ConfigError(f"{what}: model: expected custom_model: rllib_tag.CommModel, got none. Add it.")
        return
    model = resolve_subclass(f"{what}: model: custom_model", path, TorchModelV2)
    if issubclass(model, CommModel):
        comm = CommConfig.from_mapping(config["model"].get("custom_model_config", {}))
        if comm.critic == "shared" and config.get("num_gpus", 0) > 1:
            raise ConfigError(
                "config: critic: shared: expected at most one GPU for the learner, "
                f"got num_gpus: {config['num_gpus']}; RLlib keeps a copy of the model on each. "
                "Set num_gpus: 1 or critic: class."
            )


def _check_multiagent(multiagent: Any, team: TagEnv | None) -> dict[str, Any]:
    """Checks who acts by which policy; returns the policies' own configs by name."""
    if not isinstance(multiagent, dict):
        raise ConfigError(f"config: multiagent: expected a mapping, got {multiagent!r}. Write one.")
    check_keys("config: multiagent", multiagent, MULTIAGENT_KEYS)
    policies = _own_configs(multiagent.get("policies", []))
    to_train = multiagent.get("policies_to_train")
    if to_train is not None:
        if not isinstance(to_train, list):
            raise ConfigError(
                f"config: multiagent: policies_to_train: expected a list of names, got {to_train!r}. Write one."
            )
        check_keys("config: multiagent: policies_to_train", to_train, policies)
    mapping = _build_mapping(multiagent.get("policy_mapping_fn"))
    if team is None:
        return policies
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
    return policies


def _own_configs(policies: Any) -> dict[str, Any]:
    """Each policy's own config, from a list of names or a mapping to RLlib's quadruples, which it ends."""
    if not isinstance(policies, (list, dict)) or not all(isinstance(name, str) for name in policies):
        raise ConfigError(f"config: multiagent: policies: expected a list of names, got {policies!r}. Write one.")
    if isinstance(policies, list):
        return {name: {} for name in policies}
    for name, spec in policies.items():
        if not isinstance(spec, list) or spec[:3] != [None] * 3 or len(spec) != 4 or not isinstance(spec[3], dict):
            raise ConfigError(
                f"config: multiagent: policies: {name}: expected [null, null, null, {{…}}] with a policy's own config "
                f"last, got {spec!r}; RLlib resolves no class path here. Write it so."
            )
    return {name: spec[3] for name, spec in policies.items()}


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
