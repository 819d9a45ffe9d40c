"""Reports progress while Tune runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.tune import Callback
from ray.tune.experiment import Trial

from rllib_tag.plugin.exact_resume import NOTE
from rllib_tag.plugin.ray_internals import is_waiting, requested_resources

OnResult = Callable[[str, Mapping[str, Any], Mapping[str, Any]], None]
PATIENCE_S = 10.0  # without a running trial, after which a note says so


class Watch(Callback):
    """Passes every result on, and notes once if all trials wait for others' resources. Tune's reporter stays silent.

    Args:
        on_result: Called with a trial's number and varied values, its result and its stop criteria.
        on_note: Called with what the trials wait for, and with the note in a result.

    Attributes:
        reported: The ids of the trials that have reported a result in this process.
    """

    def __init__(self, on_result: OnResult, on_note: Callable[[str], None]) -> None:
        self._on_result, self._on_note = on_result, on_note
        self._since = time.monotonic()
        self._has_told = False
        self.reported: set[str] = set()

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Passes a result on, after the note in it."""
        self.reported.add(trial.trial_id)
        if NOTE in result:
            self._on_note(f"{trial.experiment_tag}: {result[NOTE]}")
        self._on_result(trial.experiment_tag, result, trial.stopping_criterion)

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Checks whether trials have been waiting for long."""
        waiting = [trial for trial in trials if trial.status == Trial.PENDING]
        if self._has_told or not waiting or any(trial.status == Trial.RUNNING for trial in trials):
            self._since = time.monotonic()
        elif time.monotonic() > self._since + PATIENCE_S:
            self._since = time.monotonic()
            if is_waiting(waiting[0]):
                self._has_told = True
                self._on_note(_waiting_note(requested_resources(waiting[0]), ray.available_resources()))


def _waiting_note(asked: Mapping[str, float], free: Mapping[str, float]) -> str:
    told = [f"{asked[kind]:g} {kind}s ({free.get(kind, 0):g} free)" for kind in ("CPU", "GPU") if asked.get(kind)]
    return f"waiting for {' and '.join(told)}; the trial starts when they are free"
