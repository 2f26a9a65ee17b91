"""Each kind of operation, from tiny modules: the program is the network, and has that kind."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F


class Do(nn.Module):
    """A function as a network, with tensors that it may use."""

    def __init__(self, function, **tensors):
        super().__init__()
        self.function = function
        for name, x in tensors.items():
            setattr(self, name, nn.Parameter(x))

    def forward(self, *inputs):
        return self.function(self, *inputs)


CONVS = {
    "plain": (nn.Conv2d(3, 4, 3), (3, 8, 8)),
    "stride and padding": (nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), (3, 9, 8)),
    "uneven": (nn.Conv2d(3, 4, (1, 5), stride=(2, 1), padding=(0, 3)), (3, 8, 9)),
    "dilated": (nn.Conv2d(3, 4, 3, dilation=(2, 1), padding=2), (3, 8, 8)),
    "groups": (nn.Conv2d(6, 4, 3, groups=2), (6, 8, 8)),
    "depthwise": (nn.Conv2d(6, 12, 3, groups=6), (6, 8, 8)),
    "same, even kernel": (nn.Conv2d(3, 4, 4, padding="same"), (3, 8, 7)),
    "valid": (nn.Conv2d(3, 4, 3, padding="valid"), (3, 8, 7)),
}


@pytest.mark.parametrize("name", CONVS)
def test_a_convolution(same, name):
    model, shape = CONVS[name]
    same(model, shape, kinds=["conv"])


@pytest.mark.parametrize("padding", [2, "same"])
def test_a_convolution_of_signals_is_one_of_a_row(same, padding):
    program = same(nn.Conv1d(3, 4, 5, padding=padding), (3, 16))
    assert [op.kind for op in program.ops] == ["reshape", "conv", "reshape"]
    assert program.ops[1].tensors["weight"] == "weight"


def test_transposed_and_voluminous_convolutions_are_left_to_torch(same):
    same(nn.ConvTranspose2d(3, 4, 3, stride=2), (3, 5, 5), fallbacks=["conv_transpose2d.input"])
    same(nn.Conv3d(2, 3, 3), (2, 5, 5, 5), fallbacks=["conv3d.default"])


def test_linear_layers_take_features_and_rows(same):
    same(nn.Linear(6, 4), (6,), kinds=["linear"])
    same(nn.Linear(6, 4, bias=False), (5, 6), kinds=["linear"])


def test_a_product_with_a_transposed_weight_names_the_weight(same):
    program = same(Do(lambda s, x: x @ s.w.t(), w=torch.randn(4, 6)), (6,), kinds=["linear"])
    assert program.ops[0].tensors == {"weight": "w"}
    program = same(Do(lambda s, x: x @ s.w, w=torch.randn(6, 4)), (6,), kinds=["linear"])
    assert program.ops[0].tensors == {"weight": "program:0"}
    model = Do(lambda s, x: torch.addmm(s.b, x, s.w), w=torch.randn(6, 4), b=torch.randn(4))
    same(model, (6,), kinds=["linear"])


POOLS = {
    "max": (nn.MaxPool2d(2), "max_pool"),
    "max with padding": (nn.MaxPool2d(3, 2, 1), "max_pool"),
    "max dilated": (nn.MaxPool2d(2, 1, dilation=3), "max_pool"),
    "max rounded up": (nn.MaxPool2d(2, ceil_mode=True), "max_pool"),
    "max rounded up, padding": (nn.MaxPool2d(3, 2, 1, ceil_mode=True), "max_pool"),
    "avg": (nn.AvgPool2d(2), "avg_pool"),
    "avg with padding": (nn.AvgPool2d(3, 2, 1), "avg_pool"),
    "avg without counting": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), "avg_pool"),
    "avg rounded up": (nn.AvgPool2d(2, ceil_mode=True), "avg_pool"),
    "avg divided": (nn.AvgPool2d(3, 2, 1, divisor_override=5), "avg_pool"),
    "global avg": (nn.AdaptiveAvgPool2d(1), "global_pool"),
    "global max": (nn.AdaptiveMaxPool2d(1), "global_pool"),
    "mean": (Do(lambda s, x: x.mean((-1, -2), keepdim=True)), "global_pool"),
    "amax": (Do(lambda s, x: x.amax((2, 3))), "global_pool"),
}


@pytest.mark.parametrize("size", [(3, 9, 11), (3, 8, 8)], ids=str)
@pytest.mark.parametrize("name", POOLS)
def test_a_pool(same, name, size):
    model, kind = POOLS[name]
    same(model, size, kinds=[kind])


def test_what_pools_cannot_say_is_left_to_torch(same):
    rounded = nn.AvgPool2d(3, 2, 1, ceil_mode=True)  # counts its padding, not what is added
    same(rounded, (2, 8, 8), fallbacks=["avg_pool2d.default"])
    same(nn.AdaptiveAvgPool2d(3), (2, 8, 8), fallbacks=["adaptive_avg_pool2d.default"])


def test_an_adaptive_pool_of_equal_windows_is_a_pool(same):
    same(nn.AdaptiveAvgPool2d((2, 4)), (2, 8, 8), kinds=["avg_pool"])
    same(nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.ReLU()), (2, 8, 8), kinds=["map"])


def test_pools_of_signals(same):
    same(Do(lambda s, x: x.mean(2)), (3, 8), kinds=["reshape", "global_pool"])


STEPS = {
    "relu": nn.ReLU(),
    "clamp": nn.ReLU6(),
    "silu": nn.SiLU(),
    "hardswish": nn.Hardswish(),
    "sigmoid": nn.Sigmoid(),
    "hardsigmoid": nn.Hardsigmoid(),
    "tanh": nn.Tanh(),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU("tanh"),
    "leaky_relu": nn.LeakyReLU(0.3),
    "elu": nn.ELU(0.7),
    "scale": Do(lambda s, x: x / 4),
    "shift": Do(lambda s, x: x - 3),
}


@pytest.mark.parametrize("do", STEPS)
@pytest.mark.parametrize("inplace", [False, True])
def test_an_activation_follows_its_layer(same, do, inplace):
    if inplace and hasattr(STEPS[do], "inplace"):
        STEPS[do].inplace = True
    program = same(nn.Sequential(nn.Linear(6, 4), STEPS[do]), (6,), kinds=["linear"])
    assert [step["do"] for step in program.ops[0].then] == [do]


def test_activations_of_several_steps(same):
    program = same(Do(lambda s, x: F.selu(x)), (6,), kinds=["map"])
    assert [step["do"] for step in program.ops[0].then] == ["elu", "scale"]
    program = same(Do(lambda s, x: 2 - x), (6,), kinds=["map"])
    assert program.ops[0].then == [{"do": "scale", "by": -1.0}, {"do": "shift", "by": 2.0}]
    same(nn.PReLU(), (6,), kinds=["map"])
    same(Do(lambda s, x: x.clamp(-0.5, 0.5)), (6,), kinds=["map"])
    same(Do(lambda s, x: x**2), (6,), kinds=["mul"])


def test_activations_without_a_step_are_left_to_torch(same):
    same(nn.Mish(), (6,), fallbacks=["mish.default"])
    same(nn.PReLU(3), (3, 4, 4), fallbacks=["prelu.default"])
    same(nn.Softplus(), (6,), fallbacks=["softplus.default"])


def test_numbers_a_channel_are_affine(same):
    model = Do(lambda s, x: s.g * x + s.b, g=torch.randn(3, 1, 1), b=torch.randn(1, 3, 1, 1))
    program = same(model, (3, 4, 4), kinds=["affine"])
    assert program.ops[0].tensors == {"scale": "g", "shift": "b"}
    same(Do(lambda s, x: x / s.g, g=torch.rand(5) + 1), (5,), kinds=["affine"])
    same(Do(lambda s, x: s.g - x, g=torch.randn(3, 1, 1)), (3, 4, 4), kinds=["map", "affine"])
    same(Do(lambda s, x: x * s.g, g=torch.randn(1)), (3, 4, 4), kinds=["map"])


def test_numbers_along_other_sides_are_left_to_torch(same):
    same(Do(lambda s, x: x * s.g, g=torch.randn(4)), (3, 4, 4), fallbacks=["mul.Tensor"])
    same(Do(lambda s, x: x + s.g, g=torch.randn(1, 3, 4)), (3, 4), fallbacks=["add.Tensor"])
    same(Do(lambda s, x: x + s.g, g=torch.randn(3, 4, 4)), (3, 1, 1), fallbacks=["add.Tensor"])


def test_two_values_are_added_multiplied_and_taken_away(same):
    same(Do(lambda s, x, y: x + y), (3, 4, 4), (3, 4, 4), kinds=["add"])
    same(Do(lambda s, x, y: x * y), (3, 4, 4), (3, 1, 1), kinds=["mul"])
    same(Do(lambda s, x, y: y * x), (3, 4, 4), (3, 1, 1), kinds=["mul"])
    same(Do(lambda s, x, y: x - y), (3, 4, 4), (1, 1, 1), kinds=["sub"])
    same(Do(lambda s, x, y: torch.add(x, y, alpha=3)), (4,), (4,))
    same(Do(lambda s, x, y: y - x), (3, 4, 4), (3, 1, 1), fallbacks=["sub.Tensor"])
    same(Do(lambda s, x, y: x / (y * y + 1)), (4,), (4,), fallbacks=["div.Tensor"])
    same(Do(lambda s, x, y: x * y), (3, 4, 4), (1, 4, 4), fallbacks=["mul.Tensor"])


def written(s, x):
    """A part of a tensor of its own is overwritten."""
    y = x * 2
    y[:, 1:3] = x[:, :2] + 1
    y[:, :, 4:] = 3 * x[:, :, :2]
    return y


MOVES = {
    "concat": (lambda s, x: torch.cat([x, x * 2], 1), ["concat", "map"]),
    "concat of rows": (lambda s, x: torch.cat([x, x * 2], -1), ["concat", "map"]),
    "stack": (lambda s, x: torch.stack([x, x * 2], 1), None),
    "slice": (lambda s, x: x[:, 1:3, :, -2:], ["slice", "slice"]),
    "every second": (lambda s, x: x[:, :, ::2, 1::2], ["max_pool", "slice", "max_pool"]),
    "chunks": (lambda s, x: x.chunk(2, 1)[1] + 1, ["slice", "map"]),
    "chosen": (lambda s, x: x[:, 2], ["slice", "reshape"]),
    "flat": (lambda s, x: x.flatten(1), ["reshape"]),
    "seen": (lambda s, x: x.view(len(x), 2, -1, 4).view(x.shape[0], -1), ["reshape"]),
    "seen twice": (lambda s, x: x.flatten(1).view(x.shape).relu(), ["map"]),
    "softmax": (lambda s, x: x.softmax(1), ["softmax"]),
    "pixels": (lambda s, x: F.pixel_shuffle(x, 2), ["pixel_shuffle"]),
    "channels": (lambda s, x: F.channel_shuffle(x, 2), ["channel_shuffle"]),
    "pad": (lambda s, x: F.pad(x, (1, 0, 0, 2), value=3.0), ["pad"]),
    "pad channels": (lambda s, x: F.pad(x, (0, 0, 0, 0, 2, 1)), ["reshape", "pad", "reshape"]),
    "squeezed": (lambda s, x: x.mean((2, 3), keepdim=True).squeeze(-1).squeeze(-1), None),
    "written into": (written, ["map"] * 3 + ["slice"] * 5 + ["concat"] * 2),
    "dropout": (lambda s, x: F.dropout(x, 0.5, s.training) + 1, ["map"]),
}


@pytest.mark.parametrize("name", MOVES)
def test_a_move(same, name):
    function, kinds = MOVES[name]
    same(Do(function), (4, 6, 4), kinds=kinds)


def test_a_permutation_is_left_to_torch(same):
    model = Do(lambda s, x: x.permute(0, 2, 3, 1) + 1)
    program = same(model, (3, 4, 5), fallbacks=["permute.default"])
    assert program.values[program.outputs[0]] == (4, 5, 3)
    same(Do(lambda s, x: x.transpose(1, 2) + 1), (1, 4, 5), kinds=["reshape", "map"])


def test_the_batch_may_travel_through_other_dimensions(same):
    def rows_first(s, x):
        y = F.linear(x.transpose(0, 1), s.w)  # (rows, batch, features)
        return y.transpose(0, 1).relu()

    same(Do(rows_first, w=torch.randn(4, 6)), (5, 6), kinds=["linear"])

    def merged(s, x):
        y = F.linear(x.flatten(0, 1), s.w)  # (batch * rows, features)
        return y.view(-1, 5, 4).relu()

    same(Do(merged, w=torch.randn(4, 6)), (5, 6), kinds=["linear"])

    def heads(s, x):
        rows = x.transpose(0, 1).reshape(5, -1, 3).transpose(0, 1)  # (batch * heads, rows, 3)
        y = rows @ rows.transpose(1, 2)
        return y.view(-1, 2, 5, 5)

    names = ["reshape.default", "permute.default", "matmul.default"]
    same(Do(heads), (5, 6), fallbacks=names)


def test_what_depends_on_the_size_of_the_batch_alone_is_expanded(same):
    model = Do(lambda s, x: torch.cat([s.c.expand(len(x), -1, -1), x], 1), c=torch.randn(1, 1, 4))
    same(model, (3, 4), kinds=["fallback", "concat"], fallbacks=["expand.default"])


def test_masks_are_numbers_in_a_program(same):
    model = Do(lambda s, x: torch.where(x > 0, x, x * 2))
    same(model, (6,), fallbacks=["gt.Scalar", "where.self"])


def test_several_results_of_a_fallback(same):
    same(Do(lambda s, x: x.topk(2)[0] + x.topk(2)[0]), (6,), fallbacks=["topk.default"])


def test_recurrent_layers_are_left_to_torch_whole(same):
    model = Do(lambda s, x: s.net(x)[0] + 1)
    model.net = nn.LSTM(4, 3, batch_first=True)
    same(model, (5, 4), fallbacks=["full.default", "lstm.input"])


def test_attention_is_left_to_torch_but_its_products_are_not(same):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    program = same(layer, (5, 8), fallbacks=ATTENTION)
    assert sum(op.kind == "linear" for op in program.ops) == 4


ATTENTION = {
    "permute.default",
    "reshape.default",
    "scaled_dot_product_attention.default",
    "layer_norm.default",
}
