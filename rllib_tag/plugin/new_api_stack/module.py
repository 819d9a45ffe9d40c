"""The networks as RLlib's RLModules."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.utils.spaces.space_utils import get_base_struct_from_space
from torch import Tensor

from rllib_tag.nn.config import CommConfig
from rllib_tag.nn.network import AdversaryNet, CentralCritic, GoodNet
from rllib_tag.plugin.env_config import EnvConfig
from rllib_tag.plugin.parallel import Map, encode
from rllib_tag.plugin.spaces import layout_for
from rllib_tag.plugin.team_rows import TeamNet, sharing

NET, COMM_HOPS = "custom_model_config", "comm_hops"  # keys of a module's model_config
SHARED = ("encoder", "critic")  # the parts of a network that the classes of a team may share


class CommModule(TorchRLModule, ValueFunctionAPI):
    """Adapter between RLlib and `AdversaryNet`, or `GoodNet` if the observation is a good agent's.

    In its `model_config`, `custom_model_config` holds the keys of `CommConfig`. It also accepts rows of team states
    (`TeamNet`), of which it acts for all agents at once; they need `comm_hops` if it is not `env_config`'s default.

    Raises:
        ConfigError: If the configuration or the observation space is invalid.

    Examples:
        >>> from rllib_tag import TagEnv
        >>> env = TagEnv()
        >>> module = CommModule(
        ...     observation_space=env.observation_spaces["adversary_0"],
        ...     action_space=env.action_spaces["adversary_0"],
        ...     model_config={"custom_model_config": {"hidden_dim": 16}},
        ... )
        >>> module.net.config.hidden_dim
        16
    """

    def setup(self) -> None:
        """Builds the network for the module's spaces."""
        config = CommConfig.from_mapping(self.model_config.get(NET, {}))
        self.layout = layout_for("CommModule", self.observation_space)
        continuous = isinstance(self.action_space, gym.spaces.Box)
        num_outputs = 2 * self.action_space.shape[0] if continuous else int(self.action_space.n)
        self.net: AdversaryNet | GoodNet
        if self.layout is not None:
            self.net = AdversaryNet(num_outputs, config, continuous, self.layout.senses)
        else:
            self.net = GoodNet(num_outputs, config, continuous)
        self.action_space_struct = get_base_struct_from_space(self.action_space)

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        """Returns the action-distribution inputs (B, num_outputs) and the features (B, H) that they come from."""
        obs = batch[Columns.OBS]
        outputs, features = self.team.encode(obs) if is_of_teams(obs) else self.net(obs, self.layout)
        return {Columns.ACTION_DIST_INPUTS: outputs, Columns.EMBEDDINGS: features}

    def compute_values(self, batch: dict[str, Any], embeddings: Tensor | None = None) -> Tensor:
        """Returns values (B,) of the global state, or of the actor's features with `critic: local`."""
        obs = batch[Columns.OBS]
        if is_of_teams(obs):
            return self.team.critic_values(obs, embeddings)
        if embeddings is None and not isinstance(self.net.critic, CentralCritic):
            _, embeddings = self.net(obs, self.layout)
        return self.net.value(obs, embeddings)

    def no_sync(self) -> contextlib.AbstractContextManager[None]:
        """Does nothing: RLlib calls it on each module of several learners, and `CommLearner` synchronises them all."""
        return contextlib.nullcontext()

    @property
    def team(self) -> TeamNet:
        """The network on rows of team states."""
        hops = self.model_config.get(COMM_HOPS, EnvConfig.comm_hops)
        return TeamNet(self.net, self.layout, hops, next(self.net.parameters()).device)


class CommModules(MultiRLModule):
    """The modules of a game, which share the parts that are configured as shared."""

    parts: tuple[int, Map] = (1, map)  # how many parts of a minibatch to encode apart, and the function that does it

    def setup(self) -> None:
        """Builds the modules."""
        super().setup()
        first: dict[str, torch.nn.Module] = {}
        for _, module in sorted(self._rl_modules.items()):
            if isinstance(module, CommModule) and isinstance(module.net, AdversaryNet):
                for part in SHARED:
                    if getattr(module.net.config, part) == "shared":
                        setattr(module.net, part, first.setdefault(part, getattr(module.net, part)))

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, dict[str, Tensor]]:
        """Encodes team states once for all modules that share an encoder."""
        given = dict(batch)
        nets = {name: self._rl_modules[name].net for name in batch if is_of_teams(batch[name][Columns.OBS])}
        for names in sharing(nets):
            seen = {name: batch[name][Columns.OBS] for name in names}
            counts = [obs["receivers"].shape[1] for obs in seen.values()]
            obs = {**seen[names[0]], "receivers": torch.cat([obs["receivers"] for obs in seen.values()], dim=1)}
            features = encode(self._rl_modules[names[0]].team, obs, *self.parts).split(counts, dim=2)
            for name, own in zip(names, features, strict=True):
                given[name] = {**batch[name], Columns.OBS: {**seen[name], "features": own}}
        return super()._forward_train(given, **kwargs)


def is_of_teams(obs: Any) -> bool:
    """Returns whether observations are rows of team states, rather than RLlib's."""
    return isinstance(obs, Mapping) and "receivers" in obs
