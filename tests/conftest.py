"""What tests share: teams in prime sizes, random play, one Ray for the session."""

from __future__ import annotations

import os
import tempfile

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads only get in each other's way on small networks
# Without it, the SDL that mpe2 1.0 draws with complains on stderr.
os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())
# Ray's workers find the classes in tests/mappings.py.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.path.dirname(__file__), os.environ.get("PYTHONPATH")]))

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pytest
import ray
import torch
from hypothesis import HealthCheck, settings

from rllib_tag.experiment.new_api_stack import NEEDS_RAY
from rllib_tag.plugin.env import TagEnv
from rllib_tag.plugin.ray_internals import RAY_VERSION

if TYPE_CHECKING:
    from rllib_tag.playing.restore import TrainedTeam
    from rllib_tag.training.train import TrialEnd

HAS_NEW_API_STACK = RAY_VERSION >= NEEDS_RAY
collect_ignore_glob = [] if HAS_NEW_API_STACK else ["*/new_api_stack/*", "*/test_new_api_stack.py"]

# Cases a fuzzed file: `make nightly` takes the second.
settings.register_profile("test", max_examples=60, deadline=None, derandomize=True, suppress_health_check=HealthCheck)
settings.register_profile("nightly", settings.get_profile("test"), max_examples=3000, derandomize=False)

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


def script(name: str, folder: str = "study") -> ModuleType:
    """A script of the study, or in another folder of experiments, as a module."""
    spec = importlib.util.spec_from_file_location(name, EXPERIMENTS / folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One small local Ray for all tests that train."""
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def trained(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> TrialEnd:
    """Two iterations of the demo's experiment."""
    from small_runs import run, small

    return run(small("tag_quick", num_env_runners=1), tmp_path_factory.mktemp("trained"), iterations=2)


@pytest.fixture(scope="session")
def team(trained: TrialEnd) -> TrainedTeam:
    """What was trained, restored."""
    from rllib_tag.playing.restore import restore

    return restore(trained.folder)


def assert_same_gradients(ours: torch.Tensor, plain: torch.Tensor, leaves: Sequence[torch.Tensor]) -> None:
    """Checks that two forms of the same values also have the same gradients."""
    found, expected = (torch.autograd.grad(values.square().sum(), leaves) for values in (ours, plain))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def random_actions(env: TagEnv, rng: np.random.Generator) -> dict[str, object]:
    """A uniform action for every agent of an environment."""
    if env.config.continuous_actions:
        return {agent: rng.random(5, dtype=np.float32) for agent in env.agents}
    return {agent: int(rng.integers(5)) for agent in env.agents}


def play_on(env: TagEnv, steps: int, seed: int = 0) -> list[dict[str, dict[str, np.ndarray]]]:
    """The observations of a seeded episode with random actions, the reset's first."""
    rng = np.random.default_rng(seed)
    observations = [env.reset(seed=seed)[0]]
    for _ in range(steps):
        observations.append(env.step(random_actions(env, rng))[0])
    return observations


def as_batch(observations: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """Observations of agents with the same space, stacked."""
    return {key: torch.from_numpy(np.stack([obs[key] for obs in observations])) for key in observations[0]}
