"""Progress messages while Tune runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.tune import Callback
from ray.tune.experiment import Trial

from rllib_tag.plugin.ray_internals import asked_for, is_waiting
from rllib_tag.plugin.team_ppo import NOTE

OnResult = Callable[[str, Mapping[str, Any], Mapping[str, Any]], None]
PATIENCE_S = 10.0  # after which it is said that no trial has begun


class Watch(Callback):
    """Hands every result on, and says once where all trials wait for what others use; Tune's own reporter stays silent.

    Args:
        on_result: Called with a trial's number and what it varies, its result and its stop criteria.
        on_note: Called with what the trials wait for, and with what a result notes.
    """

    def __init__(self, on_result: OnResult, on_note: Callable[[str], None]) -> None:
        self._on_result, self._on_note = on_result, on_note
        self._since = time.monotonic()
        self._told = False

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Hands a result on, and before it what it notes."""
        if NOTE in result:
            self._on_note(f"{trial.experiment_tag}: {result[NOTE]}")
        self._on_result(trial.experiment_tag, result, trial.stopping_criterion)

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Looks whether trials have been waiting for long."""
        waiting = [trial for trial in trials if trial.status == Trial.PENDING]
        if self._told or not waiting or any(trial.status == Trial.RUNNING for trial in trials):
            self._since = time.monotonic()
        elif time.monotonic() > self._since + PATIENCE_S:
            self._since = time.monotonic()
            if is_waiting(waiting[0]):
                self._told = True
                self._on_note(_wants(asked_for(waiting[0]), ray.available_resources()))


def _wants(asked: Mapping[str, float], free: Mapping[str, float]) -> str:
    told = [f"{asked[kind]:g} {kind}s ({free.get(kind, 0):g} free)" for kind in ("CPU", "GPU") if asked.get(kind)]
    return f"waiting for {' and '.join(told)}, which others use; the trial begins when they are free"
