"""Each layer against a library's own or the plainest possible version."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from conftest import assert_same_gradients
from torch import nn
from torch_geometric.nn import GATConv, GATv2Conv, SAGEConv

from rllib_tag.nn import graph, products
from rllib_tag.nn.config import CommConfig
from rllib_tag.nn.entities import EntityEncoder
from rllib_tag.nn.graph import Convolution, GraphEncoder, Seen
from rllib_tag.nn.products import Product
from rllib_tag.nn.team import at
from rllib_tag.nn.temporal import GRUReader, TransformerLayer, TransformerReader, age_encoding
from rllib_tag.world.layout import Senses


def torch_layer(ours: TransformerLayer, hidden: int, heads: int) -> nn.TransformerEncoderLayer:
    """torch's own layer with our weights."""
    theirs = nn.TransformerEncoderLayer(hidden, heads, 2 * hidden, dropout=0.0, norm_first=True, batch_first=True)
    attention = theirs.self_attn
    attention.in_proj_weight.data = torch.cat([ours.query.weight, ours.key_value.weight])
    attention.in_proj_bias.data = torch.cat([ours.query.bias, ours.key_value.bias])
    attention.out_proj.load_state_dict(ours.out.state_dict())
    theirs.linear1.load_state_dict(ours.feedforward[0].state_dict())
    theirs.linear2.load_state_dict(ours.feedforward[2].state_dict())
    theirs.norm1.load_state_dict(ours.norm_attention.state_dict())
    theirs.norm2.load_state_dict(ours.norm_feedforward.state_dict())
    return theirs


def test_transformer_is_torchs_own() -> None:
    M, S, H, heads = 11, 5, 28, 2
    reader = TransformerReader(H, heads, 3)
    tokens, place = torch.randn(M, S, H), torch.randint(S, (M,))
    valid = torch.rand(M, S) < 0.6
    valid[torch.arange(M), place] = True
    expected = tokens
    for layer in reader.layers:
        expected = torch_layer(layer, H, heads).train()(expected, src_key_padding_mask=~valid)
    expected = reader.norm(expected)[torch.arange(M), place]
    torch.testing.assert_close(reader(tokens, valid, place), expected, rtol=1e-4, atol=1e-5)


def test_gru_is_torchs_own_on_full_histories_and_skips_the_missing() -> None:
    M, S, H = 7, 5, 12
    reader = GRUReader(H, 2)
    theirs = nn.GRU(H, H, 2, batch_first=True)
    for i, cell in enumerate(reader.cells):
        for name, value in cell.named_parameters():
            getattr(theirs, f"{name}_l{i}").data = value.data
    tokens = torch.randn(M, S, H)
    torch.testing.assert_close(reader(tokens, torch.ones(M, S, dtype=torch.bool)), theirs(tokens)[0][:, -1])
    late = torch.ones(M, S, dtype=torch.bool)
    late[:, :2] = False
    torch.testing.assert_close(reader(tokens, late), theirs(tokens[:, 2:])[0][:, -1])


SENSES = Senses(("a", "b", "c"), (2, 2, 2), {"marks": 2, "prey": 4}, {"team": 2})
SIZES = (2, 0, 3)  # of the classes


def teams(in_dim: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[Seen]]:
    """Nodes, links, positions and what is seen in 7 states of teams of five, some of whom hear nobody of one class.

    There are no prey for the first class to see, and from none to three marks.
    """
    S, N = 7, sum(SIZES)
    links = torch.rand(S, N, N) < 0.4
    links[:3, :, 2:] = False
    seen = [
        Seen(
            slice(0, 2),
            {"marks": torch.randn(S, 2, 3, 2), "prey": torch.randn(S, 2, 0, 4)},
            {"marks": torch.arange(3) < torch.randint(4, (S, 2, 1))},
        ),
        Seen(slice(2, 2), {}),
        Seen(slice(2, 5), {"prey": torch.randn(S, 3, 2, 4), "marks": torch.randn(S, 3, 3, 2)}),
    ]
    return torch.randn(S, N, in_dim), links | torch.eye(N, dtype=torch.bool), torch.randn(S, N, 2), seen


