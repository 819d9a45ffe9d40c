"""The promises of DESIGN.md on the network itself: no leak, any team, order, finite from nothing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from conftest import as_batch, play_on

from rllib_tag.errors import ConfigError
from rllib_tag.nn.config import CommConfig, _warn_renamed
from rllib_tag.nn.network import AdversaryNet, CentralCritic, GoodNet
from rllib_tag.plugin.env import TagEnv
from rllib_tag.plugin.env_config import TagEnvConfig
from rllib_tag.world.layout import MessageLayout
from rllib_tag.world.observations import SENSES

VARIANTS = [
    CommConfig(hidden_dim=28, num_heads=2, **options)
    for options in (
        {},
        {"temporal": "gru"},
        {"temporal": "none"},
        {"sequence": "neighbors"},
        {"gnn": "gatv2"},
        {"gnn": "mean"},
        {"relational": True},
        {"relational": True, "gnn": "mean"},
        {"gnn": "none"},
        {"gnn_layers": 1, "num_layers": 1},
        {"critic": "local"},
        {"frame": "absolute"},
        {"relational": True, "gnn": "gatv2", "message_dim": 6},
        {"gnn": "mean", "temporal": "none", "gnn_layers": 3},
        {"frame": "absolute", "message_dim": 5, "relational": True},
        {"gnn": "none", "sequence": "neighbors"},
    )
]
IDS = [
    "default",
    "gru",
    "no_temporal",
    "neighbors",
    "gatv2",
    "mean",
    "relational",
    "relational_mean",
    "no_comm",
    "shallow",
    "local_critic",
    "absolute",
    "message_dim_gatv2",
    "deep_mean",
    "message_dim",
    "neighbors_alone",
]
# Matrix products add in another order when memory lies elsewhere; what leaks is of order 1 and more.
SAME = {"rtol": 1e-5, "atol": 1e-5}
every_variant = pytest.mark.parametrize("config", VARIANTS, ids=IDS)


def batch_of(env_config: dict[str, object], steps: int = 5) -> dict[str, torch.Tensor]:
    env = TagEnv(env_config)
    return as_batch([obs for step in play_on(env, steps) for obs in step.values()])


def layout_of(**env_config: object) -> MessageLayout:
    return TagEnvConfig.from_mapping(env_config).game.layout


LAYOUT = layout_of()  # two agents of each class, one good agent, two landmarks
LARGE = layout_of(num_class_a=3, num_class_b=2)


def net(config: CommConfig, num_outputs: int = 5, continuous: bool = False) -> AdversaryNet:
    made = AdversaryNet(num_outputs, config, continuous)
    for parameter in made.actor.parameters():  # the actor starts near zero; the promises must hold for any weights
        torch.nn.init.normal_(parameter)
    return made


@every_variant
def test_no_leak_of_values_or_gradients(config: CommConfig) -> None:
    """What did not arrive changes nothing and its gradient is exactly zero; nor does the critic's state."""
    obs = batch_of({"num_class_a": 3, "num_class_b": 2, "comm_range": 0.6, "comm_hops": 2, "history_length": 3})
    arrived = obs["message_mask"][:, :, -1] > 0
    assert (~arrived).any()
    network = net(config).eval()
    logits, _ = network(obs, LARGE)
    noisy = dict(obs)
    noisy["messages"] = torch.where(arrived[:, :, None, None], obs["messages"], torch.randn_like(obs["messages"]) * 100)
    unarrived_link = ~(arrived.unsqueeze(1) & arrived.unsqueeze(2))
    noisy["links"] = torch.where(unarrived_link, torch.ones_like(obs["links"]), obs["links"])
    for key in ("team", "good", "landmarks"):
        noisy[key] = torch.randn_like(obs[key]) * 100
    torch.testing.assert_close(network(noisy, LARGE)[0], logits, **SAME)

    leaves = {
        key: value.clone().requires_grad_()
        for key, value in noisy.items()
        if key not in ("self", "links", "message_mask")
    }
    outputs, _ = network({**noisy, **leaves}, LARGE)
    outputs.square().sum().backward()
    assert leaves["messages"].grad is not None
    assert (leaves["messages"].grad[~arrived] == 0).all()
    for key in ("team", "good", "landmarks"):
        gradient = leaves[key].grad
        assert gradient is None or (gradient == 0).all()


