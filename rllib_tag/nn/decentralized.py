"""Decentralized execution: an agent that senses, sends and hears on its own, without the arrays of its team."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from rllib_tag.errors import ConfigError
from rllib_tag.nn.encoder import Teams
from rllib_tag.nn.graph import Convolution, Seen
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

    Example:
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
        T = len(messages)
        valid = torch.arange(T, 0, -1) <= num_valid
        links, me = torch.ones(1, 1, 1, dtype=torch.bool), torch.zeros(1, dtype=torch.long)
        teams = Teams(messages.view(1, T, 1, -1), valid.view(1, 1, 1, T), links, me)
        self._node, self._position, self._seen = self.net.encoder.nodes(teams, self._layout)

    @torch.no_grad()
    def message(self, layer: int) -> Tensor:
        """Returns what it sends in a graph layer: (message_dim,)."""
        graph = self.net.encoder.graph
        relation = self.class_index if graph.num_relations > 1 else 0
        seen = [self._seen[self.class_index]] if graph.num_relations > 1 else self._seen
        return self._conv(layer, relation).message(self._node, self._position, seen)[0, 0]

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
        seen, start = [], 0
        for of_class, kinds in zip(messages, self._layout.sees, strict=True):
            end = start + len(of_class)
            seen.append(Seen(slice(start, end), dict.fromkeys(kinds, self._node)))
            start = end
        groups = [seen] if graph.num_relations == 1 else [[part] for part in seen]
        everything = [message for of_class in messages for message in of_class]
        for relation, parts in enumerate(groups):
            heard = everything[parts[0].senders.start : parts[-1].senders.stop]
            if heard:
                links = torch.ones(1, 1, len(heard), dtype=torch.bool)
                conv = self._conv(layer, relation)
                out = out + conv(torch.stack(heard)[None], self._node, self._position, links, parts)[0]
        self._node = torch.nn.functional.elu(out)

    @torch.no_grad()
    def act(self) -> Tensor:
        """Returns the inputs of the action distribution: (num_outputs,)."""
        return self.net.outputs(self._node)[0, 0]

    def _conv(self, layer: int, relation: int) -> Convolution:
        graph = self.net.encoder.graph
        conv = graph.convs[layer * graph.num_relations + relation]
        assert isinstance(conv, Convolution)
        return conv
