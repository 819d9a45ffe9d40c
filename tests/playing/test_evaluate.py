"""Evaluation, restoring and rollouts of a trained checkpoint."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from conftest import play_on
from ray import cloudpickle
from small_runs import small

from rllib_tag import TagEnv, evaluate, restore
from rllib_tag.errors import ConfigError
from rllib_tag.experiment.checkpoints import find_checkpoint
from rllib_tag.experiment.pretrained import PRETRAINED, pretrained_teams
from rllib_tag.names import INFLUENCE, METRICS
from rllib_tag.nn.weights import build_net
from rllib_tag.playing.evaluate import FILES, parse_overrides
from rllib_tag.playing.marl_eval import marl_eval_layout, task_name
from rllib_tag.playing.restore import TrainedTeam, export
from rllib_tag.playing.rollout import rollout
from rllib_tag.report.replay import replay_page
from rllib_tag.report.table import read_summary, summary_table
from rllib_tag.report.video import SHOWN, read_episode, video
from rllib_tag.training.train import TrainOptions, TrialEnd, train

TEAMS = [
    {"num_class_a": a, "num_class_b": b, **rest}
    for a, b, rest in [
        (3, 1, {}), (1, 3, {}), (4, 4, {}), (1, 0, {}), (0, 1, {}),
        (2, 2, {"num_good": 2}), (2, 2, {"num_obstacles": 0}), (2, 2, {"num_obstacles": 4}),
        (2, 2, {"comm_range": 0.0}), (2, 2, {"comm_range": math.inf, "good_policy": "evasive"}),
    ]
]  # fmt: skip


def test_the_same_seeds_give_the_same_episodes(team: TrainedTeam) -> None:
    first, again = (evaluate(team, episodes=5, baselines=("random", "class_b_chases")) for _ in range(2))
    assert first.rows == again.rows
    assert [row["controller"] for row in first.rows] == ["team"] * 5 + ["random"] * 5 + ["class_b_chases"] * 5
    assert [row["seed"] for row in first.rows] == [*range(1_000_000, 1_000_005)] * 3
    assert first.summary() != evaluate(team, episodes=5, first_seed=7).summary()


@pytest.mark.parametrize("deterministic", [True, False])
def test_episodes_do_not_depend_on_how_many_are_played_at_once(team: TrainedTeam, deterministic: bool) -> None:
    how: dict[str, Any] = {"deterministic": deterministic, "baselines": ("random",)}
    together = evaluate(team, episodes=3, **how).rows
    alone = [evaluate(team, episodes=1, first_seed=1_000_000 + i, **how).rows for i in range(3)]
    assert together == [rows[0] for rows in alone] + [rows[1] for rows in alone]


def test_baselines_may_still_be_called_yardsticks() -> None:
    team = restore()
    with pytest.warns(DeprecationWarning, match="yardsticks is now called baselines"):
        rows = evaluate(team, episodes=1, yardsticks=["random"]).rows
    assert rows == evaluate(team, episodes=1, baselines=["random"]).rows


def test_a_baseline_that_does_not_exist_is_said() -> None:
    with pytest.raises(
        ConfigError, match=r"^baseline: expected one of random, .* got 'randm'\. Did you mean 'random'\?"
    ):
        evaluate(restore(), episodes=1, baselines=["randm"])


@pytest.mark.parametrize("changes", TEAMS, ids=str)
def test_one_checkpoint_plays_other_teams(team: TrainedTeam, changes: dict) -> None:
    result = evaluate(team, episodes=2, **changes)
    assert len(result.rows) == 2
    assert all(math.isfinite(value) for row in result.rows for key, value in row.items() if key != "controller")
    assert ("return_class_a" in result.rows[0]) == (changes["num_class_a"] > 0)


def test_sampled_actions_repeat_with_the_seed_and_differ_from_the_likeliest(team: TrainedTeam) -> None:
    sampled, again = (evaluate(team, episodes=3, deterministic=False) for _ in range(2))
    assert sampled.rows == again.rows
    assert sampled.rows != evaluate(team, episodes=3).rows


def test_sampling_follows_the_distribution(team: TrainedTeam) -> None:
    env = TagEnv(team.env_config)
    row = play_on(env, 3)[-1]["adversary_0"]
    many = {key: np.repeat(value[None], 4000, axis=0) for key, value in row.items()}
    drawn = team.actions("class_a", many, [np.random.default_rng(0)] * 4000)
    with torch.no_grad():
        logits, _ = team.nets["class_a"](
            {key: torch.from_numpy(value[None]) for key, value in row.items()}, env.games.game.layout
        )
    expected = logits.softmax(-1)[0].numpy()
    np.testing.assert_allclose(np.bincount(drawn, minlength=5) / 4000, expected, atol=0.04)


def test_scripted_baselines_rank_as_they_should(team: TrainedTeam) -> None:
    result = evaluate(team, episodes=20, baselines=("random", "class_b_chases", "all_chase")).summary()
    means = [result[name]["return_adversary"]["mean"] for name in ("random", "class_b_chases", "all_chase")]
    assert means == sorted(means)
    assert means[0] * 5 < means[1]


def test_files_hold_one_row_an_episode(team: TrainedTeam, tmp_path: Path) -> None:
    result = evaluate(team, episodes=3, baselines=("random",))
    rows, summary, _ = result.write(tmp_path / "new" / "folder")
    with rows.open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [{**row, "seed": int(row["seed"])} for row in read] == [
        {key: str(value) if key != "seed" else value for key, value in row.items()} for row in result.rows
    ]
    content = read_summary(tmp_path / "new" / "folder")
    assert content == json.loads(summary.read_text())
    assert content["episodes"] == 3
    returns = [row["return_adversary"] for row in result.rows[:3]]
    assert content["summary"]["team"]["return_adversary"]["mean"] == pytest.approx(np.mean(returns))
    assert content["summary"]["team"]["return_adversary"]["standard_error"] == pytest.approx(
        np.std(returns, ddof=1) / 3**0.5
    )
    assert set(content["summary"]["team"]) == set(METRICS)
    table = summary_table(content)
    assert [column.header for column in table.columns] == ["", "team", "random"]
    assert table.row_count == len(METRICS) - 2  # the return of each class is the same number


def test_only_returns_that_are_alike_stand_once() -> None:
    figures = {"return_team": -11.9, "return_diver": -11.9 + 1e-12, "return_lookout": -11.9004, "mean_links": -11.9}
    summary = {name: {key: {"mean": value, "standard_error": 0.5} for key, value in figures.items()} for name in "ab"}
    table = summary_table({"summary": summary, "conditions": [], "episodes": 2, "first_seed": 1})
    assert list(table.columns[0].cells) == ["return team", "return lookout", "mean links"]


def test_an_evaluation_replaces_an_earlier_one_and_nothing_else(team: TrainedTeam, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    evaluate(team, episodes=2, messages=("cut",)).write(tmp_path)
    assert (tmp_path / "influence.csv").exists()
    evaluate(team, episodes=2).write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*FILES[:3], "notes.txt"])


def test_a_class_without_graph_layers_has_fewer_figures(team: TrainedTeam, tmp_path: Path) -> None:
    deaf = build_net("class_a", dataclasses.replace(team.nets["class_a"].config, gnn="none"), False).eval()
    mixed = dataclasses.replace(team, nets={**team.nets, "class_a": deaf})
    evaluate(mixed, episodes=2, messages=("cut",)).write(tmp_path)
    with (tmp_path / "influence.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0].keys() == {"policy", "seed", *INFLUENCE}
    entropies = {row["policy"]: row["attention_entropy"] for row in rows}
    assert entropies["class_a"] == ""
    assert float(entropies["class_b"]) >= 0


def test_a_rollout_leaves_no_view_of_an_earlier_episode(team: TrainedTeam, tmp_path: Path) -> None:
    rollout(team, tmp_path, episodes=2, max_cycles=3, views={"html": replay_page, "gif": None})
    rollout(team, tmp_path, max_cycles=3, views={"html": None, "gif": partial(video, form="gif")})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "episode_1000000.gif", "episode_1000000.json", "episode_1000001.html", "episode_1000001.json",
    ]  # fmt: skip


def test_one_episode_has_no_standard_error(team: TrainedTeam) -> None:
    content = evaluate(team, episodes=1).as_json()
    assert content["summary"]["team"]["return_adversary"]["standard_error"] is None
    (_, figures) = summary_table(content).columns
    assert not any("±" in cell for cell in figures.cells)


def test_other_teams_play_with_their_own_senses(team: TrainedTeam) -> None:
    deaf = dataclasses.replace(team, env_config={**team.env_config, "comm_range": 0.0, "num_class_a": 5})
    result = evaluate(team, episodes=2, beside={"same": team, "deaf": deaf}, num_class_b=1)
    rows = {
        name: [{**row, "controller": ""} for row in result.rows if row["controller"] == name]
        for name in ("team", "same", "deaf")
    }
    assert rows["team"] == rows["same"]
    assert [row["mean_links"] for row in rows["deaf"]] == [0, 0] != [row["mean_links"] for row in rows["team"]]
    assert result.summary()["same"]["return_minus_team"]["mean"] == 0
    lone = dataclasses.replace(team, nets={"class_b": team.nets["class_b"]})
    assert len(evaluate(team, episodes=2, beside={"lone": lone}, num_class_a=0).rows) == 4
    with pytest.raises(ConfigError, match="got one that needs 'class_a'"):
        evaluate(team, episodes=2, beside={"lone": lone})
    with pytest.raises(ConfigError, match="beside: expected a name that is still free, got 'team'"):
        evaluate(team, episodes=2, beside={"team": team})


def test_marl_eval_finds_every_figure(team: TrainedTeam) -> None:
    result = evaluate(team, episodes=3, baselines=("all_chase",))
    layout = marl_eval_layout(result.rows, result.env_config, result.training)
    assert (team.seed, team.env_steps) == (1, 400)
    (task,) = layout["simple_tag"].items()
    assert task[0] == "2a2b_history_length_2"
    for name in ("team", "all_chase"):
        (run,) = task[1][name].items()
        assert run[0] == "seed_1"
        assert list(run[1]) == ["step_1", "absolute_metrics"]
        assert run[1]["step_1"]["step_count"] == 400
        returns = [row["return_adversary"] for row in result.rows if row["controller"] == name]
        assert run[1]["absolute_metrics"]["return_adversary"] == returns
    unknown = marl_eval_layout(result.rows, {}, {"team": {"seed": None, "env_steps": None}})
    assert unknown["simple_tag"]["2a2b"]["team"].keys() == {"run_1"}
    assert unknown["simple_tag"]["2a2b"]["team"]["run_1"].keys() == {"absolute_metrics"}
    assert (
        task_name({"num_class_a": 0, "good_policy": "a/b/Prey/", "wrappers": ["x"]}) == "0a2b_good_policy_prey_wrapped"
    )
    script = {"type": "hares.Hare", "calm": 0.6, "style": "a/b"}
    assert task_name({"good_policy": script}) == "2a2b_good_policy_hares.hare_calm_0.6_style_b"


def test_reports_leave_shaping_out(team: TrainedTeam) -> None:
    assert team.env_config["shaping"] > 0
    assert evaluate(team, episodes=2).rows == evaluate(team, episodes=2, shaping=0.0).rows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_class_c": 1}, "unknown key 'num_class_c'"),
        ({"num_class_a": -1}, "num_class_a: expected an integer of at least 0"),
        ({"good_policy": "learned"}, "got one that needs 'good'"),
        ({"continuous_actions": True}, "continuous_actions: expected false as trained, got true"),
        ({"episodes": 0}, "episodes: expected an integer of at least 1"),
        ({"baselines": ("best",)}, "baseline: expected one of random, class_b_chases, all_chase, got 'best'"),
    ],
)
def test_games_that_the_team_cannot_play(team: TrainedTeam, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(team, **changes)


def test_options_not_given_change_nothing() -> None:
    assert parse_overrides(num_good=None, comm_range=0.0, num_class_a=0) == {"comm_range": 0.0, "num_class_a": 0}


def test_exported_weights_act_alike(team: TrainedTeam, trained: TrialEnd, tmp_path: Path) -> None:
    folder = export(trained.folder, tmp_path / "export")
    exported = restore(folder)
    assert (exported.seed, exported.env_steps) == (team.seed, team.env_steps)
    assert evaluate(folder, episodes=3).rows == evaluate(team, episodes=3).rows
    assert export(folder, folder) == folder  # in place of itself
    assert evaluate(folder, episodes=3).rows == evaluate(team, episodes=3).rows
    with pytest.raises(ConfigError, match="which holds something else"):
        export(tmp_path / "nowhere", trained.folder)


@pytest.mark.parametrize("harm", ["policies/class_a/policy_state.pkl", "algorithm_state.pkl", "rllib_checkpoint.json"])
@pytest.mark.parametrize("how", ["missing", "truncated", "empty"])
def test_damaged_checkpoints_are_named(trained: TrialEnd, tmp_path: Path, harm: str, how: str) -> None:
    source = sorted(trained.folder.glob("checkpoint_*"))[-1]
    copy = shutil.copytree(source, tmp_path / "checkpoint")
    file = copy / harm
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: 50 if how == "truncated" else 0])
    with pytest.raises(ConfigError, match="checkpoint"):
        restore(copy)


def test_a_checkpoint_of_another_architecture_is_refused_before_training(
    trained: TrialEnd, ray_session: None, tmp_path: Path
) -> None:
    options = TrainOptions(storage_path=str(tmp_path), restore=str(trained.folder), stop={"training_iteration": 9})
    with pytest.raises(ConfigError, match=r"configured architecture of class_a \(hidden_dim: 32\), got hidden_dim: 64"):
        train(small("tag_quick", hidden_dim=32), options, lambda *_: None)
    with pytest.raises(ConfigError, match="expected policies"):
        train(small("tag_selfplay", hidden_dim=64, num_layers=1), options, lambda *_: None)
    with pytest.raises(ConfigError, match=r"configured architecture of class_a \(critic: shared\), got critic: class"):
        train(small("tag_quick", critic="shared"), options, lambda *_: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("gpus", [1, 2])
def test_evaluation_asks_for_no_gpu_because_training_did(
    team: TrainedTeam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int
) -> None:
    copy = shutil.copytree(team.source, tmp_path / "checkpoint")
    for name in ("class_a", "class_b"):
        file = copy / "policies" / name / "policy_state.pkl"
        state = cloudpickle.loads(file.read_bytes())
        state["policy_spec"]["config"].update(num_gpus=gpus, num_gpus_per_env_runner=gpus)
        file.write_bytes(cloudpickle.dumps(state))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert evaluate(copy, episodes=1).rows == evaluate(team, episodes=1).rows


def test_policies_that_nobody_acts_by_are_left_out(trained: TrialEnd, tmp_path: Path) -> None:
    copy = shutil.copytree(find_checkpoint(trained.folder), tmp_path / "checkpoint")
    shutil.copytree(copy / "policies" / "class_a", copy / "policies" / "old_opponent")
    info = json.loads((copy / "rllib_checkpoint.json").read_text())
    info["policy_ids"] = [*info["policy_ids"], "old_opponent"]
    (copy / "rllib_checkpoint.json").write_text(json.dumps(info))
    assert restore(export(copy, tmp_path / "export")).nets.keys() == restore(copy).nets.keys() == {"class_a", "class_b"}


def test_several_trials_must_be_told_apart(trained: TrialEnd, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(trained.folder, tmp_path / name)
    with pytest.raises(ConfigError, match=r"expected one trial below .*, got 2: /.*/one, /.*/two\. Give"):
        restore(tmp_path)
    assert restore(tmp_path / "one").source.parent.name == "one"


def test_a_rollout_records_what_happened(team: TrainedTeam, tmp_path: Path) -> None:
    told: list[list[Path]] = []
    paths = rollout(team, tmp_path, episodes=2, num_class_a=3, max_cycles=7, on_episode=told.append)
    assert told == [[path] for path in paths]
    episode = read_episode(paths[0])
    assert np.shape(episode["positions"]) == (8, 6, 2)
    assert np.shape(episode["links"]) == np.shape(episode["attention"]) == (8, 5, 5)
    assert len(episode["actions"]) == len(episode["rewards"]) == 7
    assert sum(episode["rewards"]) == pytest.approx(episode["stats"]["return_adversary"])
    env = TagEnv({**team.env_config, "num_class_a": 3, "max_cycles": 7})
    env.reset(seed=1_000_000)
    for step in range(7):
        np.testing.assert_allclose(episode["positions"][step], env.positions, atol=1e-5)
        env.step(episode["actions"][step])
    attention = np.array(episode["attention"])
    np.testing.assert_allclose(attention.sum(-1), 1, atol=1e-4)
    assert (attention[np.array(episode["links"]) == 0] == 0).all()


@pytest.mark.parametrize("suffix", ["gif", "mp4"])
def test_a_video_shows_every_step(team: TrainedTeam, tmp_path: Path, suffix: str) -> None:
    rollout(team, tmp_path, max_cycles=5, views={suffix: partial(video, form=suffix)})
    with imageio.get_reader(tmp_path / f"episode_1000000.{suffix}") as reader:
        frames = [frame for frame in reader.iter_data()]
    assert len(frames) == 6
    assert frames[0].std() > 10
    assert (frames[0] != frames[5]).any()
    assert sorted(p.suffix for p in tmp_path.iterdir()) == sorted([".json", f".{suffix}"])


def test_a_page_holds_the_whole_episode_and_asks_for_nothing_else(team: TrainedTeam, tmp_path: Path) -> None:
    (path,) = rollout(team, tmp_path, max_cycles=5)
    episode = {**read_episode(path), "source": "</script><b>x</b>"}
    page = replay_page(episode)
    (data,) = re.findall(r'<script type="application/json" id="episode">(.*?)</script>', page, re.DOTALL)
    assert json.loads(data) == {key: episode[key] for key in SHOWN}
    assert not re.findall(r"""(?:src|href)=|url\(|https?:|import """, page)
    assert "__" not in page.replace(data, "")


def test_the_default_team_is_the_generalist_and_all_that_ship_are_small() -> None:
    assert restore().source.name == "generalist"
    assert sum(path.stat().st_size for path in PRETRAINED.rglob("*") if path.is_file()) <= 4_000_000


@pytest.mark.parametrize("name", pretrained_teams())
def test_teams_that_ship_hunt_and_talk(name: str) -> None:
    game = {"num_class_a": 2, "num_class_b": 2, "num_good": 1, "num_obstacles": 2}
    played = evaluate(name, episodes=16, baselines=("all_chase",), messages=("cut",), **game).summary()
    returns = {name: figures["return_adversary"]["mean"] for name, figures in played.items()}
    assert returns["team"] > 0.95 * returns["all_chase"]
    assert returns["cut"] < 0.8 * returns["team"]


BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_replays_the_page(team: TrainedTeam, tmp_path: Path) -> None:
    (path,) = rollout(team, tmp_path, max_cycles=5)
    episode = read_episode(path)
    page, text = tmp_path / "page.html", replay_page(episode)
    move = """slider.value = 3; slider.dispatchEvent(new Event("input"));
        const drawn = arena.getContext("2d").getImageData(0, 0, arena.width, arena.height).data;
        document.title = drawn.some((value) => value > 0) ? "drawn" : "empty";"""
    page.write_text(text.replace("</body>", f"<script>{move}</script></body>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    dumped = subprocess.run(
        [BROWSER, *options, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    assert "<title>drawn</title>" in dumped
    assert '<output id="at">step 3 of 5</output>' in dumped
    shown = re.findall(r"<td[^>]*>([0-9.]*)</td>", dumped)
    assert [float(value or 0) for value in shown] == pytest.approx(np.ravel(episode["attention"][3]), abs=0.005)


def test_a_video_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ConfigError, match="expected a file of `rllib rollout`"):
        read_episode(tmp_path / "x.json")
