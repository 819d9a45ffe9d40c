"""A learner's step and a sampler's forward pass on a made-up device: no tensor on the CPU, no shape from data."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ray.rllib.algorithms.ppo.ppo_torch_policy import PPOTorchPolicy
from ray.rllib.models.torch.torch_action_dist import TorchCategorical
from torch._subclasses import FakeTensorMode

from rllib_tag.nn.config import CommConfig
from rllib_tag.nn.network import AdversaryNet
from rllib_tag.plugin.env_config import TagEnvConfig

LAYOUT = TagEnvConfig(num_class_a=3, num_class_b=2).game.layout
R, C, N, T, n = 4, 5, 5, 3, 2
DEVICE = "meta"


def states() -> dict[str, torch.Tensor]:
    """Team states of R games in C steps, on the default device."""
    return {
        "messages": torch.ones(R, C + T - 1, N, LAYOUT.width),
        "history": torch.ones(R, C, dtype=torch.long),
        "links": torch.ones(R, C, N, N, dtype=torch.bool),
        "team": torch.ones(R, C, N, 6),
        "good": torch.ones(R, C, 1, 4),
        "landmarks": torch.ones(R, C, 2, 2),
    }


@pytest.fixture(autouse=True)
def _made_up_device() -> Iterator[None]:
    """Tensors without values on a device that is not the CPU. A made-up `cuda` cannot be indexed in a CPU build."""
    with FakeTensorMode(), torch.device(DEVICE):
        yield


class Encoded:
    """A model in RLlib's loss, with known outputs and values."""

    def __init__(self, outputs: torch.Tensor, values: torch.Tensor) -> None:
        self.outputs, self.values, self.tower_stats = outputs, values, {}

    def __call__(self, batch: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
        return self.outputs, []

    def value_function(self) -> torch.Tensor:
        return self.values


@pytest.mark.parametrize("options", [
    {},
    {"frame": "absolute", "num_layers": 1},
    {"relational": True, "gnn": "gatv2", "precision": "bfloat16"},
    {"gnn": "mean", "num_layers": 1, "message_dim": 6, "critic": "local"},
    {"gnn": "none", "temporal": "gru"},
], ids=str)  # fmt: skip
def test_a_step_on_a_made_up_device(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where a CPU tensor is mixed in, and where a shape depends on data."""
    # A distribution that checks its arguments waits for the device, in RLlib's loss as it is.
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", False)
    net = AdversaryNet(5, CommConfig(hidden_dim=28, **options), continuous=False)
    obs, receivers = states(), torch.arange(n)
    with torch.no_grad():  # the sampler's
        assert net.outputs(net.encoder.team(obs, LAYOUT, receivers)).shape == (R, C, n, 5)
    features = net.encoder.team(obs, LAYOUT, receivers)
    values = net.team_value(obs, receivers, features)
    model = Encoded(net.outputs(features).flatten(0, 2), values.flatten())
    ones = torch.ones(R * C * n)
    batch = {
        "actions": torch.zeros(R * C * n, dtype=torch.long), "action_logp": -ones, "advantages": ones,
        "action_dist_inputs": torch.zeros(R * C * n, 5), "value_targets": ones,
    }  # fmt: skip
    config = {"use_kl_loss": True, "use_critic": True, "clip_param": 0.2, "vf_clip_param": 10.0, "vf_loss_coeff": 1}
    policy = SimpleNamespace(config=config, kl_coeff=0.2, entropy_coeff=0.01)
    for function in ("warn_if_infinite_kl_divergence", "explained_variance"):  # for messages and statistics
        monkeypatch.setattr(f"ray.rllib.algorithms.ppo.ppo_torch_policy.{function}", lambda *_: None)
    PPOTorchPolicy.loss(policy, model, TorchCategorical, batch).backward()
    for name, weight in net.named_parameters():
        assert weight.device.type == DEVICE, name
        assert weight.grad is None or weight.grad.device.type == DEVICE, name
    assert net.encoder.graph.skips[0].weight.grad is not None


def test_the_made_up_device_finds_a_tensor_on_the_cpu() -> None:
    net, obs = AdversaryNet(5, CommConfig(hidden_dim=28), continuous=False), states()
    obs["links"] = torch.ones(R, C, N, N, dtype=torch.bool, device="cpu")
    with pytest.raises(Exception, match="device"):
        net.encoder.team(obs, LAYOUT, torch.arange(n))
