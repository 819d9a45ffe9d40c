"""CommModel through RLlib's own catalog, and what it relies on of Ray's internals."""

from __future__ import annotations

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.rllib.algorithms.appo.utils import TARGET_POLICY_SCOPE as TARGET
from ray.rllib.evaluation import rollout_worker
from ray.rllib.models import MODEL_DEFAULTS, ModelCatalog
from ray.rllib.models.preprocessors import get_preprocessor

from rllib_tag import CommModel
from rllib_tag.errors import ConfigError
from rllib_tag.plugin.env import TagEnv

SMALL = {"hidden_dim": 12, "num_layers": 1}


def build(env: TagEnv, agent: str, name: str = "default_model", **config: object) -> tuple[CommModel, object]:
    space = env.observation_spaces[agent]
    preprocessor = get_preprocessor(space)(space)
    model_config = {**MODEL_DEFAULTS, "custom_model": "rllib_tag.CommModel", "custom_model_config": {**SMALL, **config}}
    model_config["custom_model"] = CommModel
    action_space = env.action_spaces[agent]
    _, num_outputs = ModelCatalog.get_action_dist(action_space, model_config, framework="torch")
    model = ModelCatalog.get_model_v2(
        preprocessor.observation_space, action_space, num_outputs, model_config, "torch", name
    )
    return model, preprocessor


@pytest.mark.parametrize(("keys", "outputs"), [({}, 5), ({"continuous_actions": True, "num_obstacles": 0}, 10)])
def test_flat_rows_give_what_the_network_gives(keys: dict, outputs: int) -> None:
    env = TagEnv(**keys)
    model, preprocessor = build(env, "adversary_0")
    observations, _ = env.reset(seed=0)
    flat = np.stack([preprocessor.transform(obs) for obs in observations.values()])
    logits, _ = model({"obs": torch.from_numpy(flat).float(), "obs_flat": torch.from_numpy(flat).float()})
    batch = {
        key: torch.from_numpy(np.stack([obs[key] for obs in observations.values()]))
        for key in observations["adversary_0"]
    }
    expected, features = model.net(batch, env.games.game.layout)
    assert logits.shape == (4, outputs)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(model.value_function(), model.net.value(batch, features))


def test_good_agents_get_their_own_network() -> None:
    env = TagEnv(good_policy="learned")
    model, _ = build(env, "agent_0")
    assert type(model.net).__name__ == "GoodNet"


def test_another_environments_space_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected an observation space of TagEnv"):
        CommModel(gym.spaces.Box(0, 1, (3,)), gym.spaces.Discrete(5), 5, MODEL_DEFAULTS, "model")


def test_misspelt_keys_are_refused() -> None:
    env = TagEnv()
    with pytest.raises(ConfigError, match="Did you mean 'gnn_layers'"):
        build(env, "adversary_0", gnn_layer=2)


class Worker:
    """Stands for the worker that is being built."""


@pytest.mark.parametrize("part", ["critic", "encoder"])
def test_policies_of_one_worker_share_a_part_and_others_do_not(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    env = TagEnv()

    def made(name: str, *agents: str) -> list[torch.nn.Module]:
        return [getattr(build(env, agent, name, **{part: "shared"})[0].net, part) for agent in agents]

    both = ("adversary_0", "adversary_2")
    parts = []
    for worker in (Worker(), Worker()):
        monkeypatch.setattr(rollout_worker, "_global_worker", worker)
        parts += made("default_model", *both)
    assert parts[0] is parts[1]
    assert parts[2] is parts[3]
    assert parts[0] is not parts[2]
    lagging = made(TARGET, *both)
    assert lagging[0] is lagging[1]
    assert lagging[0] is not parts[2]
    monkeypatch.setattr(rollout_worker, "_global_worker", None)
    alone = made("default_model", "adversary_0", "adversary_0")
    assert alone[0] is not alone[1]


def test_a_lagging_model_is_updated_while_the_other_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    """APPO does so from another thread than the learner's."""
    monkeypatch.setattr(rollout_worker, "_global_worker", Worker())
    env = TagEnv()
    model, preprocessor = build(env, "adversary_0", critic="shared")
    lagging, _ = build(env, "adversary_0", TARGET, critic="shared")
    row = torch.from_numpy(preprocessor.transform(env.reset(seed=0)[0]["adversary_0"])[None])
    model({"obs": row, "obs_flat": row})
    loss = model.value_function().square().sum()
    lagging.load_state_dict(model.state_dict())
    loss.backward()


def test_the_copy_that_rllib_makes_for_a_gpu_keeps_the_shared_critic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_worker, "_global_worker", Worker())
    shared = build(TagEnv(), "adversary_0", critic="shared", encoder="shared")[0]
    own = build(TagEnv(), "adversary_0", critic="class")[0]
    assert copy.deepcopy(shared).net.critic is shared.net.critic
    assert copy.deepcopy(shared).net.encoder is shared.net.encoder
    assert copy.deepcopy(own).net.critic is not own.net.critic
