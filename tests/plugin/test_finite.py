"""Numbers that are not finite are found and named."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
import torch

from rllib_tag import TagEnv
from rllib_tag.plugin.runner_errors import ErrorBatch, RunnerError
from rllib_tag.world.finite import check_finite, first_not_finite


@pytest.mark.parametrize(
    ("arrays", "where"),
    [
        ({"a": np.ones((3, 5)), "b": {"c": torch.ones(7)}, "names": np.array(["x"])}, None),
        ({"a": np.ones(3), "b": {"c": torch.tensor([[1.0, 2.0], [float("inf"), 0.0]])}}, "b/c[1, 0] = inf"),
        ({"rewards": {"adversary_0": float("nan")}}, "rewards/adversary_0 = nan"),
    ],
)
def test_the_first_place_is_named(arrays: dict, where: str | None) -> None:
    assert first_not_finite(arrays) == where


def test_finite_numbers_pass() -> None:
    check_finite("here", {"actions": {"a": 3}, "rewards": {"a": 0.5}, "seen": [np.ones((2, 3))]})
    with pytest.raises(FloatingPointError, match=r"here: expected finite numbers, got seen/1\[1\] = -inf"):
        check_finite("here", {"seen": [np.ones(2), np.array([0.0, -np.inf])]})


@pytest.mark.parametrize("use", ["env_steps", "agent_steps", "copy", "decompress_if_needed", "__iter__"])
def test_a_batch_that_stands_for_an_error_raises_however_it_is_used(use: str) -> None:
    batch = pickle.loads(pickle.dumps(ErrorBatch(RunnerError("here"))))
    with pytest.raises(RunnerError, match="here"):
        getattr(batch, use)()


def test_an_environment_names_what_came_out_of_it_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    env = TagEnv(num_class_a=1, num_class_b=1)
    env.reset(seed=0)
    step = env.par_env.step

    def broken(actions: dict) -> tuple:
        observations, rewards, *rest = step(actions)
        observations["adversary_1"][4] = np.nan
        return observations, rewards, *rest

    monkeypatch.setattr(env.par_env, "step", broken)
    message = re.escape("TagGame.step: expected finite numbers, got observations/adversary_1[4] = nan.")
    with pytest.raises(FloatingPointError, match=message):
        env.step({"adversary_0": 1, "adversary_1": 2})
