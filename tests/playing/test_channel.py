"""What is done to messages, against what the world itself would have shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rllib_tag.errors import ConfigError
from rllib_tag.nn.config import CommConfig
from rllib_tag.nn.weights import build_net
from rllib_tag.playing.channel import (
    DELAYS,
    DROPS,
    RANGES,
    Channel,
    Condition,
    alone,
    read_conditions,
    relinked,
)  # fmt: skip
from rllib_tag.playing.evaluate import evaluate
from rllib_tag.playing.games import Games, Rows
from rllib_tag.playing.influence import divergence
from rllib_tag.playing.restore import TrainedTeam
from rllib_tag.plugin.env_config import TagEnvConfig
from rllib_tag.world.comm import links, reach

from .test_games import random_play

TEAM = {"num_class_a": 3, "num_class_b": 2, "history_length": 3, "max_cycles": 11}
CLASSES = ("class_a", "class_b")


def games(steps: int, **changes: Any) -> Games:
    """Seven games after some random steps."""
    out = Games(TagEnvConfig(**{**TEAM, **changes}), range(7))
    for _ in range(steps):
        out.step(random_play(out, 1))
    return out


def same(ours: Rows, theirs: Rows, keys: Sequence[str] = ("messages", "message_mask", "links")) -> bool:
    return all(torch.equal(ours[key], theirs[key]) for key in keys)


def untrained(**config: Any) -> TrainedTeam:
    nets = {name: build_net(name, CommConfig(hidden_dim=16, **config), False).eval() for name in CLASSES}
    for net in nets.values():
        torch.nn.init.normal_(net.actor[-1].weight)  # starts near 0, which would hide all differences
    return TrainedTeam(nets, TEAM, Path("untrained"))


def logits(team: TrainedTeam, policy: str, rows: Rows) -> torch.Tensor:
    with torch.no_grad():
        return team.nets[policy](rows, TagEnvConfig(**TEAM).game.layout)[0]


@pytest.mark.parametrize("policy", CLASSES)
def test_cut_is_what_a_range_of_zero_shows(policy: str) -> None:
    open_, shut = games(5), games(5, comm_range=0.0)
    rows = Channel(Condition("cut")).apply(policy, open_.rows(policy), open_)
    assert same(rows, shut.rows(policy))
    assert not same(rows, open_.rows(policy))


@pytest.mark.parametrize("hops", [0, 1, 2, 4])
@pytest.mark.parametrize("policy", CLASSES)
def test_relinking_reaches_as_far_as_the_world_says(policy: str, hops: int) -> None:
    wide, narrow = games(5, comm_hops=hops, comm_range=1.3), games(5, comm_hops=hops, comm_range=0.7)
    linked = torch.from_numpy(links(narrow.positions[:, :5], 0.7))
    rows = wide.rows(policy)
    n = len(rows["self"]) // 7
    shown = relinked(rows, (rows["links"] > 0) & linked.repeat_interleave(n, 0), hops)
    assert same(shown, narrow.rows(policy))
    arrived = reach(linked.numpy(), hops)[:, slice(0, 3) if policy == "class_a" else slice(3, 5)]
    np.testing.assert_array_equal(shown["message_mask"][:, :, -1].numpy() > 0, arrived.reshape(-1, 5))


@pytest.mark.parametrize("sender", range(5))
def test_a_silenced_sender_is_as_if_it_were_far_away(sender: int) -> None:
    played = games(5)
    far = played.positions[:, :5].copy()
    far[:, sender] = 1e6
    linked = torch.from_numpy(links(far, 1.0))
    channel = Channel(Condition("silence", f"adversary_{sender}"))
    for policy, members in zip(CLASSES, (range(3), range(3, 5)), strict=True):
        rows = played.rows(policy)
        shown = channel.apply(policy, rows, played)
        expected = relinked(rows, (rows["links"] > 0) & linked.repeat_interleave(len(members), 0), 2)
        own = rows["self"][:, sender] > 0
        for key in ("messages", "message_mask", "links"):
            assert torch.equal(shown[key][~own], expected[key][~own])
            assert torch.equal(shown[key][own], rows[key][own])
        assert not shown["message_mask"][~own][:, sender].any()


def test_swapped_messages_are_the_same_messages_under_other_senders() -> None:
    """In a team of one class, where messages can also be exchanged by hand."""
    team = {"num_class_a": 5, "num_class_b": 0}
    played, trained = games(5, comm_range=0.8, **team), untrained()
    rows = played.rows("class_a")
    shown = Channel(Condition("swap")).apply("class_a", rows, played)
    by_hand = {key: value.clone() for key, value in rows.items()}
    for row, mask in enumerate(rows["message_mask"][:, :, -1] > 0):
        heard = [int(i) for i in mask.nonzero() if i != rows["self"][row].argmax()]
        for i, j in zip(heard, heard[1:] + heard[:1], strict=True):
            for key in ("messages", "message_mask"):
                by_hand[key][row, i] = rows[key][row, j]
    layout = played.layout
    with torch.no_grad():
        expected, plain, moved = (trained.nets["class_a"](each, layout)[0] for each in (by_hand, rows, shown))
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-5)
    assert (plain - expected).abs().max() > 1e-3


def test_a_swap_matters_where_the_links_do() -> None:
    played, team = games(5, comm_range=0.8), untrained()
    rows = played.rows("class_b")
    shown = Channel(Condition("swap")).apply("class_b", rows, played)
    heard = rows["message_mask"][:, :, -1].sum(1)
    assert same({k: v[heard <= 2] for k, v in shown.items()}, {k: v[heard <= 2] for k, v in rows.items()})
    assert (logits(team, "class_b", rows) - logits(team, "class_b", shown)).abs().max() > 1e-3


def test_shuffled_messages_are_of_another_episode() -> None:
    played = games(5)
    rows = played.rows("class_b")
    shown = Channel(Condition("shuffle")).apply("class_b", rows, played)
    assert same(shown, rows, ("message_mask", "links"))
    said = played.said()
    assert said.shape == (7, 5, 3, 16)
    for row in range(14):
        for place in range(5):
            if rows["self"][row, place]:
                expected = rows["messages"][row, place]
            else:
                expected = rows["message_mask"][row, place, :, None] * said[row // 2 - 1, place]
            assert torch.equal(shown["messages"][row, place], expected)


def test_delayed_messages_are_those_of_steps_ago() -> None:
    channel, past = Channel(Condition("delay", 2)), []
    for again in range(2):  # the second games know nothing of the first
        played = games(0)
        for step in range(6):
            rows = played.rows("class_a")
            shown = channel.apply("class_a", rows, played)
            channel.apply("class_b", played.rows("class_b"), played)  # of its own
            past.append(rows)
            others = rows["self"] == 0
            source = past[6 * again + step - 2] if step >= 2 else alone(rows)
            for key in ("messages", "message_mask"):
                assert torch.equal(shown[key][others], source[key][others])
                assert torch.equal(shown[key][~others], rows[key][~others])
            assert torch.equal(shown["links"], source["links"])
            played.step(random_play(played, 1))


def test_lost_links_are_drawn_by_seed_and_step_and_are_the_same_for_all_receivers() -> None:
    played = games(3, comm_range=math.inf, comm_hops=1)

    def shown(p: float) -> dict[str, Rows]:
        channel = Channel(Condition("drop", p))
        return {policy: channel.apply(policy, played.rows(policy), played) for policy in CLASSES}

    assert all(same(shown(0.0)[policy], played.rows(policy)) for policy in CLASSES)
    assert all(same(shown(1.0)[policy], alone(played.rows(policy))) for policy in CLASSES)
    first, again = shown(0.5), shown(0.5)
    assert all(same(first[policy], again[policy]) for policy in CLASSES)
    heard = torch.cat([first[policy]["message_mask"][:, :, -1].unflatten(0, (7, -1)) for policy in CLASSES], 1)
    kept = (heard.sum() - 35) / (7 * 5 * 4)
    assert 0.35 < kept < 0.65
    for policy, places in zip(CLASSES, (range(3), range(3, 5)), strict=True):
        known = first[policy]["links"].unflatten(0, (7, -1))  # what every receiver knows of the lost links is the same
        for i, place in enumerate(places):
            direct = known[:, i, place]
            assert torch.equal(direct, heard[:, place])
    channel = Channel(Condition("drop", 0.5))
    before = channel.apply("class_a", played.rows("class_a"), played)
    played.step(random_play(played, 1))
    assert not torch.equal(channel.apply("class_a", played.rows("class_a"), played)["links"], before["links"])


def test_names_of_conditions() -> None:
    config = TagEnvConfig(**TEAM)
    names = ["cut", "swap", "drop:0.25", "delay:3", "range:inf", "silence:adversary_4", "quantize:8"]
    assert [str(condition) for condition in read_conditions(names, config)] == names
    assert len(read_conditions(["silence", "silence:adversary_1"], config)) == 5
    assert len(read_conditions(["all", "cut"], config)) == 3 + 5 + len(DELAYS) + len(DROPS) + len(RANGES)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cuts", "expected one of cut, swap"),
        ("cut:1", "expected one of cut, swap"),
        ("dely:3", r"got 'dely:3'\. Did you mean 'delay'\? Choose one of these"),
        ("silence:adversary_9", "got 'adversary_9'. Did you mean 'adversary_"),
        ("drop", "drop: expected drop:P with a number"),
        ("drop:1.5", "drop: expected a number between 0 and 1"),
        ("drop:nan", "drop: expected a number between 0 and 1"),
        ("range:-1", "range: expected a number of at least 0"),
        ("delay:0", "delay: expected a whole number of steps of at least 1, got '0'"),
        ("delay:1.5", "delay: expected a whole number"),
        ("delay:inf", "delay: expected a whole number"),
        ("quantize:0", "quantize: expected a whole number of bits of 1 to 16, got '0'"),
        ("quantize:2.5", "quantize: expected a whole number of bits"),
        ("quantize:17", "quantize: expected a whole number of bits"),
        ("silence:adversary_5", "silence: expected one of adversary_0"),
    ],
)
def test_conditions_that_make_no_sense(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_conditions([name], TagEnvConfig(**TEAM))


def test_an_evaluation_plays_conditions_on_the_same_seeds() -> None:
    team = untrained()
    result = evaluate(team, episodes=3, messages=("cut", "range:0", "range:1", "drop:0", "drop:1"))
    rows = {
        name: [{key: value for key, value in row.items() if key != "controller"} for row in result.rows
               if row["controller"] == name]
        for name in ("team", *result.conditions)
    }  # fmt: skip
    assert [row["seed"] for row in rows["team"]] == [1_000_000, 1_000_001, 1_000_002]
    assert rows["team"] == rows["range:1.0"] == rows["drop:0.0"]
    without_links = [
        [{key: value for key, value in row.items() if key != "mean_links"} for row in rows[name]]
        for name in ("cut", "range:0.0", "drop:1.0")
    ]
    assert without_links[0] == without_links[1] == without_links[2]
    assert rows["cut"] != rows["team"]
    summary = result.summary()
    assert summary["drop:0.0"]["return_minus_team"] == {"mean": 0.0, "standard_error": 0.0}
    with pytest.raises(ConfigError, match="shuffle: expected at least 2 episodes"):
        evaluate(team, episodes=1, messages=("shuffle",))


def test_influence_is_zero_where_nobody_hears_and_positive_where_they_do() -> None:
    def found(team: TrainedTeam, **changes: Any) -> dict[str, dict[str, float]]:
        result = evaluate(team, episodes=3, messages=("cut",), **changes)
        assert [(row["policy"], row["seed"] - 1_000_000) for row in result.influence] == [
            (policy, i) for policy in CLASSES for i in range(3)
        ]
        return {
            policy: {key: figure["mean"] for key, figure in figures.items()}
            for policy, figures in result.influence_summary().items()
        }

    for policy, figures in found(untrained(), comm_range=math.inf).items():
        assert figures["kl"] > 1e-4, policy
        assert figures["heard"] == 4
        assert figures["attention_entropy_uniform"] == pytest.approx(math.log(5))
        assert 0 < figures["attention_entropy"] <= math.log(5) + 1e-6
    for figures in found(untrained(relational=True), comm_range=math.inf).values():  # 3 of class A, 2 of class B
        even = math.log(2) + (math.log(3) + math.log(2)) / 2
        assert figures["attention_entropy_uniform"] == pytest.approx(even)
        assert 0 < figures["attention_entropy"] <= even + 1e-6
    for figures in found(untrained(), comm_range=0.0).values():
        assert figures == dict.fromkeys(figures, 0.0)
    for figures in found(untrained(gnn="none")).values():
        assert "attention_entropy" not in figures
        assert {figures[key] for key in ("kl", "logit_shift", "action_changes")} == {0.0}


def test_divergence_is_that_of_torch_and_finite_where_probabilities_vanish() -> None:
    first, second = torch.randn(2, 7, 6)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=first), torch.distributions.Categorical(logits=second)
    )
    torch.testing.assert_close(divergence(first, second, continuous=False), expected)
    sure, other = torch.tensor([[0.0, 300.0]]), torch.tensor([[300.0, 0.0]])
    torch.testing.assert_close(divergence(sure, other, continuous=False), torch.tensor([300.0]))
    normals = [torch.distributions.Normal(x.chunk(2, -1)[0], x.chunk(2, -1)[1].exp()) for x in (first, second)]
    torch.testing.assert_close(
        divergence(first, second, continuous=True), torch.distributions.kl_divergence(*normals).sum(-1)
    )
