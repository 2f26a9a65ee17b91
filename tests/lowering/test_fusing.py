"""What is merged with what, and what must not be: each rule from tiny networks."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    """Layers by name, and a forward that uses them."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def norm(kind, size, **options):
    """Batch normalisation that does something."""
    layer = kind(size, **options)
    nn.init.normal_(layer.running_mean)
    nn.init.uniform_(layer.running_var, 0.5, 2)
    if layer.affine:
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    return layer


def steps(op):
    return [step["do"] for step in op.then]


def test_batch_norm_joins_the_convolution_before_it_with_its_own_tensors(same):
    model = Net(lambda s, x: s.bn(s.conv(x)), conv=nn.Conv2d(3, 4, 3), bn=norm(nn.BatchNorm2d, 4))
    (op,) = same(model, (3, 6, 6)).ops
    assert op.kind == "conv" and op.name == "conv" and op.attrs["eps"] == 1e-5
    assert op.tensors == {
        "weight": "conv.weight",
        "bias": "conv.bias",
        "bn_weight": "bn.weight",
        "bn_bias": "bn.bias",
        "bn_mean": "bn.running_mean",
        "bn_var": "bn.running_var",
    }


def test_batch_norm_joins_linear_layers_and_signals(same):
    same(nn.Sequential(nn.Linear(4, 5), norm(nn.BatchNorm1d, 5), nn.ReLU()), (4,), kinds=["linear"])
    signal = nn.Sequential(nn.Conv1d(3, 4, 3), norm(nn.BatchNorm1d, 4), nn.ReLU())
    program = same(signal, (3, 9), kinds=["reshape", "conv", "reshape"])
    assert "bn_mean" in program.ops[1].tensors and steps(program.ops[1]) == ["relu"]


def test_batch_norm_of_rows_joins_the_linear_layer(same):
    def rows(s, x):
        y = s.fc(x)
        return s.bn(y.flatten(0, 1)).view_as(y).relu()

    model = Net(rows, fc=nn.Linear(4, 5, bias=False), bn=norm(nn.BatchNorm1d, 5))
    (op,) = same(model, (3, 4), kinds=["linear"]).ops
    assert op.tensors["bn_var"] == "bn.running_var" and steps(op) == ["relu"]
    model = Net(rows, fc=nn.Linear(4, 5), bn=norm(nn.BatchNorm1d, 5, affine=False))
    same(model, (3, 4), kinds=["linear"])


def test_batch_norm_without_weights_has_none(same):
    (op,) = same(norm(nn.BatchNorm2d, 3, affine=False), (3, 4, 4), kinds=["affine"]).ops
    assert set(op.tensors) == {"bn_mean", "bn_var"}


def test_batch_norm_after_an_activation_stays_apart(same):
    relu_first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), norm(nn.BatchNorm2d, 4))
    program = same(relu_first, (3, 6, 6), kinds=["conv", "affine"])
    assert steps(program.ops[0]) == ["relu"]
    rows = Net(lambda s, x: s.bn(s.fc(x)), fc=nn.Linear(4, 5), bn=norm(nn.BatchNorm1d, 3))
    same(rows, (3, 4), kinds=["linear", "affine"])


def test_what_is_read_twice_is_not_changed(same):
    def twice(s, x):
        y = s.conv(x)
        return y.relu(), s.bn(y), y

    model = Net(twice, conv=nn.Conv2d(3, 4, 3), bn=norm(nn.BatchNorm2d, 4))
    same(model, (3, 6, 6), kinds=["conv", "map", "affine"])


def block(s, x):
    y = F.relu(s.bn1(s.one(x)))
    return F.relu(s.bn2(s.two(y)) + s.bn3(s.short(x)))


def convs():
    return {
        "one": nn.Conv2d(3, 3, 3, padding=1),
        "two": nn.Conv2d(3, 3, 3, padding=1),
        "short": nn.Conv2d(3, 3, 1),
        "bn1": norm(nn.BatchNorm2d, 3),
        "bn2": norm(nn.BatchNorm2d, 3),
        "bn3": norm(nn.BatchNorm2d, 3),
    }


def test_a_residual_joins_the_convolution_that_comes_last(same):
    program = same(Net(block, **convs()), (3, 6, 6), kinds=["conv"] * 3)
    assert [steps(op) for op in program.ops] == [["relu"], [], ["add", "relu"]]
    assert program.ops[2].name == "short"


@pytest.mark.parametrize("turned", [False, True])
def test_an_identity_shortcut_joins_the_convolution(same, turned):
    def add(s, x):
        y = s.two(F.relu(s.one(x)))
        return F.relu(x + y if turned else y + x)

    program = same(Net(add, **convs()), (3, 6, 6), kinds=["conv", "conv"])
    assert program.ops[1].then == [{"do": "add", "input": 1}, {"do": "relu"}]


