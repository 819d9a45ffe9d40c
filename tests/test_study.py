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
from rllib_tag.experiment.new_api_stack import STACK_FLAGS
from rllib_tag.experiment.spec import load_experiments
from rllib_tag.files import write_csv
from rllib_tag.playing.transfer import transfer

# Arms that stand in for others, so that every part of the report is drawn.
COPIES = {
    "comm_evasive": "comm", "no_comm_evasive": "no_comm", "full_observation_evasive": "full_observation",
    "links_fail_evasive": "comm", "mean_evasive": "comm", "comm_4": "comm", "native_3a1b": "no_comm",
}  # fmt: skip


def test_every_arm_is_sound_and_reported() -> None:
    arms = load_experiments(EXPERIMENTS / "study" / "study.yaml")
    tuning = load_experiments(EXPERIMENTS / "study" / "tuning.yaml")
    for experiment in (*parse_experiments(arms), *parse_experiments(tuning)):
        assert experiment.default_sampler_reason is None
    assert all(spec["config"]["seed"]["grid_search"] == [111, 112, 113] for spec in tuning.values())
    report = script("report")
    main = {f"{arm}{suffix}" for arm in report.MAIN if arm not in ("far", "links_fail") for suffix in report.GAMES}
    sizes = {f"comm_{size}{suffix}": size for size in report.MESSAGE_DIMS for suffix in report.GAMES}
    few = {*report.PARTS, *report.NATIVES, *sizes, report.GENERALIST, "selfplay"}  # crossplay.py plays the last
    seeds = {name: arms[name]["config"]["seed"]["grid_search"] for name in arms}
    assert {name: len(found) for name, found in seeds.items()} == {
        **dict.fromkeys(main, 10), **dict.fromkeys(few, 3), "far_evasive": 5, "links_fail_evasive": 5
    }  # fmt: skip
    assert all(found == list(range(1, len(found) + 1)) for found in seeds.values())
    nets = {name: spec["config"]["model"]["custom_model_config"] for name, spec in arms.items()}
    assert {name: net["message_dim"] for name, net in nets.items() if "message_dim" in net} == sizes
    assert {net["hidden_dim"] for net in nets.values()} == {report.HIDDEN_DIM}


def test_both_api_stacks_train_the_main_experiment() -> None:
    arms = load_experiments(EXPERIMENTS / "study" / "api_stacks.yaml")
    (main,) = load_experiments(EXPERIMENTS / "tag_ppo.yaml").values()
    main["config"] |= {"seed": {"grid_search": [1, 2, 3, 4, 5]}, "num_cpus_for_main_process": 0.5}
    main["config"]["num_cpus_per_env_runner"] = 0.25
    main["checkpoint_config"]["num_to_keep"] = 1
    assert arms["tag_ppo_old"] == main
    main["config"] |= {**dict.fromkeys(STACK_FLAGS, True), "num_cpus_per_learner": 0.5}
    assert arms["tag_ppo_new"] == main


def test_teams_meet_the_prey_of_other_seeds(ray_session: None, tmp_path: Path) -> None:
    study, crossplay = script("study"), script("crossplay")
    work = tmp_path / "work"
    with pytest.raises(ConfigError, match=r"crossplay: expected checkpoints in .*/selfplay_SEED, found none"):
        crossplay.main(work, "selfplay", tmp_path / "crossplay.csv", 2)
    quick = quick_arms(tmp_path)
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


def test_the_page_on_own_games_has_the_table_of_those_that_ship() -> None:
    page = (EXPERIMENTS.parent / "docs" / "own-game.md").read_text()
    found = script("report", "games").rows(EXPERIMENTS / "results" / "games")
    assert len(found) == 6
    for row in found:
        assert f"| {' | '.join(row)} |" in page


