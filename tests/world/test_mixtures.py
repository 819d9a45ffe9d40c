"""Games of tag whose size each episode draws."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tree

from rllib_tag import TagEnv
from rllib_tag.errors import ConfigError
from rllib_tag.nn.config import CommConfig
from rllib_tag.nn.encoder import completed
from rllib_tag.nn.network import AdversaryNet
from rllib_tag.playing import channel, quantized
from rllib_tag.playing import probe as probing
from rllib_tag.playing.evaluate import evaluate
from rllib_tag.playing.games import Games
from rllib_tag.playing.probe import probe
from rllib_tag.playing.restore import TrainedTeam
from rllib_tag.plugin.env_config import TagEnvConfig
from rllib_tag.plugin.spaces import message_layout
from rllib_tag.world.roster import Mixture
from rllib_tag.world.team_games import TeamGames

LARGEST = {"num_class_a": 3, "num_class_b": 2, "num_good": 2, "num_obstacles": 3}
MIXED = {"num_class_a": [0, 1, 3], "num_class_b": [0, 2], "num_good": [1, 2], "num_obstacles": [0, 1, 3]}
DRAWN = [(3, 2, 2, 3), (1, 2, 1, 0), (0, 2, 2, 1), (3, 0, 1, 1)]


def takes_part(counts: tuple[int, ...], num_good: int = LARGEST["num_good"]) -> np.ndarray:
    """Who takes part: A, B, good agents and landmarks, each in the first places of its kind."""
    parts = zip({**LARGEST, "num_good": num_good}.values(), counts, strict=True)
    return np.concatenate([np.arange(largest) < count for largest, count in parts])


def test_every_team_but_that_of_nobody_is_drawn() -> None:
    mixture, rng = TagEnvConfig(**MIXED).mixture, np.random.default_rng(0)
    drawn = np.array([mixture.draw(rng) for _ in range(600)])
    counts = np.stack([part.sum(1) for part in np.split(drawn, [3, 5, 7], axis=1)], axis=1)
    assert {tuple(row) for row in counts[:, :2].tolist()} == {(0, 2), (1, 0), (1, 2), (3, 0), (3, 2)}
    assert [set(column.tolist()) for column in counts[:, 2:].T] == [{1, 2}, {0, 1, 3}]
    assert all((takes_part(tuple(row)) == present).all() for row, present in zip(counts, drawn, strict=True))


@pytest.mark.parametrize(("continuous", "good_policy"), [(False, "evasive"), (True, "evasive"), (False, "learned")])
def test_arrays_and_mpe2_play_the_same_games(continuous: bool, good_policy: str) -> None:
    config = TagEnvConfig(**MIXED, max_cycles=11, continuous_actions=continuous, good_policy=good_policy, shaping=1.5)
    ours, theirs = config.games(config.batched_world(5)), config.games(config.world(5))
    for games in (ours, theirs):
        games.reset([2, 3, 5, 7, 11])
    rng, sizes = np.random.default_rng(0), set()
    for _ in range(25):
        assert_same_views(ours, theirs)
        sizes |= {tuple(row) for row in ours.view.present.tolist()}
        shape = (5, 5) if continuous else (5,)
        actions = {
            agent: rng.random(shape, dtype=np.float32) if continuous else rng.integers(0, 5, shape)
            for agent in ours.agents
        }
        steps = [games.step(actions) for games in (ours, theirs)]
        np.testing.assert_allclose(steps[0].rewards, steps[1].rewards, atol=1e-6)
        assert not steps[0].rewards[~ours.view.present].any() or steps[0].stats
        assert steps[0].stats.keys() == steps[1].stats.keys()
        for game, metrics in steps[0].stats.items():
            assert metrics == pytest.approx(steps[1].stats[game], abs=1e-6)
            (by_size,) = (name for name in metrics if name.startswith("return_adversary_"))
            assert metrics[by_size] == metrics["return_adversary"]
    assert len(sizes) > 3


def assert_same_views(ours: TeamGames, theirs: TeamGames) -> None:
    compare = partial(np.testing.assert_allclose, atol=1e-5)
    views = (dataclasses.asdict(games.view) for games in (ours, theirs))
    tree.map_structure(compare, *({key: value for key, value in view.items() if value is not None} for view in views))


@pytest.mark.parametrize(
    "model",
    [
        {"encoder": "class", "frame": "absolute", "relational": True},
        {"encoder": "shared", "frame": "receiver"},
        {"encoder": "shared", "frame": "receiver", "relational": True, "gnn": "mean", "message_dim": 5},
        {"sequence": "neighbors", "gnn": "gatv2"},
    ],
    ids=str,
)
@pytest.mark.parametrize("counts", DRAWN, ids=str)
def test_a_drawn_game_is_played_as_the_game_of_that_size(
    counts: tuple[int, ...], model: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Observations have other shapes; logits and values of all who take part are the same."""
    monkeypatch.setattr(Mixture, "draw", lambda *_: takes_part(counts))
    game = {"good_policy": "evasive", "comm_range": 0.9}
    mixed = TagEnv(**game, **MIXED)
    fixed = TagEnv(**game, **dict(zip(LARGEST, counts, strict=True)))
    net = AdversaryNet(5, CommConfig(hidden_dim=28, num_heads=2, **model), continuous=False)
    for parameter in net.parameters():  # biases begin at 0, and would hide what stands in empty places
        parameter.data += 0.1 * torch.randn_like(parameter)
    rng = np.random.default_rng(0)
    seen = [env.reset(seed=3)[0] for env in (mixed, fixed)]
    for _ in range(6):
        assert len(seen[0]) == len(seen[1]) == sum(counts[:2])
        (logits, values), (expected, expected_values) = (
            outputs(net, env, obs) for env, obs in zip((mixed, fixed), seen, strict=True)
        )
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(values, expected_values, rtol=1e-4, atol=1e-4)
        actions = rng.integers(0, 5, sum(counts[:2])).tolist()
        steps = [env.step(dict(zip(env.agents, actions, strict=True))) for env in (mixed, fixed)]
        seen = [step[0] for step in steps]
        assert list(steps[0][1].values()) == pytest.approx(list(steps[1][1].values()))


