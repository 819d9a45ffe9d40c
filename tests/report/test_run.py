"""The page about a run."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from rllib_tag.errors import ConfigError
from rllib_tag.report.run import read_run, run_page
from rllib_tag.results import RETURN, SECONDS, TEAM_RETURN

EPISODE = {
    "seed": 7, "source": "</script><b>", "classes": [0], "sizes": [0.075, 0.05], "landmarks": [], "landmark_sizes": [],
    "comm_range": 1.0, "positions": [[[0, 0], [1, 1]]], "links": [[[1]]], "attention": [[[1.0]]], "rewards": [],
}  # fmt: skip


def write_trial(folder: Path, metric: str, config: dict[str, Any]) -> Path:
    folder.mkdir()
    results = [
        {"training_iteration": i, "timesteps_total": 1000 * i, SECONDS: 2.0 * i, "date": f"2026-01-0{i}_10-00-00",
         metric: 10.0 * i}
        for i in (1, 2)
    ]  # fmt: skip
    (folder / "result.json").write_text("".join(json.dumps(result) + "\n" for result in results))
    (folder / "params.json").write_text(json.dumps(config))
    return folder


def evaluation(metric: str, returns: dict[str, float], **more: Any) -> dict[str, Any]:
    team = returns["team"]
    summary = {
        name: {
            metric: {"mean": value, "standard_error": 0.5},
            "return_minus_team": {"mean": value - team, "standard_error": 0.1},
        }
        for name, value in returns.items()
    }
    return {
        "summary": summary, "episodes": 4, "first_seed": 7, "conditions": [], "influence": {},
        "sources": {"team": "trial/checkpoint_000001"}, "training": {"team": {"seed": 3, "env_steps": 1000}},
        "env_config": {}, "versions": {"rllib_tag": "0.2.0", "ray": "2.60.0", "torch": "2.13.0"}, **more,
    }  # fmt: skip


def test_a_page_needs_no_other_file_and_shows_all(tmp_path: Path) -> None:
    config = {"seed": 3, "model": {"custom_model": "<class 'rllib_tag.nn.Net'>"}, "lr": 0.5, "clip": float("inf")}
    trial = write_trial(tmp_path / "<i>", RETURN, config)
    returns = {"team": 20.5, "random": 5.25, "cut": 11.0, "drop:0.5": 15.0, "range:inf": 20.0}
    influence = {"class_a": {"kl": {"mean": 0.25, "standard_error": 0.01}}}
    content = evaluation("return_adversary", returns, conditions=list(returns)[2:], influence=influence)
    page = run_page(str(trial), read_run(trial), "<i>/checkpoint_000001", content, EPISODE)
    assert not re.findall(r'(?:src|href)="(?!data:image/svg\+xml;base64,|#)', page)
    assert page.count("data:image/svg+xml;base64,") == 2
    for said in (
        "<dd>&lt;i&gt;/checkpoint_000001, after 1,000 environment steps</dd>",
        "<dd>2,000 environment steps in 4 s, 500 steps a second</dd>", "<dd>2026-01-02 10-00-00</dd>",
        "<td>20.5 ± 0.5</td><td>5.2 ± 0.5</td>", "<tr><td>drop:0.5</td><td>15.0 ± 0.5</td><td>-5.5 ± 0.1</td>",
        "<td>0.250 ± 0.010</td>", "model: {custom_model: rllib_tag.nn.Net}\n", "clip: .inf\n",
        "rllib evaluate &#39;&lt;i&gt;/checkpoint_000001&#39; --episodes 4 --seed 7 --baseline random --messages all\n",
        "rllib rollout &#39;&lt;i&gt;/checkpoint_000001&#39; --seed 7 --video html",
    ):  # fmt: skip
        assert said in page
    video = html.unescape(re.search(r'srcdoc="([^"]*)"', page)[1])
    assert video.startswith("<!doctype html>")
    assert json.loads(re.search(r'id="episode">(.*?)</script>', video)[1]) == EPISODE
    assert "<i>" not in page


def test_another_game_has_no_video_and_agents_that_hear_nobody_no_interventions(tmp_path: Path) -> None:
    trial = write_trial(tmp_path / "trial", TEAM_RETURN, {"env_config": {"game": "labs_games.Rescue"}})
    game = {"game": "labs_games.Rescue"}
    content = evaluation("return_team", {"team": -3.0, "random": -9.0}, env_config=game)
    page = run_page("trial", read_run(trial), "trial/checkpoint_000001", content, None)
    assert "Videos are available for tag only." in page
    assert "These agents do not communicate" in page
    assert "rllib rollout" not in page
    assert "rllib evaluate trial/checkpoint_000001 --episodes 4 --seed 7 --baseline random</pre>" in page


def test_a_trial_without_its_config_is_said(tmp_path: Path) -> None:
    trial = write_trial(tmp_path / "trial", RETURN, {})
    (trial / "params.json").unlink()
    with pytest.raises(ConfigError, match=r"expected the trial's config in .*params\.json, got: No such file"):
        read_run(trial)
