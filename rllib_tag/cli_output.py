"""What the `rllib` command prints while it works, and where."""

from __future__ import annotations

import codecs
import os
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from io import TextIOWrapper
from types import FrameType
from typing import TYPE_CHECKING, Any

from rich import progress
from rich.console import Console
from rich.live import Live
from rich.text import Text

from rllib_tag.errors import ConfigError
from rllib_tag.results import env_steps

if TYPE_CHECKING:
    from rllib_tag.places import Place
    from rllib_tag.report.sweep import Sweep

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
        for number, handler in before.items():
            signal.signal(number, handler)


def print_best(sweep: Sweep, best: Place) -> None:
    """Prints a sweep's trials, and where the best one's config and newest checkpoint are."""
    from rllib_tag.report.sweep import sweep_table

    console.print(sweep_table(sweep))
    kept = best.checkpoints()
    console.print(f"best: {kept[-1] if kept else f'{best.location}, which kept no checkpoint'}")
    config = (best / "params.json").location
    console.print(f"its config: {config}; to see this again: rllib sweep report {best.parent.location}")


class Results:
    """Prints one line per iteration: progress, time, return. On a terminal, several trials have one line each."""

    def __init__(self) -> None:
        self._lines: dict[str, str] = {}
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Any:
        return self

    def begin(self, note: str) -> None:
        """Prints a note, such as which sampler the next experiment uses."""
        self._live.stop()
        self._lines.clear()
        console.print(note)

    def show(self, trial: str, result: Mapping[str, Any], stop: Mapping[str, float]) -> None:
        """Shows a trial's newest result."""
        line, (number, _, varied) = _result_line(result, stop), trial.partition("_")
        if not varied:
            console.print(line)
        elif console.is_terminal:
            self._lines[number] = f"{line}  {varied}"
            self._live.start()
            self._live.update(Text("\n".join(self._lines.values()), no_wrap=True, overflow="ellipsis"), refresh=True)
        else:
            console.print(f"{line}  {varied}")

    def __exit__(self, *exc: object) -> None:
        self._live.stop()


def _result_line(result: Mapping[str, Any], stop: Mapping[str, float]) -> str:
    metrics = result.get("env_runners", {}).get("custom_metrics", {})
    seconds, steps = result["time_total_s"], env_steps(result)
    parts = [f"{steps:>9,} steps", f"{seconds:>6.0f} s"]
    if result["timesteps_total"] != steps:  # with `count_steps_by: agent_steps`
        parts.insert(1, f"{result['timesteps_total']:>9,} agent steps")
    fractions = [result[key] / limit for key, limit in stop.items() if isinstance(result.get(key), (int, float))]
    if fractions:
        done = min(1.0, max(fractions))
        parts.insert(0, f"{done:>4.0%}")
        parts.append(f"{seconds / done - seconds:>5.0f} s to go" if done > 0 else "")
    names = {
        "return_adversary_mean": "return {:6.1f}",
        "return_team_mean": "return {:6.1f}",
        "captured_mean": "captured {:4.0%}",
        "contacts_mean": "contacts {:5.1f}",
    }
    parts += [form.format(metrics[key]) for key, form in names.items() if key in metrics]
    return "  ".join(parts)


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
