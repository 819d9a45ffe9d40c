"""The pages in docs/ and the examples in docstrings say what works."""

from __future__ import annotations

import csv
import doctest
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import EXPERIMENTS, HAS_NEW_API_STACK, script
from ray.rllib.algorithms.algorithm import Algorithm
from typer.testing import CliRunner

import rllib_tag
from rllib_tag import TagEnv
from rllib_tag.cli import commands
from rllib_tag.experiment.experiment import parse_experiments
from rllib_tag.experiment.spec import load_experiments
from rllib_tag.training.preflight import check_resources

DOCS = Path(__file__).parent.parent / "docs"


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), flags=re.M | re.S)


def rllib(folder: Path, *arguments: str) -> str:
    """Runs a command in a folder whose modules Python finds, and returns what it printed."""
    paths = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "rllib_tag", *arguments], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_on_own_games_leads_to_a_team_that_has_learned(tmp_path: Path) -> None:
    (tmp_path / "buoy.py").write_text("\n".join(blocks("own-game.md", "python")))
    (tmp_path / "buoy.yaml").write_text("\n".join(blocks("own-game.md", "yaml")))
    (commands,) = blocks("own-game.md", "sh")
    for command in commands.splitlines():
        setting, program, *arguments = command.split()
        assert (setting, program) == ("PYTHONPATH=.", "rllib")
        rllib(tmp_path, *arguments)
    rllib(tmp_path, "report", "out/buoy", "--episodes", "2")
    assert "Videos are available for tag only." in (tmp_path / "report.html").read_text()
    summary = json.loads((tmp_path / "evaluation" / "summary.json").read_text())["summary"]
    returns = {name: metrics["return_team"]["mean"] for name, metrics in summary.items()}
    assert returns["team"] > 0.7 * returns["random"]
    assert returns["team"] > 0.8 * returns["cut"]


@pytest.mark.parametrize(("part", "name"), [(0, "hares"), (1, "mean_model")])
def test_the_page_on_own_parts_trains(
    part: int, name: str, ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{name}.py").write_text(blocks("own-parts.md", "python")[part])
    (spec,) = load_experiments(EXPERIMENTS / "tag_quick.yaml").values()
    changes = yaml.safe_load(blocks("own-parts.md", "yaml")[part])
    spec["stop"] = {"training_iteration": 1}
    spec["config"] |= {
        "num_env_runners": 0, "num_envs_per_env_runner": 2, "train_batch_size": 200, "minibatch_size": 100,
        "env_config": {**spec["config"]["env_config"], "backend": "auto", **changes.pop("env_config", {})}, **changes,
    }  # fmt: skip
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"own": spec}))
    trained = rllib(tmp_path, "train", "file", "own.yaml", "--storage-path", "out")
    rllib(tmp_path, "plot", "out/own")
    if name == "hares":
        assert "own: uses the batched sampler\n" in trained
        assert "2A + 2B against 1 hares.Hare prey" in rllib(tmp_path, "evaluate", "out/own", "--episodes", "2")
    else:
        assert "own: uses RLlib's default sampler, because of" in trained
        assert "next: " not in trained
        monkeypatch.syspath_prepend(tmp_path)
        (checkpoint,) = tmp_path.glob("out/own/*/checkpoint_*")
        algorithm = Algorithm.from_checkpoint(str(checkpoint))
        env = TagEnv(spec["config"]["env_config"])
        observations, _ = env.reset(seed=1)
        acted = algorithm.compute_single_action(observations["adversary_0"], policy_id="class_a")
        assert env.action_spaces["adversary_0"].contains(acted)
        algorithm.stop()


def test_the_readme_leads_to_every_page_of_the_guide() -> None:
    pages = set(re.findall(r"^ +- .*: ([\w-]+\.md)$", (DOCS.parent / "mkdocs.yml").read_text(), flags=re.M))
    linked = set(re.findall(r"\(docs/([\w-]+\.md)", (DOCS.parent / "README.md").read_text()))
    assert len(pages) > 10
    assert pages <= linked


def test_the_hare_does_not_run_from_adversaries_that_are_absent() -> None:
    names: dict[str, Any] = {}
    exec(blocks("own-parts.md", "python")[0], names)
    here = {
        "own": np.array([[-0.1, 0, 0, 0], [0.1, 0, 0, 0]]),
        "adversaries": np.array([[[0.0, 0], [-0.5, 0]], [[0, 0], [0, 0]]]),
    }
    hare = names["Hare"](calm=0.6)
    assert hare.act(here).tolist() == [1, 2]
    assert hare.act({**here, "adversaries_present": np.array([[False, True], [False, False]])}).tolist() == [2, 0]


