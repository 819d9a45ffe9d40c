"""Algorithms that can also start from exported weights."""

from __future__ import annotations

from pathlib import Path

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.appo import APPO
from ray.rllib.algorithms.impala import IMPALA
from ray.rllib.algorithms.ppo import PPO

from rllib_tag.nn.weights import MANIFEST, load_exported


class FromExported(Algorithm):
    """Accepts a folder that `rllib export` wrote wherever a checkpoint is expected.

    Only the weights are loaded; optimizers and counters start from scratch.
    """

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Restores a checkpoint, or loads exported weights into all policies on all env runners."""
        if not (Path(checkpoint_dir) / MANIFEST).exists():
            super().load_checkpoint(checkpoint_dir)
            return
        for name, net in load_exported(checkpoint_dir).nets.items():
            policy = self.get_policy(name)
            policy.model.net.load_state_dict(net.state_dict())
            policy.set_weights(policy.get_weights())  # also updates a target network
        self.env_runner_group.sync_weights()


class PPOFromExported(FromExported, PPO):
    """RLlib's PPO, which can also start from exported weights."""


class APPOFromExported(FromExported, APPO):
    """RLlib's APPO, which can also start from exported weights."""


class IMPALAFromExported(FromExported, IMPALA):
    """RLlib's IMPALA, which can also start from exported weights."""


ALGORITHMS = {"PPO": PPOFromExported, "APPO": APPOFromExported, "IMPALA": IMPALAFromExported}
