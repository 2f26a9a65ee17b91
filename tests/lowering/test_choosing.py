"""Channels chosen and written by constant indices: copies in the engine, and nothing else."""

import pytest
import torch
from torch import nn
from torch.nn.functional import max_pool2d, pad

import thrifty
from thrifty.engine.choosing import chosen
from thrifty.engine.program import Op

HERE = [4, 0, 2]


class Net(nn.Module):
    """A function of an input and of tensors that it holds."""

    def __init__(self, function, **buffers):
        super().__init__()
        self.function = function
        for name, x in buffers.items():
            self.register_buffer(name, torch.tensor(x))

    def forward(self, x):
        return self.function(self, x)


CHOOSING = {
    "index_select": lambda s, x: x.index_select(1, s.i),
    "brackets": lambda s, x: x[:, s.i],
    "a list": lambda s, x: x[:, [4, 0, 2]],
    "from the end": lambda s, x: x[:, s.i - 5],
    "more than there are": lambda s, x: x[:, torch.cat([s.i, s.i, s.i])],
}
WRITING = {
    "index_copy": lambda s, x: x.index_copy(1, s.i, 2 * x[:, :3]),
    "brackets": lambda s, x: _put(x, s.i, x[:, 2:]),
    "some of itself": lambda s, x: x.index_copy(1, s.i, torch.tanh(x.index_select(1, s.i))),
    "all": lambda s, x: x.index_copy(1, torch.tensor([1, 0, 4, 3, 2]), x),
}


def _put(x, index, values):
    y = x.clone()
    y[:, index] = values
    return y


@pytest.mark.parametrize("shape", [(5, 4, 3), (5, 1, 1), (5,)])
@pytest.mark.parametrize("name", CHOOSING)
def test_chosen_channels_are_a_layer_of_ones(same, name, shape):
    program = same(Net(CHOOSING[name], i=HERE), shape)
    assert [op.kind for op in program.ops] == ["linear" if len(shape) == 1 else "conv"]


@pytest.mark.parametrize("shape", [(5, 4, 3), (5,)])
@pytest.mark.parametrize("name", WRITING)
def test_written_channels_are_chosen_among_both(same, name, shape):
    same(Net(WRITING[name], i=HERE), shape)


@pytest.mark.parametrize("functions", [CHOOSING, WRITING])
def test_the_engine_copies_them_exactly(functions):
    for function in functions.values():
        model, x = Net(function, i=HERE).eval(), torch.randn(7, 5, 6, 5)
        engine = thrifty.compile(model, x)
        torch.testing.assert_close(torch.as_tensor(engine(x)), model(x), rtol=1e-6, atol=1e-7)


def test_what_is_chosen_and_written_is_moved_once_and_is_never_multiplied():
    def function(s, x):
        return x.index_copy(1, s.i, max_pool2d(x.index_select(1, s.i), 3, 1, 1))

    model, x = Net(function, i=HERE).eval(), torch.randn(3, 5, 6, 6)
    x[:, 1] = torch.inf  # a channel that stays; times 0 it would be NaN in all others
    engine = thrifty.compile(model, torch.randn(3, 5, 6, 6))
    assert torch.equal(torch.as_tensor(engine(x)), model(x))
    copies = [row for row in engine.profile(x) if row.how == "copy"]
    assert len(copies) == 2
    assert all(row.density is None for row in copies)


def test_a_concatenation_that_others_read_is_made_as_well():
    def function(s, x):
        both = torch.cat([x, torch.sigmoid(x)], 1)
        return both[:, s.i] + both.mean((2, 3), keepdim=True)[:, s.i]

    model, x = Net(function, i=[9, 0, 5]).eval(), torch.randn(3, 5, 6, 6)
    torch.testing.assert_close(
        torch.as_tensor(thrifty.compile(model, x)(x)), model(x), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("function", "target"),
    [
        (lambda s, x: x[:, :, s.i], "index.Tensor"),
        (lambda s, x: x.index_select(2, s.i), "index_select.default"),
    ],
)
def test_rows_of_an_image_are_left_to_torch(same, function, target):
    same(Net(function, i=HERE), (2, 5, 3), fallbacks=[target])


def op(weight, **attrs):
    plain = {"stride": [1, 1], "padding": [0] * 4, "dilation": [1, 1], "groups": 1}
    return Op("conv", "", ("x",), "y", {"weight": "w"}, plain | attrs), {"w": weight.numpy()}


def ones(*rows, count=4):
    return torch.eye(count)[list(rows)][:, :, None, None]


def test_ones_are_chosen_channels():
    assert chosen(*op(ones(2, 0, 0))).tolist() == [2, 0, 0]


@pytest.mark.parametrize(
    ("weight", "attrs"),
    [
        (2 * ones(2, 0), {}),
        (ones(2, 0) - ones(1, 3), {}),
        (ones(2, 0) + ones(1, 0), {}),
        (torch.zeros(2, 4, 1, 1), {}),
        (ones(2, 0), {"stride": [2, 1]}),
        (ones(2, 0), {"padding": [1, 0, 0, 0]}),
        (ones(2, 0), {"then": [{"do": "relu"}]}),
        (ones(1, 0, count=2), {"groups": 2}),
        (pad(ones(2, 0), (1, 1, 1, 1)), {"padding": [1] * 4}),
    ],
)
def test_what_multiplies_or_moves_pixels_chooses_nothing(weight, attrs):
    assert chosen(*op(weight, **attrs)) is None
