"""Clusters that answer, and what stands at an address instead."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from conftest import EXPERIMENTS
from small_runs import small

from rllib_tag.errors import ConfigError
from rllib_tag.experiment.experiment import parse_experiments
from rllib_tag.experiment.options import TrainOptions
from rllib_tag.experiment.spec import load_experiments
from rllib_tag.places import Place
from rllib_tag.playing.restore import export
from rllib_tag.training import preflight
from rllib_tag.training.preflight import (
    check_goes_on,
    check_resumable,
    check_surroundings,
    cluster_address,
    idle_notes,
)
from rllib_tag.training.train import TrialEnd, train


class Server:
    """Something that listens, takes a connection and answers with some bytes, or never."""

    def __init__(self, answer: bytes) -> None:
        self._socket = socket.create_server(("", 0))  # Ray takes this machine's other address for localhost
        self._answer = answer
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        connection, _ = self._socket.accept()
        with connection, contextlib.suppress(ConnectionError):
            connection.sendall(self._answer)
            while connection.recv(1000):
                pass

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(autouse=True)
def _no_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))  # where no cluster was started
    monkeypatch.setattr(preflight, "CONNECT_TIMEOUT_S", 0.5)


@pytest.fixture(params=[b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["silent", "another protocol"])
def stranger(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(request.param)
    yield server
    server.close()


def closed_port() -> str:
    """An address at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_a_cluster_answers(ray_session: None) -> None:
    address = ray.get_runtime_context().gcs_address
    assert cluster_address(address) == address


@pytest.mark.parametrize("prefix", ["", "ray://"])
def test_what_listens_and_is_no_cluster_is_refused(prefix: str, stranger: Server) -> None:
    with pytest.raises(ConfigError, match=rf"^--ray-address: expected a cluster at {prefix}{stranger.address}, found"):
        cluster_address(prefix + stranger.address)


def test_another_server_of_the_protocol_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "ANSWER_TIMEOUT_S", 0.5)
    server = Server(bytes(3) + preflight.SETTINGS + bytes(5))
    with pytest.raises(ConfigError, match=r"expected a cluster at .* is not Ray, or another version of it"):
        cluster_address(server.address)
    server.close()


def test_an_address_of_the_environment_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", closed_port())
    for asked in (None, "auto"):
        with pytest.raises(ConfigError, match=r"^RAY_ADDRESS: expected a cluster at 127\.0\.0\.1:.*Connection refused"):
            cluster_address(asked)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert cluster_address(None) == "local"


def test_the_file_of_a_cluster_that_is_gone_is_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stranger: Server
) -> None:
    assert cluster_address(None) == "local"
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(stranger.address)
    assert cluster_address(None) == "local"
    settings = Server(bytes(3) + preflight.SETTINGS + bytes(5))
    (tmp_path / "ray" / "ray_current_cluster").write_text(settings.address)
    assert cluster_address(None) is None  # Ray finds it, too
    settings.close()


@pytest.mark.parametrize(
    ("address", "why"), [("nosuch", "invalid literal|Name or service"), ("::1:x", "invalid literal")]
)
def test_what_is_no_address_is_refused(address: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"--ray-address: expected a cluster at {address}, found none .*{why}"):
        cluster_address(address)


@pytest.mark.parametrize("name", ["TUNE_RESULT_DIR", "RAY_AIR_LOCAL_CACHE_DIR"])
def test_variables_that_ray_refuses(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_surroundings()
    monkeypatch.setenv(name, "/somewhere")
    with pytest.raises(ConfigError, match=rf"^{name}: expected it to be unset, .* got /somewhere\. Unset it"):
        check_surroundings()


def test_a_run_of_another_version_is_not_begun_anew(tmp_path: Path) -> None:
    """As Tune would begin it where it cannot read its own state."""
    (experiment,) = parse_experiments(small("tag_quick"), TrainOptions(storage_path=str(tmp_path)))
    pickled = {"_type": "CLOUDPICKLE_FALLBACK", "value": b"crllib_tag.no_such_module\nName\n.".hex()}
    state = {"trial_data": [[json.dumps({"storage": pickled}), "{}"]]}
    for content in (json.dumps(state), "{", ""):
        state_file = experiment.place / "experiment_state-2026-11-25_09-41-44.json"
        state_file.write_text(content)
        with pytest.raises(
            ConfigError, match=r"--resume: expected a state that Tune can read in .*41-44\.json, got \w+Error: "
        ):
            check_resumable(experiment)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"lr": 0.5}, "got another config (config: lr: 0.5 instead of 0.25)."),
        ({"env_config": {}}, "got another config (config: env_config: num_class_a: nothing instead of 3)."),
        (
            {"a": 1, "b": [2], "c": "3", "d": 4, "e": 5},
            "config: b: [2] instead of nothing; config: c: '3' instead of nothing; 2 more).",
        ),
        ({"callbacks": {}}, "got another config. Use the same file"),
    ],
)  # fmt: skip
def test_what_differs_from_the_run_that_is_resumed_is_told(change: dict, told: str, tmp_path: Path) -> None:
    before = {"config": {"lr": 0.25, "env_config": {"num_class_a": 3}}, "storage_path": "elsewhere"}
    (tmp_path / "experiment_state-2026-11-25_09-41-44.json").write_text("{}")
    (tmp_path / "run_2026-11-25_09-41-44.json").write_text(json.dumps({"experiment": before}))
    spec = {"config": {**before["config"], **change}, "storage_path": "here"}
    experiment = SimpleNamespace(place=Place.at(tmp_path), spec=spec)
    with pytest.raises(ConfigError, match=re.escape(told)):
        check_resumable(experiment)


