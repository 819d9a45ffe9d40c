"""The study's own commands, on arms that take seconds."""

from __future__ import annotations

import copy
import csv
import json
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import yaml
from conftest import EXPERIMENTS, script

from rllib_tag.errors import ConfigError
from rllib_tag.experiment.experiment import parse_experiments
from rllib_tag.experiment.spec import load_experiments
from rllib_tag.playing.transfer import transfer

# Arms that stand in for others, so that every part of the report is drawn, and one that lacks the arms beside it.
COPIES = {
    "comm_evasive": "comm", "no_comm_evasive": "no_comm", "full_observation_evasive": "full_observation",
    "comm_relational_evasive": "comm", "comm_long": "comm", "gcn": "comm", "native_3a1b": "no_comm",
    "lone_class_a": "comm",
}  # fmt: skip


def test_every_arm_is_a_sound_experiment() -> None:
    arms = load_experiments(EXPERIMENTS / "study" / "study.yaml")
    parse_experiments(arms)
    assert [len(arms[name]["config"]["seed"]["grid_search"]) for name in arms] == [5] * 3 + [3] * 14 + [5] * 3
    study, report = script("study"), script("report")
    second = load_experiments(EXPERIMENTS / "study" / "second.yaml")
    assert set(report.LABELS) == {*arms, *second} - {"selfplay"}  # which crossplay.py reports
    dims = {name: arms_net(second[name]).get("message_dim") for name in second}
    assert {name for name, dim in dims.items() if dim} == {
        name for names in report.MESSAGE_DIMS.values() for name, dim in names.items() if dim == dims[name]
    }
    assert {talking[0] for _, talking, *_ in report.GAMES.values()} | {"lone_class_a"} == set(study.BASELINES_ON)


def arms_net(spec: dict) -> dict:
    return spec["config"]["model"]["custom_model_config"]


def test_the_second_studys_arms_are_sound_and_use_the_same_seeds() -> None:
    arms = load_experiments(EXPERIMENTS / "study" / "second.yaml")
    for experiment in parse_experiments(arms):
        assert experiment.default_sampler_reason is None
    seeds = {name: arms[name]["config"]["seed"]["grid_search"] for name in arms}
    assert {name: len(found) for name, found in seeds.items()} == {
        **{f"{arm}{prey}": 10 for prey in ("", "_evasive", "_evasive_long")
           for arm in ("comm", "no_comm", "full_observation", "full_comm")},
        **{f"comm_{size}{prey}": 3 for size in (1, 2, 4, 8, 16) for prey in ("", "_evasive")},
        "links_fail_evasive_long": 5,
        **dict.fromkeys(("generalist", *script("report").NATIVES, "selfplay"), 3),
    }  # fmt: skip
    assert all(found == list(range(1, len(found) + 1)) for found in seeds.values())


