"""`rllib example`: shipped experiments by name."""

from __future__ import annotations

import sys

import pytest

from rllib_tag.cli import main
from rllib_tag.experiment.examples import describe, example_file, example_files


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["rllib", "example", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_list_shows_what_the_filter_leaves(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert call(monkeypatch, "list", "--filter", "SWEEPS") == 0
    shown = capsys.readouterr().out
    assert {name for name in example_files() if name in shown} == {"sweeps/asha", "sweeps/optuna", "sweeps/pbt"}


def test_every_example_says_what_it_is_for() -> None:
    assert describe(example_file("tag_quick")) == (
        "A small team that learns to hunt within a minute on two cores: the demo."
    )
    assert all(describe(file).endswith((".", ")", "?")) for file in example_files().values())


@pytest.mark.parametrize("command", ["get", "run"])
def test_an_unknown_example_is_one_line(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert call(monkeypatch, command, "tag_pp") == 2
    said = capsys.readouterr().err
    assert "example: expected one of tag_ppo, " in said
    assert "got 'tag_pp'. Did you mean 'tag_ppo'? " in said


def test_options_of_run_are_those_of_train(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert call(monkeypatch, "run", "tag_quick", "--stopp", "3") == 2
    assert "--stopp" in capsys.readouterr().err
    assert call(monkeypatch, "run", "tag_quick", "--stop", "3") == 2
    assert "--stop: expected a JSON object" in capsys.readouterr().err
