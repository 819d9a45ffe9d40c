"""Episode metrics as RLlib custom metrics, on both of RLlib's API stacks."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.callbacks import DefaultCallbacks
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from rllib_tag.plugin.env import STATS_KEY

EPISODES = "episodes"  # key of what env runners log of each episode


class TagCallbacks(DefaultCallbacks):
    """Reports the metrics of `EpisodeStats` under `env_runners/custom_metrics`.

    RLlib adds `_mean`, `_min` and `_max` to each name, as in `env_runners/custom_metrics/return_adversary_mean`, both
    in Tune's results and in TensorBoard.

    Examples:
        >>> from ray.rllib.algorithms.ppo import PPOConfig
        >>> PPOConfig().callbacks(TagCallbacks).callbacks_class.__name__
        'TagCallbacks'
    """

    def on_episode_end(self, *, episode: Any, metrics_logger: MetricsLogger | None = None, **kwargs: Any) -> None:
        """Reports the metrics of a finished episode; a failed episode has none."""
        if metrics_logger is not None:  # the new API stack
            env = kwargs["env"].envs[kwargs["env_index"]].unwrapped
            for name, value in env.metrics.items():
                log_episode(metrics_logger, ("custom_metrics", name), value)
                for kind in ("mean", "min", "max"):  # for algorithms other than `TeamPPO`
                    metrics_logger.log_value(("custom_metrics", f"{name}_{kind}"), value, reduce=kind)
        elif not isinstance(episode, Exception):
            stats = (episode.last_info_for("__common__") or {}).get(STATS_KEY, {})
            episode.custom_metrics.update(stats)


def log_episode(logger: MetricsLogger, path: tuple[str, ...], value: float) -> None:
    """Logs a number of an episode on RLlib's new API stack, of which `TeamPPO` reports mean, minimum and maximum.

    Args:
        logger: RLlib's logger.
        path: The keys of the number in results.
        value: The number.
    """
    logger.log_value((EPISODES, *path), value, reduce="item_series")
