"""What is shown of a run while it goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from rllib_tag.cli.output import LiteralConsole


@pytest.mark.parametrize("path", ["o/run[/b]/ex", "[a]", "a:x:b", "[red]"])
def test_paths_are_shown_as_they_were_given(path: str, capfd: pytest.CaptureFixture) -> None:
    LiteralConsole(force_terminal=True).print(f"wrote {path} 12 'x' True")
    assert capfd.readouterr().out == f"wrote {path} 12 'x' True\n"


SHOW = """
import os
from rich.table import Table
from rllib_tag.cli.output import console, errors, run_command
def show():
    table = Table("[name]", "return")
    table.add_row("a:x:b", "1.0 ± 0.5")
    console.print(table)
    errors.print("--config '{…}' é")
run_command(show)
"""


def test_ascii_streams_get_legible_text() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHOW], env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True
    )
    out, err = done.stdout.decode("ascii"), done.stderr.decode("ascii")
    assert done.returncode == 0, err
    assert "1.0 +- 0.5" in out
    assert "[name]" in out
    assert "a:x:b" in out
    assert err == "--config '{...}' \\xe9\n"


def test_a_closed_pipe_is_no_error() -> None:
    script = (
        "from rllib_tag.cli.output import console, run_command\n"
        "run_command(lambda: [console.print('x' * 99) for _ in range(9999)])"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


WORK = """
import time
import typer
from rllib_tag.cli.output import run_command
app = typer.Typer()
@app.command()
def work():
    print("begun", flush=True)
    time.sleep(99)
run_command(app)
"""
DESTRUCTOR = """
import time
import typer
from rllib_tag.cli.output import run_command
class Slow:
    def __del__(self):
        print("begun", flush=True)
        time.sleep(9)
app = typer.Typer()
@app.command()
def work():
    Slow()
    time.sleep(99)
run_command(app)
"""


# As Ray does while it starts: a handler of its own, which takes a single SIGTERM.
OTHERS_HANDLER = DESTRUCTOR.replace(
    "class Slow:",
    """
import signal
import sys
taken = []
def once(number, frame):
    if not taken:
        taken.append(number)
        sys.exit(1)
class Slow:""",
).replace("    Slow()", "    signal.signal(signal.SIGTERM, once)\n    Slow()")


def test_sigterm_is_not_lost_to_a_handler_of_rays() -> None:
    with subprocess.Popen([sys.executable, "-c", OTHERS_HANDLER], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143


@pytest.mark.parametrize("script", [WORK, DESTRUCTOR], ids=["work", "destructor"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_command_ends_in_one_line(number: int, status: int, script: str) -> None:
    """Also if it is interrupted where an exception would be lost: in a destructor or a weak reference's callback."""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.send_signal(number)
        said = process.stderr.read().decode().split()
        assert said in (["interrupted"], ["Aborted.", "interrupted"])  # an older typer says the first, too
        assert process.wait() == status
