"""The process of one agent, by itself, so that a spawned process can import it."""

from __future__ import annotations

import multiprocessing.connection
from typing import Any

import numpy as np
import torch

from rllib_tag.nn.config import CommConfig
from rllib_tag.nn.decentralized import DecentralizedAgent
from rllib_tag.nn.network import AdversaryNet
from rllib_tag.plugin.env_config import TagEnvConfig

GAME = {"num_class_a": 3, "num_class_b": 2, "comm_range": 0.8, "history_length": 3}
LAYOUT = TagEnvConfig(**GAME).game.layout


def nets(options: dict[str, Any]) -> list[AdversaryNet]:
    """A network for each class, which share their encoder; the same in every process."""
    torch.manual_seed(0)
    config = CommConfig(hidden_dim=28, num_heads=2, encoder="shared", **options)
    first = AdversaryNet(5, config, continuous=False)
    both = [first, AdversaryNet(5, config, continuous=False, encoder=first.encoder)]
    for net in both:
        torch.nn.init.normal_(net.actor[-1].weight)  # starts near 0, which would hide all differences
    return both


def live(pipe: multiprocessing.connection.Connection, options: dict[str, Any], class_index: int) -> None:
    """The process of one agent."""
    torch.set_num_threads(1)
    agent = DecentralizedAgent(nets(options)[class_index], LAYOUT, class_index)
    while (own := pipe.recv()) is not None:
        agent.sense(torch.from_numpy(own[0]), own[1])
        for layer in range(agent.num_layers):
            pipe.send_bytes(agent.message(layer).numpy().tobytes())
            heard = [[np.frombuffer(each, np.float32) for each in of_class] for of_class in pipe.recv()]
            agent.hear(layer, [[torch.tensor(each) for each in of_class] for of_class in heard])
        pipe.send(agent.act().numpy())
