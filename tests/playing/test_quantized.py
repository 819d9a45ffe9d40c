"""Messages of a few bits, against agents that exchange rounded messages themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rllib_tag.errors import ConfigError
from rllib_tag.nn.config import CommConfig
from rllib_tag.nn.decentralized import DecentralizedAgent
from rllib_tag.nn.weights import build_net
from rllib_tag.playing import quantized
from rllib_tag.playing.controllers import play, team_controller
from rllib_tag.playing.evaluate import evaluate
from rllib_tag.playing.games import Games
from rllib_tag.playing.quantized import Quantized
from rllib_tag.playing.restore import TrainedTeam

GAME = {"num_class_a": 3, "num_class_b": 2, "history_length": 3, "max_cycles": 11}
CLASSES = ("class_a", "class_b")


def team(**config: object) -> TrainedTeam:
    nets = {name: build_net(name, CommConfig(hidden_dim=16, **config), False).eval() for name in CLASSES}
    nets["class_b"].encoder = nets["class_a"].encoder
    for net in nets.values():
        torch.nn.init.normal_(net.actor[-1].weight)
    return TrainedTeam(nets, GAME, Path("untrained"))


def apart(team: TrainedTeam, games: Games, ranges: list[tuple[torch.Tensor, torch.Tensor]], steps: int) -> np.ndarray:
    """The actions (B, N) of agents of their own, which hear rounded messages and nothing else."""
    out = []
    for b, said in enumerate(games.said()):  # (N, T, F)
        names = [CLASSES[i >= 3] for i in range(5)]
        agents = [DecentralizedAgent(team.nets[name], games.layout, CLASSES.index(name)) for name in names]
        for agent, own in zip(agents, said, strict=True):
            agent.sense(own, min(games.steps + 1, 3))
        for layer, (low, high) in enumerate(ranges):
            levels = torch.linspace(0, 1, steps + 1)[:, None] * (high - low) + low  # (levels, message_dim)
            sent = [levels[(levels - agent.message(layer)).abs().argmin(0), torch.arange(16)] for agent in agents]
            for i, agent in enumerate(agents):
                heard = [[sent[j] for j in members if games.links[b, i, j]] for members in (range(3), range(3, 5))]
                agent.hear(layer, heard)
        out.append([int(agent.act().argmax()) for agent in agents])
    return np.array(out)


@pytest.mark.parametrize("config", [{}, {"relational": True, "gnn": "gatv2"}], ids=["gat", "relational"])
def test_rounded_messages_act_as_agents_that_exchange_them(config: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized, "CALIBRATION_SEEDS", range(70, 73))
    trained = team(**config)
    game = trained.env_config_for()
    plain = team_controller(trained, CLASSES)
    rounded = Quantized(trained, plain, 2, game)
    sent: list[torch.Tensor] = []

    def record(games: Games) -> None:
        with torch.no_grad():
            sent.append(trained.nets["class_a"].encoder.messages(games.states(), games.layout))

    play(game, plain, range(70, 73), record)
    seen = torch.cat(sent).transpose(1, 2).flatten(0, 1)  # (steps, L, message_dim)
    ranges = [(seen[:, layer].amin(0), seen[:, layer].amax(0)) for layer in range(2)]
    games, differ = Games(game, [3, 5]), 0
    for _ in range(8):
        actions = rounded(games, [])
        expected = apart(trained, games, ranges, steps=3)
        np.testing.assert_array_equal(np.stack([actions[name] for name in game.game.team], axis=1), expected)
        differ += sum((actions[name] != values).sum() for name, values in plain(games, []).items())
        games.step(actions)
    assert differ  # and `plain` rounds nothing once `rounded` has returned


def test_an_evaluation_with_many_bits_is_that_without_rounding() -> None:
    trained = team()
    summary = evaluate(trained, episodes=5, messages=("quantize:16", "quantize:1")).summary()
    assert summary["quantize:16"]["return_adversary"] == summary["team"]["return_adversary"]
    assert summary["quantize:1"]["mean_links"] != summary["team"]["mean_links"]


def test_a_team_without_learned_messages_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"quantize:4: expected encoder: shared, .* got encoder: class"):
        evaluate(team(encoder="class"), episodes=2, messages=("quantize:4",))
