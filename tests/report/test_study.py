"""Interquartile means, intervals and figures of made-up runs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from rllib_tag.errors import ConfigError
from rllib_tag.files import write_csv, write_json
from rllib_tag.report.conditions import draw_conditions
from rllib_tag.report.figures import save_figure
from rllib_tag.report.study import (
    Study,
    bootstrap,
    difference,
    draw_bars,
    draw_improvement,
    draw_learning_curves,
    draw_profiles,
    gap_recovered,
    improvement,
    interquartile_mean,
    interquartile_means,
    late_gain,
    ratio,
)

ARMS = {"comm": 400.0, "no_comm": 280.0, "full_observation": 420.0}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Five runs of three arms around known means."""
    rng = np.random.default_rng(0)
    for arm, mean in ARMS.items():
        for seed in range(1, 6):
            folder = tmp_path / arm / f"seed_{seed}"
            level = mean + 10 * (seed - 3)
            rows = [
                {"controller": name, "seed": i, "return_adversary": value}
                for name, value in (("team", level), ("random", 15.0))
                for i in range(7)
            ]
            write_csv(folder / "episodes.csv", rows)
            curve = [{"env_steps": 100 * i, "seconds": i, "return_adversary": i * level / 3} for i in range(1, 4)]
            write_csv(folder / "curve.csv", curve)
            names = ["team", "cut", "range:0.0", "range:1.0", "range:inf", "delay:2", "drop:0.5"]
            write_csv(
                folder / "conditions.csv",
                [{"condition": name, "return_adversary_mean": level - rng.random()} for name in names],
            )
            influence = {"class_a": {"heard": {"mean": seed / 7, "standard_error": 0.1}}} if arm == "comm" else {}
            write_json(
                folder / "summary.json", {"summary": {}, "episodes": 7, "conditions": names, "influence": influence}
            )
    return Study(tmp_path)


def test_what_runs_still_gain_at_the_end() -> None:
    runs = np.stack([np.arange(15.0) * slope for slope in (2, 3, 5)])
    middle, low, high = late_gain(runs)
    assert (middle, low, high) == (pytest.approx(3 * 10 / 3), 6, 15)
    with pytest.raises(ConfigError, match="at least 10 points, got 9"):
        late_gain(runs[:, :9])


def test_a_ratio_of_nothing_is_anything() -> None:
    three = np.full(3, 3.0)
    assert ratio(three, np.full(2, 2.0)) == (1.5, 1.5, 1.5)
    for others in (np.zeros(2), np.array([-1.0, 5])):  # a gap that may be negative has no share
        assert ratio(three, others)[1:] == (-math.inf, math.inf)


@pytest.mark.parametrize("file", ["episodes.csv", "curve.csv", "conditions.csv"])
def test_files_that_do_not_fit_are_named(file: str, study: Study) -> None:
    read = {"episodes.csv": study.returns, "curve.csv": study.curves, "conditions.csv": study.conditions}[file]
    broken = study.folder / "comm" / "seed_2" / file
    lines = broken.read_text().splitlines()
    broken.write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match=f"expected rows with .* in .*{file}"):
        read("comm")
    broken.write_text("\n".join(lines[:-1]) + "\n")
    if file == "episodes.csv":
        with pytest.raises(ConfigError, match="expected as many episodes of 'random' in all runs of comm, got 7, 6, 7"):
            study.returns("comm", "random")
        with pytest.raises(ConfigError, match="expected as many episodes of 'nobody'"):
            study.returns("comm", "nobody")


def test_the_interquartile_mean_leaves_out_the_highest_and_the_lowest_quarter() -> None:
    scores = {"five": np.array([1000.0, 10, 0, 40, 20]), "ten": np.arange(10.0) ** 2, "three": np.array([3.0, 1, 8])}
    found = interquartile_means(scores)
    assert [found[name][0] for name in scores] == pytest.approx([70 / 3, (4 + 9 + 16 + 25 + 36 + 49) / 6, 4])
    assert found["three"][1:] == (1, 8)


