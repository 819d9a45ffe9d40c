"""What the new API stack samples, against the old one's samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import tree
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing

from rllib_tag.plugin.fragments import generalized_advantages
from rllib_tag.plugin.team_rows import agent_steps

from .conftest import CYCLES, FRAGMENT, NUM_ENVS, build, build_old, same_weights

LEARNED = {"good_policy": "learned", "num_good": 2}
GAMES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": ({}, {}),
    "shared": ({"num_class_a": 3, "num_class_b": 1, "comm_hops": 1}, {"encoder": "shared"}),
    "continuous": ({"continuous_actions": True}, {"gnn": "gatv2"}),
    "local_critic": ({"num_class_a": 1, "shaping": 3.0}, {"critic": "local"}),
    "self_play": (LEARNED, {"encoder": "shared", "critic": "shared"}),
    "mixture": ({"num_class_a": [1, 3], "num_class_b": [0, 2], "num_obstacles": [0, 2], "comm_range": [0, 0.8]}, {}),
}


def policies_of(game: dict[str, Any]) -> list[str]:
    """The policies of a game."""
    return ["class_a", "class_b", *(["good"] if game.get("good_policy") == "learned" else [])]


@pytest.mark.parametrize("game", GAMES)
def test_arrays_give_the_old_stacks_samples_bit_for_bit(game: str, ray_session: None) -> None:
    """All columns of two fragments, with a reset among them, and the metrics of the episode that ended."""
    env_config, model = GAMES[game]
    options = {"model": model, "policies": policies_of(env_config), "explore": True}
    old, new = build_old(True, env_config, **options), build(True, env_config, **options)
    same_weights(old, new)
    steps = dict.fromkeys(options["policies"], 0)
    for seed in range(2):
        torch.manual_seed(seed)
        expected = old.env_runner.sample()
        torch.manual_seed(seed)
        (batch,) = new.env_runner.sample()
        assert batch.env_steps() == expected.env_steps() == NUM_ENVS * FRAGMENT
        assert batch.policy_batches.keys() == expected.policy_batches.keys()
        for name, part in expected.policy_batches.items():
            tree.map_structure(np.testing.assert_array_equal, dict(batch.policy_batches[name]), dict(part))
            steps[name] += agent_steps(part)
    episodes = old.env_runner.get_metrics()
    metrics = new.env_runner.get_metrics()
    assert len(episodes) == metrics["num_episodes"].peek() == NUM_ENVS
    logged = metrics["episodes"]
    for key in {key for episode in episodes for key in episode.custom_metrics}:
        values = [episode.custom_metrics[key] for episode in episodes if key in episode.custom_metrics]
        assert logged["custom_metrics"][key].peek() == values, key
    assert logged["episode_return"].peek() == [episode.episode_reward for episode in episodes]
    assert logged["episode_len"].peek() == [CYCLES] * NUM_ENVS
    assert {name: value.peek() for name, value in metrics["num_module_steps_sampled"].items()} == steps
    assert sum(value.peek() for value in metrics["num_agent_steps_sampled"].values()) == sum(steps.values())
    assert metrics["num_env_steps_sampled"].peek() == 2 * NUM_ENVS * FRAGMENT


@pytest.mark.parametrize("game", ["default", "shared", "continuous", "local_critic"])
def test_rllibs_own_runner_and_learner_give_the_same_logits_values_and_targets(game: str, ray_session: None) -> None:
    """Whole and cut episodes as RLlib's learner reads them, against each receiver's network and our advantages."""
    env_config, model = GAMES[game]
    new = build(False, env_config, model=model)
    learner = new.learner_group._learner
    episodes = new.env_runner.sample()
    batch = learner._learner_connector(
        rl_module=learner.module, batch={}, episodes=episodes, shared_data={}, metrics=learner.metrics
    )
    seen = 0
    for name, part in batch.items():
        net, layout = learner.module[name].net, learner.module[name].layout
        with torch.no_grad():
            outputs, features = net(part[Columns.OBS], layout)
            values = net.value(part[Columns.OBS], features)
        mask = part[Columns.LOSS_MASK].numpy()
        torch.testing.assert_close(part[Columns.ACTION_DIST_INPUTS][mask], outputs[mask], rtol=1e-4, atol=1e-5)
        start = 0
        for end in np.flatnonzero(~mask).tolist():  # each agent's steps are followed by one more for the bootstrap
            steps = slice(start, end)
            rewards, of_steps = part[Columns.REWARDS][steps].numpy(), values[start : end + 1].numpy()
            advantages = generalized_advantages(
                rewards[None, :, None], of_steps[None, :-1, None], of_steps[None, 1:, None],
                np.zeros((1, end - start), bool), new.config.gamma, new.config.lambda_,
            )  # fmt: skip
            targets = part[Postprocessing.VALUE_TARGETS][steps].numpy()
            np.testing.assert_allclose(targets, advantages[0, :, 0] + of_steps[:-1], rtol=1e-3, atol=1e-3)
            seen += end - start
            start = end + 1
    assert seen == NUM_ENVS * FRAGMENT * len(new.env_runner.env.envs[0].unwrapped.possible_agents)


def test_rllibs_own_runner_reports_the_games_metrics(ray_session: None) -> None:
    """Of whole episodes, before their envs start the next ones."""
    game = {"num_class_a": 4, "num_class_b": 4, "num_good": 3, "max_cycles": 100, "shaping": 0}
    new = build(False, game, rollout_fragment_length=100, train_batch_size=300, explore=True)
    episodes = new.env_runner.sample()
    wanted = [np.mean([each.get_return() for each in episode.agent_episodes.values()]) for episode in episodes]
    assert sum(wanted) > 0
    found = new.env_runner.get_metrics()
    assert found["episodes"]["custom_metrics"]["return_adversary"].peek() == pytest.approx(wanted)
    assert found["custom_metrics"]["return_adversary_max"].peek() == pytest.approx(max(wanted))
