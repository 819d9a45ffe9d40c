"""The cluster files fit Ray's schema, the Dockerfile and the experiment that they run."""

from __future__ import annotations

import shlex
from importlib.metadata import requires
from typing import Any

import pytest
import yaml
from conftest import EXPERIMENTS
from ray.autoscaler._private.util import prepare_config, validate_config
from typer.testing import CliRunner

from rllib_tag.cli import app
from rllib_tag.experiment.experiment import parse_experiments
from rllib_tag.experiment.spec import load_experiments

CLUSTER = EXPERIMENTS / "cluster"
LAUNCHED = yaml.safe_load((CLUSTER / "ray-cluster.yaml").read_text())
JOB = yaml.safe_load((CLUSTER / "rayjob.yaml").read_text())


def test_rays_own_schema_accepts_the_cluster_file() -> None:
    validate_config(prepare_config(LAUNCHED))


def command_of(text: str) -> list[str]:
    """The arguments of an `rllib` command."""
    name, *arguments = shlex.split(text)
    assert name == "rllib"
    return arguments


def commands() -> list[str]:
    """The `rllib` commands of both files."""
    (line,) = (line for line in (CLUSTER / "ray-cluster.yaml").read_text().splitlines() if "ray exec" in line)
    return [JOB["spec"]["entrypoint"], line.split('"')[1]]


@pytest.mark.parametrize("text", commands())
def test_the_commands_run_the_gpu_experiment(text: str) -> None:
    arguments = command_of(text)
    assert arguments[:3] == ["train", "file", "experiments/tag_ppo_gpu.yaml"]
    assert (EXPERIMENTS.parent / arguments[2]).exists()
    options = {option for option in arguments if option.startswith("--")}
    assert options == {"--ray-address", "--storage-path"}
    told = CliRunner().invoke(app, ["train", "file", "--help"], env={"COLUMNS": "200"}).output
    assert all(option in told for option in options)


def pods() -> list[dict[str, Any]]:
    """The head's and the workers' pods of the job."""
    cluster = JOB["spec"]["rayClusterSpec"]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def containers() -> list[dict[str, Any]]:
    """Their containers."""
    for pod in pods():
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    return [pod["containers"][0] for pod in pods()]


def asked_for() -> list[dict[str, float]]:
    """What each trial of the GPU experiment asks Ray for."""
    (experiment,) = parse_experiments(load_experiments(EXPERIMENTS / "tag_ppo_gpu.yaml"))
    return [dict(variant.resources) for variant in experiment.variants]


def test_the_cluster_has_a_machine_for_each_trial() -> None:
    machines = [LAUNCHED["provider"]["head_ip"], *LAUNCHED["provider"]["worker_ips"]]
    assert asked_for() == [{"CPU": 5, "GPU": 1} for _ in machines]
    assert "--gpus=all" in LAUNCHED["docker"]["run_options"]


def test_the_job_has_what_the_experiment_asks_for() -> None:
    assert (JOB["apiVersion"], JOB["kind"]) == ("ray.io/v1", "RayJob")
    (allowed,) = (line for line in requires("rllib_tag") if line.startswith("ray[rllib"))
    minor = JOB["spec"]["rayClusterSpec"]["rayVersion"].removesuffix(".0").removeprefix("2.")
    assert f"<2.{int(minor) + 1}" in allowed  # the image gets the newest that is allowed
    asked = asked_for()[0]
    limits = [container["resources"]["limits"] for container in containers()]
    worker = limits[1]
    assert worker["nvidia.com/gpu"] >= asked["GPU"]
    assert worker["cpu"] >= asked["CPU"]
    mounted = [mount["mountPath"] for container in containers() for mount in container["volumeMounts"]]
    assert mounted.count(shlex.split(JOB["spec"]["entrypoint"])[-1]) == 2
    (group,) = JOB["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_the_image_has_what_both_files_run() -> None:
    docker = (EXPERIMENTS.parent / "Dockerfile").read_text()
    assert {container["image"] for container in containers()} == {LAUNCHED["docker"]["image"]} == {"rllib_tag:latest"}
    assert "docker build -t rllib_tag ." in docker
    assert ".[cluster]" in docker  # job submission needs Ray's dashboard
    assert "wget" in docker  # KubeRay's probes
    for name in ("ray", "rllib"):  # a login shell, in which the launcher runs them, sets PATH anew
        assert f"/.venv/bin/{name} " in docker.partition("/usr/local/bin/")[0]
    uid = docker.partition("--uid ")[2].split()[0]
    for pod in pods():
        assert pod["securityContext"]["fsGroup"] == int(uid)
    assert "--entrypoint=/usr/bin/env" in LAUNCHED["docker"]["run_options"]  # the launcher runs a shell in the image