def test_intervals_are_scipys() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.gamma(2, 50, 11), rng.normal(70, 9, 7)
    for samples, statistic in (((x,), interquartile_mean), ((x, y), lambda a, b: a.mean(-1) - b.mean(-1))):
        found = bootstrap(statistic, *samples)
        theirs = stats.bootstrap(
            samples, lambda *given, axis, of=statistic: of(*given), method="percentile", vectorized=True, random_state=2
        )  # fmt: skip
        expected = theirs.confidence_interval
        assert found[0] == pytest.approx(float(statistic(*samples)))
        assert found[1:] == pytest.approx((expected.low, expected.high), abs=0.15 * theirs.standard_error)


def test_the_share_of_the_gap(study: Study) -> None:
    middle, low, high = gap_recovered(study.scores(list(ARMS)), "comm", "no_comm", "full_observation")
    assert middle == pytest.approx(120 / 140)
    assert low < middle < high


def test_a_difference_of_arms(study: Study) -> None:
    scores = study.scores(list(ARMS))
    middle, low, high = difference(scores["comm"], scores["no_comm"])
    assert middle == pytest.approx(120)
    assert 80 <= low < 120 < high <= 160  # the runs lie within 20 of each arm's mean


def test_what_messages_do_is_read_of_every_run(study: Study) -> None:
    (found,) = study.influence("comm").items()
    assert found[0] == ("class_a", "heard")
    assert found[1].tolist() == [seed / 7 for seed in range(1, 6)]
    assert study.influence("no_comm") == {}


def test_who_beats_whom(study: Study) -> None:
    found = improvement(study.scores(list(ARMS)), "comm", ["no_comm", "full_observation"])
    assert found["no_comm"] == pytest.approx((1, 1, 1))
    middle, low, high = found["full_observation"]
    pairs = [(a > b) + 0.5 * (a == b) for a in range(380, 421, 10) for b in range(400, 441, 10)]
    assert middle == pytest.approx(np.mean(pairs))
    assert low < middle < high


def test_every_figure_is_drawn_twice_and_alike(study: Study, tmp_path: Path) -> None:
    labels = {arm: arm.replace("_", " ") for arm in ARMS}
    levels = {"random": 15.0, "all_chase": 398.0}
    scores = study.scores(list(ARMS))

    def draw(folder: Path) -> list[Path]:
        return [
            *draw_learning_curves(study, labels, levels, folder / "curves"),
            *draw_bars(scores, labels, levels, folder / "bars"),
            *draw_profiles(study, labels, folder / "profiles"),
            *draw_improvement(improvement(scores, "comm", ["no_comm"]), labels, "comm", folder / "improvement"),
            *save_figure(draw_conditions(study.conditions("comm"), levels, "return"), folder / "conditions"),
        ]

    first, again = draw(tmp_path / "first"), draw(tmp_path / "again")
    assert len(first) == 10
    for one, other in zip(first, again, strict=True):
        assert one.stat().st_size > 3000
        assert one.read_bytes() == other.read_bytes()


def test_more_arms_than_colours_are_all_drawn(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = []
    monkeypatch.setattr("rllib_tag.report.study.save_figure", lambda figure, out: figures.append(figure))
    study.arms |= {f"arm_{i}": study.arms["comm"] for i in range(9)}
    labels = {arm: arm for arm in study.arms}
    draw_learning_curves(study, labels, {}, tmp_path)
    draw_profiles(study, labels, tmp_path)
    for figure in figures:
        lines = figure.axes[0].lines
        assert [line.get_label().partition(" ")[0] for line in lines] == list(labels)
        assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(labels) == 12


def test_what_is_missing_is_named(study: Study, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected runs as ARM/seed_N/"):
        Study(tmp_path / "comm")
    with pytest.raises(ConfigError, match="expected one of the arms comm, full_observation, no_comm, got 'gcn'"):
        study.returns("gcn")
    (tmp_path / "comm" / "seed_2" / "summary.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"expected a summary.json of `rllib evaluate` in .*seed_2"):
        study.influence("comm")
    (tmp_path / "comm" / "seed_1" / "curve.csv").write_text("env_steps,seconds,return_adversary\n7,1,1\n")
    with pytest.raises(ConfigError, match="expected the same steps in all curves of comm"):
        study.curves("comm")
    (tmp_path / "comm" / "seed_1" / "curve.csv").unlink()
    with pytest.raises(ConfigError, match=r"expected a readable .*curve\.csv"):
        study.curves("comm")