@pytest.mark.nightly
def test_a_run_of_another_game_keeps_its_figures(ray_session: None, tmp_path: Path) -> None:
    quick = quick_arms(tmp_path, "games")
    script("study").main(quick, tmp_path / "results", tmp_path / "work", arm=["spread_comm"], episodes=3, jobs=1)
    summary = json.loads((tmp_path / "results" / "spread_comm" / "seed_2" / "summary.json").read_text())["summary"]
    assert set(summary) == {"team", "cut", "random"}
    conditions = (tmp_path / "results" / "spread_comm" / "seed_1" / "conditions.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in conditions] == ["condition", "team", "cut"]


def quick_arms(folder: Path, study: str = "study") -> Path:
    """A study's arms with two seeds of one small iteration each, and short episodes of tag."""
    arms = load_experiments(EXPERIMENTS / study / "study.yaml")
    for spec in arms.values():
        spec["stop"] = {"training_iteration": 1}
        spec["config"].update(
            num_env_runners=0, num_envs_per_env_runner=2, train_batch_size=200, minibatch_size=100, num_epochs=1
        )
        spec["config"]["seed"] = {"grid_search": [1, 2]}
        if study == "study":
            spec["config"]["env_config"] = {**spec["config"]["env_config"], "max_cycles": 20}
    (folder / "arms.yaml").write_text(yaml.safe_dump(arms))
    return folder / "arms.yaml"


def test_runs_are_kept_as_they_end_and_reported(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    study, report = script("study"), script("report")
    monkeypatch.setattr(study, "transfer", partial(transfer, largest=1))
    monkeypatch.setattr(study, "is_low", lambda precision, device: precision == "auto")  # as on a CPU with bfloat16
    out, work = tmp_path / "results", tmp_path / "work"
    run = partial(study.main, quick_arms(tmp_path), out, work, 1e9, episodes=2, jobs=1)
    names = ["comm", "no_comm", "full_observation"]
    run(names)
    for name in names:
        for seed in (1, 2):
            found = {path.name for path in (out / name / f"seed_{seed}").iterdir()}
            more = {"conditions.csv", "transfer.csv", "probe.csv"} if name == "comm" else set()
            assert found == {"curve.csv", "episodes.csv", "summary.json"} | more
    rows = (out / "comm" / "seed_2" / "conditions.csv").read_text().splitlines()
    assert {f"quantize:{bits}" for bits in (1, 2, 4, 8)} < {row.partition(",")[0] for row in rows}
    assert json.loads((out / "comm" / "seed_2" / "summary.json").read_text())["precision"] == "bfloat16"
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
    interval = r"[+-]?\d+\.\d+ \[[+-]?(\d+\.\d+|inf), [+-]?(\d+\.\d+|inf)\]"
    for row in (
        rf"communication \| 2 \| {interval} \| ",
        rf"communication in half of the episodes, links cut, minus no communication \| {interval}",
        rf"cut \| {interval}",
        rf"class_a: teammates heard \| {interval}",
        rf"4 \| 2 \| {interval} \| {interval} \| {interval} \| {interval}",
        rf"64 \| 2 \| {interval} \|  \| {interval} \| {interval}",
        r"the network as it is \| 2 \| .* \| ",
        rf"the mean of the messages in place of attention \| 2 \| {interval} \| {interval}",
        rf"1A \+ 1B, 1 prey, 2 landmarks \| {interval} \| {interval} \| {interval} \| .*",
    ):
        assert re.search(rf"^\| {row} \|$", printed, flags=re.M), row
    drawn = {path.stem for path in (out / "figures").glob("*.svg")}
    main = {
        f"{kind}_{prey}" for kind in ("curves", "bars", "profiles", "improvement") for prey in ("random", "evasive")
    }
    talking = {f"conditions_{arm}" for arm in ("comm", "comm_evasive", "links_fail_evasive")}
    assert drawn == {*main, *talking, "bars_parts", "message_dim_random", "transfer_comm"}


def test_checkpoints_of_teams_and_prey_are_compared(tmp_path: Path) -> None:
    returns = {("1", "100", "1", "100"): 3, ("1", "100", "2", "100"): 7, ("2", "100", "1", "100"): 8}
    returns |= {("2", "100", "2", "100"): 4, ("1", "100", "1", "200"): 2, ("2", "100", "1", "200"): 1}
    returns |= {("1", "100", "", ""): 9, ("2", "100", "", ""): 10}
    keys = ("team_seed", "team_steps", "prey_seed", "prey_steps")
    rows = [
        {**dict(zip(keys, place, strict=True)), "prey": "learned" if place[3] else "random", "return_adversary_mean": r}
        for place, r in returns.items()
    ]
    write_csv(tmp_path / "crossplay.csv", rows)
    header, row = script("report").crossplay_rows(tmp_path / "crossplay.csv")
    assert header == ("team", "prey after 100 steps", "random prey")
    assert row == ("after 100 steps", "7.5 (3.5)", "9.5")


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
