"""What is shown of training while it runs."""

from __future__ import annotations

import io
from typing import Any

import pytest

from rllib_tag.cli import live
from rllib_tag.cli.live import Results
from rllib_tag.cli.output import LiteralConsole
from rllib_tag.names import BASELINES
from rllib_tag.playing.evaluate import baseline_returns, evaluate
from rllib_tag.playing.restore import restore

STOP = {"timesteps_total": 4000}


def result(steps: int, seconds: float, **metrics: float) -> dict[str, Any]:
    return {
        "timesteps_total": steps, "num_env_steps_sampled": steps, "time_total_s": seconds,
        "env_runners": {"custom_metrics": metrics},
    }  # fmt: skip


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> LiteralConsole:
    """A terminal of 80 columns and 8 lines."""
    console = LiteralConsole(force_terminal=True, width=80, height=8, file=io.StringIO(), color_system=None)
    monkeypatch.setattr(live, "console", console)
    return console


def lines(results: Results) -> list[list[str]]:
    """The words on each line of the live table."""
    console = LiteralConsole(width=80, file=io.StringIO())
    console.print(results._live.renderable)
    return [line.split() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("agent_steps", "shown"), [(2000, "50%        400 steps      2,000 agent steps"), (400, "10%        400 steps  ")]
)
def test_steps_are_environment_steps_and_agents_steps_are_named(
    agent_steps: int, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Results().show("0", {**result(400, 3.0), "timesteps_total": agent_steps}, STOP)
    assert capsys.readouterr().out.strip().startswith(shown)


def test_a_pipe_gets_a_line_for_each_result(capsys: pytest.CaptureFixture[str]) -> None:
    with Results() as results:
        results.compare("tag", {"random": 14.84, "all_chase": 398.8})
        results.show("0_lr=0.1", result(1000, 10.0, return_adversary_mean=12.34, captured_mean=0.5), STOP)
        results.show("0_lr=0.1", result(2000, 20.0), STOP)
    assert capsys.readouterr().out.splitlines() == [
        "tag: returns to compare with: random 14.8; all chase, full information 398.8",
        " 25%      1,000 steps      10 s     30 s to go  return   12.3  captured    50%  lr=0.1",
        " 50%      2,000 steps      20 s     20 s to go  lr=0.1",
    ]


def test_a_terminal_shows_the_newest_result_of_each_trial(terminal: LiteralConsole) -> None:
    with Results() as results:
        results.show("1_lr=0.1", result(1000, 10.0, return_team_mean=-3.21), STOP)
        results.show("0_lr=0.2", result(1000, 300.0), {"training_iteration": 5})
        results.show("1_lr=0.1", result(3000, 15.0, return_team_mean=-2.5, contacts_mean=3.0), STOP)
        header, first, second = lines(results)
    assert header == ["done", "steps", "steps/s", "time", "to", "go", "return", "contacts", "trial"]
    assert first == ["1,000", "5", "min", "lr=0.2"]
    assert second[1:] == ["75%", "3,000", "400", "15", "s", "5", "s", "-2.5", "3.0", "lr=0.1"]


def test_a_trial_that_goes_back_to_a_checkpoint_has_no_pace_until_it_goes_on(terminal: LiteralConsole) -> None:
    with Results() as results:
        for steps, seconds, pace in ((20_000, 100.0, None), (9000, 45.0, None), (9500, 46.0, 500), (9600, 45.5, None)):
            results.show("0", result(steps, seconds), STOP)
            header, row = lines(results)
            assert (row[1 + header.index("steps/s")] if "steps/s" in header else None) == (pace and str(pace))


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    console = LiteralConsole(force_terminal=True, width=80, file=io.StringIO())
    monkeypatch.setattr(live, "console", console)
    with Results() as results:
        results.show("0", result(1000, 10.0), STOP)
        assert console.file.getvalue().startswith(" 25%      1,000 steps")


def test_a_terminal_shows_as_many_trials_as_it_has_lines_for(terminal: LiteralConsole) -> None:
    with Results() as results:
        for number in (0, 1, 2, 3, 4, 10, 1):
            results.show(f"{number}_x={number}", result(1000, 10.0), STOP)
        assert [words[-1] for words in lines(results)[1:]] == ["x=1", "x=3", "x=4", "x=10"]
        results.begin()
        results.show("0_x=0", result(1000, 10.0), STOP)
        assert [words[-1] for words in lines(results)[1:]] == ["x=0"]


def test_times_are_in_units_that_fit() -> None:
    assert [live._time(seconds) for seconds in (3, 119, 120, 7140, 7200, 100_000)] == [
        "3 s", "119 s", "2 min", "119 min", "2.0 h", "27.8 h",
    ]  # fmt: skip


def test_baselines_are_those_of_an_evaluation() -> None:
    team = restore("random_prey")
    found = baseline_returns(team.env_config, episodes=3)
    summary = evaluate(team, episodes=3, baselines=list(BASELINES)).summary()
    assert found == {name: summary[name]["return_adversary"]["mean"] for name in BASELINES}
    assert baseline_returns({**team.env_config, "good_policy": "learned"}) == {}
    assert baseline_returns({**team.env_config, "backend": "mpe2"}) == {}
