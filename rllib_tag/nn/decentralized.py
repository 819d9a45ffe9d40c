"""Decentralized execution: an agent that senses, sends and hears on its own, without the arrays of its team."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from rllib_tag.errors import ConfigError
from rllib_tag.nn.encoder import team_states
from rllib_tag.nn.graph import Seen
from rllib_tag.nn.network import AdversaryNet
from rllib_tag.world.layout import MessageLayout


class DecentralizedAgent:
    """One agent of a team with `encoder: shared`, which exchanges nothing with its teammates but messages.

    In each step of the game, call `sense` once, then for each of the `num_layers` graph layers `message` and `hear`,
    and then `act`. A message is what it sends over each of its links: `message_dim` numbers, H if that is None. The
    agents of a team that do so act as the whole team does if `comm_hops` is at least the number of layers.

    Args:
        net: The network of the agent's policy.
        layout: The layout of the game's messages, for what the classes see.
        class_index: The agent's class.

    Raises:
        ConfigError: If the network has an encoder for each class, or reads its neighbors' tokens.

    Examples:
        >>> import rllib_tag
        >>> from rllib_tag.nn.config import CommConfig
        >>> config, game = CommConfig(encoder="shared", gnn_layers=1, message_dim=8), rllib_tag.TagEnv().config.game
        >>> agent = DecentralizedAgent(AdversaryNet(5, config, continuous=False), game.layout, class_index=0)
        >>> agent.sense(torch.zeros(1, game.layout.width), num_valid=1)
        >>> said = agent.message(0)
        >>> agent.hear(0, [[said], []])  # itself and nobody else
        >>> said.shape, agent.act().shape
        (torch.Size([8]), torch.Size([5]))
    """

    def __init__(self, net: AdversaryNet, layout: MessageLayout, class_index: int) -> None:
        config = net.config
        if config.encoder != "shared" or config.sequence != "history" or config.gnn == "none":
            raise ConfigError(
                "DecentralizedAgent: expected encoder: shared, sequence: history and graph layers, got "
                f"encoder: {config.encoder}, sequence: {config.sequence}, gnn: {config.gnn}. Train such a team."
            )
        self.net, self.class_index, self.num_layers = net, class_index, config.gnn_layers
        sizes = tuple(int(k == class_index) for k in range(len(layout.senses.classes)))
        self._layout = dataclasses.replace(layout, sizes=sizes)

    @torch.no_grad()
    def sense(self, messages: Tensor, num_valid: int) -> None:
        """Begins a step.

        Args:
            messages: (T, F) what the agent itself says in this step and said in the T - 1 steps before.
            num_valid: How many of them belong to this episode.
        """
        obs = {
            "messages": messages[None, :, None],
            "history": torch.tensor([[num_valid]]),
            "links": torch.ones(1, 1, 1, 1),
        }
        self._node, self._position, self._seen = self.net.encoder.nodes(team_states(obs, None), self._layout)

    @torch.no_grad()
    def message(self, layer: int) -> Tensor:
        """Returns what it sends in a graph layer: (message_dim,)."""
        said = [
            conv.message(self._node[:, senders], self._position[:, senders], parts)
            for conv, senders, parts in self.net.encoder.graph.relations(layer, self._seen)
        ]
        return torch.cat(said, dim=1)[0, 0]

    @torch.no_grad()
    def hear(self, layer: int, messages: Sequence[Sequence[Tensor]]) -> None:
        """Ends a graph layer.

        Args:
            layer: Which.
            messages: For each class, the messages (message_dim,) of its agents that are linked to this one, itself
                included.
        """
        graph = self.net.encoder.graph
        out = graph.skips[layer](self._node)
        kinds = (dict.fromkeys(kinds, self._node) for kinds in self._layout.sees)
        everything = torch.stack([message for of_class in messages for message in of_class])[None]
        links = torch.ones(1, 1, everything.shape[1], dtype=torch.bool)
        for conv, senders, parts in graph.relations(layer, Seen.by_class(map(len, messages), kinds)):
            out = out + conv(everything[:, senders], self._node, self._position, links[:, :, senders], parts)[0]
        self._node = torch.nn.functional.elu(out)

    @torch.no_grad()
    def act(self) -> Tensor:
        """Returns the inputs of the action distribution: (num_outputs,)."""
        return self.net.outputs(self._node)[0, 0]
