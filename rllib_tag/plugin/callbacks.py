"""Episode metrics as RLlib custom metrics, on both of RLlib's API stacks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.callbacks import DefaultCallbacks
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from rllib_tag.plugin.env import STATS_KEY


class TagCallbacks(DefaultCallbacks):
    """Reports the metrics of `EpisodeStats` under `env_runners/custom_metrics`.

    RLlib adds `_mean`, `_min` and `_max` to each name, as in `env_runners/custom_metrics/return_adversary_mean`, both
    in Tune's results and in TensorBoard.

    Example:
        >>> from ray.rllib.algorithms.ppo import PPOConfig
        >>> PPOConfig().callbacks(TagCallbacks).callbacks_class.__name__
        'TagCallbacks'
    """

    def on_episode_end(self, *, episode: Any, metrics_logger: MetricsLogger | None = None, **kwargs: Any) -> None:
        """Reports the metrics of a finished episode; a failed episode has none."""
        if metrics_logger is not None:  # the new API stack
            env = kwargs["env"].envs[kwargs["env_index"]].unwrapped
            log_game(metrics_logger, env.metrics, smoothing_window(kwargs["env_runner"].config))
        elif not isinstance(episode, Exception):
            stats = (episode.last_info_for("__common__") or {}).get(STATS_KEY, {})
            episode.custom_metrics.update(stats)


def log_game(logger: MetricsLogger, metrics: Mapping[str, float], window: int) -> None:
    """Logs the metrics of an episode on RLlib's new API stack, by the names that they have on the old one."""
    for name, value in metrics.items():
        log_spread(logger, ("custom_metrics", name), value, window)


def log_spread(logger: MetricsLogger, path: tuple[str, ...], value: float, window: int) -> None:
    """Logs a number whose mean, minimum and maximum over the last episodes are reported.

    Args:
        logger: RLlib's logger.
        path: The keys of the number in results.
        value: The number.
        window: The number of episodes.
    """
    *folder, name = path
    for kind in ("mean", "min", "max"):
        logger.log_value((*folder, f"{name}_{kind}"), value, reduce=kind, window=window)


def smoothing_window(config: AlgorithmConfig) -> int:
    """Returns over how many episodes of an env runner metrics are taken."""
    return max(1, math.ceil(config.metrics_num_episodes_for_smoothing / (config.num_env_runners or 1)))