@pytest.mark.parametrize("counts", DRAWN, ids=str)
def test_a_drawn_game_is_measured_as_the_game_of_that_size(
    counts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Channel interventions, influence, and what messages say: who takes no part changes nothing."""
    # The probe sets the number of good agents, of which there is then no choice.
    monkeypatch.setattr(Mixture, "draw", lambda mixture, _: takes_part(counts, max(mixture.num_good)))
    monkeypatch.setattr(quantized, "CALIBRATION_SEEDS", range(70, 74))
    monkeypatch.setattr(probing, "CALIBRATION_SEEDS", range(70, 82))
    config = CommConfig(hidden_dim=28, num_heads=2, frame="receiver")
    first = AdversaryNet(5, config, continuous=False)
    second = AdversaryNet(5, config, continuous=False, encoder=first.encoder)
    nets = {"class_a": first.eval(), "class_b": second.eval()}
    game = {"good_policy": "evasive", "comm_range": 0.9, "max_cycles": 12}
    measured = []
    for sizes in (MIXED, dict(zip(LARGEST, counts, strict=True))):
        team = TrainedTeam(nets, {**game, **sizes}, Path("untrained"))
        played = evaluate(team, episodes=3, messages=("cut", "swap", "shuffle", "delay:2", "range:0.4", "quantize:2"))
        one_prey = probe(team) if counts[2] == 1 else []
        rows = [{key: value for key, value in row.items() if "landmarks" not in key} for row in played.rows]
        measured.append([*rows, *played.influence, *one_prey])
    assert {row["policy"] for row in measured[0] if "policy" in row} == {
        name for name, count in zip(nets, counts, strict=False) if count
    }
    for ours, expected in zip(*measured, strict=True):
        assert list(ours) == list(expected)
        for key, value in expected.items():
            assert ours[key] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-3, abs=1e-4)), key


def test_shuffled_messages_come_from_a_game_of_the_same_team() -> None:
    present = np.array([[1, 1], [0, 1], [1, 1], [1, 0], [0, 1], [1, 1]], bool)
    assert channel._partners(present).tolist() == [5, 4, 0, 3, 1, 2]


def test_without_another_game_of_its_team_a_shuffled_receiver_hears_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "_partners", lambda present: np.array([1, 0, 2]))
    config = TagEnvConfig(num_class_a=2, comm_range=math.inf)
    games = Games(config, [3, 5, 7])
    rows = games.rows("class_a")
    found, deaf = channel.Channel(channel.Condition("shuffle")).apply("class_a", rows, games), channel.alone(rows)
    for key, value in found.items():
        torch.testing.assert_close(value[4:], deaf[key][4:], rtol=0, atol=0)
    assert (found["message_mask"][:4] == rows["message_mask"][:4]).all()
    other = games.said()[1]  # in place of what was said in the first game, but for the receiver's own
    torch.testing.assert_close(found["messages"][0, 1:], other[1:], rtol=0, atol=0)


def test_a_layout_that_rllib_saved_incompletely_knows_kinds_of_which_there_are_none() -> None:
    env = TagEnv(**{**MIXED, "num_obstacles": [0, 1], "num_good": 2, "num_class_a": 2, "num_class_b": 1})
    layout = env.games.game.layout
    unknown = dataclasses.replace(layout, sees=(), sizes=None)
    numbers = set()
    for seed in range(8):
        env.reset(seed=seed)
        messages = torch.from_numpy(env.games.view.messages)
        numbers.add(int(messages[0, 0, layout.seen("landmarks")]))
        found = completed(unknown, messages)
        assert (found.sees, found.sizes) == (layout.sees, layout.sizes)
    assert numbers == {1, 2}  # none, or one


@torch.no_grad()
def outputs(net: AdversaryNet, env: TagEnv, observed: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and values of all agents, in order."""
    rows = {
        key: torch.from_numpy(np.stack([obs[key] for obs in observed.values()]))
        for key in next(iter(observed.values()))
    }
    logits, features = net(rows, message_layout(env.observation_spaces[next(iter(observed))]))
    return logits, net.value(rows, features)


def test_who_takes_no_part_neither_observes_nor_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mixture, "draw", lambda *_: takes_part((1, 2, 1, 0)))
    env = TagEnv(**MIXED, max_cycles=2)
    here = ["adversary_0", "adversary_3", "adversary_4"]
    observations, infos = env.reset(seed=0)
    assert env.agents == list(observations) == list(infos) == here
    assert {agent: env.group_of[agent] for agent in here} == dict(
        zip(here, ["class_a", "class_b", "class_b"], strict=True)
    )
    for agent, obs in observations.items():
        assert env.observation_spaces[agent].contains(obs)
        assert obs["team_present"].tolist() == [1, 0, 0, 1, 1]
        assert not obs["messages"][1:3].any()
        assert not obs["links"][1:3].any()
    for _ in range(2):
        observations, rewards, _, truncateds, infos = env.step(dict.fromkeys(here, 1))
    assert list(observations) == list(rewards) == here
    assert truncateds == {"__all__": True}
    stats = infos["__common__"]["episode_stats"]
    assert stats["return_adversary_1_class_a_2_class_b_1_good_0_landmarks"] == stats["return_adversary"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_good", [], r"num_good: expected an integer of at least 1, or a list of distinct ones .*, got \[\]"),
        ("num_good", [1, 1], r"a list of distinct ones to draw from, got \[1, 1\]"),
        ("num_good", [0, 1], r"at least 1, or a list of distinct ones to draw from, got \[0, 1\]"),
        ("num_class_a", [1, "2"], r"at least 0, or a list of distinct ones to draw from, got \[1, '2'\]"),
        ("num_class_b", "two", "num_class_b: expected an integer of at least 0, got 'two'"),
        ("num_class_b", "2", "num_class_b: expected an integer of at least 0, got '2'"),
        ("num_good", 2.5, r"num_good: expected an integer of at least 1, got 2\.5"),
        ("num_obstacles", None, "num_obstacles: expected an integer of at least 0, got None"),
    ],
)
def test_wrong_choices_are_refused(key: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TagEnvConfig(**{key: value})


def test_one_choice_is_a_number() -> None:
    assert TagEnvConfig(num_good=[2]) == TagEnvConfig(num_good=2)
    assert TagEnvConfig(num_good=[2]).mixture is None


def test_ranges_are_drawn_for_each_episode() -> None:
    config = TagEnvConfig(comm_range=[0, 0.5, "inf"], num_class_a=3, max_cycles=7)
    ours, theirs = config.games(config.batched_world(9)), config.games(config.world(9))
    fixed = {reach: dataclasses.replace(config, comm_range=reach) for reach in config.comm_range}
    others = {reach: each.games(each.batched_world(9)) for reach, each in fixed.items()}
    drawn = []
    for seeds in (range(9), range(20, 29)):
        for games in (ours, theirs, *others.values()):
            games.reset(list(seeds))
        for _ in range(7):
            assert_same_views(ours, theirs)
            for i, reach in enumerate(ours.comm_ranges):
                np.testing.assert_array_equal(ours.view.links[i], others[reach].view.links[i])
            ranges, actions = ours.comm_ranges.copy(), {agent: np.full(9, 3) for agent in ours.agents}
            steps = [games.step(actions) for games in (ours, theirs, *others.values())]
        for i, reach in enumerate(ranges):
            metrics = steps[0].stats[i]
            assert metrics.pop(f"return_adversary_range_{reach:g}") == metrics["return_adversary"]
            assert metrics == pytest.approx(steps[2 + config.comm_range.index(reach)].stats[i], abs=1e-6)
        drawn += ranges.tolist()
    assert set(drawn) == {0, 0.5, np.inf}


@pytest.mark.parametrize("value", [[], [1, 1], [0, -1], [1, "far"], "far", None])
def test_wrong_ranges_are_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="comm_range: expected a number of at least 0"):
        TagEnvConfig(comm_range=value)
