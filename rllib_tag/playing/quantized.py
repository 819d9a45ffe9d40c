"""Teams whose messages have only a few bits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rllib_tag.nn.network import AdversaryNet
from rllib_tag.playing.controllers import Controller, play
from rllib_tag.playing.games import Games
from rllib_tag.playing.restore import TrainedTeam
from rllib_tag.plugin.env_config import EnvConfig

# The episodes in which the ranges of messages are found; evaluations start at seed 1,000,000.
CALIBRATION_SEEDS = range(900_000, 900_032)


class Quantized:
    """Moves a team by a controller while each number of each message is rounded to one of 2^bits values.

    The values are evenly spaced between the smallest and the largest number that stands at this place of a layer's
    messages in `CALIBRATION_SEEDS`, which the team plays undisturbed first. What lies outside this range is clipped.
    Agents read what they send themselves in the same way.

    Args:
        team: The team, with `encoder: shared`.
        controller: What moves it.
        bits: At least 1.
        config: The game.

    Source: Jacob et al. 2018 (uniform affine quantization with calibrated ranges).
    """

    def __init__(self, team: TrainedTeam, controller: Controller, bits: int, config: EnvConfig) -> None:
        graphs = {
            net.encoder.graph for net in team.nets.values() if isinstance(net, AdversaryNet)
        }  # one, or its copies
        self._convs = [(i // graph.num_relations, conv) for graph in graphs for i, conv in enumerate(graph.convs)]
        self._team = team
        self._controller, self._steps, self._config = controller, 2**bits - 1, config
        self._ranges: list[tuple[Tensor, Tensor]] = []

    def __call__(self, games: Games, rngs: Sequence[np.random.Generator]) -> dict[str, np.ndarray]:
        """Returns the actions (B, ...) by agent."""
        if not self._ranges:
            self._ranges = self._calibrated()
        handles = [
            conv.register_forward_pre_hook(partial(self._rounded, self._ranges[layer])) for layer, conv in self._convs
        ]
        try:
            return self._controller(games, rngs)
        finally:
            for handle in handles:
                handle.remove()

    def _calibrated(self) -> list[tuple[Tensor, Tensor]]:
        """Returns the smallest and the largest number at each place of a message, layer by layer."""
        sent: list[Tensor] = []

        def watch(games: Games) -> None:
            messages = self._team.messages(games.states(), games.layout)  # (B, L, N, message_dim)
            said = messages.transpose(0, 1)[:, torch.from_numpy(games.present)]  # (L, senders, message_dim)
            sent.append(torch.stack(said.aminmax(dim=1)))

        play(self._config, self._controller, CALIBRATION_SEEDS, watch)
        lows, highs = torch.stack(sent).unbind(1)  # (steps, L, message_dim)
        return list(zip(lows.amin(0), highs.amax(0), strict=True))

    def _rounded(self, range_: tuple[Tensor, Tensor], _: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        messages, *others = arguments
        low, high = range_
        size = (high - low).clamp(min=torch.finfo(low.dtype).tiny)
        places = ((messages - low) / size).clamp(0, 1)
        return (places * self._steps).round() / self._steps * size + low, *others