@pytest.mark.parametrize("hops", [0, 1, 2, 3])
@every_variant
def test_nobody_beyond_the_reach_is_heard_in_the_environment(config: CommConfig, hops: int) -> None:
    """The same promise end to end: change the true world beyond a receiver's reach, its logits stay."""
    env = TagEnv(num_class_a=0, num_class_b=5, num_obstacles=0, comm_hops=hops, comm_range=1.0, history_length=1)
    env.reset(seed=0)
    network = net(config).eval()
    env.games.world.reset = lambda *_: None

    def logits(last: tuple[float, float]) -> torch.Tensor:
        world = env.par_env.unwrapped.world
        for i in range(4):
            world.agents[i].state.p_pos = np.array([0.9 * i, 0.0])
        world.agents[4].state.p_pos = np.array(last)
        env.games.world._seen = [{name: env.par_env.unwrapped.observe(name) for name in env.par_env.agents}]
        env.games.reset()  # which here only looks again
        observations = env._observe()
        batch = as_batch([observations[name] for name in env.roster.adversaries])
        return network(batch, env.games.game.layout)[0]

    near, far = logits((3.6, 0.0)), logits((3.6, 5.0))
    beyond = [i for i in range(4) if 4 - i > hops]
    torch.testing.assert_close(near[beyond], far[beyond], **SAME)
    if hops and config.listens:
        assert not torch.allclose(near[3], far[3])


@every_variant
def test_one_set_of_weights_acts_for_any_team(config: CommConfig) -> None:
    network = net(config).eval()
    for a, b, good, marks in [(2, 2, 1, 2), (3, 1, 1, 2), (1, 0, 1, 2), (0, 1, 2, 0), (5, 3, 3, 7), (0, 2, 1, 0)]:
        obs = batch_of({"num_class_a": a, "num_class_b": b, "num_good": good, "num_obstacles": marks}, steps=2)
        logits, features = network(obs, layout_of(num_class_a=a, num_class_b=b, num_good=good, num_obstacles=marks))
        assert logits.shape == (3 * (a + b), 5)
        assert network.value(obs, features).shape == (3 * (a + b),)
        assert logits.isfinite().all()


@every_variant
def test_renumbering_teammates_changes_nothing(config: CommConfig) -> None:
    network = net(config).eval()
    obs = batch_of({"num_class_a": 3, "num_class_b": 2, "history_length": 3, "comm_range": 0.8})
    order = torch.tensor([2, 0, 1, 4, 3])
    moved = dict(obs)
    for key in ("messages", "message_mask", "self", "team"):
        moved[key] = obs[key][:, order]
    moved["links"] = obs["links"][:, order][:, :, order]
    moved["landmarks"] = obs["landmarks"].flip(1)
    message = moved["messages"].clone()
    marks = LARGE.entities("landmarks")
    message[..., marks] = message[..., marks].unflatten(-1, (2, 2)).flip(-2).flatten(-2)
    moved["messages"] = message
    logits, features = network(obs, LARGE)
    logits_moved, features_moved = network(moved, LARGE)
    torch.testing.assert_close(logits_moved, logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network.value(moved, features_moved), network.value(obs, features), rtol=1e-4, atol=1e-4)


@every_variant
@pytest.mark.parametrize("rows", [1, 32])
@pytest.mark.parametrize("train", [False, True])
def test_zeros_give_finite_values_and_gradients(config: CommConfig, rows: int, train: bool) -> None:
    obs = {key: torch.zeros(rows, *value.shape[1:]) for key, value in batch_of({}, steps=0).items()}
    network = net(config).train(train)
    logits, features = network(obs, LAYOUT)
    value = network.value(obs, features)
    assert logits.isfinite().all()
    assert value.isfinite().all()
    (logits.sum() + value.sum()).backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


@every_variant
def test_a_batch_equals_a_loop(config: CommConfig) -> None:
    network = net(config).eval()
    obs = batch_of({"num_class_a": 3, "num_class_b": 2, "comm_range": 0.7})
    together, _ = network(obs, LARGE)
    alone = [network({key: value[i : i + 1] for key, value in obs.items()}, LARGE)[0] for i in range(len(together))]
    torch.testing.assert_close(torch.cat(alone), together, rtol=1e-4, atol=1e-5)


@every_variant
def test_masked_history_is_not_read(config: CommConfig) -> None:
    """Steps before the reset are masked: what stands there makes no difference, and a real step does."""
    network = net(config).eval()
    obs = batch_of({"history_length": 5}, steps=1)
    missing = obs["message_mask"] == 0
    assert missing[:, :, :3].all()
    noisy = dict(obs, messages=torch.where(missing.unsqueeze(-1), torch.randn_like(obs["messages"]), obs["messages"]))
    torch.testing.assert_close(network(noisy, LAYOUT)[0], network(obs, LAYOUT)[0], **SAME)