def test_teams_meet_the_prey_of_other_seeds(ray_session: None, tmp_path: Path) -> None:
    study, crossplay = script("study"), script("crossplay")
    work = tmp_path / "work"
    with pytest.raises(ConfigError, match=r"crossplay: expected checkpoints in .*/selfplay_SEED, found none"):
        crossplay.main(work, "selfplay", tmp_path / "crossplay.csv", 2)
    quick = quick_arms(tmp_path, file="second.yaml")
    study.main(quick, tmp_path / "results", work, 1e9, ["selfplay"], episodes=2, jobs=1)
    crossplay.main(work, "selfplay", tmp_path / "crossplay.csv", 2)
    with (tmp_path / "crossplay.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    prey = {("learned", "1", "200"), ("learned", "2", "200"), ("evasive", "", ""), ("random", "", "")}
    met = [(row["team_seed"], (row["prey"], row["prey_seed"], row["prey_steps"])) for row in rows]
    assert sorted(met) == sorted((team, each) for team in "12" for each in prey)
    assert {row["team_steps"] for row in rows} == {"200"}
    own = json.loads((tmp_path / "results" / "selfplay" / "seed_2" / "summary.json").read_text())["summary"]["team"]
    (row,) = (row for row in rows if (row["team_seed"], row["prey_seed"]) == ("2", "2"))
    assert float(row["return_adversary_mean"]) == own["return_adversary"]["mean"]


def test_what_messages_of_each_size_are_worth_and_say_is_reported(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    study, report, out = script("study"), script("report"), tmp_path / "results"
    study.main(quick_arms(tmp_path, file="second.yaml"), out, tmp_path / "work", 1e9, ["comm_evasive"], 2, 1)
    for seed in (1, 2):
        rows = (out / "comm_evasive" / f"seed_{seed}" / "conditions.csv").read_text().splitlines()
        assert {f"quantize:{bits}" for bits in (1, 2, 4, 8)} < {row.partition(",")[0] for row in rows}
    shutil.copytree(out / "comm_evasive", out / "comm_4_evasive")
    monkeypatch.setattr("rllib_tag.report.study.REPETITIONS", 50)
    report.main(out)
    printed = capsys.readouterr().out
    assert "numbers per message, evasive prey" in printed
    assert re.search(r"4 \(2 seeds\) .*\n +share .*\n +R² of prey's position, class_a, layer 1", printed)
    figures = {path.name for path in (out / "figures").glob("*.svg")}
    assert {"message_dim_evasive.svg", "conditions_comm_evasive.svg"} <= figures


@pytest.mark.parametrize("game", ["speaker_listener", "spread"])
def test_arms_of_other_games_differ_from_the_example_only_in_what_they_are_named_after(game: str) -> None:
    arms = load_experiments(EXPERIMENTS / "games" / "study.yaml")
    parse_experiments(arms)
    (example,) = load_experiments(EXPERIMENTS / "games" / f"{game}.yaml").values()
    example["config"] |= {"seed": {"grid_search": [1, 2, 3]}, "num_env_runners": 0}
    assert arms[f"{game}_comm"] == example
    full = copy.deepcopy(example)
    full["config"]["env_config"]["full_observation"] = True
    assert arms[f"{game}_full_observation"] == full
    deaf = copy.deepcopy(example)
    deaf["config"]["model"]["custom_model_config"] |= {"gnn": "none", "relational": False}
    assert arms[f"{game}_no_comm"] == deaf


def test_the_readme_has_the_table_of_other_games() -> None:
    readme = (EXPERIMENTS.parent / "README.md").read_text()
    found = script("report", "games").rows(EXPERIMENTS / "results" / "games")
    assert len(found) == 6
    for row in found:
        assert f"| {' | '.join(row)} |" in readme


@pytest.mark.nightly
def test_a_run_of_another_game_keeps_its_figures(ray_session: None, tmp_path: Path) -> None:
    quick = quick_arms(tmp_path, "games")
    script("study").main(quick, tmp_path / "results", tmp_path / "work", arm=["spread_comm"], episodes=3, jobs=1)
    summary = json.loads((tmp_path / "results" / "spread_comm" / "seed_2" / "summary.json").read_text())["summary"]
    assert set(summary) == {"team", "cut", "random"}
    conditions = (tmp_path / "results" / "spread_comm" / "seed_1" / "conditions.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in conditions] == ["condition", "team", "cut"]


def quick_arms(folder: Path, study: str = "study", file: str = "study.yaml") -> Path:
    """A study's arms with two seeds of one small iteration each."""
    arms = load_experiments(EXPERIMENTS / study / file)
    for spec in arms.values():
        spec["stop"] = {"training_iteration": 1}
        spec["config"].update(
            num_env_runners=0, num_envs_per_env_runner=2, train_batch_size=200, minibatch_size=100, num_epochs=1
        )
        spec["config"]["seed"] = {"grid_search": [1, 2]}
    (folder / "arms.yaml").write_text(yaml.safe_dump(arms))
    return folder / "arms.yaml"


def test_runs_are_kept_as_they_end_and_reported(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    study, report = script("study"), script("report")
    monkeypatch.setattr(study, "transfer", partial(transfer, largest=1))
    out, work = tmp_path / "results", tmp_path / "work"
    run = partial(study.main, quick_arms(tmp_path), out, work, 1e9, episodes=2, jobs=1)
    names = ["comm", "no_comm", "full_observation"]
    run(names)
    for name in names:
        for seed in (1, 2):
            found = {path.name for path in (out / name / f"seed_{seed}").iterdir()}
            more = {"conditions.csv", "transfer.csv"} if name == "comm" else set()
            assert found == {"curve.csv", "episodes.csv", "summary.json"} | more
    before = (out / "comm" / "seed_1" / "summary.json").stat().st_mtime_ns
    run(names)  # nothing is left to do
    assert (out / "comm" / "seed_1" / "summary.json").stat().st_mtime_ns == before
    (out / "no_comm" / "seed_2" / "summary.json").unlink()  # cut after training: the run is there, its figures are not
    run(["no_comm"])
    assert (out / "no_comm" / "seed_2" / "summary.json").exists()
    with pytest.raises(ConfigError, match="--arm: unknown key 'com'"):
        run(["com"])
    for arm, source in COPIES.items():
        shutil.copytree(out / source, out / arm)
    monkeypatch.setattr("rllib_tag.report.study.REPETITIONS", 50)
    monkeypatch.setitem(report.NATIVES, "native_3a1b", (1, 1, 1, 2))  # the largest team that was played
    report.main(out)
    printed = capsys.readouterr().out
    assert printed.count("share of the gap to full observation: ") == 3
    assert "parts of the network" in printed
    assert "trained as 3A + 1B" in printed
    assert "a lone class A, trained as such" in printed
    assert sorted(path.name for path in (out / "figures").glob("*.svg")) == [
        f"{name}.svg"
        for name in (
            "bars_evasive",
            "bars_parts",
            "bars_random",
            "bars_random_long",
            "conditions_comm",
            "conditions_comm_evasive",
            "conditions_comm_long",
            "conditions_comm_relational_evasive",
            "curves_evasive",
            "curves_random",
            "curves_random_long",
            "improvement_evasive",
            "improvement_random",
            "profiles_evasive",
            "profiles_random",
            "profiles_random_long",
            "transfer_comm",
        )
    ]


@pytest.mark.nightly
def test_runs_take_a_core_each(tmp_path: Path) -> None:
    command = [EXPERIMENTS / "study" / "study.py", quick_arms(tmp_path), "--out", "results", "--work", "work"]
    options = ["--arm", "no_comm", "--episodes", "2", "--jobs", "2"]
    done = subprocess.run(
        [sys.executable, *command, *options], cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, done.stdout
    for seed in (1, 2):
        summary = json.loads((tmp_path / "results" / "no_comm" / f"seed_{seed}" / "summary.json").read_text())
        assert summary["training"]["team"]["seed"] == seed
