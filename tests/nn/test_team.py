"""States that receivers share, encoded once, against each receiver's own observation encoded by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import assert_same_gradients
from torch.nn import functional

from rllib_tag.nn.config import CommConfig
from rllib_tag.nn.network import AdversaryNet
from rllib_tag.nn.team import receiver_rows
from rllib_tag.nn.temporal import TransformerReader, age_encoding, windows
from rllib_tag.nn.window_attention import WindowAttention
from rllib_tag.plugin.env_config import TagEnvConfig

LAYOUT = TagEnvConfig(num_class_a=3, num_class_b=2).game.layout
SHARED = [
    CommConfig(hidden_dim=28, num_heads=2, **options)
    for options in (
        {},
        {"num_layers": 1},
        {"temporal": "gru"},
        {"temporal": "none"},
        {"gnn": "gatv2"},
        {"gnn": "mean"},
        {"relational": True},
        {"relational": True, "gnn": "mean"},
        {"gnn": "none"},
        {"gnn_layers": 1},
        {"critic": "local"},
        {"relational": True, "message_dim": 6},
        {"frame": "absolute"},
        {"frame": "absolute", "gnn": "gatv2"},
    )
]


def stretches(env_config: dict[str, object], steps: int) -> dict[str, torch.Tensor]:
    """The first steps of three games, each as one row, begun before the first message."""
    config = TagEnvConfig.from_mapping(env_config)
    games = config.games(config.batched_world(3))
    games.reset([2, 3, 5])
    rng = np.random.default_rng(0)
    T = config.history_length
    views = [games.view]
    for _ in range(steps - 1):
        games.step({agent: rng.integers(5, size=3) for agent in games.agents})
        views.append(games.view)
    shown = [{"messages": view.messages, "links": view.links, **view.state} for view in views]
    obs = {key: np.stack([each[key] for each in shown], axis=1) for key in shown[0]}
    before = np.full((3, T - 1, *obs["messages"].shape[2:]), 7.0, np.float32)  # of an earlier episode: never read
    obs["messages"] = np.concatenate([before, obs["messages"]], axis=1)
    obs["history"] = np.array([[min(step + 1, T) for step in range(steps)]] * 3)
    return {key: torch.from_numpy(value) for key, value in obs.items()}


def net(config: CommConfig) -> AdversaryNet:
    made = AdversaryNet(5, config, continuous=False)
    for parameter in made.actor.parameters():  # the actor starts near zero
        torch.nn.init.normal_(parameter)
    return made


@pytest.mark.parametrize("config", SHARED, ids=str)
@pytest.mark.parametrize("places", [(0, 1, 2), (3, 4), (1,)])
def test_one_encoding_serves_all_receivers(config: CommConfig, places: tuple[int, ...]) -> None:
    """The same outputs, values and gradients, with messages lost to range and histories that begin."""
    obs = stretches({"num_class_a": 3, "num_class_b": 2, "comm_range": 0.7, "history_length": 3}, steps=7)
    assert not (obs["links"].all())
    network, receivers = net(config), torch.tensor(places)
    assert network.encoder.shares_states(comm_hops=2)
    features = network.encoder.team(obs, LAYOUT, receivers)
    outputs = network.outputs(features)
    values = network.team_value(obs, receivers, features)
    assert outputs.shape == (3, 7, len(places), 5)
    assert values.shape == (3, 7, len(places))
    rows = receiver_rows(obs, receivers, comm_hops=2)
    expected, row_features = network(rows, LAYOUT)
    expected_values = network.value(rows, row_features)
    torch.testing.assert_close(outputs.flatten(0, 2), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(values.flatten(), expected_values, rtol=1e-4, atol=1e-4)
    for ours, plain in zip(
        gradients(network, outputs, values), gradients(network, expected, expected_values), strict=True
    ):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-3)


def gradients(network: AdversaryNet, outputs: torch.Tensor, values: torch.Tensor) -> list[torch.Tensor]:
    loss = outputs.square().mean() + values.square().mean()
    return list(torch.autograd.grad(loss, list(network.parameters()), allow_unused=True, materialize_grads=True))


@pytest.mark.parametrize("config", SHARED, ids=str)
def test_a_shared_state_leaks_nothing(config: CommConfig) -> None:
    """What did not arrive at a receiver has exactly no gradient in its outputs, though the state holds it."""
    obs = stretches({"num_class_a": 3, "num_class_b": 2, "comm_range": 0.7, "history_length": 3}, steps=7)
    network, receiver = net(config).eval(), 1
    arrived = receiver_rows(obs, torch.tensor([receiver]), comm_hops=2)["message_mask"].view(3, 7, 5, 3)
    messages = obs["messages"].requires_grad_()
    outputs = network.outputs(
        network.encoder.team({**obs, "messages": messages}, LAYOUT, torch.tensor([0, receiver, 3]))
    )
    unheard = 0
    for row in range(3):
        for step in range(7):
            (gradient,) = torch.autograd.grad(outputs[row, step, 1].sum(), messages, retain_graph=True)
            heard = torch.zeros(3, 9, 5, dtype=torch.bool)
            heard[row, step : step + 3] = arrived[row, step].T > 0
            assert (gradient[~heard] == 0).all()
            unheard += int((arrived[row, step, :, -1] == 0).sum())
    assert unheard > 0


@pytest.mark.parametrize(
    ("options", "hops", "shares"),
    [({}, 2, True), ({}, 1, False), ({"gnn_layers": 1}, 1, True), ({"gnn": "none"}, 0, True),
     ({"sequence": "neighbors"}, 5, False)],
)  # fmt: skip
def test_states_are_shared_only_where_no_message_is_cut_off(options: dict, hops: int, shares: bool) -> None:
    assert net(CommConfig(hidden_dim=28, **options)).encoder.shares_states(hops) is shares


def test_cut_off_messages_would_be_heard_in_a_shared_state() -> None:
    """Why `shares_states` is needed: with one hop and two layers, sharing would leak."""
    obs = stretches({"num_class_a": 3, "num_class_b": 2, "comm_range": 0.7, "history_length": 3}, steps=7)
    network = net(CommConfig(hidden_dim=28))
    shared = network.outputs(network.encoder.team(obs, LAYOUT, torch.tensor([0, 1])))
    alone, _ = network(receiver_rows(obs, torch.tensor([0, 1]), comm_hops=1), LAYOUT)
    assert (shared.flatten(0, 2) - alone).abs().max() > 0.1


@pytest.mark.parametrize("senders", [1, 2])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_windows_of_a_stretch_are_read_as_single_histories(num_layers: int, senders: int) -> None:
    R, C, N, T, H = 3, 5, 2, 7, 12
    reader = TransformerReader(H, 2, num_layers).double()
    tokens = torch.randn(R, C + T - 1, N, H, dtype=torch.double, requires_grad=True)
    valid = torch.arange(T - 1, -1, -1) < torch.randint(1, T + 1, (R, C, senders, 1))
    ages = age_encoding(T, H, tokens.device).double()
    read = windows(tokens, T)
    assert read.shape == (R, C, N, T, H)
    M = R * C * N
    rows = valid.expand(R, C, N, T).reshape(M, T)
    expected = reader(read.view(M, T, H), rows, torch.full((M,), T - 1), ages)
    out = reader.over_windows(tokens, valid, ages)
    torch.testing.assert_close(out, expected)
    leaves = [tokens, *reader.parameters()]
    assert_same_gradients(out, expected, leaves)


@pytest.mark.parametrize("senders", [1, 3])
def test_window_attention_is_torchs_own(senders: int) -> None:
    R, C, N, T, heads, d = 2, 5, 3, 4, 2, 7
    query = torch.randn(R, C, N, heads, d, dtype=torch.double, requires_grad=True)
    key, value = (torch.randn(R, C + T - 1, N, heads, d, dtype=torch.double, requires_grad=True) for _ in range(2))
    age_key, age_value = (torch.randn(T, heads, d, dtype=torch.double, requires_grad=True) for _ in range(2))
    valid = torch.rand(R, C, senders, T) < 0.5
    valid[..., -1] = True
    out = WindowAttention.apply(query, key, value, age_key, age_value, valid)
    rows = [
        windows(steps.flatten(3), T).unflatten(-1, (heads, d)) + ages
        for steps, ages in ((key, age_key), (value, age_value))
    ]
    keys, values = (row.flatten(0, 2).transpose(1, 2) for row in rows)  # (M, heads, T, d)
    mask = valid.expand(R, C, N, T).reshape(-1, 1, 1, T)
    expected = functional.scaled_dot_product_attention(query.reshape(-1, heads, 1, d), keys, values, attn_mask=mask)
    torch.testing.assert_close(out.reshape(-1, heads, d), expected.squeeze(2))
    torch.autograd.gradcheck(WindowAttention.apply, (query, key, value, age_key, age_value, valid))
