"""Any experiment file, manifest or weights file is read or refused with the project's own error, and writes nothing.

`make nightly` draws many more cases.
"""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import EXPERIMENTS
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.rllib.algorithms.registry import ALGORITHMS
from ray.rllib.models import ModelCatalog
from ray.rllib.policy.policy import Policy

from rllib_tag import TagEnv
from rllib_tag.errors import ConfigError
from rllib_tag.experiment.experiment import Experiment, parse_experiments
from rllib_tag.experiment.pretrained import DEFAULT_TEAM, PRETRAINED
from rllib_tag.experiment.spec import load_experiments
from rllib_tag.experiment.sweeps import scheduler_of, search_of
from rllib_tag.experiment.variant import View
from rllib_tag.nn.weights import MANIFEST, load_exported
from rllib_tag.plugin.mapping import acting_policies
from rllib_tag.plugin.old_api_stack.team_ppo import TeamPPO

from .grammar import experiments

SHIPPED = PRETRAINED / DEFAULT_TEAM
FILES = [
    yaml.safe_load(path.read_text()) for path in sorted(EXPERIMENTS.glob("**/*.yaml")) if path.parent.name != "cluster"
]
TREES = [{name: spec} for file in FILES for name, spec in file.items()]
WORDS = sorted({word for tree in TREES for word in json.dumps(tree).replace('"', " ").split() if word.isidentifier()})
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-3, 200), st.floats(), st.floats(-1, 2), st.text(max_size=20),
    st.sampled_from(WORDS), st.sampled_from(["grid_search", "eval", "type", ".inf", "os.system", "rllib_tag.TagEnv"]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=8,
)


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every container of a tree with each of its keys."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else []
    return [place for key in keys for place in [(tree, key), *places(tree[key])]]


@st.composite
def changed(draw: Callable[..., Any], trees: list[Any]) -> Any:
    """One of some trees with up to three of its values replaced, removed, renamed or added."""
    tree = copy.deepcopy(draw(st.sampled_from(trees)))
    for _ in range(draw(st.integers(1, 3))):
        found = places(tree)
        if not found:
            break
        parent, key = found[draw(st.integers(0, len(found) - 1))]
        what = draw(st.sampled_from(["replace", "replace", "remove", "rename", "add"]))
        if what == "replace":
            parent[key] = draw(VALUES)
        elif what == "remove":
            del parent[key]
        elif what == "rename" and isinstance(parent, dict):
            parent[draw(st.sampled_from(WORDS))] = parent.pop(key)
        elif isinstance(parent, dict):
            parent[draw(st.sampled_from(WORDS))] = draw(VALUES)
        else:
            parent.insert(key, draw(VALUES))
    return tree


def read_experiments(path: Path) -> None:
    experiments = load_experiments(path)
    parse_experiments(experiments)


def refused_or_read(read: Callable[[Path], object], path: Path, folder: Path) -> None:
    """Reads; only a `ConfigError` may come, and the folder stays as it was."""
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    with contextlib.suppress(ConfigError):
        read(path)
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before


@given(tree=changed(TREES))
def test_changed_experiments(tree: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "file.yaml").write_text(yaml.safe_dump(tree))
    refused_or_read(read_experiments, folder / "file.yaml", folder)


def test_as_many_files_are_drawn_as_the_profile_says(pytestconfig: pytest.Config) -> None:
    asked = pytestconfig.getoption("--hypothesis-profile")
    assert settings.default.max_examples == settings.get_profile(asked).max_examples
    assert settings.get_profile("nightly").max_examples == 3000


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small networks are built and run faster so."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_files_of_the_grammar(one_thread: None) -> None:
    """Of what a user could rightly write at least half is accepted, and what is accepted builds."""
    drawn: list[bool] = []

    @given(tree=experiments())
    def refused_or_builds(tree: Any) -> None:
        drawn.append(False)
        try:
            parsed = parse_experiments(tree)
        except ConfigError:
            return
        drawn[-1] = True
        for experiment in parsed:
            build(experiment)

    refused_or_builds()
    assert 2 * sum(drawn) >= len(drawn)


def build(experiment: Experiment) -> None:
    """Builds all that workers would: schedulers, and for training and evaluation the games, policies and models."""
    scheduler_of(experiment.spec)
    search_of(experiment.spec)
    run, on_arrays = experiment.spec["run"], experiment.default_sampler_reason is None
    for variant in experiment.variants[:2]:
        trained = built(run, variant.training, on_arrays)
        for name, policy in built(run, variant.evaluation, on_arrays).items():
            policy.set_weights(trained[name].get_weights())
        if on_arrays:
            for view in (variant.training, variant.evaluation):
                TagEnv(view.config.env_config).config.batched_world(2)


def built(run: str, view: View, on_arrays: bool) -> dict[str, Policy]:
    """A view's policies, after they have acted in its game."""
    env = view.env(view.config.env_config)
    algorithm = TeamPPO if on_arrays else ALGORITHMS[run]()[0]
    policy_class = algorithm.get_default_policy_class(view.config)
    observations, _ = env.reset(seed=0)
    policies: dict[str, Policy] = {}
    for agent, name in acting_policies(view.config, env).items():
        preprocessor = ModelCatalog.get_preprocessor_for_space(env.observation_spaces[agent])
        if name not in policies:
            spaces = preprocessor.observation_space, env.action_spaces[agent]
            policies[name] = policy_class(*spaces, view.policies[name])
        action, _, extra = policies[name].compute_single_action(preprocessor.transform(observations[agent]))
        assert np.isfinite(action).all()
        assert all(np.isfinite(value).all() for value in extra.values())
    env.step({agent: env.action_spaces[agent].sample() for agent in env.agents})
    env.close()
    return policies


@given(
    content=st.binary(max_size=200)
    | st.text(max_size=200).map(str.encode)
    | VALUES.map(lambda v: yaml.safe_dump(v).encode())
)
def test_any_experiment_file(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "file.yaml").write_bytes(content)
    refused_or_read(read_experiments, folder / "file.yaml", folder)


@given(tree=changed([json.loads((SHIPPED / MANIFEST).read_text())]))
def test_changed_manifests(tree: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = shutil.copytree(SHIPPED, tmp_path_factory.mktemp("fuzz") / "export")
    (folder / MANIFEST).write_text(json.dumps(tree))
    refused_or_read(load_exported, folder, folder)


@given(content=st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_manifest(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = shutil.copytree(SHIPPED, tmp_path_factory.mktemp("fuzz") / "export")
    (folder / MANIFEST).write_bytes(content)
    refused_or_read(load_exported, folder, folder)


@st.composite
def changed_bytes(draw: Callable[..., Any], content: bytes) -> bytes:
    """A file that was cut, or in which bytes were changed, half of them in the header at its start."""
    data = bytearray(content)
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, min(3000, len(data) - 1)) | st.integers(0, len(data) - 1))
        data[place] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.just(len(data)) | st.integers(0, 4000) | st.integers(0, len(data)))])


@given(content=changed_bytes((SHIPPED / "class_a.safetensors").read_bytes()) | st.binary(max_size=300))
def test_any_weights(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = shutil.copytree(SHIPPED, tmp_path_factory.mktemp("fuzz") / "export")
    (folder / "class_a.safetensors").write_bytes(content)
    refused_or_read(load_exported, folder, folder)
