"""The networks as an RLlib model."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import gymnasium as gym
import torch
from ray.rllib.models.torch.torch_modelv2 import TorchModelV2
from torch import Tensor, nn

from rllib_tag.nn.config import CommConfig
from rllib_tag.nn.encoder import CommEncoder
from rllib_tag.nn.network import AdversaryNet, CentralCritic, GoodNet
from rllib_tag.plugin.ray_internals import worker_being_built
from rllib_tag.plugin.spaces import layout_for
from rllib_tag.world.finite import first_not_finite
from rllib_tag.world.layout import Senses

# What all class policies of a worker share (`encoder: shared`, `critic: shared`), by worker, class and model name.
_shared: weakref.WeakKeyDictionary[Any, dict[tuple[str, str], nn.Module]] = weakref.WeakKeyDictionary()
Part = TypeVar("Part", bound=nn.Module)


class CommModel(TorchModelV2, nn.Module):
    """Adapter between RLlib and `AdversaryNet`, or `GoodNet` if the observation is a good agent's.

    Args:
        obs_space: The preprocessed space; its `original_space` is one of `CommEnv`'s.
        action_space: Discrete, or a Box with one axis.
        num_outputs: The number of inputs of the action distribution.
        model_config: RLlib's model config.
        name: The name of the model.
        **custom_model_config: The keys of `CommConfig`.

    Raises:
        ConfigError: If the configuration or the observation space is invalid.

    Examples:
        >>> from ray.rllib.algorithms.ppo import PPOConfig
        >>> model = {"custom_model": "rllib_tag.CommModel", "custom_model_config": {"gnn": "gatv2"}}
        >>> PPOConfig().environment("rllib_tag.TagEnv").training(model=model).model["custom_model_config"]
        {'gnn': 'gatv2'}
    """

    defaults: ClassVar[Mapping[str, Any]] = {}  # of `CommConfig`, where they differ

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
        config = CommConfig.from_mapping({**self.defaults, **custom_model_config})
        self.layout = layout_for("CommModel", getattr(obs_space, "original_space", obs_space))
        continuous = isinstance(action_space, gym.spaces.Box)
        self.net: AdversaryNet | GoodNet
        if self.layout is not None:
            senses = self.layout.senses
            shared: dict[str, Any] = {}
            if config.encoder == "shared":
                shared["encoder"] = _of_worker(SharedEncoder, config, senses, name)
            if config.critic == "shared":
                shared["critic"] = _of_worker(SharedCritic, config, senses, name)
            self.net = AdversaryNet(num_outputs, config, continuous, senses, **shared)
        else:
            self.net = GoodNet(num_outputs, config, continuous)

    def forward(self, input_dict: dict[str, Any], state: list[Tensor], seq_lens: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Returns the action-distribution inputs (B, num_outputs) for `input_dict["obs"]`, and the unused state."""
        self._obs = input_dict["obs"]
        outputs, self._features = self.net(self._obs, self.layout)
        return outputs, state

    def value_function(self) -> Tensor:
        """Returns values (B,) of the observations of the last forward pass."""
        return self.net.value(self._obs, self._features)

    def custom_loss(self, policy_loss: list[Tensor], loss_inputs: Any) -> list[Tensor]:
        """Returns the losses unchanged; a loss that is not finite raises before it reaches the weights.

        Args:
            policy_loss: The policy's losses.
            loss_inputs: The minibatch.

        Raises:
            FloatingPointError: If a loss is not finite; the message names the first such number in the minibatch.
        """
        if not all(torch.isfinite(loss).all() for loss in policy_loss):
            found = first_not_finite(dict(loss_inputs))
            cause = f"The minibatch contains {found}" if found else "The minibatch is finite; lower lr"
            raise FloatingPointError(
                f"loss: expected a finite number, got {[loss.item() for loss in policy_loss]}. {cause}."
            )
        return policy_loss


class _Shared:
    """What all class policies of one worker share.

    RLlib copies a model before it moves it to a GPU; the copies still share it.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self


class SharedEncoder(_Shared, CommEncoder):
    """The encoder of `encoder: shared`."""


class SharedCritic(_Shared, CentralCritic):
    """The critic of `critic: shared`."""


def _of_worker(part: Callable[[CommConfig, Senses], Part], config: CommConfig, senses: Senses, name: str) -> Part:
    """Returns the shared part of the worker under construction; without one, as in `restore`, a policy gets its own.

    Algorithms such as APPO give each policy a second model, whose weights lag behind. These models share another part,
    because writing to it must not change the one that is being trained.
    """
    worker = worker_being_built()
    if worker is None:
        return part(config, senses)
    parts = _shared.setdefault(worker, {})
    key = part.__name__, name
    if key not in parts:
        parts[key] = part(config, senses)
    return parts[key]  # type: ignore[return-value]
