"""Whether a run samples on arrays, and if not, why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.rllib.algorithms.callbacks import DefaultCallbacks

from rllib_tag.plugin.callbacks import TagCallbacks
from rllib_tag.plugin.class_paths import resolve
from rllib_tag.plugin.env import TagEnv
from rllib_tag.plugin.env_config import TagEnvConfig
from rllib_tag.plugin.mapping import ClassPolicyMapping
from rllib_tag.plugin.model import CommModel
from rllib_tag.plugin.tag_vec import mpe2_needed

# Keys of RLlib that the batched sampler has no part in, each with the only value that it knows; all are defaults.
PLAIN_ONLY: dict[str, Any] = {
    "count_steps_by": "env_steps",
    "sample_collector": None,
    "postprocess_inputs": False,
    "compress_observations": False,
    "remote_worker_envs": False,
    "output": None,
    "clip_rewards": None,
    "off_policy_estimation_methods": {},
    "use_gae": True,
    "use_critic": True,
    "fake_sampler": False,
    "render_env": False,
    "torch_compile_learner": False,
    "torch_compile_worker": False,
}
# Callbacks that would see nothing, or batches of another form.
HOOKS = (
    "on_sub_environment_created", "on_episode_created", "on_episode_start", "on_episode_step", "on_episode_end",
    "on_postprocess_trajectory", "on_sample_end", "on_learn_on_batch",
)  # fmt: skip


def why_plain(run: str, env: str, config: Mapping[str, Any]) -> str | None:
    """What keeps a checked config from being sampled on arrays; None if nothing does.

    Args:
        run: The algorithm's name.
        env: The environment's import path or registered name.
        config: RLlib's config, without unresolved search values.
    """
    if run != "PPO":
        return f"run: {run}"
    multiagent = config.get("multiagent", {})
    mapping = multiagent["policy_mapping_fn"]["type"] if multiagent.get("policy_mapping_fn") else None
    if mapping is None or resolve("policy_mapping_fn", mapping) is not ClassPolicyMapping:
        return f"policy_mapping_fn: {mapping}"
    policies = multiagent.get("policies", [])
    capacity = multiagent.get("policy_map_capacity", config.get("policy_map_capacity", len(policies)))
    if capacity < len(policies):
        return f"policy_map_capacity: {capacity}"
    evaluation = dict(config.get("evaluation_config") or {})
    evaluation["env_config"] = {**config.get("env_config", {}), **evaluation.get("env_config", {})}
    own = [spec[3] for spec in policies.values()] if isinstance(policies, dict) else []
    for given in (config, {**config, **evaluation}, *({**config, **changes} for changes in own)):
        reason = _why_plain(given.get("env", env), {**multiagent, **given})
        if reason is not None:
            return reason
    return None


def _why_plain(env: str, config: Mapping[str, Any]) -> str | None:
    """The same for one worker's, or one policy's, view of the config."""
    if "." not in env or resolve("env", env) is not TagEnv:
        return f"env: {env}"
    reason = mpe2_needed(TagEnvConfig.from_mapping(config.get("env_config", {})))
    if reason is not None:
        return reason
    if resolve("custom_model", config["model"]["custom_model"]) is not CommModel:
        return f"custom_model: {config['model']['custom_model']}"
    callbacks = resolve("callbacks", config["callbacks"]) if config.get("callbacks") else DefaultCallbacks
    for hook in HOOKS:
        if getattr(callbacks, hook) not in (getattr(DefaultCallbacks, hook), getattr(TagCallbacks, hook)):
            return f"callbacks: {config['callbacks']}, which has {hook}"
    for key, value in PLAIN_ONLY.items():
        if config.get(key, value) != value:
            return f"{key}: {config[key]}"
    exploration = config.get("exploration_config", {}).get("type", "StochasticSampling")
    if exploration != "StochasticSampling":  # others also look at whole trajectories
        return f"exploration_config: {exploration}"
    if config.get("num_gpus", 0) > 1:
        return f"num_gpus: {config['num_gpus']}"
    return None