def geometric(conv: Convolution, in_dim: int, hidden: int, heads: int) -> nn.Module:
    """The layer of torch-geometric with the weights of one of ours."""
    if conv.gnn == "mean":
        theirs: nn.Module = SAGEConv(in_dim, hidden, aggr="mean", root_weight=False, bias=False)
        theirs.lin_l.load_state_dict(conv.lin.state_dict())
        return theirs
    kind = {"gat": GATConv, "gatv2": GATv2Conv}[conv.gnn]
    theirs = kind(in_dim, hidden // heads, heads=heads, add_self_loops=False, bias=False)
    theirs.load_state_dict(conv.state_dict())
    return theirs


@pytest.mark.parametrize("largest_dense", [1000, 0], ids=["dense", "sparse"])
@pytest.mark.parametrize("relational", [False, True])
@pytest.mark.parametrize("gnn", ["gat", "gatv2", "mean", "none"])
def test_graph_layers_are_torch_geometrics(gnn: str, relational: bool, largest_dense: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(graph, "LARGEST_DENSE", largest_dense)
    D, H, heads = 7, 12, 2
    config = CommConfig(
        hidden_dim=H, num_heads=heads, gnn=gnn, relational=relational and gnn != "none", frame="absolute"
    )
    encoder = GraphEncoder(D, config, SENSES)
    nodes, links, positions, seen = teams(D)
    weights: list[torch.Tensor] = []
    out = encoder(nodes, links, positions, seen, weights=weights)
    state, receiver, sender = links.nonzero(as_tuple=True)
    edges = torch.stack([state * 5 + sender, state * 5 + receiver])
    classes = torch.tensor([0, 0, 2, 2, 2])[sender]
    expected = nodes.flatten(0, 1)
    for i, skip in enumerate(encoder.skips):
        following, shares = skip(expected), torch.zeros(len(state))
        for k in range(3 if relational else 1) if gnn != "none" else ():
            of_class = classes == k if relational else torch.ones_like(classes, dtype=torch.bool)
            conv = geometric(encoder.convs[i * encoder.num_relations + k], [D, H][i], H, heads)
            if gnn == "mean":
                following = following + conv(expected, edges[:, of_class])
            else:
                heard, (_, attention) = conv(expected, edges[:, of_class], return_attention_weights=True)
                following = following + heard
                shares[of_class] = attention.mean(-1)
        expected = nn.functional.elu(following)
        if gnn in ("gat", "gatv2"):
            total = torch.zeros(35).index_add_(0, edges[1], shares)
            found = weights[i][state, receiver, sender]
            torch.testing.assert_close(found, shares / total[edges[1]], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.flatten(0, 1), expected, rtol=1e-4, atol=1e-5)
    for answers in (torch.tensor([3, 1]), torch.randint(5, (7, 2))):
        only = encoder(nodes, links, positions, seen, answers)
        torch.testing.assert_close(only, at(out, answers), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("largest_dense", [1000, 0], ids=["dense", "sparse"])
@pytest.mark.parametrize("message_dim", [None, 5])
@pytest.mark.parametrize("relational", [False, True])
@pytest.mark.parametrize("gnn", ["gat", "gatv2", "mean"])
def test_what_is_heard_stands_relative_to_the_receiver(
    gnn: str, relational: bool, message_dim: int | None, largest_dense: int, monkeypatch: Any
) -> None:
    """Against the plain form: one receiver at a time, with everything moved to where it stands."""
    monkeypatch.setattr(graph, "LARGEST_DENSE", largest_dense)
    config = CommConfig(
        hidden_dim=12, num_heads=2, gnn=gnn, relational=relational, message_dim=message_dim, frame="receiver"
    )
    encoder = GraphEncoder(7, config, SENSES)
    nodes, links, positions, seen = teams(7)
    expected = nodes
    for i, skip in enumerate(encoder.skips):
        out = skip(expected)
        convs = encoder.convs[i * encoder.num_relations : (i + 1) * encoder.num_relations]
        for s, r in itertools.product(range(7), range(5)):
            for k, conv in enumerate(convs):
                group = [seen[k]] if relational else seen
                out[s, r] = out[s, r] + plainly_heard(conv, expected[s], links[s, r], positions[s], group, s, r)
        expected = nn.functional.elu(out)
    torch.testing.assert_close(encoder(nodes, links, positions, seen), expected, rtol=1e-4, atol=1e-5)


def plainly_heard(
    conv: Convolution,
    nodes: torch.Tensor,
    linked: torch.Tensor,
    positions: torch.Tensor,
    seen: list[Seen],
    s: int,
    r: int,
) -> torch.Tensor:
    read, pairs, asked = conv.lin_l if conv.gnn == "gatv2" else conv.lin, [], nodes[r]
    for part in seen:
        for n, j in enumerate(range(part.senders.start, part.senders.stop)):
            near = {}
            for kind, values in part.entities.items():
                there = values[s, n][part.present[kind][s, n]] if kind in part.present else values[s, n]
                if not len(there):  # as if there were one where the sender is
                    there = torch.cat([positions[j], torch.zeros(values.shape[-1] - 2)])[None]
                near[kind] = torch.cat([there[:, :2] - positions[r], there[:, 2:]], dim=1)
            said = (read if conv.send is None else conv.send)(nodes[j]) + conv.placement.own(
                positions[j] - positions[r]
            )
            for kind, layer in conv.placement.entities.items():
                if kind in near:
                    said = said + layer(near[kind]).amax(0)
            if linked[j]:
                pairs.append(said if conv.send is None else read(said))
    if not pairs:
        return torch.zeros(12)
    heard = torch.stack(pairs).unflatten(-1, (2, 6))  # (linked, heads, H / heads)
    if conv.gnn == "mean":
        weights = torch.full(heard.shape[:2], 1 / len(heard))
    elif conv.gnn == "gatv2":
        scores = nn.functional.leaky_relu(heard + conv.lin_r(asked).view(2, 6), 0.2) * conv.att[0]
        weights = scores.sum(-1).softmax(0)
    else:
        own = read(asked if conv.send is None else conv.send(asked)).view(2, 6)
        scores = (heard.relu() * conv.att_src[0]).sum(-1) + (own * conv.att_dst[0]).sum(-1)
        weights = nn.functional.leaky_relu(scores, 0.2).softmax(0)
    return conv.value((weights.unsqueeze(-1) * heard.relu()).sum(0).flatten())


def test_what_a_class_says_weighs_the_same_however_many_of_the_other_talk() -> None:
    nodes, positions = torch.randn(1, 5, 7).double(), torch.zeros(1, 5, 2).double()
    seen = [Seen(slice(0, 1), {}), Seen(slice(1, 2), {}), Seen(slice(2, 5), {})]

    def says(encoder: GraphEncoder, senders: list[int]) -> torch.Tensor:
        """What node 1, the only one of its class, adds to what node 0 hears of others, before the nonlinearity."""

        def heard(senders: list[int]) -> torch.Tensor:
            links = torch.eye(5, dtype=torch.bool).unsqueeze(0)
            links[0, 0] = torch.isin(torch.arange(5), torch.tensor(senders))
            out = encoder(nodes, links, positions, seen)[0, 0]
            return torch.where(out > 0, out, out.log1p())  # undoes the ELU

        return heard([*senders, 1]) - heard(senders)

    for relational in (False, True):
        config = CommConfig(hidden_dim=12, gnn_layers=1, relational=relational)
        encoder = GraphEncoder(7, config, SENSES).double()
        assert torch.allclose(says(encoder, [0]), says(encoder, [0, 2, 3, 4])) == relational


def test_products_in_bfloat16_follow_the_weights_and_keep_float32_outside() -> None:
    """Also without gradients, and after the update of a fused optimizer, which leaves a weight's version as it was."""
    layer = Product(64, 32, precision="bfloat16")
    values = torch.randn(5, 64, requires_grad=True)
    for _ in range(2):
        with torch.no_grad():
            acted = layer(values)
        out = layer(values)
        assert acted.dtype == out.dtype == layer.weight.dtype == torch.float32
        torch.testing.assert_close(acted, out, rtol=0, atol=0)
        exact = nn.functional.linear(values, layer.weight, layer.bias)
        torch.testing.assert_close(out, exact, rtol=0, atol=0.03)
        assert not torch.equal(out, exact)
        layer.zero_grad()
        out.square().sum().backward()
        assert layer.weight.grad.dtype == values.grad.dtype == torch.float32
        torch.optim.Adam(layer.parameters(), lr=0.1, fused=True).step()


def test_auto_is_bfloat16_where_the_device_is_faster_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    values, layer = torch.randn(5, 64), Product(64, 32, precision="auto")
    for faster in (True, False):
        monkeypatch.setattr(products, "bfloat16_is_faster", lambda device, faster=faster: faster)
        exact = nn.functional.linear(values, layer.weight, layer.bias)
        assert torch.equal(layer(values), exact) is not faster


def test_entities_are_a_set() -> None:
    encoder = EntityEncoder(3, {"marks": 2, "prey": 5}, 7)
    own, marks, prey = torch.randn(11, 3), torch.randn(11, 4, 2), torch.randn(11, 3, 5)
    out = encoder(own, {"marks": marks, "prey": prey})
    assert out.shape == (11, 7)
    torch.testing.assert_close(encoder(own, {"marks": marks.flip(1), "prey": prey.flip(1)}), out)
    torch.testing.assert_close(encoder(own, {"marks": marks[:, :0]}), encoder.own(own))


@pytest.mark.parametrize("team", [1, 2, 5])
@pytest.mark.parametrize("same_for_all", [True, False])
def test_observers_do_not_see_themselves(team: int, same_for_all: bool) -> None:
    """Against the plain form, in which each observer has its own set, with -inf for itself."""
    encoder = EntityEncoder(3, {"team": 4}, 7).double()
    entities = torch.randn(11, 1, team, 4, dtype=torch.double, requires_grad=True)
    who = torch.randint(team, (3,)) if same_for_all else torch.randint(team, (11, 3))
    own = at(entities.squeeze(1).detach(), who)[..., :3]
    layer = encoder.entity["team"]
    placed = torch.cat([entities[..., :2] - own[:, :, None, :2], entities.expand(-1, 3, -1, -1)], dim=-1)
    itself = (torch.arange(team) == who.unsqueeze(-1)).unsqueeze(-1)
    seen = layer(placed).masked_fill(itself, -torch.inf).amax(2).relu()
    expected = encoder.own(own) + encoder.pooled["team"](seen)
    out = encoder(own, {"team": entities}, {"team": who})
    torch.testing.assert_close(out, expected)
    given = [entities, *encoder.parameters()]
    assert_same_gradients(out, expected, given)


def test_of_others_that_tie_the_first_gets_the_gradient() -> None:
    encoder, entities = EntityEncoder(2, {"team": 2}, 7), torch.ones(1, 1, 4, 2, requires_grad=True)
    encoder(torch.zeros(1, 2, 2), {"team": entities}, {"team": torch.tensor([0, 1])}).sum().backward()
    assert entities.grad is not None
    of_first, of_second, *of_others = entities.grad[0, 0]
    assert torch.equal(of_first, of_second)
    assert of_first.abs().sum() > 0
    assert not any(gradient.any() for gradient in of_others)


@pytest.mark.parametrize("frame", ["receiver", "absolute"])
@pytest.mark.parametrize("gnn", ["gat", "gatv2", "mean"])
def test_all_pairs_and_linked_ones_give_the_same_gradients(
    gnn: str, frame: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = GraphEncoder(7, CommConfig(hidden_dim=12, num_heads=2, gnn=gnn, frame=frame), SENSES)
    nodes, links, positions, seen = teams(7)
    nodes.requires_grad_()
    found = []
    for largest in (1000, 0):
        monkeypatch.setattr(graph, "LARGEST_DENSE", largest)
        loss = encoder(nodes, links, positions, seen).square().sum()
        found.append(torch.autograd.grad(loss, [nodes, *encoder.parameters()]))
    for dense, sparse in zip(*found, strict=True):
        torch.testing.assert_close(dense, sparse, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("message_dim", [None, 5])
@pytest.mark.parametrize("gnn", ["gat", "gatv2", "mean"])
def test_moving_everything_changes_nothing_that_is_placed(gnn: str, message_dim: int | None) -> None:
    config = CommConfig(hidden_dim=12, num_heads=2, gnn=gnn, message_dim=message_dim)
    encoder = GraphEncoder(7, config, SENSES).double()
    nodes, links, positions, seen = teams(7)
    nodes, positions, by = nodes.double(), positions.double(), torch.tensor([3.0, -2.0], dtype=torch.double)

    def shifted(entities: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
        return entities.double() + nn.functional.pad(by, (0, entities.shape[-1] - 2))

    doubled, moved = (
        [part._replace(entities={kind: shifted(each, by_) for kind, each in part.entities.items()}) for part in seen]
        for by_ in (0 * by, by)
    )
    expected = encoder(nodes, links, positions, doubled)
    torch.testing.assert_close(encoder(nodes, links, positions + by, moved), expected)
    assert not torch.allclose(encoder(nodes, links, positions + by, doubled), expected)


def test_entities_are_seen_from_where_the_observer_is() -> None:
    """Against the plain form, in which each entity stands with where it is from the observer."""
    encoder = EntityEncoder(3, {"prey": 5}, 7).double()
    own, prey = torch.randn(11, 3, dtype=torch.double), torch.randn(11, 4, 5, dtype=torch.double)
    placed = torch.cat([prey[..., :2] - own[:, None, :2], prey], dim=-1)
    seen = encoder.entity["prey"](placed).relu().amax(1)
    expected = encoder.own(own) + encoder.pooled["prey"](seen)
    out = encoder(own, {"prey": prey})
    torch.testing.assert_close(out, expected)
    assert_same_gradients(out, expected, list(encoder.parameters()))


def test_ages_count_back_from_the_last_token() -> None:
    long, short = age_encoding(7, 12, torch.device("cpu")), age_encoding(3, 12, torch.device("cpu"))
    assert long.shape == (7, 12)
    torch.testing.assert_close(long[-3:], short)
    assert len(long.unique(dim=0)) == 7
