"""One run at a time in an experiment's folder."""

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
BEAT_S = 5.0  # between the beats of a living run in a store
DEAD_S = 20.0  # without a beat, after which it counts as dead
SETTLE_S = 2.0  # in which whoever found no lock at the same time has written its own


@contextlib.contextmanager
def locked(place: Place) -> Iterator[None]:
    """Holds an experiment's folder; empty folders made for the lock are removed afterwards.

    On a file system, the kernel holds the lock and gives it up when the process ends, however it does; on a store, and
    where a file system has no such locks, a file there says who holds it, and is written anew every few seconds.

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
        with _held_by_kernel(folder / NAME, place.location) as supported:
            if supported:
                yield
        if not supported:
            with _beating(place / NAME):
                yield
    finally:
        for each in made:
            with contextlib.suppress(OSError):  # not empty
                each.rmdir()


@contextlib.contextmanager
def _held_by_kernel(file: Path, location: str) -> Iterator[bool]:
    """Holds a file by `flock`, which NFS has too; False where the file system has none."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if file.exists() and os.path.samestat(os.fstat(descriptor), file.stat()):
                break
            os.close(descriptor)  # the one before has just removed it
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
    """Holds a file in a store by writing it anew as long as this process lives."""
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
                if not _is_of(_read(file), token):  # this machine slept, and another run took it for dead
                    logger.error("another run has begun in %s: this one's results are not safe", file.parent.location)
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
    """What a lock says; nothing if it is not there."""
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
