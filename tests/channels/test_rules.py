"""What single operations do to channels."""

import pytest
import torch
import torch.nn.modules.activation as activations
from torch import nn
from torch.nn import functional as F

from thrifty.channels.finding import groups

PICTURE = (2, 3, 8, 8)

MIXING = {"Softmax", "Softmin", "Softmax2d", "LogSoftmax"}
ARGUMENTS = {
    "Threshold": (0.1, 0.2),
    "PReLU": (8,),
    "GLU": (1,),
    "Softmax": (1,),
    "Softmin": (1,),
    "LogSoftmax": (1,),
}
ACTIVATIONS = sorted(set(activations.__all__) - {"MultiheadAttention"})


def conv(ins, outs, kernel=3, **options):
    return nn.Conv2d(ins, outs, kernel, padding=kernel // 2, **options)


def why(model, example):
    return {g.name: g.whole for g in groups(model, example)}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_of_torch_is_followed(chain, prove, name):
    act = getattr(activations, name)(*ARGUMENTS.get(name, ()))
    model = chain(conv(3, 8), act, conv(4 if name == "GLU" else 8, 3))
    found = prove(model, torch.randn(PICTURE))
    if name in MIXING:
        assert found["0"].whole == "softmax in 1 mixes them all"
    else:
        assert (found["0"].whole, found["0"].units) == (None, 4 if name == "GLU" else 8)


@pytest.mark.parametrize(
    "layer",
    [
        nn.MaxPool2d(2),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(4),
        nn.AdaptiveMaxPool2d(4),
        nn.Upsample(scale_factor=2),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Upsample(scale_factor=2, mode="bicubic"),
        nn.ZeroPad2d(1),
        nn.ReflectionPad2d(1),
        nn.ReplicationPad2d(1),
        nn.Dropout(),
        nn.Dropout2d(),
        nn.AlphaDropout(),
        nn.Identity(),
        nn.InstanceNorm2d(8, affine=True),
        nn.BatchNorm2d(8),
        nn.GroupNorm(8, 8),
        nn.Hardswish(inplace=True),
        nn.LPPool2d(2, 2),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_what_works_on_every_channel_by_itself_is_passed(chain, prove, layer):
    found = prove(chain(conv(3, 8), layer, conv(8, 3)), torch.randn(PICTURE))
    assert [g.name for g in found.free] == ["0"]
    assert found["0"].units == 8


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.GroupNorm(4, 8), "group norm in 1 mixes channels of a group"),
        (nn.LocalResponseNorm(3), "avg_pool3d in 1 mixes them all"),
        (nn.LayerNorm([8, 8, 8]), "layer norm in 1 mixes them all"),
        (nn.Unfold(1), "im2col in 1 (Unfold) is not followed"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_mixes_channels_keeps_them_whole_and_says_so(chain, layer, reason):
    tail = [nn.Unflatten(2, (8, 8))] if isinstance(layer, nn.Unfold) else []
    assert why(chain(conv(3, 8), layer, *tail, conv(8, 3)), torch.randn(PICTURE))["0"] == reason


def test_a_layer_norm_keeps_its_channels_and_the_layers_behind_may_be_cut(chain, prove):
    model = chain(nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 3))
    found = prove(model, torch.randn(2, 5))
    assert found["0"].whole == "layer norm in 1 mixes them all"
    assert [g.name for g in found.free] == ["2"]


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_a_recurrent_layer_stays_whole_with_what_it_reads(net, prove, kind):
    model = net(
        lambda s, x: s.out(torch.relu(s.mid(s.rnn(s.emb(x))[0]))),
        emb=nn.Linear(5, 8),
        rnn=kind(8, 7, batch_first=True),
        mid=nn.Linear(7, 6),
        out=nn.Linear(6, 3),
    )
    found = prove(model, torch.randn(2, 4, 5), costs=False)
    assert found["emb"].whole == f"rnn ({kind.__name__}) has its sizes written in"
    assert [g.name for g in found.free] == ["mid"]


def test_multihead_attention_stays_whole_with_what_it_reads(net, prove):
    model = net(
        lambda s, x: s.out(torch.relu(s.mid(s.att(*[s.emb(x)] * 3)[0]))),
        emb=nn.Linear(5, 8),
        att=nn.MultiheadAttention(8, 2, batch_first=True),
        mid=nn.Linear(8, 6),
        out=nn.Linear(6, 3),
    )
    found = prove(model, torch.randn(2, 4, 5), costs=False)
    reason = "att (MultiheadAttention) has its sizes written in"
    assert (found["emb"].whole, found["att"].whole) == (reason, reason)
    assert "mid" in [g.name for g in found.free]


def test_a_transposed_convolution_reads_and_makes_channels(chain, prove):
    model = chain(
        conv(3, 8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 6, 2, stride=2),
        nn.BatchNorm2d(6),
        conv(6, 4),
        nn.ConvTranspose2d(4, 4, 2, groups=4),
        conv(4, 3),
    )
    found = prove(model, torch.randn(PICTURE))
    assert {g.name: g.units for g in found.free} == {"0": 8, "2": 6, "4": 4}
    assert [(m.tensor, m.dim) for m in found["0"].of("in")] == [("2.weight", 0)]
    assert [(m.tensor, m.dim) for m in found["2"].of("out")] == [("2.weight", 1)]


@pytest.mark.parametrize(("ins", "outs", "parts"), [(8, 16, 4), (8, 8, 4), (12, 8, 4), (8, 16, 8)])
def test_a_grouped_transposed_convolution_loses_whole_groups(chain, prove, ins, outs, parts):
    up = nn.ConvTranspose2d(ins, outs, 2, stride=2, groups=parts)
    model = chain(conv(3, ins), nn.ReLU(), up, nn.BatchNorm2d(outs), nn.ReLU(), conv(outs, 3))
    found = prove(model, torch.randn(PICTURE))
    assert {g.name: g.units for g in found.free} == {"0": parts}
    assert [(m.tensor, m.dim) for m in found["0"].of("in")] == [("5.weight", 1)]


def test_convolutions_of_one_and_three_dimensions_are_followed(chain, prove):
    line = chain(nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 2, 3))
    cube = chain(nn.Conv3d(3, 8, 3), nn.BatchNorm3d(8), nn.ReLU(), nn.Conv3d(8, 2, 1))
    assert len(prove(line, torch.randn(2, 3, 8)).free) == 1
    assert len(prove(cube, torch.randn(2, 3, 4, 4, 4)).free) == 1


class Standardised(nn.Conv2d):
    def forward(self, x):
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, padding=1)