def test_a_layer_waits_for_what_is_added_to_it(same):
    def add(s, x):
        y = s.one(x)
        return y + F.max_pool2d(x, 3, 1, 1)

    program = same(Net(add, **convs()), (3, 6, 6))
    assert [op.kind for op in program.ops] == ["max_pool", "conv"]


def test_a_difference_joins_what_is_taken_away(same):
    program = same(Net(lambda s, x: x - s.one(x), **convs()), (3, 6, 6), kinds=["conv"])
    assert steps(program.ops[0]) == ["scale", "add"]
    same(Net(lambda s, x: s.one(x) - x, **convs()), (3, 6, 6), kinds=["conv", "sub"])


def test_the_sum_of_a_value_with_itself_is_left(same):
    same(Net(lambda s, x: (lambda y: y + y)(s.one(x)), **convs()), (3, 6, 6), kinds=["conv", "add"])


GATES = {
    "two products": lambda h, t, x: h * t + (1 - t) * x,
    "turned": lambda h, t, x: x * (1 - t) + t * h,
    "first the rest": lambda h, t, x: (1.0 - t) * x + h * t,
    "difference": lambda h, t, x: x + t * (h - x),
    "difference turned": lambda h, t, x: (h - x) * t + x,
    "lerp": lambda h, t, x: torch.lerp(x, h, t),
}


@pytest.mark.parametrize("name", GATES)
def test_a_highway_is_a_blend_in_the_gate(same, name):
    def highway(s, x):
        return GATES[name](F.relu(s.h(x)), torch.sigmoid(s.t(x)), x)

    conv = Net(highway, h=nn.Conv2d(3, 3, 3, padding=1), t=nn.Conv2d(3, 3, 3, padding=1))
    program = same(conv, (3, 6, 6), kinds=["conv", "conv"])
    gate = program.ops[1]
    assert gate.name == "t" and steps(gate) == ["sigmoid", "blend"]
    assert [gate.inputs[gate.then[1][key]] for key in ("h", "x")] == [
        program.ops[0].output,
        *program.inputs,
    ]
    same(Net(highway, h=nn.Linear(4, 4), t=nn.Linear(4, 4)), (4,), kinds=["linear", "linear"])


def test_what_only_looks_like_a_highway_is_none(same):
    def half(s, x):
        t = torch.sigmoid(s.one(x))
        return s.two(x) * t + (2 - t) * x

    program = same(Net(half, **convs()), (3, 6, 6))
    assert not any("blend" in steps(op) for op in program.ops)

    def other_gate(s, x):
        t, u = torch.sigmoid(s.one(x)), torch.sigmoid(s.short(x))
        return s.two(x) * t + (1 - u) * x

    program = same(Net(other_gate, **convs()), (3, 6, 6))
    assert not any("blend" in steps(op) for op in program.ops)


def test_swish_written_out_is_a_step(same):
    program = same(Net(lambda s, x: (lambda y: y * y.sigmoid())(s.one(x)), **convs()), (3, 6, 6))
    assert [steps(op) for op in program.ops] == [["silu"]]
    program = same(Net(lambda s, x: F.hardsigmoid(x) * x), (5,))
    assert [steps(op) for op in program.ops] == [["hardswish"]]


def test_hardswish_written_out_keeps_its_steps(same):
    program = same(Net(lambda s, x: x * F.relu6(x + 3) / 6), (5,), kinds=["map"])
    assert steps(program.ops[0]) == ["shift", "clamp", "mul", "scale"]


def test_squeeze_and_excitation_is_native(same):
    def excited(s, x):
        y = s.one(x)
        return F.relu(y * s.up(F.relu(s.down(y.mean((2, 3), keepdim=True)))).sigmoid())

    model = Net(excited, down=nn.Conv2d(3, 2, 1), up=nn.Conv2d(2, 3, 1), **convs())
    program = same(model, (3, 6, 6), kinds=["conv", "global_pool", "conv", "conv", "mul"])
    assert steps(program.ops[-1]) == ["relu"]


def test_one_number_a_channel_may_be_expanded(same):
    same(Net(lambda s, x: x * x.mean((2, 3), keepdim=True).expand_as(x)), (3, 4, 4),
         kinds=["global_pool", "mul"])  # fmt: skip


def shuffled(s, x):
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def pixels(s, x):
    n, c, h, w = x.shape
    y = x.view(n, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3)
    return y.reshape(n, c // 4, 2 * h, 2 * w)


@pytest.mark.parametrize(("function", "kind"), [(shuffled, "channel_shuffle"),
                                                (pixels, "pixel_shuffle")])  # fmt: skip
def test_a_shuffle_written_out_is_one(same, function, kind):
    same(Net(function), (8, 3, 5), kinds=[kind])


def test_another_permutation_is_no_shuffle(same):
    def turned(s, x):
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).permute(0, 2, 1, 4, 3).reshape(n, c, h, w)

    same(Net(turned), (4, 3, 3), fallbacks=["permute.default"])


