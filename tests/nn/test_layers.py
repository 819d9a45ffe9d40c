"""Each layer against a library's own or the plainest possible version."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rllib_tag.nn.entities import EntityEncoder
from rllib_tag.nn.graph import GraphEncoder
from rllib_tag.nn.temporal import GRUReader, TransformerLayer, TransformerReader, age_encoding


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


def dense_gat(
    x: torch.Tensor, linked: torch.Tensor, conv: nn.Module, heads: int, v2: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over a full matrix, one head and one pair at a time: the result, and the heads' mean weights."""
    out, weights = [], []
    width = conv.out_channels
    for h in range(heads):
        rows = slice(h * width, (h + 1) * width)
        if v2:
            source, target = conv.lin_l(x)[:, rows], conv.lin_r(x)[:, rows]
            score = nn.functional.leaky_relu(target[:, None] + source[None], 0.2) @ conv.att[0, h]
        else:
            source = target = conv.lin(x)[:, rows]
            score = nn.functional.leaky_relu(
                (target @ conv.att_dst[0, h])[:, None] + (source @ conv.att_src[0, h])[None], 0.2
            )
        weight = score.masked_fill(~linked, -torch.inf).softmax(-1).nan_to_num()  # nobody is heard: nothing
        out.append(weight @ source)
        weights.append(weight)
    return torch.cat(out, dim=-1), torch.stack(weights).mean(0)


@pytest.mark.parametrize("num_relations", [1, 2, 3])
@pytest.mark.parametrize("gnn", ["gat", "gatv2", "mean", "none"])
def test_graph_layers_equal_dense_ones(gnn: str, num_relations: int) -> None:
    M, D, H, heads = 11, 7, 12, 2
    encoder = GraphEncoder(D, H, heads, 2, gnn, num_relations)
    nodes, classes = torch.randn(M, D), torch.arange(M) % 3 % num_relations
    linked = torch.rand(M, M) < 0.3
    linked[:5, classes == num_relations - 1] = False  # some hear nobody of one class
    linked |= torch.eye(M, dtype=torch.bool)
    relations = [linked & (classes == k) for k in range(num_relations)]
    classes_heard = sum(heard.any(1).int() for heard in relations)
    expected, attention = nodes, []
    for i, skip in enumerate(encoder.skips):
        passed, given = skip(expected), torch.zeros(M, M)
        for k, heard in enumerate(relations if gnn != "none" else []):
            conv = encoder.convs[i * len(relations) + k]
            if gnn == "mean":
                weights = heard / heard.sum(1, keepdim=True).clamp(min=1)
                result = weights @ conv.lin(expected)
            else:
                result, weights = dense_gat(expected, heard, conv, heads, gnn == "gatv2")
            passed, given = passed + result, given + weights
        expected = nn.functional.elu(passed)
        attention.append(given / classes_heard[:, None])
    receivers, senders = linked.nonzero(as_tuple=True)
    edges = torch.stack([senders, receivers])
    torch.testing.assert_close(encoder(nodes, edges, classes), expected, rtol=1e-4, atol=1e-5)
    if gnn != "none":
        for found, given in zip(encoder.attention(nodes, edges, classes), attention, strict=True):
            torch.testing.assert_close(found, given[receivers, senders], rtol=1e-4, atol=1e-5)


def test_what_a_class_says_weighs_the_same_however_many_of_the_other_talk() -> None:
    nodes, classes = torch.randn(5, 7).double(), torch.tensor([0, 1, 0, 0, 0])

    def says(encoder: GraphEncoder, senders: list[int]) -> torch.Tensor:
        """What node 1, the only one of class B, adds to what node 0 hears of others, before the nonlinearity."""

        def heard(senders: list[int]) -> torch.Tensor:
            out = encoder(nodes, torch.tensor([senders, [0] * len(senders)]), classes)[0]
            return torch.where(out > 0, out, out.log1p())  # undoes the ELU

        return heard([*senders, 1]) - heard(senders)

    for num_relations in (1, 2):
        encoder = GraphEncoder(7, 12, 2, 1, "gat", num_relations).double()
        assert torch.allclose(says(encoder, [0]), says(encoder, [0, 2, 3, 4])) == (num_relations == 2)


def test_entities_are_a_set() -> None:
    encoder = EntityEncoder(3, {"marks": 2, "prey": 5}, 7)
    own, marks, prey = torch.randn(11, 3), torch.randn(11, 4, 2), torch.randn(11, 3, 5)
    counts = torch.rand(11, 3) < 0.5
    out = encoder(own, {"marks": (marks, None), "prey": (prey, counts)})
    assert out.shape == (11, 7)
    flipped = encoder(own, {"marks": (marks.flip(1), None), "prey": (prey.flip(1), counts.flip(1))})
    torch.testing.assert_close(flipped, out)
    noisy = torch.where(counts.unsqueeze(-1), prey, torch.randn_like(prey))
    torch.testing.assert_close(encoder(own, {"marks": (marks, None), "prey": (noisy, counts)}), out)
    none = encoder(own, {"prey": (prey, torch.zeros_like(counts)), "marks": (marks[:, :0], None)})
    torch.testing.assert_close(none, encoder.own(own))


def test_entities_are_seen_from_where_the_observer_is() -> None:
    """Against the plain form, in which each entity stands with where it is from the observer."""
    encoder = EntityEncoder(3, {"prey": 5}, 7).double()
    own, prey = torch.randn(11, 3, dtype=torch.double), torch.randn(11, 4, 5, dtype=torch.double)
    placed = torch.cat([prey[..., :2] - own[:, None, :2], prey], dim=-1)
    seen = encoder.entity["prey"](placed).relu().amax(1)
    expected = encoder.own(own) + encoder.pooled["prey"](seen)
    out = encoder(own, {"prey": (prey, None)})
    torch.testing.assert_close(out, expected)
    for ours, plain in zip(
        torch.autograd.grad(out.square().sum(), list(encoder.parameters())),
        torch.autograd.grad(expected.square().sum(), list(encoder.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(ours, plain)


def test_ages_count_back_from_the_last_token() -> None:
    long, short = age_encoding(7, 12, torch.device("cpu")), age_encoding(3, 12, torch.device("cpu"))
    assert long.shape == (7, 12)
    torch.testing.assert_close(long[-3:], short)
    assert len(long.unique(dim=0)) == 7
