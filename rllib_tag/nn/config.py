"""The configuration of the networks."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Mapping
from typing import Any, Literal, get_args

from rllib_tag.errors import ConfigError, check_bool, check_choice, check_int, check_number, dataclass_from_mapping
from rllib_tag.nn.products import Precision

logger = logging.getLogger(__name__)
Temporal = Literal["transformer", "gru", "none"]
Sequence = Literal["history", "neighbors"]
Gnn = Literal["gat", "gatv2", "mean", "none"]
Critic = Literal["class", "shared", "local"]
Encoder = Literal["class", "shared"]
Frame = Literal["receiver", "absolute"]


@dataclasses.dataclass(frozen=True)
class CommConfig:
    """The keys of `custom_model_config`.

    Args:
        hidden_dim: H, the width of every layer. Default: 128.
        num_heads: Attention heads of the temporal transformer and of the graph attention. Default: 2.
        num_layers: Layers of the temporal transformer or GRU. Default: 2.
        temporal: The network that reads the tokens: `transformer`, `gru` or `none`. Default: `transformer`.
        sequence: The tokens: a node's own last T messages (`history`), or the messages that it hears in the current
            step (`neighbors`, transformer only). Default: `history`.
        gnn: The graph layer: `gat`, `gatv2`, `mean` (of the messages heard), or `none`: no messages are passed
            on, and only `sequence: neighbors` still hears. `gcn` is the old name of `mean`. Default: `gat`.
        gnn_layers: The number of graph layers. Default: 2.
        relational: Whether each graph layer aggregates the messages of each class separately, with separate weights,
            and adds the results, so that no class dilutes another. Default: False.
        critic: `class` is one centralised critic per class. `shared` is one centralised critic, whose weights all
            class policies share. `local` is a critic on the actor's own features. Default: `class`.
        value_scale: Factor on the output of the critic's last layer. MPE pays 10 per contact, so values are far
            from 1. Default: 10.
        encoder: `class` lets each class encode what everybody says with weights of its own. `shared` is one encoder,
            whose weights all class policies hold, so that what crosses a link in a graph layer is one learned message.
            Default: `shared`.
        frame: Where a graph layer places what is heard. `absolute` leaves it in absolute coordinates. `receiver`
            places the sender, and in the first layer what it sees, relative to the receiver before any nonlinearity.
            Default: `receiver`.
        message_dim: How many numbers cross a link in a graph layer; None is H. Default: None.
        precision: The precision of products of H numbers: `float32`, `bfloat16`, or `auto`, which is bfloat16 on
            devices with instructions for it. Weights, softmax, logits, values and losses stay float32.
            Default: `float32`.

    Raises:
        ConfigError: If a value is invalid.

    Examples:
        >>> CommConfig.from_mapping({"gnn": "gatv2", "hidden_dim": 64}).gnn_layers
        2
    """

    hidden_dim: int = 128
    num_heads: int = 2
    num_layers: int = 2
    temporal: Temporal = "transformer"
    sequence: Sequence = "history"
    gnn: Gnn = "gat"
    gnn_layers: int = 2
    relational: bool = False
    critic: Critic = "class"
    value_scale: float = 10.0
    encoder: Encoder = "shared"
    frame: Frame = "receiver"
    message_dim: int | None = None
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if self.gnn == "gcn":
            _warn_renamed()
            object.__setattr__(self, "gnn", "mean")
        for name in ("hidden_dim", "num_heads", "num_layers", "gnn_layers"):
            check_int(name, getattr(self, name), 1)
        check_choice("temporal", self.temporal, get_args(Temporal))
        check_choice("sequence", self.sequence, get_args(Sequence))
        check_choice("gnn", self.gnn, get_args(Gnn))
        check_choice("critic", self.critic, get_args(Critic))
        check_choice("encoder", self.encoder, get_args(Encoder))
        check_choice("frame", self.frame, get_args(Frame))
        check_choice("precision", self.precision, get_args(Precision))
        if self.message_dim is not None:
            check_int("message_dim", self.message_dim, 1)
        check_bool("relational", self.relational)
        if self.gnn == "none":
            for name, unused in (("relational", False), ("message_dim", None)):
                if getattr(self, name) != unused:
                    raise ConfigError(
                        f"{name}: expected graph layers, got gnn: none. Remove {name}, or set gnn: gat, gatv2 or mean."
                    )
        check_number("value_scale", self.value_scale, 1e-6, 1e6)
        if self.hidden_dim % 2 or self.hidden_dim % self.num_heads:
            raise ConfigError(
                f"hidden_dim: expected an even multiple of num_heads = {self.num_heads}, got {self.hidden_dim}. "
                "Change one of the two."
            )
        if self.sequence == "neighbors" and self.temporal != "transformer":
            raise ConfigError(
                f"sequence: neighbors: expected temporal: transformer, got temporal: {self.temporal}. "
                "Set temporal: transformer or sequence: history."
            )
        if self.sequence == "neighbors" and self.message_dim is not None:
            raise ConfigError(
                f"message_dim: expected sequence: history, got neighbors with message_dim: {self.message_dim}; it "
                "reads whole tokens of hidden_dim numbers. Remove message_dim, or set sequence: history."
            )

    @property
    def listens(self) -> bool:
        """Whether an agent reads anything that another one says."""
        return self.gnn != "none" or self.sequence == "neighbors"

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> CommConfig:
        """Builds it from a mapping such as parsed YAML; the error for an unknown key names the nearest known one."""
        return dataclass_from_mapping(cls, "custom_model_config", mapping)


# Version 0.1 had no such keys. Its exports and checkpoints are read with these values.
DEFAULTS_OF_0_1 = {"encoder": "class", "frame": "absolute"}
# The keys that two networks must have in common for one's weights to mean the same in the other.
ARCHITECTURE = [field.name for field in dataclasses.fields(CommConfig) if field.name != "precision"]


@functools.cache  # once per process
def _warn_renamed() -> None:
    logger.warning("gnn: gcn has been renamed to mean, which is what it computes. Set gnn: mean.")