@pytest.mark.skipif(not HAS_NEW_API_STACK, reason="needs a Ray whose new API stack this project supports")
def test_the_page_on_api_stacks_trains_a_team_that_can_be_restored(tmp_path: Path) -> None:
    (code,) = blocks("api-stacks.md", "python")
    code += (
        "from rllib_tag import evaluate, restore\nprint(evaluate(restore(checkpoint), episodes=1).summary()['team'])\n"
    )
    (tmp_path / "page.py").write_text(code)
    done = subprocess.run([sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\d+\.\d+$", done.stdout, flags=re.M), done.stdout
    assert "return_adversary" in done.stdout


def test_the_first_page_acts_from_exported_weights(tmp_path: Path) -> None:
    alone, in_rllib = (
        code.replace('restore("weights")', 'restore("evasive_prey")') for code in blocks("index.md", "python")
    )
    alone += "import sys\nassert 'ray' not in sys.modules\n"
    in_rllib += "assert rewards.keys() == set(env.possible_agents)\nprint([env.metrics['return_adversary']])\n"
    for code in (alone, in_rllib):
        (tmp_path / "page.py").write_text(code)
        done = subprocess.run([sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert all(value >= 0 for value in json.loads(done.stdout))


def test_the_guide_builds_and_its_links_lead_somewhere(tmp_path: Path) -> None:
    command = ["-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run([sys.executable, *command], cwd=DOCS.parent, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "num_class_a" in (tmp_path / "experiment-files.html").read_text()  # from the docstring
    assert "--num-class-a" in (tmp_path / "commands.html").read_text()
    api = (tmp_path / "api.html").read_text()
    for name in rllib_tag.__all__:
        assert f"rllib_tag.{name}" in api or f'.{name}"' in api or name == "__version__"
    for page in (DOCS.parent).glob("*.md"):
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text()):
            assert (DOCS.parent / link).exists(), f"{page.name}: {link}"


def test_the_config_without_a_file_runs_on_two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = (block for block in blocks("experiment-files.md", "sh") if "env_config" in block)
    program, *arguments = shlex.split(block)
    assert program == "rllib"
    taken: list[Any] = []
    monkeypatch.setattr(commands, "_train", lambda *given: taken.append(given))
    assert CliRunner().invoke(commands.app, arguments).exit_code == 0
    ((specs, options),) = taken
    (experiment,) = parse_experiments(specs, options)
    assert experiment.name == "from_options"
    assert experiment.default_sampler_reason is None
    check_resources(experiment.variants[0].resources, {"CPU": 2})


def test_the_page_on_speed_has_what_was_measured() -> None:
    cells, page = script("bench", "benchmarks").cells, (DOCS / "speed.md").read_text()
    for name in ("summary", "returns", "growth", "scaling", "scaling_model"):
        with (EXPERIMENTS / "results" / "benchmarks" / f"{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            for key in ("machine", "synch_weights", "env_steps", "batch_bytes", "weights_bytes"):
                row.pop(key, None)
            values = {key: value if value.isdecimal() else _number(value) for key, value in row.items()}
            assert f"| {' | '.join(cells(values))} |" in page
    readme = (DOCS.parent / "README.md").read_text()
    section = readme.partition("## How fast it is\n")[2].partition("\n## ")[0]
    quoted = re.findall(r"^\| .*, against \w.* \| (.*) \| (.*) \| (.*) \|$", section, flags=re.M)
    assert len(quoted) == 5
    for numbers_ in quoted:
        assert f"| {' | '.join(numbers_)} | " in page


def test_the_study_is_told_in_numbers_that_its_report_prints(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    results = EXPERIMENTS / "results"
    script("report").main(results / "study", tmp_path, results / "tuning", results / "api_stacks")
    printed = capsys.readouterr().out
    page, readme = ((DOCS / name).read_text() for name in ("study.md", "../README.md"))
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len(rows) > 10
    assert [row for row in rows if row not in printed.splitlines()] == []
    arms = [(EXPERIMENTS / "study" / f"{name}.yaml").read_text() for name in ("study", "tuning")]
    known = numbers("\n".join([printed, *arms]))
    for text in (page, readme.partition("## What communication is worth\n")[2].partition("\n## ")[0]):
        prose = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
        assert len(prose.split()) in range(50, 1500)
        assert numbers(prose) - known <= {"95", "2021", "128"}  # the level of intervals, a paper, the episodes
        quoted = re.findall(r"[+-]?[\d.]+%? \[[^]]*\d\](?!\()", " ".join(text.split()))
        assert quoted
        assert [each for each in quoted if each not in printed] == []


def test_the_page_on_api_stacks_has_what_its_runs_returned(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    results = EXPERIMENTS / "results"
    script("report").main(results / "study", tmp_path, results / "tuning", results / "api_stacks")
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| tag ppo ")]
    page = (DOCS / "api-stacks.md").read_text()
    assert len(printed) == 2
    assert all(line in page for line in printed)
    low, high = (re.findall(r"[\d.]+", line.rpartition("[")[2]) for line in printed)
    assert max(float(low[0]), float(high[0])) < min(float(low[1]), float(high[1]))  # the intervals overlap
    with (results / "benchmarks" / "measurements.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if "the new API stack" in row["measurement"]]
    for side in ("ours", "other"):
        speeds = [float(row["value"]) for row in rows if (row["side"], row["figure"]) == (side, "env_steps_per_s")]
        assert f"{statistics.median(speeds):,.0f}" in page


def numbers(text: str) -> set[str]:
    """The numbers of a text, without signs and separators of thousands; not those in code, names or links."""
    text = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", " ", text, flags=re.S)
    found = re.findall(r"(?<![\w.,])\d+(?:,\d{3})*(?:\.\d+)?(?![\w%]|[.,]\d)", text)
    return {number.replace(",", "") for number in found}


def _number(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value


NEW_API_STACK = () if HAS_NEW_API_STACK else ("CommModule", "TeamPPOConfig")


@pytest.mark.parametrize("name", sorted({*rllib_tag.__all__} - {"__version__", *NEW_API_STACK}))
def test_every_public_name_has_an_example_that_runs(name: str) -> None:
    public = getattr(rllib_tag, name)
    module = sys.modules[public.__module__]
    (found,) = (test for test in doctest.DocTestFinder(recurse=False).find(public, name, module) if test.examples)
    assert doctest.DocTestRunner().run(found).failed == 0
