"""Deletes an experiment's old checkpoints, but not before Tune's saved state can do without them."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import posixpath
import threading
from typing import Any, ClassVar

import pyarrow.fs

from rllib_tag.places import CHECKPOINT, Place
from rllib_tag.plugin.ray_internals import TUNE_STATE, state_contains

logger = logging.getLogger(__name__)


def newest_state(place: Place) -> Place | None:
    """Returns the file of Tune's newest state of the experiment in a place; None if there is none."""
    names = [name for name in place.files() if name.startswith(TUNE_STATE)]
    return place / max(names) if names else None


class LateDeletion(pyarrow.fs.FSSpecHandler):
    """A file system for Tune that keeps deleted checkpoints as long as Tune's saved state references them.

    Tune deletes a checkpoint at once, and records only later which ones it has: a run that is killed in between would
    look for one that is gone. Here, a checkpoint is removed once the newest saved state no longer references it.

    Args:
        fs: The fsspec file system.
    """

    # Shared by all instances, since each trial of a resumed run has its own.
    _due: ClassVar[set[str]] = set()
    _lock: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def at(cls, place: Place) -> Place:
        """Returns the same place, with a file system for Tune."""
        return dataclasses.replace(place, filesystem=pyarrow.fs.PyFileSystem(cls(place.filesystem.handler.fs)))

    def delete_dir(self, path: str) -> None:
        """Deletes a folder; that of a checkpoint, later."""
        if CHECKPOINT.fullmatch(f"{path}/"):
            with self._lock:
                self._due.add(path)
        else:
            super().delete_dir(path)

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        """Opens a file for writing. Before a new state, deletes checkpoints that the last one no longer references."""
        experiment, name = posixpath.split(path)
        if name.startswith(TUNE_STATE):
            self.delete_due(experiment)
        return super().open_output_stream(path, metadata)

    def delete_left_over(self, experiment: str) -> None:
        """Also deletes what a killed run left in an experiment's folder, in which nothing is training.

        Tune had already deleted a trial's checkpoint if it is older than the newest one that the newest state
        references, and is not referenced itself. Newer checkpoints were written after that state.
        """
        try:
            state = self._newest_state(experiment)
            trials = [entry["name"] for entry in self.fs.ls(experiment, detail=True) if entry["type"] != "file"]
            for trial in trials:
                found = [path for path in self.fs.ls(trial, detail=False) if CHECKPOINT.fullmatch(f"{path}/")]
                newest = max((path for path in found if state_contains(state, path)), default="")
                with self._lock:
                    self._due.update(path for path in found if path < newest)
        except OSError:
            logger.exception("could not look for checkpoints that a killed run left in %s", experiment)
        self.delete_due(experiment)

    def delete_due(self, experiment: str) -> None:
        """Deletes the checkpoints due in an experiment's folder that the newest state there does not reference.

        A failure is logged and tried again later: Tune must be able to write its state, and does not need them.
        """
        with self._lock:
            due = [path for path in self._due if path.startswith(f"{experiment}/")]
            try:
                state = self._newest_state(experiment) if due else b""
                if not state:
                    return
                for path in due:
                    if not state_contains(state, path):
                        with contextlib.suppress(FileNotFoundError):
                            super().delete_dir(path)
                        self._due.remove(path)
            except OSError:
                logger.exception("could not delete checkpoints in %s that are no longer needed", experiment)

    def _newest_state(self, experiment: str) -> bytes:
        """Returns Tune's newest state of an experiment; empty if there is none."""
        found = self.fs.ls(experiment, detail=False)
        states = [path for path in found if TUNE_STATE in posixpath.basename(path)]
        return self.fs.cat_file(max(states, key=posixpath.basename)) if states else b""
