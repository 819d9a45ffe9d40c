"""The wheel works away from the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NEEDED = ("rllib_tag", "experiments", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of a fresh environment with the wheel in it; what it depends on is this environment's."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in NEEDED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, folder / "source" / name, **({"symlinks": True} if copy is shutil.copytree else {}))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps"]
    subprocess.run(
        [*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", folder, folder / "source"], check=True
    )
    venv.create(folder / "env", with_pip=False)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "--python", folder / "env" / "bin" / "python", "install", *offline, wheel], check=True)
    (packages,) = folder.glob("env/lib/python*/site-packages")
    # A path, whose own .pth files stay unread: an editable install there does not come along.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "env" / "bin"


def run(installed: Path, folder: Path, *command: str) -> str:
    environment = {**os.environ, "PATH": f"{installed}:{os.environ['PATH']}", "HOME": str(folder)}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [installed / command[0], *command[1:]], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_example_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    where = run(installed, tmp_path, "python", "-c", "import rllib_tag; print(rllib_tag.__file__)")
    assert Path(where.strip()).is_relative_to(installed.parent)
    options = ["--stop", '{"training_iteration": 1}', "--storage-path", "out"]
    assert "done: " in run(installed, tmp_path, "rllib", "example", "run", "tag_quick", *options)
    assert "wrote " in run(installed, tmp_path, "rllib", "rollout", "out/tag_quick", "--video", "html")


def test_examples_of_the_wheel_are_those_of_the_checkout(installed: Path, tmp_path: Path) -> None:
    listed = run(installed, tmp_path, "rllib", "example", "list")
    for file in [*ROOT.glob("experiments/*.yaml"), *ROOT.glob("experiments/s*/*.yaml")]:
        name = file.relative_to(ROOT / "experiments").with_suffix("").as_posix()
        assert name in listed
        assert run(installed, tmp_path, "rllib", "example", "get", name) == file.read_text()
