"""The package's own shape: imports point one way, opening it is cheap."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import rllib_tag

ROOT = Path(rllib_tag.__file__).parent
# Who may import whom, besides itself and the ground floor.
GROUND_FLOOR = {"errors", "files", "names", "places", "results"}
ARROWS = {
    "world": set(),
    "games": {"world"},
    "nn": {"world"},
    "plugin": {"world", "nn"},
    "experiment": {"world", "nn", "plugin"},
    "training": {"world", "nn", "plugin", "experiment"},
    "playing": {"world", "nn", "plugin", "experiment"},
    "report": set(),
    "cli": {"cli.commands"},
    "cli.commands": {
        "experiment",
        "training",
        "report",
        "playing",
        "cli.example",
        "cli.live",
        "cli.options",
        "cli.output",
        "cli.playing",
        "cli.report",
    },
    "__main__": {"cli"},
    "cli.example": {"experiment", "cli.output"},
    "cli.options": {"experiment"},
    "cli.playing": {"experiment", "playing", "report", "cli.options", "cli.output"},
    "cli.report": {"plugin", "playing", "report", "cli.options", "cli.output", "cli.playing"},
    "cli.live": {"cli.output"},
    "cli.output": set(),
    **{name: set() for name in GROUND_FLOOR},
}
OUTSIDE = {
    "nn": {"ray"},
    **{room: {"ray", "torch", "torch_geometric"} for room in (*GROUND_FLOOR, "world", "report")},
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def room_of(module: str) -> str:
    """The room of a module: each module of the command is one of its own."""
    return module if module.startswith("cli.") else module.split(".")[0]


MODULES = [path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    room = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    ours = {room_of(name.removeprefix("rllib_tag.")) for name in imports(path) if name.startswith("rllib_tag.")}
    assert ours - {room} - GROUND_FLOOR <= ARROWS[room]
    assert not {name.split(".")[0] for name in imports(path)} & OUTSIDE.get(room, set())


def test_a_walk_finds_an_arrow_that_turns_back(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from rllib_tag.training.train import train\n")
    assert imports(bad) == {"rllib_tag.training.train"}


def test_opening_reports_loads_neither_ray_nor_torch() -> None:
    reports = ", ".join(f"rllib_tag.report.{path.stem}" for path in sorted((ROOT / "report").glob("[a-z]*.py")))
    code = f"import sys, rllib_tag, {reports}, rllib_tag.cli\nassert not {{'ray', 'torch'}} & set(sys.modules), 'heavy'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_exported_weights_are_played_without_ray(tmp_path: Path) -> None:
    commands = [
        ["evaluate", "--episodes", "2", "--baseline", "random", "--messages", "cut"],
        ["rollout", "--video", "gif"],
        ["transfer", "--episodes", "1", "--largest", "1"],
    ]
    code = (
        f"import sys\nfrom rllib_tag.cli import app\nfor command in {commands}: app(command, standalone_mode=False)\n"
    )
    code += (
        "from rllib_tag.playing import live_game, play, restore\n"
        "live_game.LiveGame(restore.restore(), live_game.Settings(), 0).step(1, 0)\n"
    )
    code += "found = [name for name in sys.modules if name.split('.')[0] == 'ray']\nassert not found, found"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert {path.name for path in tmp_path.iterdir()} == {"evaluation", "rollout", "transfer"}


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT.parent / "CITATION.cff").read_text())
    assert citation["version"] == rllib_tag.__version__


def test_public_names_resolve() -> None:
    for name in rllib_tag.__all__:
        assert getattr(rllib_tag, name) is not None
    assert set(rllib_tag.__all__) <= set(dir(rllib_tag))
    with pytest.raises(AttributeError, match="no attribute 'TagEnvs'"):
        _ = rllib_tag.TagEnvs


def test_setup_cfg_names_what_the_matrix_tests() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT.parent / "setup.cfg")
    required = [line for line in setup["options"]["install_requires"].split("\n") if line and not line.startswith("#")]
    assert [line for line in required if ">=" not in line] == ["gymnasium"]  # whose version is Ray's to say
    pythons = re.findall(r"Python :: (3\.\d+)", setup["metadata"]["classifiers"])
    assert setup["options"]["python_requires"] == f">={pythons[0]}"
    makefile = (ROOT.parent / "Makefile").read_text()
    for kind, python in (("OLDEST", pythons[0]), ("NEWEST", pythons[-1])):
        assert f"{kind}_PYTHON ?= python{python}\n" in makefile
        assert f"mypy --python-version {python}\n" in makefile
