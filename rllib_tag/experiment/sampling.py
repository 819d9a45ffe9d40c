"""Decides whether a run uses the batched sampler, and if not, says why."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.callbacks import DefaultCallbacks

from rllib_tag.experiment.variant import View
from rllib_tag.plugin import model as model_of_0_1
from rllib_tag.plugin.callbacks import TagCallbacks
from rllib_tag.plugin.env import CommEnv, TagEnv
from rllib_tag.plugin.env_config import read_env_config
from rllib_tag.plugin.mapping import ClassPolicyMapping
from rllib_tag.plugin.old_api_stack.model import CommModel
from rllib_tag.plugin.ray_internals import algorithm_defaults

# RLlib's keys of which the batched sampler supports only the default values.
DEFAULT_SAMPLER_ONLY = (
    "count_steps_by", "sample_collector", "postprocess_inputs", "compress_observations", "remote_worker_envs",
    "output", "clip_rewards", "off_policy_estimation_methods", "use_gae", "use_critic", "fake_sampler", "render_env",
    "torch_compile_learner", "torch_compile_worker", "policy_states_are_swappable",
    "restart_failed_sub_environments",
)  # fmt: skip
# Callbacks that the batched sampler would never call, or would call with batches of another form.
HOOKS = (
    "on_sub_environment_created", "on_episode_created", "on_episode_start", "on_episode_step", "on_episode_end",
    "on_postprocess_trajectory", "on_sample_end", "on_learn_on_batch", "on_environment_created",
)  # fmt: skip


def default_sampler_reason(run: str, views: Iterable[View]) -> str | None:
    """Returns why a checked config needs RLlib's default sampler; None if the batched sampler supports it.

    Args:
        run: The algorithm's name.
        views: What the training and the evaluation workers get.
    """
    if run != "PPO":
        return f"run: {run}"
    return next((reason for reason in (_reason(view, algorithm_defaults(run)) for view in views) if reason), None)


def _reason(view: View, defaults: AlgorithmConfig) -> str | None:
    if view.env not in (TagEnv, CommEnv):
        return f"env: {view.config.env}"
    mapping, capacity = view.config.policy_mapping_fn, view.config.policy_map_capacity
    if type(mapping) is not ClassPolicyMapping:
        return f"policy_mapping_fn: {_name(type(mapping))}"
    if capacity < len(view.policies):
        return f"policy_map_capacity: {capacity}"
    env_config = read_env_config(view.config.env_config)
    if env_config.unbatched_reason is not None:
        return env_config.unbatched_reason
    is_played = view.config.evaluation_interval or not view.config.in_evaluation
    if is_played and view.config.batch_mode == "complete_episodes" and not env_config.game.fixed_length:
        return "complete episodes of different lengths"
    callbacks = view.config.callbacks_class
    for hook in HOOKS:
        if getattr(callbacks, hook, None) not in (
            getattr(kind, hook, None) for kind in (DefaultCallbacks, TagCallbacks)
        ):
            return f"callbacks: {_name(callbacks)}, which has {hook}"
    for config in (view.config, *view.policies.values()):
        model, exploration = config.model["custom_model"], config.exploration_config.get("type")
        if model not in (CommModel, model_of_0_1.CommModel):
            return f"custom_model: {_name(model)}"
        for key in DEFAULT_SAMPLER_ONLY:
            if config[key] != defaults[key]:
                return f"{key}: {config[key]}"
        if exploration != "StochasticSampling":  # the others also read whole trajectories
            return f"exploration_config: {_name(exploration)}"
        if config.num_gpus > 1:
            return f"num_gpus: {config.num_gpus}"
    return None


def _name(kind: Any) -> str:
    """Returns the import path of a class."""
    return f"{kind.__module__}.{kind.__qualname__}" if isinstance(kind, type) else str(kind)
