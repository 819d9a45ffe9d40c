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


def dense_gat(x: torch.Tensor, linked: torch.Tensor, conv: nn.Module, heads: int, v2: bool) -> torch.Tensor:
    """Attention over a full matrix, one head and one pair at a time."""
    out = []
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
        weight = score.masked_fill(~linked, -torch.inf).softmax(-1)
        out.append(weight @ source)
    return torch.cat(out, dim=-1)


@pytest.mark.parametrize("relational", [False, True])
@pytest.mark.parametrize("gnn", ["gat", "gatv2", "gcn", "none"])
def test_graph_layers_equal_dense_ones(gnn: str, relational: bool) -> None:
    M, D, H, heads = 11, 7, 12, 2
    encoder = GraphEncoder(D, H, heads, 2, gnn, relational)
    nodes = torch.randn(M, D)
    linked = (torch.rand(M, M) < 0.3) | torch.eye(M, dtype=torch.bool)
    is_b = torch.arange(M) % 3 == 0
    linked[:5, is_b] = False  # some hear nobody of one class
    linked |= torch.eye(M, dtype=torch.bool)
    relations = [linked & ~is_b, linked & is_b] if relational else [linked]
    receivers, senders = linked.nonzero(as_tuple=True)
    expected = nodes
    for i, skip in enumerate(encoder.skips):
        passed = skip(expected)
        for k, heard in enumerate(relations if gnn != "none" else []):
            conv, hears = encoder.convs[i * len(relations) + k], heard.any(1)
            if gnn == "gcn":
                weights = heard[hears] / heard[hears].sum(1, keepdim=True)
                passed[hears] = passed[hears] + weights @ conv.lin(expected)
            else:
                given = dense_gat(expected, heard, conv, heads, gnn == "gatv2")  # NaN where nobody is heard
                passed[hears] = passed[hears] + given[hears]
        expected = nn.functional.elu(passed)
    edges = torch.stack([senders, receivers])
    torch.testing.assert_close(encoder(nodes, edges, is_b), expected, rtol=1e-4, atol=1e-5)
    for weight in encoder.attention(nodes, edges, is_b) if gnn != "none" else ():
        torch.testing.assert_close(torch.zeros(M).index_add_(0, receivers, weight), torch.ones(M))


def test_one_class_does_not_dilute_what_another_says() -> None:
    encoder = GraphEncoder(7, 12, 2, 1, "gat", relational=True)
    nodes, is_b = torch.randn(5, 7), torch.tensor([False, True, False, False, False])
    few, many = torch.tensor([[0, 1], [0, 0]]), torch.tensor([[0, 1, 2, 3, 4], [0, 0, 0, 0, 0]])
    of_b = encoder.convs[1]
    torch.testing.assert_close(of_b(nodes, few[:, is_b[few[0]]]), of_b(nodes, many[:, is_b[many[0]]]))
    assert [encoder.attention(nodes, edges, is_b)[0][1].item() for edges in (few, many)] == [0.5, 0.5]


def test_entities_are_a_set() -> None:
    encoder = EntityEncoder(3, {"marks": 2, "prey": 5}, 7)
    own, marks, prey = torch.randn(11, 3), torch.randn(11, 4, 2), torch.randn(11, 3, 5)
    counts = torch.rand(11, 3) < 0.5
    every = torch.ones(11, 4, dtype=torch.bool)
    out = encoder(own, {"marks": (marks, every), "prey": (prey, counts)})
    assert out.shape == (11, 7)
    flipped = encoder(own, {"marks": (marks.flip(1), every), "prey": (prey.flip(1), counts.flip(1))})
    torch.testing.assert_close(flipped, out)
    noisy = torch.where(counts.unsqueeze(-1), prey, torch.randn_like(prey))
    torch.testing.assert_close(encoder(own, {"marks": (marks, every), "prey": (noisy, counts)}), out)
    none = encoder(own, {"prey": (prey, torch.zeros_like(counts)), "marks": (marks[:, :0], every[:, :0])})
    torch.testing.assert_close(none, encoder.own(own))


def test_ages_count_back_from_the_last_token() -> None:
    long, short = age_encoding(7, 12, torch.device("cpu")), age_encoding(3, 12, torch.device("cpu"))
    assert long.shape == (7, 12)
    torch.testing.assert_close(long[-3:], short)
    assert len(long.unique(dim=0)) == 7
