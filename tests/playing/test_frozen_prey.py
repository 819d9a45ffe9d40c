"""An export carries the frozen prey that its team was trained against."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rllib_tag import TagEnv, evaluate, restore
from rllib_tag.errors import ConfigError
from rllib_tag.nn.config import CommConfig
from rllib_tag.nn.weights import MANIFEST, PREY, Exported, build_net, load_exported, save_exported

SMALL = CommConfig(hidden_dim=8)


def export(folder: Path, good_policy: str, *policies: str) -> Path:
    nets = {name: build_net(name, SMALL, False).eval() for name in policies}
    return save_exported(Exported(nets, {"good_policy": good_policy, "max_cycles": 7}), folder)


@pytest.fixture
def moved(tmp_path: Path) -> Path:
    """The export of a team with frozen prey, elsewhere than it was written; the prey's own is gone."""
    prey = export(tmp_path / "trained_prey", "learned", "good", "class_a")
    written = export(tmp_path / "written", str(prey), "class_a", "class_b")
    shutil.rmtree(prey)
    return written.rename(tmp_path / "moved")


def test_a_moved_export_plays_with_its_prey(moved: Path) -> None:
    assert json.loads((moved / MANIFEST).read_text())["env_config"]["good_policy"] == f"./{PREY}"
    team = restore(moved)
    assert team.env_config["good_policy"] == str(moved / PREY)
    assert evaluate(team, episodes=2).rows == evaluate(moved, episodes=2).rows


def test_an_export_of_an_export_has_the_prey_again(moved: Path, tmp_path: Path) -> None:
    again = save_exported(load_exported(moved), tmp_path / "again")
    shutil.rmtree(moved)
    assert TagEnv(load_exported(again).env_config).reset(seed=0)


def test_prey_may_be_trained_against_prey(moved: Path, tmp_path: Path) -> None:
    # The team's own good agents, trained elsewhere, whose export names the frozen prey of an earlier game.
    other = export(tmp_path / "other", str(moved / PREY), "good")
    last = export(tmp_path / "last", str(other), "class_a")
    shutil.rmtree(other)
    assert (last / PREY / PREY / MANIFEST).exists()
    assert TagEnv(restore(last).env_config).reset(seed=0)


def test_prey_from_a_store_stays_as_long_as_the_process(moved: Path) -> None:
    team = restore(moved.as_uri().replace("file:///", "local:///"))
    assert not Path(team.env_config["good_policy"]).is_relative_to(moved)
    assert len(evaluate(team, episodes=1).rows) == 1


def test_prey_that_is_gone_is_named_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone/manifest\.json, found none"):
        export(tmp_path / "out", str(tmp_path / "gone"), "class_a")
    assert not (tmp_path / "out").exists()
