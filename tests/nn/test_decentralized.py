"""Promise 4: agents in processes of their own, that exchange only messages, act as the batched team does."""

from __future__ import annotations

import multiprocessing
import sys
from typing import Any

import numpy as np
import pytest
import torch
from agents_apart import GAME, LAYOUT, live, nets
from conftest import random_actions

from rllib_tag.errors import ConfigError
from rllib_tag.nn.config import CommConfig
from rllib_tag.nn.decentralized import DecentralizedAgent
from rllib_tag.nn.network import AdversaryNet
from rllib_tag.plugin.env import TagEnv

CONFIGS: list[dict[str, Any]] = [
    {},
    {"message_dim": 6},
    {"relational": True, "gnn": "gatv2"},
    {"relational": True, "gnn": "mean", "temporal": "none", "gnn_layers": 1},
    {"frame": "absolute", "temporal": "gru", "message_dim": 5, "relational": True, "gnn_layers": 3},
]


def observed(steps: int, layers: int) -> list[tuple[dict[str, dict[str, np.ndarray]], np.ndarray]]:
    """What everybody observes in an episode, and who is linked to whom: (N, N)."""
    env, rng = TagEnv(**GAME, comm_hops=layers), np.random.default_rng(0)
    out = [(env.reset(seed=3)[0], env.games.view.links[0])]
    for _ in range(steps):
        out.append((env.step(random_actions(env, rng))[0], env.games.view.links[0]))
    return out


def logits_of_the_team(options: dict[str, Any], episode: list[Any]) -> torch.Tensor:
    """(steps, N, 5) of RLlib's rows, one receiver at a time."""
    layout, both = LAYOUT, nets(options)
    out = []
    for rows, _ in episode:
        for i in range(5):
            row = {key: torch.from_numpy(value[None]) for key, value in rows[f"adversary_{i}"].items()}
            with torch.no_grad():
                out.append(both[i >= 3](row, layout)[0][0])
    return torch.stack(out).view(len(episode), 5, 5)


def own_messages(rows: dict[str, dict[str, np.ndarray]], i: int) -> tuple[np.ndarray, int]:
    row = rows[f"adversary_{i}"]
    return row["messages"][i], int(row["message_mask"][i].sum())


@pytest.mark.parametrize("options", CONFIGS, ids=str)
def test_agents_that_exchange_only_messages_act_as_the_team(options: dict[str, Any]) -> None:
    layers = options.get("gnn_layers", 2)
    episode, both = observed(6, layers), nets(options)
    agents = [DecentralizedAgent(both[i >= 3], LAYOUT, int(i >= 3)) for i in range(5)]
    logits = []
    for rows, links in episode:
        for i, agent in enumerate(agents):
            said, num_valid = own_messages(rows, i)
            agent.sense(torch.from_numpy(said), num_valid)
        for layer in range(layers):
            sent = [agent.message(layer) for agent in agents]
            assert all(message.shape == (options.get("message_dim", 28),) for message in sent)
            for i, agent in enumerate(agents):
                agent.hear(layer, [[sent[j] for j in members if links[i, j]] for members in (range(3), range(3, 5))])
        logits += [agent.act() for agent in agents]
    assert not all(links.all() for _, links in episode)
    expected = logits_of_the_team(options, episode)
    torch.testing.assert_close(torch.stack(logits).view_as(expected), expected, rtol=1e-4, atol=1e-4)


def test_a_kind_without_entities_is_where_the_sender_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GAME, "num_obstacles", 0)
    monkeypatch.setattr(sys.modules[__name__], "LAYOUT", TagEnv(**GAME).config.game.layout)
    for net in (made := nets({})):
        net.actor[-1].weight.data.mul_(100)  # near zero at first, as the difference would be
    monkeypatch.setattr(sys.modules[__name__], "nets", lambda _: made)
    test_agents_that_exchange_only_messages_act_as_the_team({})


def test_agents_in_processes_of_their_own_act_as_the_team() -> None:
    """Each gets its own sensors' readings, and of the others nothing but float32 numbers over its links."""
    options, episode = CONFIGS[1], observed(4, layers=2)
    context = multiprocessing.get_context("spawn")
    pipes, theirs = zip(*(context.Pipe() for _ in range(5)), strict=True)
    processes = [context.Process(target=live, args=(theirs[i], options, int(i >= 3)), daemon=True) for i in range(5)]
    for process, end in zip(processes, theirs, strict=True):
        process.start()
        end.close()  # so that a process that dies ends the test
    logits = []
    for rows, links in episode:
        for i, pipe in enumerate(pipes):
            pipe.send(own_messages(rows, i))
        for _ in range(2):
            sent = [pipe.recv_bytes() for pipe in pipes]
            assert all(len(message) == 4 * 6 for message in sent)
            for i, pipe in enumerate(pipes):
                pipe.send([[sent[j] for j in members if links[i, j]] for members in (range(3), range(3, 5))])
        logits += [pipe.recv() for pipe in pipes]
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send(None)
        process.join(20)
        assert process.exitcode == 0
    expected = logits_of_the_team(options, episode)
    torch.testing.assert_close(torch.from_numpy(np.stack(logits)).view_as(expected), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"encoder": "class"}, {"sequence": "neighbors"}, {"gnn": "none"}])
def test_a_team_that_needs_more_than_messages_is_refused(options: dict[str, Any]) -> None:
    net = AdversaryNet(5, CommConfig(hidden_dim=28, **{"encoder": "shared", **options}), continuous=False)
    with pytest.raises(ConfigError, match="expected encoder: shared, sequence: history and graph layers"):
        DecentralizedAgent(net, TagEnv().config.game.layout, 0)
