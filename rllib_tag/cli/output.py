"""What the `rllib` command prints while it works, and where."""

from __future__ import annotations

import codecs
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import Any

from rich import progress
from rich.console import Console
from rich.text import Text

from rllib_tag.errors import ConfigError

LEGIBLE = "rllib_tag.legible"  # the name under which codecs know `_legible`
PLAIN = {"±": "+-", "…": "..."}


class LiteralConsole(Console):
    """A console that prints text as it is given, whatever the stream can encode and whether or not anybody reads it.

    Nothing in a path or a name is taken for Rich's markup, emoji codes or highlighting. When a pipe's reader is gone,
    as after `| head -1`, the work continues silently.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(soft_wrap=True, markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Returns the text in characters that the stream can encode, before it is measured and laid out."""
        return super().render_str(
            text.encode(self.encoding, LEGIBLE).decode(self.encoding, "surrogateescape"), **options
        )

    def on_broken_pipe(self) -> None:
        """Stops printing."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


def _legible(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replaces characters that a stream cannot encode. File names that are not text keep their bytes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    bad = error.object[error.start : error.end]
    if all("\udc80" <= char <= "\udcff" for char in bad):
        return bad.encode("utf-8", "surrogateescape"), error.end
    return "".join(PLAIN.get(char) or char.encode("ascii", "backslashreplace").decode() for char in bad), error.end


codecs.register_error(LEGIBLE, _legible)
console, errors = LiteralConsole(), LiteralConsole(stderr=True)


def run_command(command: Callable[[], object], ray_ends: Callable[[], bool] = lambda: False) -> None:
    """Runs a command. Wrong input ends it with one line and exit status 2.

    Ctrl-C ends it with exit status 130, and SIGTERM, which interrupts it like Ctrl-C, with 143.

    Args:
        command: The command.
        ray_ends: Whether SIGTERM has reached the Ray that it uses, too. Default: it has not.
    """
    ended_by, is_interrupted = 0, False
    resent: threading.Timer | None = None

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal ended_by, is_interrupted
        ended_by, is_interrupted = ended_by or number, True
        raise KeyboardInterrupt

    def terminate(number: int, frame: FrameType | None) -> None:
        nonlocal ended_by
        ended_by = number
        if ray_ends():  # Ray would wait for its processes for a minute
            console.show_cursor()
            errors.print(
                "interrupted, and so were Ray's processes; continue with --resume and the same options", style="red"
            )
            os._exit(128 + number)
        handler = signal.getsignal(signal.SIGINT)  # Tune's own, while it trains
        (handler if callable(handler) else interrupt)(signal.SIGINT, frame)

    def again(lost: sys.UnraisableHookArgs) -> None:
        """Sends a signal again whose exception was lost, because it came during a destructor or the like."""
        nonlocal resent
        if isinstance(lost.exc_value, KeyboardInterrupt):
            number = ended_by or signal.SIGINT
        elif isinstance(lost.exc_value, SystemExit) and signal.getsignal(signal.SIGTERM) is not terminate:
            number = signal.SIGTERM
            signal.signal(number, terminate)  # Ray's own, while it starts, takes no second one
        else:
            hook(lost)
            return
        resent = threading.Timer(0.1, os.kill, (os.getpid(), number))
        resent.daemon = True
        resent.start()

    hook, sys.unraisablehook = sys.unraisablehook, again
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, terminate)
    if before[signal.SIGINT] is signal.default_int_handler:  # a shell ignores it for what runs in the background
        signal.signal(signal.SIGINT, interrupt)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=LEGIBLE)
    warnings.filterwarnings("ignore", message="`torch.jit", category=FutureWarning)  # from torch, when PyG is imported
    try:
        command()
    except SystemExit as end:
        if is_interrupted:
            errors.print("interrupted", style="red")
        sys.exit(128 + ended_by if ended_by and end.code else end.code)
    except ConfigError as error:
        errors.print(f"error: {error}", style="red")
        sys.exit(2)
    finally:
        sys.unraisablehook = hook
        if resent is not None:
            resent.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def joined(paths: Sequence[Path]) -> str:
    """Returns paths as a list in words."""
    *others, last = map(str, paths)
    return f"{', '.join(others)} and {last}" if others else last


class Progress:
    """A progress bar on a terminal; elsewhere, a line for every tenth."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._bar = progress.Progress(
            progress.TextColumn(what),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(),
            console=errors,
            transient=True,
        )
        self._task = self._bar.add_task(what, total=total)

    def __enter__(self) -> Any:
        if errors.is_terminal:
            self._bar.start()
        return self._advance

    def _advance(self, count: int) -> None:
        before, self._done = self._done, self._done + count
        self._bar.advance(self._task, count)
        if not errors.is_terminal and 10 * self._done // self._total > 10 * before // self._total:
            errors.print(f"{self._done} of {self._total} {self._what}")

    def __exit__(self, *exc: object) -> None:
        if errors.is_terminal:
            self._bar.stop()
