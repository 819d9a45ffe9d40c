"""PPO's policy for batches whose rows are team states."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
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

Observed = Mapping[str, Any]  # arrays or tensors
# The columns that have a number or a vector for each agent of a row.
PER_AGENT = (
    SampleBatch.ACTIONS, SampleBatch.ACTION_LOGP, SampleBatch.ACTION_DIST_INPUTS, SampleBatch.VF_PREDS,
    Postprocessing.ADVANTAGES, Postprocessing.VALUE_TARGETS,
)  # fmt: skip

PRESENT = "present"  # the column (C, n) of which agents take part, if that varies from game to game


class TeamPolicy(PPOTorchPolicy):
    """RLlib's PPO policy, which also accepts rows that contain a stretch of C steps of one game for its n agents.

    The `obs` of such a row is a mapping. For adversaries, it is the input of `CommEncoder.team`, with `links` packed by
    `numpy.packbits`, and `receivers` (n,), the indices of the policy's agents in the team; or, in place of what the
    encoder reads, its output `features` (C, n, H). For good agents, it has `TagEnv`'s keys with leading axes (C, n).
    All other columns have leading axes (C, n). The loss is PPO's own over all R * C * n agent steps, or those of agents
    that are `present`; a team state is encoded only once for all of them. Ordinary RLlib batches work as usual.
    """

    config: dict[str, Any]

    def loss(self, model: TorchModelV2, dist_class: type, train_batch: SampleBatch) -> Tensor | list[Tensor]:
        """Returns PPO's loss, computed by RLlib from the precomputed outputs."""
        obs = train_batch[SampleBatch.OBS]
        if not isinstance(obs, Mapping):
            return super().loss(model, dist_class, train_batch)
        outputs, features = self._encode(obs)
        values = self._critic_values(model.net, obs, features)
        rows = {key: train_batch[key].flatten(0, 2) for key in PER_AGENT}
        if PRESENT in train_batch:
            here = train_batch[PRESENT].flatten() > 0
            outputs, values, rows = outputs[here], values[here], {key: column[here] for key, column in rows.items()}
        return super().loss(_Encoded(model, outputs, values), dist_class, SampleBatch(rows))

    def optimizer(self) -> list[torch.optim.Optimizer]:
        """Returns RLlib's Adam, but fused: the same updates in one pass over all weights."""
        optimizers = [torch.optim.Adam(self.model.parameters(), lr=self.config["lr"], fused=True)]
        return self.exploration.get_exploration_optimizer(optimizers)

    def extra_grad_process(self, local_optimizer: torch.optim.Optimizer, loss: Tensor) -> dict[str, Tensor]:
        """Clips gradients as RLlib does; a gradient that is not finite raises before it reaches the weights.

        Raises:
            FloatingPointError: If a gradient is not finite.
        """
        info = super().extra_grad_process(local_optimizer, loss)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"gradient: expected a finite norm, got {float(norm)} from a loss of {loss.item()}. Lower lr."
            )
        return info

    def act(self, obs: Observed) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Chooses actions in B games by RLlib's own exploration.

        Args:
            obs: As described for the class, with R = B rows and C = 1.

        Returns:
            Actions (B, n, ...) before they are unsquashed or clipped, their log-probabilities (B, n) and the
            action-distribution inputs (B, n, num_outputs).
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
        B = len(obs["receivers" if "receivers" in obs else "own"])
        actions, logp, outputs = (value.unflatten(0, (B, -1)).cpu() for value in (actions, logp, outputs))
        return actions.numpy(), logp.numpy(), outputs.numpy()

    def values(self, obs: Observed) -> np.ndarray:
        """Returns values (R, C, n)."""
        self._set_eval()
        net, lead = self.model.net, obs["team" if "team" in obs else "own"].shape[:2]
        with torch.no_grad():
            tensors = self._tensors(obs)
            # A centralised critic does not need the actor's features.
            central = isinstance(net, AdversaryNet) and net.config.critic != "local"
            features = None if central else self._encode(tensors)[1]
            return self._critic_values(net, tensors, features).cpu().numpy().reshape(*lead, -1)

    def features(self, obs: Observed) -> Tensor:
        """Returns the encoder's output for the receivers of the observations: (R, C, n, H)."""
        encoder, layout, tensors = self.model.net.encoder, self.model.layout, self._tensors(obs)
        receivers, (R, C) = tensors["receivers"][0], tensors["history"].shape
        tensors["links"] = unpack(tensors["links"], tensors["messages"].shape[2])
        if encoder.shares_states(self._comm_hops):
            return encoder.team(tensors, layout, receivers)
        rows = receiver_rows(tensors, receivers, self._comm_hops)
        return encoder(rows, layout).view(R, C, len(receivers), -1)

    def update_encoder(self, gradients: Sequence[Tensor], loss: Tensor) -> None:
        """Updates the encoder's weights, and nothing else.

        Args:
            gradients: The gradient of each of its weights.
            loss: Of what, for messages.

        Raises:
            FloatingPointError: If a gradient is not finite.
        """
        self.clear_gradients()
        for weight, gradient in zip(self.model.net.encoder.parameters(), gradients, strict=True):
            weight.grad = gradient.contiguous()  # as autograd leaves it; the fused optimizer goes through memory
        (optimizer,) = self._optimizers
        self.extra_grad_process(optimizer, loss)
        optimizer.step()
        self.clear_gradients()

    def clear_gradients(self) -> None:
        """Forgets all gradients, so that the next update leaves weights without a new one as they are."""
        for weight in self.model.parameters():
            weight.grad = None

    def _set_eval(self) -> None:
        if self.model.training:  # visiting all modules costs more than a small layer
            self.model.eval()

    def _tensors(self, obs: Observed) -> dict[str, Tensor]:
        return {
            key: value if isinstance(value, Tensor) else torch.from_numpy(value).to(self.device)
            for key, value in obs.items()
        }

    def _encode(self, obs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Returns action-distribution inputs (M, num_outputs) and features (M, H) of all M = R * C * n agent steps."""
        net = self.model.net
        if isinstance(net, GoodNet):
            return net({key: value.flatten(0, 2) for key, value in obs.items()})
        features = (obs["features"] if "features" in obs else self.features(obs)).flatten(0, 2)
        return net.outputs(features), features

    @staticmethod
    def _critic_values(net: AdversaryNet | GoodNet, obs: Mapping[str, Tensor], features: Tensor | None) -> Tensor:
        """Returns values (M,) of all agent steps."""
        if isinstance(net, GoodNet):
            return net.value(obs, features)
        return net.team_value(obs, obs["receivers"][0], features).flatten()

    @functools.cached_property
    def _comm_hops(self) -> int:
        return self.config["env_config"].get("comm_hops", EnvConfig.comm_hops)


def sharing(policies: Mapping[str, TeamPolicy]) -> list[list[str]]:
    """Returns the policies that share an encoder, group by group; a policy that shares none is a group of its own."""
    groups: dict[int, list[str]] = {}
    for name, policy in policies.items():
        groups.setdefault(id(getattr(policy.model.net, "encoder", policy)), []).append(name)
    return list(groups.values())


def unpack(packed: Tensor, length: int) -> Tensor:
    """Unpacks what `numpy.packbits` packed along the last axis: booleans (..., length)."""
    places = torch.arange(7, -1, -1, device=packed.device, dtype=packed.dtype)
    return ((packed.unsqueeze(-1) >> places) & 1).flatten(-2)[..., :length] > 0


def agent_steps(batch: Mapping[str, np.ndarray]) -> int:
    """Returns the number of agent steps in a policy's batch: those of the agents that take part."""
    return int(batch[PRESENT].sum()) if PRESENT in batch else batch[SampleBatch.ACTION_LOGP].size


class _Encoded:
    """Stands in for a model in RLlib's loss, with precomputed outputs and values."""

    def __init__(self, model: TorchModelV2, outputs: Tensor, values: Tensor) -> None:
        self.tower_stats: dict[str, Any] = model.tower_stats
        self._outputs, self._values = outputs, values

    def __call__(self, batch: SampleBatch) -> tuple[Tensor, list[Tensor]]:
        return self._outputs, []

    def value_function(self) -> Tensor:
        return self._values
