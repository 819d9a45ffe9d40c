"""Checkpoints are found, whole, wherever they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rllib_tag import restore
from rllib_tag.cli import app
from rllib_tag.errors import ConfigError
from rllib_tag.experiment.checkpoints import find_checkpoint, is_complete
from rllib_tag.places import local_copy
from rllib_tag.playing.restore import export
from rllib_tag.training.train import TrialEnd


def test_the_newest_whole_checkpoint_is_taken(trained: TrialEnd, tmp_path: Path) -> None:
    trial = tmp_path / "trial"
    source = find_checkpoint(trained.folder)
    for number in (3, 4):
        shutil.copytree(source, trial / f"checkpoint_00000{number}")
    assert find_checkpoint(trial).name == "checkpoint_000004"
    needed = [file for file in sorted(source.rglob("*")) if file.is_file() and file.name != "sampling_state.pkl"]
    assert len(needed) == 6
    for file in needed:
        broken = trial / "checkpoint_000004" / file.relative_to(source)
        broken.unlink()
        assert not is_complete(trial / "checkpoint_000004")
        assert find_checkpoint(trial).name == "checkpoint_000003"
        shutil.copy(file, broken)
    shutil.rmtree(trial / "checkpoint_000003")
    (trial / "checkpoint_000004" / "algorithm_state.pkl").unlink()
    with pytest.raises(ConfigError, match="expected a complete checkpoint below"):
        find_checkpoint(trial)


def test_teams_and_curves_are_read_from_a_uri(trained: TrialEnd, tmp_path: Path) -> None:
    uri = f"file://{trained.folder}"
    team = restore(uri)
    assert team.source == f"{uri}/{sorted(path.name for path in trained.folder.glob('checkpoint_*'))[-1]}"
    assert restore(team.source).source == team.source
    assert team.nets.keys() == {"class_a", "class_b"}
    export(uri, tmp_path / "exported")
    assert restore(f"file://{tmp_path}/exported/manifest.json").seed == team.seed
    result = CliRunner().invoke(app, ["plot", uri, "--out", str(tmp_path / "curve.png")])
    assert result.exit_code == 0, result.output
    with local_copy(uri) as folder:
        for name in ("result.json", "progress.csv"):
            assert (folder / name).read_text() == (trained.folder / name).read_text()
        assert not list(folder.glob("checkpoint_*"))
    assert not folder.exists()
    result = CliRunner().invoke(app, ["plot", f"{uri}/progress.csv", "--out", str(tmp_path / "file.png")])
    assert result.exit_code == 0, result.output


def test_a_linked_trial_is_found_once(trained: TrialEnd, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(trained.folder)
    (tmp_path / "again").symlink_to(trained.folder)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert find_checkpoint(tmp_path).resolve() == find_checkpoint(trained.folder).resolve()


def test_of_a_trial_in_a_store_the_newest_whole_checkpoint_is_fetched(trained: TrialEnd, tmp_path: Path) -> None:
    source = find_checkpoint(trained.folder)
    for number in (3, 4, 5):
        shutil.copytree(source, tmp_path / "a b" / "trial" / f"checkpoint_00000{number}")
    (tmp_path / "a b" / "trial" / "checkpoint_000005" / "algorithm_state.pkl").unlink()
    with local_copy(f"file://{tmp_path}/a%20b", is_complete) as folder:
        assert sorted(found.name for found in folder.glob("trial/*")) == ["checkpoint_000004", "checkpoint_000005"]
        assert find_checkpoint(folder).name == "checkpoint_000004"
