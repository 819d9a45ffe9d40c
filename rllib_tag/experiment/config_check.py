"""Checks a resolved RLlib config before any worker starts. What RLlib would silently ignore is an error here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym

from rllib_tag.errors import ConfigError, check_bool, check_choice, check_int, check_keys
from rllib_tag.experiment.new_api_stack import BACK, STACK_FLAGS, check_new_api_stack, is_for_new_api_stack
from rllib_tag.experiment.sampling import default_sampler_reason
from rllib_tag.experiment.team_check import check_team
from rllib_tag.experiment.value_check import check_values
from rllib_tag.experiment.variant import Variant, View, is_comm, resources_of, views
from rllib_tag.plugin.class_paths import built, env_class, resolve
from rllib_tag.plugin.env import CommEnv
from rllib_tag.plugin.mapping import ClassPolicyMapping
from rllib_tag.plugin.ray_internals import (
    RAY_VERSION,
    READS_USE_KL_LOSS,
    algorithm_class,
    algorithm_defaults,
    algorithm_names,
    env_is_registered,
)

MULTIAGENT_KEYS = (
    "policies", "policy_mapping_fn", "policies_to_train", "policy_map_capacity", "policy_states_are_swappable",
    "count_steps_by",
)  # fmt: skip
# The algorithms that train `CommModel`, and why the others do not.
OURS = ("PPO", "APPO", "IMPALA")
UNFIT = {
    "DQN": "it learns action values, which the model does not output",
    "SAC": "it builds its own networks instead of the model",
    "DreamerV3": "it supports only one agent",
}
OFFLINE = "it learns from recorded data, and this project samples its own"
IN_FRAGMENTS = ("APPO", "IMPALA")  # their losses cut batches into fragments of equal length
# Keys of the whole run; RLlib would ignore another value for a single policy.
RUN_KEYS = (
    "env", "env_config", "multiagent", "callbacks", "num_epochs", "minibatch_size", "train_batch_size",
    "num_env_runners", "num_envs_per_env_runner", "rollout_fragment_length", "batch_mode", "evaluation_interval",
    "evaluation_config", "evaluation_duration", "evaluation_num_env_runners", *STACK_FLAGS,
)  # fmt: skip


def resolve_config(run: str, env: str, config: Mapping[str, Any]) -> Variant:
    """Checks and resolves a config.

    Args:
        run: The algorithm's name.
        env: The environment's import path or registered name.
        config: RLlib's config, without unresolved search values.

    Raises:
        ConfigError: On the first value that does not fit.
    """
    check_choice("run", run, algorithm_names())
    # All other keys mean the same on both stacks, so they are checked as they are on the old one.
    new_api_stack = is_for_new_api_stack(config)
    if new_api_stack and run != "PPO":
        raise ConfigError(f"run: expected PPO on RLlib's new API stack, got {run}. {BACK}")
    given_config, config = config, {**config, **dict.fromkeys(STACK_FLAGS, False)}
    if new_api_stack:
        config["num_gpus"] = 0  # the old stack copies models to several GPUs; learners have one each
    if "env" in config:
        raise ConfigError(f"config: expected env next to config, got it inside: {config['env']!r}. Move it there.")
    is_team = _check_env("env", env)
    _check_algorithm(run, is_team, config)
    mapping_kind = ClassPolicyMapping if is_team else Callable
    defaults = algorithm_defaults(run)
    check_values("config", config, defaults, config)
    policies = _check_multiagent("config: multiagent", config.get("multiagent", {}), mapping_kind)
    given = config.get("evaluation_config")
    if given is not None:
        _check_part("config: evaluation_config", given, config, run)
        if "env" in given:
            _check_env("config: evaluation_config: env", given["env"])
        what = "config: evaluation_config: multiagent"
        _check_multiagent(what, given.get("multiagent", {}), mapping_kind, policies)
    for name, own in policies.items():
        what = f"config: multiagent: policies: {name}"
        _check_part(what, own, config, run)
        for key in RUN_KEYS:
            if key in own:
                raise ConfigError(
                    f"{what}: expected no {key}, which holds for the whole run, got {own[key]!r}. Remove it."
                )
    training, evaluation = views(run, env, config)
    for key, value in (given or {}).items():
        _check_not_ignored(key, value, evaluation)
    check_team(training, evaluation if given else None)
    if run == "PPO" and not new_api_stack:
        _check_kl_loss(training)
    if run in IN_FRAGMENTS and training.is_ours:
        for view in (training, evaluation) if config.get("evaluation_interval") else (training,):
            _check_fragments(run, view)
    reason = default_sampler_reason(run, (training, evaluation))
    if new_api_stack:
        resources = check_new_api_stack({**given_config, "env": env}, (training, evaluation), reason)
    if reason is not None and training.must_be_batched:
        raise ConfigError(
            f"config: env_config: backend: batched: expected a run that the batched sampler supports, got {reason}. "
            "Change that, or set backend: auto."
        )
    if not new_api_stack:
        resources = resources_of(algorithm_class(run), {**config, "env": env})
    return Variant(training, evaluation, resources, reason, new_api_stack)


def _check_env(what: str, env: Any) -> bool:
    """Checks that an environment exists, and returns whether it is a `CommEnv`."""
    found = env_class(what, env)
    if found is not None:
        return issubclass(found, CommEnv)
    if not isinstance(env, str) or (not env_is_registered(env) and env not in gym.registry):
        raise ConfigError(
            f"{what}: expected an import path such as rllib_tag.TagEnv or a registered name, got {env!r}. "
            "Name the environment."
        )
    return False


def _check_algorithm(run: str, is_team: bool, config: Mapping[str, Any]) -> None:
    """Rejects algorithms that cannot train the model, before any of their keys is checked."""
    if run in OURS:
        return
    model = config.get("model")
    path = model.get("custom_model") if isinstance(model, dict) else None
    if is_team or (isinstance(path, str) and "." in path and is_comm(resolve("config: model: custom_model", path))):
        raise ConfigError(
            f"run: expected {', '.join(OURS[:-1])} or {OURS[-1]} with rllib_tag.TagEnv or rllib_tag.CommModel, got "
            f"{run}: {UNFIT.get(run, OFFLINE)}. Change run."
        )


def _check_kl_loss(view: View) -> None:
    """Rejects `use_kl_loss: false` where RLlib ignores it and adds the loss nevertheless."""
    for name, config in view.policies.items():
        if RAY_VERSION < READS_USE_KL_LOSS and not config.use_kl_loss and config.kl_coeff:
            raise ConfigError(
                f"{view.what_of(name)}: expected kl_coeff: 0 next to use_kl_loss: false, which RLlib's old API stack "
                f"ignores before Ray {'.'.join(map(str, READS_USE_KL_LOSS))}, got {config.kl_coeff}. Add kl_coeff: 0."
            )


def _check_fragments(run: str, view: View) -> None:
    """Checks that the dummy batch, on which RLlib first tests the loss, can be cut into complete fragments."""
    for config in view.policies.values():
        length = config.rollout_fragment_length
        what = f"{view.what}: {'evaluation_duration' if config.in_evaluation else 'rollout_fragment_length'}"
        check_int(what, length, 1)
        dummy_steps = min(max(4 * length, 32), config.train_batch_size)
        if dummy_steps % length:
            raise ConfigError(
                f"{what}: expected a length that divides the {dummy_steps} steps on which RLlib first tests the loss "
                f"of {run}, got {length}. Use 1, 2, 4 or 8, or at least 9 with a train_batch_size of at least four "
                "fragments."
            )


def _check_part(what: str, part: Any, config: Mapping[str, Any], run: str) -> None:
    """Checks the part of a config that overrides it for evaluation or for one policy."""
    if not isinstance(part, dict):
        raise ConfigError(f"{what}: expected a mapping, got {part!r}. Write it as key: value.")
    check_values(what, part, algorithm_defaults(run), config)


def _check_not_ignored(key: str, value: Any, evaluation: View) -> None:
    """Rejects a key of `evaluation_config` whose value RLlib would override."""
    advice = {
        "num_env_runners": "evaluation_num_env_runners next to evaluation_config",
        "batch_mode": "evaluation_duration_unit next to evaluation_config",
        "rollout_fragment_length": "evaluation_duration next to evaluation_config",
    }
    # Ray 2.40 keeps the number of env runners in the config, but ignores it as well.
    used = "evaluation_num_env_runners" if key == "num_env_runners" else key
    if key in advice and evaluation.config[used] != value:
        raise ConfigError(
            f"{evaluation.what}: {key}: expected {advice[key]}, got {value!r}, which RLlib would ignore. Move it there."
        )


def _check_multiagent(
    what: str, multiagent: Any, mapping_kind: Any, run_policies: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Checks a `multiagent` section, builds its mapping, and returns each policy's own config by name.

    Args:
        what: What messages call the section.
        multiagent: RLlib's `multiagent`.
        mapping_kind: The base class of the mapping.
        run_policies: For evaluation, the run's policies, which it cannot change. Default: None.
    """
    if not isinstance(multiagent, dict):
        raise ConfigError(
            f"{what}: expected a mapping, got {multiagent!r}. Give it the keys policies and policy_mapping_fn."
        )
    check_keys(what, multiagent, MULTIAGENT_KEYS)
    if run_policies is not None and "policies" in multiagent:
        raise ConfigError(f"{what}: expected no policies, which hold for the whole run. Remove them.")
    policies = _own_configs(what, multiagent.get("policies", [])) if run_policies is None else dict(run_policies)
    to_train = multiagent.get("policies_to_train")
    if to_train is not None:
        if not isinstance(to_train, list):
            raise ConfigError(
                f"{what}: policies_to_train: expected a list of names, got {to_train!r}. Write them in brackets."
            )
        check_keys(f"{what}: policies_to_train", to_train, policies)
    if "policy_map_capacity" in multiagent:
        check_int(f"{what}: policy_map_capacity", multiagent["policy_map_capacity"], 1)
    if "policy_states_are_swappable" in multiagent:
        check_bool(f"{what}: policy_states_are_swappable", multiagent["policy_states_are_swappable"])
    if "count_steps_by" in multiagent:
        check_choice(f"{what}: count_steps_by", multiagent["count_steps_by"], ("env_steps", "agent_steps"))
    _check_mapping(f"{what}: policy_mapping_fn", multiagent.get("policy_mapping_fn"), mapping_kind)
    return policies


