"""Checkpoints that also hold what the next samples depend on, on both of RLlib's API stacks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import cloudpickle as pickle
from ray.rllib.algorithms.algorithm import Algorithm

from rllib_tag.plugin.ray_internals import episode_history, on_each_runner

NOTE = "note"  # key of a result's message to the user
SAMPLING = "sampling_state.pkl"  # beside RLlib's own files in a checkpoint


class ResumesExactly(Algorithm):
    """An algorithm whose env runners may have a `sampling_state` and a `set_sampling_state`.

    If they do, a checkpoint of the same trial continues the same games with the same random numbers. A checkpoint of
    another trial, as in population-based training, only provides weights, optimizers and counters.
    """

    _notes: Sequence[str] = ()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Writes RLlib's checkpoint, and beside it what the runners' next samples depend on."""
        super().save_checkpoint(checkpoint_dir)
        if not hasattr(self.env_runner, "sampling_state"):
            return
        states = dict(on_each_runner(self, lambda w: (w.worker_index, w.sampling_state())))
        kept = {"trial": self.trial_id, "episodes": self.get_recent(), "runners": states}
        (Path(checkpoint_dir) / SAMPLING).write_bytes(pickle.dumps(kept))

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Restores a checkpoint, and the running games if it is one of the same trial."""
        super().load_checkpoint(checkpoint_dir)
        file = Path(checkpoint_dir) / SAMPLING
        kept = pickle.loads(file.read_bytes()) if file.exists() else {}
        if kept.get("trial") != self.trial_id:
            return
        self.set_recent(kept["episodes"])
        states = kept["runners"]
        found = dict(on_each_runner(self, lambda w: (w.worker_index, w.set_sampling_state(states.get(w.worker_index)))))
        expected = {*states, *range(self.config.num_env_runners + 1)}
        reasons = {index: found.get(index, "does not respond; its games start over") for index in sorted(expected)}
        self._notes = [f"env runner {index} {reason}" for index, reason in reasons.items() if reason is not None]

    def get_recent(self) -> Any:
        """Returns the earlier episodes that the next result's metrics cover, too."""
        return list(episode_history(self))

    def set_recent(self, recent: Any) -> None:
        """Takes over what `get_recent` returned."""
        episode_history(self)[:] = recent

    def step(self) -> dict[str, Any]:
        """Runs one iteration; the first result after a checkpoint has a `note` if the run did not continue exactly."""
        result = super().step()
        if self._notes:
            result[NOTE], self._notes = "; ".join(self._notes), []
        return result
