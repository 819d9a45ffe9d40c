"""The mapping of agents to policies."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rllib_tag.errors import ConfigError
from rllib_tag.names import GOOD_POLICY
from rllib_tag.plugin.env_config import Number, choices_of
from rllib_tag.plugin.ray_internals import worker_being_built
from rllib_tag.world.roster import Roster


class ClassPolicyMapping:
    """Maps each agent to the policy of its class: in tag to `class_a` and `class_b`, and good agents to `good`.

    RLlib uses one mapping for training and evaluation, whose teams may differ. The mapping therefore looks at the game
    of the worker that calls it. Only if there is none, it assumes tag with its own counts.

    Args:
        num_class_a: The number of class A adversaries, which come first in MPE's names; of several to draw from, as in
            `env_config`, the largest counts. Default: 2, as in `TagEnv`.
        num_class_b: The number of class B adversaries, which follow. Default: 2.

    Raises:
        ConfigError: If a count is invalid.

    Examples:
        >>> mapping = ClassPolicyMapping(num_class_a=1, num_class_b=2)
        >>> [mapping(agent) for agent in ("adversary_0", "adversary_1", "agent_0")]
        ['class_a', 'class_b', 'good']
    """

    _groups: Mapping[str, str] | None = None

    def __init__(self, num_class_a: Number = 2, num_class_b: Number = 2) -> None:
        self.roster = Roster(max(choices_of(num_class_a)), max(choices_of(num_class_b)), 1)

    @classmethod
    def of(cls, groups: Mapping[str, str]) -> ClassPolicyMapping:
        """Returns the mapping of a game, for callers that do not tell it the worker.

        Args:
            groups: The class of each agent.
        """
        mapping = cls()
        mapping._groups = groups
        return mapping

    def __call__(self, agent_id: str, *args: Any, **kwargs: Any) -> str:
        """Returns the policy of an agent.

        Args:
            agent_id: The agent's name.
            *args: The episode that RLlib passes; not used.
            **kwargs: RLlib's keywords. `worker` is the calling rollout worker, or None while RLlib constructs it.

        Raises:
            ConfigError: If the team has no such agent.
        """
        groups = self._groups_of(kwargs["worker"] or worker_being_built()) if "worker" in kwargs else None
        groups = groups or self._groups
        if groups is None:
            groups = self.roster.group_of
            if agent_id.startswith("agent_"):
                return GOOD_POLICY
        if agent_id not in groups:
            raise ConfigError(
                f"policy_mapping_fn: expected one of {', '.join(groups)}, got {agent_id!r}. "
                "Set the mapping's num_class_a and num_class_b to those of env_config."
            )
        return groups[agent_id]

    @staticmethod
    def _groups_of(worker: Any) -> Mapping[str, str] | None:
        """Returns the class of each agent in a worker's game; None if the worker has no game."""
        env = getattr(worker, "env", None)
        return getattr(getattr(env, "unwrapped", env), "group_of", None)


def acting_policies(config: AlgorithmConfig | SimpleNamespace, env: MultiAgentEnv | SimpleNamespace) -> dict[str, str]:
    """Returns the policy of each agent of a game, as a worker with this config and this game maps it.

    Args:
        config: The config whose `policy_mapping_fn` is used.
        env: The game, or a stand-in with its `possible_agents` and its `group_of`.
    """
    worker = SimpleNamespace(config=config, env=env)
    return {agent: config.policy_mapping_fn(agent, None, worker=worker) for agent in env.possible_agents}