def _own_configs(what: str, policies: Any) -> dict[str, Any]:
    """Returns each policy's own config, from a list of names or from RLlib's 4-tuples by name, which end with it."""
    if not isinstance(policies, (list, dict)) or not all(isinstance(name, str) for name in policies):
        raise ConfigError(f"{what}: policies: expected a list of names, got {policies!r}. Write them in brackets.")
    if isinstance(policies, list):
        return {name: {} for name in policies}
    for name, spec in policies.items():
        if not isinstance(spec, list) or spec[:3] != [None] * 3 or len(spec) != 4 or not isinstance(spec[3], dict):
            raise ConfigError(
                f"{what}: policies: {name}: expected [null, null, null, {{…}}] with the policy's own "
                f"config last, got {spec!r}; RLlib does not resolve class paths here. Use this form."
            )
    return {name: spec[3] for name, spec in policies.items()}


def _check_mapping(what: str, entry: Any, kind: Any) -> None:
    """Builds the mapping as RLlib will, to find wrong arguments."""
    if entry is None:
        return
    if not isinstance(entry, dict) or "type" not in entry:
        raise ConfigError(f"{what}: expected {{type: rllib_tag.ClassPolicyMapping, …}}, got {entry!r}. Use this form.")
    built(what, entry, kind, "a mapping")