def test_padding_joins_the_window_where_it_means_the_same(same):
    same(Net(lambda s, x: s.one(F.pad(x, (1, 0, 2, 1))), **convs()), (3, 6, 6), kinds=["conv"])
    low = float("-inf")
    same(Net(lambda s, x: F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=low), 2)), (3, 5, 5),
         kinds=["max_pool"])  # fmt: skip
    same(Net(lambda s, x: F.avg_pool2d(F.pad(x, (0, 1, 0, 1)), 2)), (3, 5, 5), kinds=["avg_pool"])
    same(Net(lambda s, x: F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 2)), (3, 5, 5),
         kinds=["pad", "max_pool"])  # fmt: skip
    same(Net(lambda s, x: s.one(F.pad(x, (1, 0, 2, 1), value=1.0)), **convs()), (3, 6, 6),
         kinds=["pad", "conv"])  # fmt: skip
    same(Net(lambda s, x: F.avg_pool2d(F.pad(x, (3, 3, 3, 3)), 2)), (3, 5, 5),
         kinds=["pad", "avg_pool"])  # fmt: skip


def test_linear_layers_at_pixels_are_convolutions(same):
    def block(s, x):
        y = s.norm(s.conv(x).permute(0, 2, 3, 1))
        y = s.down(F.gelu(s.up(y))).permute(0, 3, 1, 2)
        return x + s.gamma * y

    model = Net(
        block,
        conv=nn.Conv2d(4, 4, 3, padding=1, groups=4),
        norm=nn.LayerNorm(4),
        up=nn.Linear(4, 8),
        down=nn.Linear(8, 4, bias=False),
    )
    model.gamma = nn.Parameter(torch.randn(4, 1, 1))
    kinds = ["conv"] * 3 + ["affine"] + ["fallback"] * 3
    program = same(model, (4, 5, 6), kinds=kinds, fallbacks=LAST)
    weights = [op.tensors["weight"] for op in program.ops if op.kind == "conv"]
    assert weights == ["conv.weight", "up.weight", "down.weight"]

    def given_last(s, x):
        return F.relu(s.up(s.norm(x.permute(0, 2, 3, 1))))

    same(Net(given_last, norm=nn.LayerNorm(4), up=nn.Linear(4, 8)), (4, 5, 6), fallbacks=LAST)


LAST = ["permute.default", "layer_norm.default"]


def test_a_global_pool_gives_features(same):
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    program = same(model, (3, 6, 6), kinds=["global_pool", "linear"])
    assert program.values[program.ops[0].output] == (3,)


def test_one_convolution_used_several_times_is_named_each_time(same):
    def again(s, x):
        for _ in range(3):
            x = F.relu(s.one(x))
        return x

    program = same(Net(again, **convs()), (3, 6, 6), kinds=["conv"] * 3)
    assert {op.tensors["weight"] for op in program.ops} == {"one.weight"}
    assert {op.name for op in program.ops} == {"one"}


def test_what_nobody_reads_is_left_out(same):
    def idle(s, x):
        s.two(x)
        return s.one(x)

    same(Net(idle, **convs()), (3, 6, 6), kinds=["conv"])


def test_an_answer_may_be_read_by_others_and_given_twice(same):
    def answers(s, x):
        y = s.one(x)
        return y, F.relu(y), y

    program = same(Net(answers, **convs()), (3, 6, 6))
    assert program.outputs[0] == program.outputs[2]


def test_terms_of_a_weighted_sum_are_scaled_where_they_are_added(same):
    model = Net(
        lambda s, x: 0.3 * s.conv(x).tanh() + -2.5 * x.relu() + 0.01 * x, conv=nn.Conv2d(3, 3, 1)
    )
    program = same(model, (3, 4, 4), kinds=["map", "conv"])
    assert steps(program.ops[1]) == ["tanh", "scale", "add", "add_scaled"]


def test_a_term_scaled_by_nearly_nothing_is_scaled_in_the_sum_too(same):
    model = Net(lambda s, x: s.conv(x) + 1e-30 * x + 0 * x - 1e30 * x, conv=nn.Conv2d(3, 3, 1))
    same(model, (3, 4, 4), kinds=["map", "conv"])


def test_a_scaled_term_that_others_read_stays_for_them(same):
    def both(s, x):
        y = 0.5 * x
        return s.conv(x) + y, y

    program = same(Net(both, conv=nn.Conv2d(3, 3, 1)), (3, 4, 4))
    assert sorted(op.kind for op in program.ops) == ["conv", "map"]
    assert steps(next(op for op in program.ops if op.kind == "conv")) == ["add_scaled"]
