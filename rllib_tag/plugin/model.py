"""The networks as an RLlib model."""

from __future__ import annotations

import weakref
from typing import Any

import gymnasium as gym
import torch
from ray.rllib.models.torch.torch_modelv2 import TorchModelV2
from torch import Tensor, nn

from rllib_tag.errors import ConfigError
from rllib_tag.nn.config import CommConfig
from rllib_tag.nn.network import AdversaryNet, CentralCritic, GoodNet
from rllib_tag.plugin.ray_internals import worker_being_built
from rllib_tag.plugin.spaces import message_layout
from rllib_tag.world.finite import first_not_finite
from rllib_tag.world.layout import MessageLayout, Senses

# By worker and by the name of the model that has them, for `critic: shared`.
_shared_critics: weakref.WeakKeyDictionary[Any, dict[str, SharedCritic]] = weakref.WeakKeyDictionary()


class CommModel(TorchModelV2, nn.Module):
    """Adapter between RLlib and `AdversaryNet`, or `GoodNet` where the observation is a good agent's.

    Args:
        obs_space: The preprocessed space; its `original_space` is one of `CommEnv`'s.
        action_space: Discrete, or a Box of one axis.
        num_outputs: What the action distribution needs.
        model_config: RLlib's model config.
        name: The model's name.
        **custom_model_config: The keys of `CommConfig`.

    Raises:
        ConfigError: If the configuration or the spaces do not fit.

    Example:
        >>> from ray.rllib.algorithms.ppo import PPOConfig
        >>> model = {"custom_model": "rllib_tag.CommModel", "custom_model_config": {"gnn": "gatv2"}}
        >>> PPOConfig().environment("rllib_tag.TagEnv").training(model=model).model["custom_model_config"]
        {'gnn': 'gatv2'}
    """

    def __init__(
        self,
        obs_space: gym.Space,
        action_space: gym.Space,
        num_outputs: int,
        model_config: dict[str, Any],
        name: str,
        **custom_model_config: Any,
    ) -> None:
        TorchModelV2.__init__(self, obs_space, action_space, num_outputs, model_config, name)
        nn.Module.__init__(self)
        config = CommConfig.from_mapping(custom_model_config)
        original = getattr(obs_space, "original_space", obs_space)
        if not isinstance(original, gym.spaces.Dict) or not {"messages", "own"} & set(original.spaces):
            raise ConfigError(f"CommModel: expected an observation space of TagEnv or CommEnv, got {original}.")
        continuous = isinstance(action_space, gym.spaces.Box)
        self.net: AdversaryNet | GoodNet
        self.layout: MessageLayout | None = None
        if "messages" in original.spaces:
            self.layout = message_layout(original)
            senses = self.layout.senses
            shared = {"critic": _shared_critic(config, senses, name)} if config.critic == "shared" else {}
            self.net = AdversaryNet(num_outputs, config, continuous, senses, **shared)
        else:
            self.net = GoodNet(num_outputs, config, continuous)

    def forward(self, input_dict: dict[str, Any], state: list[Tensor], seq_lens: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Action-distribution inputs (B, num_outputs) of `input_dict["obs"]`, and the unused state."""
        self._obs = input_dict["obs"]
        outputs, self._features = self.net(self._obs, self.layout)
        return outputs, state

    def value_function(self) -> Tensor:
        """Values (B,) of the last forward's observations."""
        return self.net.value(self._obs, self._features)

    def custom_loss(self, policy_loss: list[Tensor], loss_inputs: Any) -> list[Tensor]:
        """The losses as they are; one that is not finite ends the run before it reaches the weights.

        Args:
            policy_loss: The policy's losses.
            loss_inputs: The minibatch.

        Raises:
            FloatingPointError: If one is not; the message names the first number of the minibatch that is not.
        """
        if not all(torch.isfinite(loss).all() for loss in policy_loss):
            found = first_not_finite(dict(loss_inputs))
            cause = f"The minibatch has {found}" if found else "All of the minibatch is finite: lower lr"
            raise FloatingPointError(
                f"loss: expected a finite number, got {[loss.item() for loss in policy_loss]}. {cause}."
            )
        return policy_loss


class SharedCritic(CentralCritic):
    """A critic that the class policies of one worker hold between them.

    RLlib copies a model before it moves it to a GPU; the copies go on sharing this one.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedCritic:
        return self


def _shared_critic(config: CommConfig, senses: Senses, name: str) -> SharedCritic:
    """The one critic of the worker that is being built; a policy built otherwise, as by `restore`, has its own.

    An algorithm such as APPO gives each policy a second model, whose weights lag behind. Those share another critic:
    writing to it must not touch what is being learned.
    """
    worker = worker_being_built()
    if worker is None:
        return SharedCritic(config, senses)
    critics = _shared_critics.setdefault(worker, {})
    if name not in critics:
        critics[name] = SharedCritic(config, senses)
    return critics[name]