def test_history_and_other_classes_are_read() -> None:
    network = net(CommConfig(hidden_dim=28)).eval()
    obs = batch_of({"history_length": 3, "comm_range": float("inf")})
    messages = obs["messages"].clone().requires_grad_()
    network({**obs, "messages": messages}, LAYOUT)[0].square().sum().backward()
    rows = obs["message_mask"].sum(-1)[:, 0] == 3
    assert (messages.grad[rows].abs().sum(-1) > 0).all()


def test_attention_rows_sum_to_one_over_what_is_heard() -> None:
    obs = batch_of({"num_class_a": 3, "num_class_b": 2, "comm_range": 0.8})
    for gnn, relational in itertools.product(("gat", "gatv2", "mean"), (False, True)):
        attention = net(CommConfig(hidden_dim=28, gnn=gnn, relational=relational)).encoder.attention(obs, LARGE)
        assert attention.shape == (len(obs["self"]), 2, 5, 5)
        assert (attention[(obs["links"] == 0).unsqueeze(1).expand_as(attention)] == 0).all()
        own = attention[torch.arange(len(attention)), :, obs["self"].argmax(1)]  # (B, L, N)
        torch.testing.assert_close(own.sum(-1), torch.ones(len(attention), 2))


def test_continuous_outputs_bound_the_log_std() -> None:
    network = net(CommConfig(hidden_dim=28), 10, continuous=True)
    for parameter in network.actor.parameters():
        torch.nn.init.normal_(parameter, std=100)
    outputs, _ = network(batch_of({}), LAYOUT)
    assert outputs.shape[1] == 10
    assert (outputs[:, 5:] >= -5).all()
    assert (outputs[:, 5:] <= 2).all()
    assert outputs[:, :5].abs().max() > 5


@pytest.mark.parametrize(("good", "marks"), list(itertools.product((1, 3), (0, 2))))
def test_learning_prey_takes_any_game(good: int, marks: int) -> None:
    network = GoodNet(5, CommConfig(hidden_dim=28), continuous=False)
    env = TagEnv(num_good=good, num_obstacles=marks, num_class_a=2, num_class_b=3, good_policy="learned")
    obs = as_batch([step[name] for step in play_on(env, 3) for name in env.roster.good_agents])
    logits, features = network(obs)
    assert logits.shape == (4 * good, 5)
    assert network.value(obs, features).shape == (4 * good,)


def test_the_critic_sees_the_state_from_its_own_place() -> None:
    critic = CentralCritic(CommConfig(hidden_dim=28), SENSES)
    obs = batch_of({}, steps=1)
    values = critic(obs, obs["self"].argmax(1, keepdim=True)).squeeze(1)
    assert values.shape == (8,)
    assert len(values[:4].unique()) == 4


def test_the_old_name_of_the_mean_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    _warn_renamed.cache_clear()
    assert CommConfig(gnn="gcn") == CommConfig(gnn="gcn") == CommConfig(gnn="mean")
    assert caplog.messages == ["gnn: gcn has been renamed to mean, which is what it computes. Set gnn: mean."]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_dims": 3}, "unknown key 'hidden_dims'. Did you mean 'hidden_dim'?"),
        ({"hidden_dim": 30, "num_heads": 4}, "even multiple of num_heads = 4, got 30"),
        ({"hidden_dim": 9, "num_heads": 3}, "even multiple of num_heads = 3, got 9"),
        ({"hidden_dim": 0}, "hidden_dim: expected an integer of at least 1, got 0"),
        ({"gnn": "sage"}, "gnn: expected one of gat, gatv2, mean, none, got 'sage'"),
        ({"temporal": "lstm"}, "temporal: expected one of"),
        ({"critic": "none"}, "critic: expected one of class, shared, local"),
        ({"sequence": "neighbors", "temporal": "gru"}, "neighbors: expected temporal: transformer, got temporal: gru"),
        ({"relational": "yes"}, "relational: expected true or false, got 'yes'"),
        ({"relational": True, "gnn": "none"}, "relational: expected graph layers, got gnn: none"),
        ({"encoder": "own"}, "encoder: expected one of class, shared, got 'own'"),
        ({"frame": "sender"}, "frame: expected one of receiver, absolute, got 'sender'"),
        ({"message_dim": 0}, "message_dim: expected an integer of at least 1, got 0"),
        ({"message_dim": 8, "gnn": "none"}, "message_dim: expected graph layers, got gnn: none"),
        ({"message_dim": 8, "sequence": "neighbors"}, "message_dim: expected sequence: history, got neighbors"),
        ({"precision": "float16"}, "precision: expected one of float32, bfloat16, auto, got 'float16'"),
        ({"value_scale": float("nan")}, "value_scale: expected a number"),
    ],
)
def test_configurations_that_do_not_fit(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        CommConfig.from_mapping(options)
    assert message in str(error.value)
