"""What of an experiment's checkpoints is deleted, and when."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import posixpath
import threading
from typing import Any, ClassVar

import pyarrow.fs

from rllib_tag.places import CHECKPOINT, Place
from rllib_tag.plugin.ray_internals import TUNE_STATE, state_names

logger = logging.getLogger(__name__)


def newest_state(place: Place) -> Place | None:
    """The file of Tune's newest state of the experiment in a place; None if there is none."""
    names = [name for name in place.files() if name.startswith(TUNE_STATE)]
    return place / max(names) if names else None


class LateDeletion(pyarrow.fs.FSSpecHandler):
    """A file system for Tune on which a checkpoint outlives its deletion while Tune's state on it still names it.

    Tune deletes a checkpoint at once, and writes down later which ones it has: a run that is killed in between would
    look for one that is gone. What is deleted here goes when the newest state that lies there no longer names it.

    Args:
        fs: The file system, of fsspec's kind.
    """

    # Of all instances, since each trial of a resumed run has its own.
    _due: ClassVar[set[str]] = set()
    _lock: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def at(cls, place: Place) -> Place:
        """The same place, with a file system for Tune."""
        return dataclasses.replace(place, filesystem=pyarrow.fs.PyFileSystem(cls(place.filesystem.handler.fs)))

    def delete_dir(self, path: str) -> None:
        """Deletes a folder; a checkpoint's later."""
        if CHECKPOINT.fullmatch(f"{path}/"):
            with self._lock:
                self._due.add(path)
        else:
            super().delete_dir(path)

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        """Opens a file to write; where it is Tune's state, what the last one no longer names goes first."""
        experiment, name = posixpath.split(path)
        if name.startswith(TUNE_STATE):
            self.delete_due(experiment)
        return super().open_output_stream(path, metadata)

    def delete_left_over(self, experiment: str) -> None:
        """Deletes also what a killed run left in an experiment's folder, where nothing is training.

        In a trial's folder, checkpoints older than the newest that the newest state names had been deleted for Tune
        unless it names them, too; newer ones were made after it.
        """
        try:
            state = self._newest_state(experiment)
            trials = [entry["name"] for entry in self.fs.ls(experiment, detail=True) if entry["type"] != "file"]
            for trial in trials:
                found = [path for path in self.fs.ls(trial, detail=False) if CHECKPOINT.fullmatch(f"{path}/")]
                newest = max((path for path in found if state_names(state, path)), default="")
                with self._lock:
                    self._due.update(path for path in found if path < newest)
        except OSError:
            logger.exception("what a killed run left in %s could not be looked for", experiment)
        self.delete_due(experiment)

    def delete_due(self, experiment: str) -> None:
        """Deletes what waits for it in an experiment's folder and is not named by the newest state there.

        What cannot be deleted is logged and tried again: Tune must be able to write its state, and has no use for it.
        """
        with self._lock:
            due = [path for path in self._due if path.startswith(f"{experiment}/")]
            try:
                state = self._newest_state(experiment) if due else b""
                if not state:
                    return
                for path in due:
                    if not state_names(state, path):
                        with contextlib.suppress(FileNotFoundError):
                            super().delete_dir(path)
                        self._due.remove(path)
            except OSError:
                logger.exception("checkpoints in %s that are no longer needed could not be deleted", experiment)

    def _newest_state(self, experiment: str) -> bytes:
        """Tune's newest state of an experiment; nothing if there is none."""
        found = self.fs.ls(experiment, detail=False)
        states = [path for path in found if TUNE_STATE in posixpath.basename(path)]
        return self.fs.cat_file(max(states, key=posixpath.basename)) if states else b""