def test_standardised_weights_mix_their_inputs_and_not_their_outputs(chain, prove):
    model = chain(Standardised(3, 8, 3), nn.ReLU(), Standardised(8, 6, 3), nn.ReLU(), conv(6, 3))
    found = prove(model, torch.randn(PICTURE))
    assert found["0"].whole == "mean in 2 mixes them all"
    assert [g.name for g in found.free] == ["2"]


def test_weight_norm_stays_whole_and_says_what_to_do(chain):
    normed = nn.utils.parametrizations.weight_norm(conv(3, 8))
    reasons = why(chain(normed, nn.ReLU(), conv(8, 3)), torch.randn(PICTURE))
    assert "divides by the norm of filters; remove it" in str(next(iter(reasons.values())))


def test_an_einsum_with_a_weight_reads_channels(net, prove):
    model = net(
        lambda s, x: torch.einsum("bi,oi->bo", torch.relu(s.a(x)), s.w.weight),
        a=nn.Linear(5, 8),
        w=nn.Linear(8, 3, bias=False),
    )
    found = prove(model, torch.randn(2, 5))
    assert [(m.tensor, m.dim) for m in found["a"].of("in")] == [("w.weight", 1)]


def test_numbers_of_channels_in_the_code_keep_them_whole(net, prove):
    model = net(lambda s, x: s.b(s.a(x).view(2, 4, 2, 8, 8).amax(2)), a=conv(3, 8), b=conv(4, 3))
    found = prove(model, torch.randn(PICTURE), costs=False)
    assert found["a"].whole.startswith("the code of the network does not take another size: shape")


@pytest.mark.parametrize(
    ("fn", "reason"),
    [
        (lambda s, x: s.b(s.a(x)[:, :4]), "a slice in the network takes a fixed part of them"),
        (lambda s, x: s.b(s.a(x)[:, [0, 1, 2, 5]]), "an index in the network picks them by number"),
        (lambda s, x: s.b(s.a(x).split([4, 3, 1], 1)[0]), "a split into unequal parts in"),
        (lambda s, x: s.b(s.a(x).sort(1).values[:, :4]), "sort in the network mixes them"),
        (lambda s, x: s.b(s.a(x).cumsum(1)[:, :4]), "cumsum in the network mixes them"),
    ],
)
def test_channels_that_are_picked_stay_whole(net, fn, reason):
    assert reason in why(net(fn, a=conv(3, 8), b=conv(4, 3)), torch.randn(PICTURE))["a"]


def test_writing_into_a_tensor_is_not_followed_and_keeps_it_whole(net, prove):
    def fn(s, x):
        y = s.a(x).clone()
        y[:, :4] = s.b(x)
        return s.c(y)

    model = net(fn, a=conv(3, 8), b=conv(3, 4), c=conv(8, 3))
    assert prove(model, torch.randn(PICTURE)).free == ()


def test_adding_in_place_ties_as_adding_does(net, prove):
    model = net(
        lambda s, x: (lambda y: s.c(y.add_(s.b(y))))(s.a(x)),
        a=conv(3, 8),
        b=conv(8, 8),
        c=conv(8, 3),
    )
    found = prove(model, torch.randn(PICTURE))
    assert [m.tensor for m in found["a"].of("out")] == ["a.weight", "b.weight"]
