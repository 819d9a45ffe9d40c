"""Episode metrics as RLlib custom metrics."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.callbacks import DefaultCallbacks

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

    def on_episode_end(self, *, episode: Any, **kwargs: Any) -> None:
        """Copies the metrics of a finished episode; a failed episode has none."""
        if isinstance(episode, Exception):
            return
        stats = (episode.last_info_for("__common__") or {}).get(STATS_KEY, {})
        episode.custom_metrics.update(stats)
