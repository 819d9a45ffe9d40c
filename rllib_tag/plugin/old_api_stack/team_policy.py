"""PPO's policy for batches whose rows are team states."""

from __future__ import annotations

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
from rllib_tag.plugin.env_config import EnvConfig
from rllib_tag.plugin.team_rows import PRESENT, Observed, TeamNet, by_game

# The columns that have a number or a vector for each agent of a row.
PER_AGENT = (
    SampleBatch.ACTIONS, SampleBatch.ACTION_LOGP, SampleBatch.ACTION_DIST_INPUTS, SampleBatch.VF_PREDS,
    Postprocessing.ADVANTAGES, Postprocessing.VALUE_TARGETS,
)  # fmt: skip


class TeamPolicy(PPOTorchPolicy):
    """RLlib's PPO policy, which also accepts rows that contain a stretch of C steps of one game for its n agents.

    The `obs` of such a row is what `TeamNet` reads; all other columns have leading axes (C, n). The loss is PPO's own
    over all R * C * n agent steps, or those of agents that are `present`; a team state is encoded only once for all of
    them. Ordinary RLlib batches work as usual.
    """

    config: dict[str, Any]

    def loss(self, model: TorchModelV2, dist_class: type, train_batch: SampleBatch) -> Tensor | list[Tensor]:
        """Returns PPO's loss, computed by RLlib from the precomputed outputs."""
        obs = train_batch[SampleBatch.OBS]
        if not isinstance(obs, Mapping):
            return super().loss(model, dist_class, train_batch)
        team = self.team
        outputs, features = team.encode(obs)
        values = team.critic_values(obs, features)
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
        """Chooses actions in B games by RLlib's own exploration: what `Actor.act` asks for."""
        self._set_eval()
        explore, timestep = self.config["explore"], self.global_timestep
        with torch.no_grad():
            team = self.team
            outputs, _ = team.encode(team.tensors(obs))
            self.exploration.before_compute_actions(explore=explore, timestep=timestep)
            actions, logp = self.exploration.get_exploration_action(
                action_distribution=self.dist_class(outputs, self.model), timestep=timestep, explore=explore
            )
        self.global_timestep += len(outputs)
        return by_game(obs, actions), by_game(obs, logp), by_game(obs, outputs)

    def values(self, obs: Observed) -> np.ndarray:
        """Returns values (R, C, n)."""
        self._set_eval()
        return self.team.values(obs)

    def features(self, obs: Observed) -> Tensor:
        """Returns the encoder's output for the receivers of the observations: (R, C, n, H)."""
        return self.team.features(obs)

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

    @property
    def net(self) -> AdversaryNet | GoodNet:
        """The network."""
        return self.model.net

    @property
    def gamma(self) -> float:
        """The discount."""
        return self.config["gamma"]

    @property
    def lambda_(self) -> float:
        """The discount of the advantages' estimator."""
        return self.config["lambda"]

    @property
    def team(self) -> TeamNet:
        """The network on rows of team states."""
        comm_hops = self.config["env_config"].get("comm_hops", EnvConfig.comm_hops)
        return TeamNet(self.model.net, self.model.layout, comm_hops, self.device)


class _Encoded:
    """Stands in for a model in RLlib's loss, with precomputed outputs and values."""

    def __init__(self, model: TorchModelV2, outputs: Tensor, values: Tensor) -> None:
        self.tower_stats: dict[str, Any] = model.tower_stats
        self._outputs, self._values = outputs, values

    def __call__(self, batch: SampleBatch) -> tuple[Tensor, list[Tensor]]:
        return self._outputs, []

    def value_function(self) -> Tensor:
        return self._values
