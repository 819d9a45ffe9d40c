"""RLlib's evaluation while it trains, on teams other than the one that is trained."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import build

LEARNED = {"good_policy": "learned"}


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(
    ("team", "env_config"),
    [((3, 1), {}), ((1, 3), {}), ((3, 3), {}), ((0, 3), {}), ((3, 3), LEARNED), ((1, 1), LEARNED)],
)
def test_an_evaluation_maps_by_its_own_team(
    batched: bool, team: tuple[int, int], env_config: dict[str, Any], ray_session: None
) -> None:
    num_a, num_b = team
    policies = ["class_a", "class_b", *(["good"] if env_config else [])]
    algorithm = build(
        batched, env_config, policies=policies, evaluation_interval=1, evaluation_duration=2,
        evaluation_config={"env_config": {"num_class_a": num_a, "num_class_b": num_b}},
    )  # fmt: skip
    assert algorithm.train()["evaluation"]["env_runners"]["num_episodes"] == 2
    worker = algorithm.eval_env_runner
    assert [worker.policy_mapping_fn(agent, None, worker=worker) for agent in worker.env.roster.adversaries] == [
        *num_a * ["class_a"],
        *num_b * ["class_b"],
    ]
    batch, steps = worker.sample(), worker.config.env_config.get("max_cycles")
    expected = {"class_a": num_a * steps, "class_b": num_b * steps, "good": steps if env_config else 0}
    acted = {name: part["rewards"].size for name, part in batch.policy_batches.items()}
    assert acted == {name: number for name, number in expected.items() if number}
    algorithm.stop()