@pytest.mark.parametrize(
    ("stop", "refused"),
    [
        ({"training_iteration": 2}, "training_iteration above 2"),
        ({"timesteps_total": 400, "training_iteration": 9}, "timesteps_total above 400"),
        ({"num_env_steps_sampled_lifetime": 3}, "num_env_steps_sampled_lifetime above 400"),
        ({"num_agent_steps_sampled": 1600}, "num_agent_steps_sampled above 1,600"),
        ({"timesteps_total": 401, "training_iteration": 3, "time_total_s": 0.001, "return_adversary_mean": -99}, None),
    ],
)
def test_a_stop_that_the_checkpoint_has_reached_is_refused(
    stop: dict, refused: str | None, trained: TrialEnd, tmp_path: Path
) -> None:
    options = TrainOptions(stop=stop, storage_path=str(tmp_path), restore=str(trained.folder))
    experiments = small("tag_quick")
    del experiments["tag_quick"]["stop"]
    (experiment,) = parse_experiments(experiments, options)
    if refused is None:
        check_goes_on(experiment, experiment.restored)
        return
    with pytest.raises(
        ConfigError, match=rf"^tag_quick: stop: expected {refused}, the count in .*checkpoint_.* got \d"
    ):
        train(experiments, options, lambda *_: None)
    assert list(tmp_path.iterdir()) == []
    export(trained.folder, tmp_path / "weights")  # which have no counters
    check_goes_on(experiment, tmp_path / "weights")


def test_a_checkpoint_beyond_the_learning_rate_is_refused(trained: TrialEnd, tmp_path: Path) -> None:
    options = TrainOptions(stop={"timesteps_total": 9000}, storage_path=str(tmp_path), restore=str(trained.folder))
    for points, refused in (
        ([[0, 0.01], [1600, 0]], True),  # the checkpoint's 400 steps of 4 agents
        ([[0, 0.01], [1500, 0], [9000, 0]], True),
        ([[0, 0.01], [800, 0], [9000, 0.01]], False),
        ([[0, 0.01], [1601, 0]], False),
        ([[0, 0.01], [800, 0.001]], False),
    ):
        experiments = small("tag_quick")
        experiments["tag_quick"]["config"]["lr_schedule"] = points
        (experiment,) = parse_experiments(experiments, options)
        if not refused:
            check_goes_on(experiment, experiment.restored)
            continue
        with pytest.raises(
            ConfigError,
            match=r"^tag_quick: config: lr_schedule: expected a learning rate above 0 after 1,600 agent steps, .* got "
            r"one that is 0 from 1,\d00 on",
        ):
            train(experiments, options, lambda *_: None)
    assert list(tmp_path.iterdir()) == []


def test_a_learning_rate_that_ends_before_the_run_is_told() -> None:
    experiments, notes = small("tag_quick"), []
    experiments["tag_quick"]["config"]["lr_schedule"] = [[0, 0.01], [1600, 0]]
    for stop in (400, 800):
        (experiment,) = parse_experiments(experiments, TrainOptions(stop={"timesteps_total": stop}))
        notes.append(list(idle_notes(experiment)))
    told = (
        "lr_schedule is 0 from 1,600 agent steps on, so nothing is learned in the last 400 of 800 env steps, of 4 "
        "agent steps each"
    )
    assert [set(each) for each in notes] == [set(), {told}]


def test_a_run_in_which_one_policy_goes_on_learning_is_not_told() -> None:
    experiments = small("tag_quick", encoder="class")
    config = experiments["tag_quick"]["config"]
    config["lr_schedule"] = [[0, 0.01], [1600, 0]]
    own = {"class_a": {}, "class_b": {"lr_schedule": [[0, 0.01], [9000, 0]]}}
    config["multiagent"]["policies"] = {name: [None, None, None, changed] for name, changed in own.items()}
    for trained, number in ((["class_a", "class_b"], 0), (["class_a"], 1)):
        config["multiagent"]["policies_to_train"] = trained
        (experiment,) = parse_experiments(experiments, TrainOptions(stop={"timesteps_total": 800}))
        assert len(list(idle_notes(experiment))) == number


LEARNING = [
    path for folder in (".", "games", "study", "sweeps") for path in sorted((EXPERIMENTS / folder).glob("*.yaml"))
]


@pytest.mark.parametrize("file", LEARNING, ids=lambda path: f"{path.parent.stem}-{path.stem}")
def test_shipped_experiments_learn_to_the_end(file: Path) -> None:
    assert [note for experiment in parse_experiments(load_experiments(file)) for note in idle_notes(experiment)] == []


@pytest.mark.parametrize("folder", ["/proc/none", "/tmp/" + 100 * "x"])
def test_where_ray_cannot_write_nothing_begins(folder: str, tmp_path: Path) -> None:
    command = ["train", "file", str(EXPERIMENTS / "tag_quick.yaml"), "--storage-path", str(tmp_path / "results")]
    done = subprocess.run(
        [sys.executable, "-m", "rllib_tag", *command, "--ray-num-cpus", "2"],
        env=os.environ | {"RAY_TMPDIR": folder}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    shutil.rmtree(folder, ignore_errors=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ray: expected writable folders for Ray's own files, got: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "results").exists()
