"""PPO's policy on batches whose rows are team states."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.ppo.ppo_torch_policy import PPOTorchPolicy
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.models.torch.torch_modelv2 import TorchModelV2
from ray.rllib.policy.sample_batch import SampleBatch
from torch import Tensor

from rllib_tag.nn.network import AdversaryNet, GoodNet
from rllib_tag.nn.team import receiver_rows
from rllib_tag.plugin.env_config import EnvConfig

Arrays = Mapping[str, np.ndarray]
# The columns that have a number, or a vector, for every agent of a row.
PER_AGENT = (
    SampleBatch.ACTIONS, SampleBatch.ACTION_LOGP, SampleBatch.ACTION_DIST_INPUTS, SampleBatch.VF_PREDS,
    Postprocessing.ADVANTAGES, Postprocessing.VALUE_TARGETS,
)  # fmt: skip


class TeamPolicy(PPOTorchPolicy):
    """RLlib's PPO policy, which also reads rows that hold a stretch of C steps of one game for its n agents.

    Such a row's `obs` is a mapping: for adversaries what `CommEncoder.team` takes, but `links` packed by
    `numpy.packbits`, and `receivers` (n,), the places of the policy's agents in the team; for good agents `TagEnv`'s
    keys with the axes (C, n) in front. Other columns have the axes (C, n) in front. The loss is PPO's own over all
    R * C * n agent steps; a team state is encoded once for all of them. Plain RLlib batches are read as ever.
    """

    config: dict[str, Any]

    def loss(self, model: TorchModelV2, dist_class: type, train_batch: SampleBatch) -> Tensor | list[Tensor]:
        """PPO's loss; RLlib's own computes it."""
        obs = train_batch[SampleBatch.OBS]
        if not isinstance(obs, Mapping):
            return super().loss(model, dist_class, train_batch)
        outputs, features = self._encode(obs)
        encoded = _Encoded(model, outputs, self._critic_values(model.net, obs, features))
        rows = {key: train_batch[key].flatten(0, 2) for key in PER_AGENT}
        return super().loss(encoded, dist_class, SampleBatch(rows))

    def optimizer(self) -> list[torch.optim.Optimizer]:
        """RLlib's Adam, fused: the same steps in one pass over all weights."""
        optimizers = [torch.optim.Adam(self.model.parameters(), lr=self.config["lr"], fused=True)]
        return self.exploration.get_exploration_optimizer(optimizers)

    def extra_grad_process(self, local_optimizer: torch.optim.Optimizer, loss: Tensor) -> dict[str, Tensor]:
        """RLlib's clipping; a gradient that is not finite ends the run before it reaches the weights.

        Raises:
            FloatingPointError: If one is not.
        """
        info = super().extra_grad_process(local_optimizer, loss)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"gradient: expected a finite norm, got {float(norm)} from a loss of {loss.item()}. Lower lr."
            )
        return info

    def act(self, obs: Arrays) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Acts in B games, through RLlib's own exploration.

        Args:
            obs: As the class says, with R = B rows and C = 1.

        Returns:
            Actions (B, n, ...) as the policy gives them, their log-probabilities (B, n) and the inputs of the
            action distribution (B, n, num_outputs).
        """
        self._set_eval()
        explore, timestep = self.config["explore"], self.global_timestep
        with torch.no_grad():
            outputs, _ = self._encode(self._tensors(obs))
            self.exploration.before_compute_actions(explore=explore, timestep=timestep)
            actions, logp = self.exploration.get_exploration_action(
                action_distribution=self.dist_class(outputs, self.model), timestep=timestep, explore=explore
            )
        self.global_timestep += len(outputs)
        B = len(next(iter(obs.values())))
        actions, logp, outputs = (value.unflatten(0, (B, -1)).cpu() for value in (actions, logp, outputs))
        return actions.numpy(), logp.numpy(), outputs.numpy()

    def values(self, obs: Arrays) -> np.ndarray:
        """Values (R, C, n)."""
        self._set_eval()
        net, lead = self.model.net, obs["team" if "team" in obs else "own"].shape[:2]
        with torch.no_grad():
            tensors = self._tensors(obs)
            # A centralised critic needs nothing of what the actor makes.
            central = isinstance(net, AdversaryNet) and net.config.critic != "local"
            features = None if central else self._encode(tensors)[1]
            return self._critic_values(net, tensors, features).cpu().numpy().reshape(*lead, -1)

    def _set_eval(self) -> None:
        if self.model.training:  # walking all modules costs more than a small layer
            self.model.eval()

    def _tensors(self, obs: Arrays) -> dict[str, Tensor]:
        return {key: torch.from_numpy(value).to(self.device) for key, value in obs.items()}

    def _encode(self, obs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Inputs of the action distribution (M, num_outputs) and features (M, H) of all M = R * C * n agent steps."""
        net, layout = self.model.net, self.model.layout
        if isinstance(net, GoodNet):
            return net({key: value.flatten(0, 2) for key, value in obs.items()})
        receivers = obs["receivers"][0].tolist()
        obs = {**obs, "links": unpack(obs["links"], obs["messages"].shape[2])}
        if net.encoder.shares_states(self._comm_hops):
            outputs, features = net.team(obs, layout, receivers)
            return outputs.flatten(0, 2), features.flatten(0, 2)
        return net(receiver_rows(obs, receivers, self._comm_hops), layout)

    @staticmethod
    def _critic_values(net: AdversaryNet | GoodNet, obs: Mapping[str, Tensor], features: Tensor | None) -> Tensor:
        """Values (M,) of all agent steps."""
        if isinstance(net, GoodNet):
            return net.value(obs, features)
        return net.team_value(obs, obs["receivers"][0].tolist(), features).flatten()

    @functools.cached_property
    def _comm_hops(self) -> int:
        return self.config["env_config"].get("comm_hops", EnvConfig.comm_hops)


def unpack(packed: Tensor, length: int) -> Tensor:
    """What `numpy.packbits` packed along the last axis: booleans (..., length)."""
    places = torch.arange(7, -1, -1, device=packed.device, dtype=packed.dtype)
    return ((packed.unsqueeze(-1) >> places) & 1).flatten(-2)[..., :length] > 0


class _Encoded:
    """What RLlib's loss asks of a model, computed beforehand."""

    def __init__(self, model: TorchModelV2, outputs: Tensor, values: Tensor) -> None:
        self.tower_stats: dict[str, Any] = model.tower_stats
        self._outputs, self._values = outputs, values

    def __call__(self, batch: SampleBatch) -> tuple[Tensor, list[Tensor]]:
        return self._outputs, []

    def value_function(self) -> Tensor:
        return self._values
