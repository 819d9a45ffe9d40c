"""Algorithms that also start from exported weights."""

from __future__ import annotations

from pathlib import Path

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.appo import APPO
from ray.rllib.algorithms.impala import IMPALA
from ray.rllib.algorithms.ppo import PPO

from rllib_tag.nn.weights import MANIFEST, load_exported


class FromExported(Algorithm):
    """Where a checkpoint is expected, also takes a folder that `rllib export` wrote.

    Only weights come from it: optimizers and counters begin anew.
    """

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Restores a checkpoint, or sets the weights of all policies on all env runners."""
        if not (Path(checkpoint_dir) / MANIFEST).exists():
            super().load_checkpoint(checkpoint_dir)
            return
        for name, net in load_exported(checkpoint_dir).nets.items():
            policy = self.get_policy(name)
            policy.model.net.load_state_dict(net.state_dict())
            policy.set_weights(policy.get_weights())  # a target network's, too
        self.env_runner_group.sync_weights()


class PPOFromExported(FromExported, PPO):
    """RLlib's PPO."""


class APPOFromExported(FromExported, APPO):
    """RLlib's APPO."""


class IMPALAFromExported(FromExported, IMPALA):
    """RLlib's IMPALA."""


ALGORITHMS = {"PPO": PPOFromExported, "APPO": APPOFromExported, "IMPALA": IMPALAFromExported}
