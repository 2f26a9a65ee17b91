"""Groups of the ways in which networks join their layers, derived by hand."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thrifty.channels.finding import groups
from thrifty.errors import UserError

PICTURE = (2, 3, 8, 8)


def conv(ins, outs, kernel=3, **options):
    return nn.Conv2d(ins, outs, kernel, padding=kernel // 2, **options)


def members(group, role):
    return [(m.tensor, m.dim, m.unit.tolist()) for m in group.of(role)]


def units(found):
    return {g.name: g.units for g in found.free}


def test_a_chain_has_a_group_a_layer_and_its_last_layer_stays(chain, prove):
    model = chain(
        conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 2), nn.Flatten(), nn.Linear(128, 3)
    )
    found = prove(model, torch.randn(PICTURE))
    first, second, last = found
    assert [g.name for g in found] == ["0", "3", "5"]
    assert members(first, "out") == [("0.weight", 0, [0, 1, 2, 3])]
    assert members(first, "in") == [("3.weight", 1, [0, 1, 2, 3])]
    assert [m.tensor for m in first.of("scale")] == ["1.weight"]
    assert [m.tensor for m in first.of("shift")] == ["0.bias", "1.bias"]
    assert [m.tensor for m in first.of("stat")] == ["1.running_mean", "1.running_var"]
    assert members(second, "in") == [("5.weight", 1, [0] * 64 + [1] * 64)]
    assert last.whole == "they are the output of the network"


def test_a_sum_ties_what_it_adds(net, prove):
    model = net(
        lambda s, x: (lambda y: s.fc((y + s.b(F.relu(s.a(y)))).mean((2, 3))))(s.stem(x)),
        stem=conv(3, 8),
        a=conv(8, 5),
        b=conv(5, 8),
        fc=nn.Linear(8, 3),
    )
    found = prove(model, torch.randn(PICTURE))
    assert units(found) == {"stem": 8, "a": 5}
    assert [m.tensor for m in found["stem"].of("out")] == ["stem.weight", "b.weight"]
    assert found["stem"].joins == ("add in the network",)


def test_concatenated_channels_are_groups_of_their_own(net, prove):
    model = net(
        lambda s, x: s.fc(torch.cat([s.a(x), s.b(x), x], 1).mean((2, 3))),
        a=conv(3, 2),
        b=conv(3, 3),
        fc=nn.Linear(8, 3),
    )
    found = prove(model, torch.randn(PICTURE))
    assert members(found["a"], "in") == [("fc.weight", 1, [0, 1, -1, -1, -1, -1, -1, -1])]
    assert members(found["b"], "in") == [("fc.weight", 1, [-1, -1, 0, 1, 2, -1, -1, -1])]


def test_dense_connections_are_read_by_every_later_layer(net, prove):
    def fn(s, x):
        first = s.a(x)
        second = s.b(F.relu(s.n(first)))
        return s.c(F.relu(s.m(torch.cat([first, second], 1))))

    model = net(
        fn,
        a=conv(3, 4),
        n=nn.BatchNorm2d(4),
        b=conv(4, 2),
        m=nn.BatchNorm2d(6),
        c=conv(6, 3),
    )
    found = prove(model, torch.randn(PICTURE))
    assert units(found) == {"a": 4, "b": 2}
    assert [m[0] for m in members(found["a"], "in")] == ["b.weight", "c.weight"]
    scales = members(found["a"], "scale")
    assert scales == [("n.weight", 0, [0, 1, 2, 3]), ("m.weight", 0, [0, 1, 2, 3, -1, -1])]


def test_depthwise_filters_go_with_their_channel(chain, prove):
    model = chain(conv(3, 4), nn.ReLU6(), conv(4, 4, groups=4), nn.BatchNorm2d(4), conv(4, 3, 1))
    found = prove(model, torch.randn(PICTURE))
    assert units(found) == {"0": 4}
    assert members(found["0"], "each") == [("2.weight", 0, [0, 1, 2, 3])]
    assert found["0"].joins == ("a depthwise convolution in 2",)


def test_a_depthwise_convolution_may_make_several_channels_of_one(chain, prove):
    found = prove(chain(conv(3, 4), conv(4, 8, groups=4), conv(8, 3)), torch.randn(PICTURE))
    assert members(found["0"], "in") == [("2.weight", 1, [0, 0, 1, 1, 2, 2, 3, 3])]


def test_groups_of_a_grouped_convolution_go_whole(chain, prove):
    model = chain(conv(3, 8), nn.ReLU(), conv(8, 12, groups=4), nn.ReLU(), conv(12, 3, 1))
    found = prove(model, torch.randn(PICTURE))
    (group,) = found.free
    assert (group.name, group.units, group.width) == ("0", 4, 8)
    assert members(group, "out") == [
        ("0.weight", 0, [0, 0, 1, 1, 2, 2, 3, 3]),
        ("2.weight", 0, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]),
    ]


def shuffled(x, parts):
    n, c, h, w = x.shape
    return x.view(n, parts, c // parts, h, w).transpose(1, 2).reshape(n, c, h, w)


@pytest.mark.parametrize("shuffle", [lambda x: shuffled(x, 2), nn.ChannelShuffle(2)])
def test_a_channel_shuffle_moves_channels_and_every_part_loses_the_same(net, prove, shuffle):
    model = net(lambda s, x: s.b(shuffle(s.a(x))), a=conv(3, 8), b=conv(8, 3, 1))
    found = prove(model, torch.randn(PICTURE))
    assert members(found["a"], "out") == [("a.weight", 0, [0, 1, 2, 3, 0, 1, 2, 3])]
    assert members(found["a"], "in") == [("b.weight", 1, [0, 0, 1, 1, 2, 2, 3, 3])]


def test_a_shuffle_between_grouped_convolutions_ties_all(net):
    model = net(
        lambda s, x: s.c(s.b(shuffled(s.a(x), 2))),
        a=conv(3, 8),
        b=conv(8, 8, groups=2),
        c=conv(8, 3),
    )
    found = groups(model, torch.randn(PICTURE))
    assert found["a"].units == 2  # channels 0, 4, 1, 5 are the first group, as they come


def test_pixel_shuffle_takes_channels_together_and_apart(chain, prove):
    model = chain(conv(3, 16), nn.PixelShuffle(2), conv(4, 2), nn.PixelUnshuffle(2), conv(8, 3))
    found = prove(model, torch.randn(PICTURE))
    assert units(found) == {"0": 4, "2": 2}
    assert members(found["0"], "out") == [("0.weight", 0, [n // 4 for n in range(16)])]
    assert members(found["2"], "in") == [("4.weight", 1, [0] * 4 + [1] * 4)]


def test_a_layer_that_is_called_twice_ties_what_it_reads_to_what_it_makes(net, prove):
    model = net(
        lambda s, x: s.out(F.relu(s.twice(F.relu(s.twice(F.relu(s.stem(x))))))),
        stem=conv(3, 6),
        twice=conv(6, 6),
        out=conv(6, 3),
    )
    found = prove(model, torch.randn(PICTURE))
    assert units(found) == {"stem": 6}
    assert [m[:2] for m in members(found["stem"], "out")] == [
        ("stem.weight", 0),
        ("twice.weight", 0),
    ]
    assert [m[:2] for m in members(found["stem"], "in")] == [("twice.weight", 1), ("out.weight", 1)]


def test_a_tied_embedding_loses_columns_of_the_one_tensor(net, prove):
    model = net(
        lambda s, x: s.out(F.relu(s.hidden(s.emb(x)))),
        emb=nn.Embedding(11, 8),
        hidden=nn.Linear(8, 8),
        out=nn.Linear(8, 11, bias=False),
    )
    model.out.weight = model.emb.weight
    found = prove(model, torch.randint(0, 11, (2, 5)), costs=False)
    (group,) = found.free
    assert [m[:2] for m in members(group, "out")] == [("emb.weight", 1), ("hidden.weight", 0)]


def test_squeeze_and_excitation_goes_with_the_channels_that_it_scales(net, prove):
    def fn(s, x):
        x = F.relu(s.stem(x))
        return s.fc((x * s.up(F.relu(s.down(x.mean((2, 3), keepdim=True)))).sigmoid()).mean((2, 3)))

    model = net(fn, stem=conv(3, 8), down=conv(8, 4, 1), up=conv(4, 8, 1), fc=nn.Linear(8, 3))
    found = prove(model, torch.randn(PICTURE))
    assert units(found) == {"stem": 8, "down": 4}
    assert [m[0] for m in members(found["stem"], "out")] == ["stem.weight", "up.weight"]
    assert found["stem"].joins == ("mul in the network",)


class Attention(nn.Module):
    """As timm has it."""

    def __init__(self, fused):
        super().__init__()
        self.num_heads, self.head_dim, self.fused = 4, 2, fused
        self.emb, self.qkv, self.proj = nn.Linear(5, 8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.fc1, self.fc2 = nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, x):
        x = self.emb(x)
        b, n, _ = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.fc2(F.gelu(self.fc1(self.proj(y.transpose(1, 2).reshape(b, n, -1))))).mean(1)


@pytest.mark.parametrize("fused", [True, False])
def test_heads_of_attention_go_whole_and_the_mlp_by_channel(prove, fused):
    found = prove(Attention(fused).eval(), torch.randn(2, 6, 5))
    assert units(found) == {"emb": 8, "qkv": 4, "proj": 8, "fc1": 12}
    heads = [n // 2 for n in range(8)]
    assert members(found["qkv"], "out") == [("qkv.weight", 0, heads * 3)]
    assert members(found["qkv"], "in") == [("proj.weight", 1, heads)]


def test_halves_of_a_gated_unit_lose_the_same(net, prove):
    def fn(s, x):
        a, b = s.a(x).chunk(2, -1)
        return s.b(a * torch.sigmoid(b))

    found = prove(net(fn, a=nn.Linear(5, 12), b=nn.Linear(6, 3)), torch.randn(2, 5))
    assert members(found["a"], "out") == [("a.weight", 0, [0, 1, 2, 3, 4, 5] * 2)]


def test_a_padded_shortcut_keeps_whole_what_it_is_padded_to(net, prove):
    def fn(s, x):
        x = s.stem(x)
        y = s.b(F.relu(s.a(x)))
        return s.out(F.relu(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))))

    model = net(fn, stem=conv(3, 4), a=conv(4, 8, stride=2), b=conv(8, 8), out=conv(8, 3))
    found = prove(model, torch.randn(PICTURE))
    assert units(found) == {"stem": 4, "a": 8}
    made = members(found["stem"], "out")[1]
    assert made == ("b.weight", 0, [-1, -1, 0, 1, 2, 3, -1, -1])
    assert found["b"].whole == "add in the network joins them with what no layer makes"


def test_several_inputs_are_followed(net, prove):
    model = net(
        lambda s, x, y: s.out(F.relu(s.a(x) + s.b(y))),
        a=nn.Linear(5, 8),
        b=nn.Linear(4, 8),
        out=nn.Linear(8, 3),
    )
    found = prove(model, (torch.randn(2, 5), torch.randn(2, 4)))
    assert [m[0] for m in members(found["a"], "out")] == ["a.weight", "b.weight"]


def test_all_tensors_of_nested_outputs_stay(net, prove):
    model = net(
        lambda s, x: (lambda y: {"main": s.b(F.relu(y)), "more": [s.c(y)]})(s.a(x)),
        a=conv(3, 8),
        b=conv(8, 3),
        c=conv(8, 2),
    )
    found = prove(model, torch.randn(PICTURE), costs=False)
    assert units(found) == {"a": 8}


def test_layer_scales_and_positions_go_with_their_channel(net, prove):
    model = net(
        lambda s, x: s.b((s.a(x) + s.where) * s.gamma),
        a=nn.Linear(5, 8),
        where=nn.Parameter(torch.randn(1, 4, 8)),
        gamma=nn.Parameter(torch.rand(8)),
        b=nn.Linear(8, 3),
    )
    found = prove(model, torch.randn(2, 4, 5))
    assert {m[0] for m in members(found["a"], "each")} == {"where", "gamma"}


def test_looking_changes_nothing(chain):
    model = chain(conv(3, 4), nn.BatchNorm2d(4), nn.Dropout(), conv(4, 3)).train()
    before = copy.deepcopy(model.state_dict())
    example = torch.randn(PICTURE)
    same = example.clone()
    groups(model, example)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(m.training for m in model.modules())
    assert torch.equal(example, same)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_keep_leaves_layers_whole_and_says_so(chain):
    model = chain(conv(3, 4), nn.ReLU(), conv(4, 4), conv(4, 3))
    found = groups(model, torch.randn(PICTURE), keep=["0"])
    assert found["0"].whole == "keep= says so"
    assert units(found) == {"2": 4}


def test_a_pattern_that_matches_nothing_is_refused_with_what_was_meant(net):
    model = net(lambda s, x: s.conv2(s.conv1(x)), conv1=conv(3, 4), conv2=conv(4, 3))
    with pytest.raises(UserError, match="'conv11' matches no layer; did you mean conv1"):
        groups(model, torch.randn(PICTURE), keep=["conv11"])


def test_an_unknown_group_is_refused_with_what_was_meant(chain):
    found = groups(chain(conv(3, 4), conv(4, 3)), torch.randn(PICTURE))
    with pytest.raises(UserError, match="no group is called '00'"):
        found["00"]


def test_groups_show_themselves(chain):
    found = groups(chain(conv(3, 4), conv(4, 3)), torch.randn(PICTURE))
    row = found.to_rows()[0]
    assert row == {
        "group": "0",
        "units": 4,
        "channels": 4,
        "layers": "0",
        "read by": "1",
        "because": "",
        "whole": "",
    }
    assert "<table>" in found._repr_html_()
    assert found.to_dict() == {"groups": found.to_rows(), "notes": []}
