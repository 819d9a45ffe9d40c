"""Whether a run samples on arrays, and if not, why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.rllib.algorithms.callbacks import DefaultCallbacks

from rllib_tag.plugin.callbacks import TagCallbacks
from rllib_tag.plugin.class_paths import resolve
from rllib_tag.plugin.env import TagEnv
from rllib_tag.plugin.env_config import TagEnvConfig
from rllib_tag.plugin.model import CommModel

# Keys of RLlib that the batched sampler has no part in, each with the only value that it knows; all are defaults.
PLAIN_ONLY: dict[str, Any] = {
    "count_steps_by": "env_steps",
    "sample_collector": None,
    "postprocess_inputs": False,
    "compress_observations": False,
    "remote_worker_envs": False,
    "output": None,
    "off_policy_estimation_methods": {},
    "use_gae": True,
    "use_critic": True,
}
EPISODE_HOOKS = (
    "on_sub_environment_created", "on_create_policy", "on_episode_created", "on_episode_start", "on_episode_step",
    "on_episode_end", "on_postprocess_trajectory",
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
    if "." not in env or resolve("env", env) is not TagEnv:
        return f"env: {env}"
    env_config = config.get("env_config", {})
    for settings in (env_config, {**env_config, **(config.get("evaluation_config") or {}).get("env_config", {})}):
        game = TagEnvConfig.from_mapping(settings)
        if game.backend == "mpe2":
            return "backend: mpe2"
        if game.wrappers:
            return "wrappers"
        if game.render_mode:
            return f"render_mode: {game.render_mode}"
    if resolve("custom_model", config["model"]["custom_model"]) is not CommModel:
        return f"custom_model: {config['model']['custom_model']}"
    callbacks = resolve("callbacks", config["callbacks"]) if config.get("callbacks") else DefaultCallbacks
    for hook in EPISODE_HOOKS:
        if getattr(callbacks, hook) not in (getattr(DefaultCallbacks, hook), getattr(TagCallbacks, hook)):
            return f"callbacks: {config['callbacks']}, which has {hook}"
    for key, value in PLAIN_ONLY.items():
        given = config.get(key, config.get("multiagent", {}).get(key, value))
        if given != value:
            return f"{key}: {given}"
    if config.get("num_gpus", 0) > 1:
        return f"num_gpus: {config['num_gpus']}"
    return None
