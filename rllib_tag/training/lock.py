"""Locks an experiment's folder, so that only one run at a time trains in it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from rllib_tag.errors import ConfigError
from rllib_tag.places import Place

logger = logging.getLogger(__name__)
NAME = ".lock"
BEAT_S = 5.0  # between two writes of the lock of a live run in a store
DEAD_S = 20.0  # without a write, after which the run counts as dead
SETTLE_S = 2.0  # within which all runs that found no lock at the same time have written theirs


@contextlib.contextmanager
def locked(place: Place) -> Iterator[None]:
    """Locks an experiment's folder. Empty folders made for the lock are removed afterwards.

    On a file system, the kernel holds the lock and releases it when the process ends, however it ends. In a store, and
    on file systems without such locks, a file says who holds the lock, and is rewritten every few seconds.

    Raises:
        ConfigError: If another run, on this machine or another one, holds it.
    """
    if not place.is_local:
        with _beating(place / NAME):
            yield
        return
    folder = Path(place.path)
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _held_by_kernel(folder / NAME, place.location) as is_supported:
            if is_supported:
                yield
        if not is_supported:
            with _beating(place / NAME):
                yield
    finally:
        for each in made:
            with contextlib.suppress(OSError):  # not empty
                each.rmdir()


@contextlib.contextmanager
def _held_by_kernel(file: Path, location: str) -> Iterator[bool]:
    """Locks a file with `flock`, which NFS has, too. Yields False if the file system has no such locks."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if file.exists() and os.path.samestat(os.fstat(descriptor), file.stat()):
                break
            os.close(descriptor)  # the previous holder has just removed it
        except BlockingIOError:
            with os.fdopen(descriptor) as opened:
                raise _taken(location, opened.read()) from None
        except OSError as error:
            os.close(descriptor)
            if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL):
                raise
            yield False
            return
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, _note(uuid.uuid4().hex, 0).encode())
        yield True
    finally:
        try:
            file.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _beating(file: Place) -> Iterator[None]:
    """Locks a file in a store by rewriting it as long as this process lives."""
    _wait_for_death(file)
    token, over = uuid.uuid4().hex, threading.Event()
    file.write_text(_note(token, 0))
    time.sleep(SETTLE_S)
    found = _read(file)
    if not _is_of(found, token):
        raise _taken(file.parent.location, found)

    def beat() -> None:
        count = 0
        while not over.wait(BEAT_S):
            count += 1
            try:
                if not _is_of(_read(file), token):  # this machine slept, and another run took this one for dead
                    logger.error(
                        "another run has started in %s: the results of this one are not safe", file.parent.location
                    )
                    return
                file.write_text(_note(token, count))
            except OSError:
                logger.exception("the lock of %s could not be written; trying again", file.parent.location)

    beats = threading.Thread(target=beat, daemon=True)
    beats.start()
    try:
        yield
    finally:
        over.set()
        beats.join()
        if _is_of(_read(file), token):
            file.filesystem.delete_file(file.path)


def _wait_for_death(file: Place) -> None:
    """Returns once there is no lock or its holder is dead.

    Raises:
        ConfigError: If it lives.
    """
    first, began = _read(file), time.monotonic()
    while first and time.monotonic() - began < DEAD_S:
        time.sleep(BEAT_S / 5)
        found = _read(file)
        if found and found != first:
            raise _taken(file.parent.location, found)
        first = found


def _read(file: Place) -> str:
    """Returns a lock's text; empty if there is no lock."""
    file.filesystem.handler.fs.invalidate_cache()
    try:
        return file.read_text()
    except FileNotFoundError:
        return ""


def _note(token: str, beat: int) -> str:
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "token": token, "beat": beat})


def _is_of(note: str, token: str) -> bool:
    return f'"{token}"' in note


def _taken(location: str, note: str) -> ConfigError:
    try:
        holder = json.loads(note)
        who = f"process {holder['pid']} on {holder['host']}"
    except (ValueError, KeyError, TypeError):  # it is being written
        who = "another process"
    return ConfigError(
        f"train: expected a folder in which nothing is training, got {location}, where {who} is. Wait until it has "
        "ended, or give another --experiment-name or --storage-path."
    )
