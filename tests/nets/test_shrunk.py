"""Smaller tensors into a network of full size: layers that agree, or an error and no change."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

import thrifty
from thrifty.errors import UserError
from thrifty.nets import Architecture, load_weights
from thrifty.nets.architecture import remember
from thrifty.nets.resizing import misfits, resize
from thrifty.nets.shrunk import Shrunk, shrunk_of


class Own(nn.Module):
    """A class of the user's, which no file can name."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, groups=8)
        self.fc = nn.Linear(8, 3, bias=False)

    def forward(self, x):
        x = functional.relu(self.bn(self.conv1(x)))
        return self.fc(functional.relu(self.conv2(x)).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.num_heads = 4
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 5)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        x = functional.scaled_dot_product_attention(q, k, v)
        return self.out(x.transpose(1, 2).flatten(2))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.lstm = nn.Linear(4, 6), nn.LSTM(5, 3, batch_first=True)
        self.second = nn.Linear(6, 5)

    def forward(self, x):
        return self.lstm(self.second(functional.relu(self.first(x))))[0]


def cut(model, example):
    """Without a quarter of the units of every group."""
    kept = {}
    for group in thrifty.groups(model, example).free:
        keep = torch.ones(group.units, dtype=torch.bool)
        keep[: max(1, group.units // 4)] = False
        kept[group.name] = keep
    return thrifty.shrink(model, None, example, kept=kept).eval()


def own():
    model = Own()
    nn.init.uniform_(model.bn.bias, 0.1, 0.5)
    return model


IMAGE = torch.randn(2, 1, 8, 8)


def state(model):
    return {n: x.clone() for n, x in model.state_dict().items()}


def equal(one, two):
    return list(one) == list(two) and all(torch.equal(one[n], two[n]) for n in one)


@pytest.mark.parametrize("suffix", [".safetensors", ".safetensors.zst", ".pt"])
def test_a_class_of_the_user_becomes_as_small_as_its_file(tmp_path, suffix):
    less, model = cut(own(), IMAGE), Own().eval()
    if suffix == ".pt":
        torch.save(less.state_dict(), tmp_path / "w.pt")
    else:
        thrifty.save(less, tmp_path / f"w{suffix}")
    load_weights(model, tmp_path / f"w{suffix}", resize=True)
    assert equal(state(model), state(less))
    assert model.conv2.groups == model.conv2.in_channels == model.bn.num_features == 6
    assert torch.equal(model(IMAGE), less(IMAGE))


def test_a_network_that_was_filled_can_be_saved_and_filled_again(tmp_path):
    less = cut(own(), IMAGE)
    thrifty.save(less, tmp_path / "1.safetensors")
    model = Own()
    load_weights(model, tmp_path / "1.safetensors", resize=True)
    assert shrunk_of(model) == shrunk_of(less)
    twice = cut(model, IMAGE)
    thrifty.save(twice, tmp_path / "2.safetensors")
    again = Own()
    load_weights(again, tmp_path / "2.safetensors", resize=True)
    assert equal(state(again), state(twice))


def test_smaller_weights_are_told_as_such(tmp_path):
    thrifty.save(cut(own(), IMAGE), tmp_path / "w.safetensors")
    model = Own()
    before = state(model)
    for resize_ in (False, None):  # None asks the header, which names no network
        with pytest.raises(UserError, match=r"some are smaller: channels.*resize=True"):
            load_weights(model, tmp_path / "w.safetensors", resize=resize_)
    assert equal(state(model), before)


def test_weights_that_are_larger_somewhere_are_not_told_as_smaller(tmp_path):
    weights = state(cut(own(), IMAGE))
    weights["fc.weight"] = torch.ones(3, 99)
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(UserError, match="of another shape") as caught:
        load_weights(Own(), tmp_path / "w.pt")
    assert "smaller" not in str(caught.value)


def test_on_an_error_nothing_is_resized(tmp_path):
    weights = state(cut(own(), IMAGE))
    weights["bn.bias"] = torch.ones(5)
    torch.save(weights, tmp_path / "w.pt")
    model = Own()
    before = state(model)
    with pytest.raises(UserError, match="bn: the tensors of a norm have one shape"):
        load_weights(model, tmp_path / "w.pt", resize=True)
    assert equal(state(model), before)
    assert model.conv2.groups == 8 and shrunk_of(model) is None


def test_weights_of_the_network_s_own_size_fit_as_well(tmp_path):
    model, other = own(), Own()
    thrifty.save(model, tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors", resize=True)
    assert equal(state(other), state(model))


def test_other_floats_are_converted_and_parameters_stay_trainable(tmp_path):
    less, model = cut(own(), IMAGE), Own().double()
    model.conv1.weight.requires_grad_(False)
    thrifty.save(less, tmp_path / "w.safetensors")
    load_weights(model, tmp_path / "w.safetensors", resize=True)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert not model.conv1.weight.requires_grad and model.fc.weight.requires_grad
    assert torch.equal(model.conv1.weight, less.conv1.weight.double())


def test_heads_are_restored_in_a_class_of_the_user(tmp_path):
    x = torch.randn(2, 7, 8)
    less, model = cut(Attention(), x), Attention()
    assert less.num_heads == 3
    thrifty.save(less, tmp_path / "w.safetensors")
    load_weights(model, tmp_path / "w.safetensors", resize=True)
    assert model.num_heads == 3
    assert torch.equal(model(x), less(x))


def test_smaller_attention_without_its_heads_is_refused(tmp_path):
    """Four heads of six numbers each run as well as three of eight, and are another network."""
    torch.save(cut(Attention(), torch.randn(2, 7, 8)).state_dict(), tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"how many heads.*num_heads.*thrifty\.save"):
        load_weights(Attention(), tmp_path / "w.pt", resize=True)


def test_recurrent_layers_keep_their_size_and_get_their_weights(tmp_path):
    x = torch.randn(2, 7, 4)
    less, model = cut(Recurrent(), x), Recurrent().eval()
    assert less.first.out_features < 6
    thrifty.save(less, tmp_path / "w.safetensors")
    load_weights(model, tmp_path / "w.safetensors", resize=True)
    assert torch.equal(model(x), less(x))
    weights = {n: x[:8] if n == "lstm.weight_hh_l0" else x for n, x in state(less).items()}
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(UserError, match="lstm: a recurrent layer has the size"):
        load_weights(Recurrent(), tmp_path / "w.pt", resize=True)


def test_what_was_said_of_a_network_survives_copies_and_adds_up():
    less = cut(own(), IMAGE)
    assert (
        shrunk_of(copy.deepcopy(less))
        == shrunk_of(less)
        == Shrunk(inputs=(("float32", (2, 1, 8, 8)),))
    )
    assert shrunk_of(own()) is None


def test_layers_are_told_of_their_new_sizes():
    model = nn.Sequential(nn.LayerNorm(8), nn.Embedding(9, 8), nn.ConvTranspose2d(8, 6, 3))
    resize(
        model,
        {
            "0.weight": torch.ones(5),
            "0.bias": torch.zeros(5),
            "1.weight": torch.ones(9, 5),
            "2.weight": torch.ones(5, 4, 3, 3),
            "2.bias": torch.zeros(4),
        },
    )
    assert model[0](model[1](torch.tensor([1]))).shape == (1, 5)
    assert model[2](torch.zeros(1, 5, 4, 4)).shape == (1, 4, 6, 6)
    assert (model[2].in_channels, model[2].out_channels) == (5, 4)
    assert (model[1].embedding_dim, model[0].normalized_shape) == (5, (5,))


def test_a_layer_used_under_two_names_stays_one():
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    tied = nn.ModuleList([model, nn.Linear(4, 4)])
    tied[1].weight = layer.weight
    resize(tied, {"0.0.weight": torch.ones(3, 3), "0.2.weight": torch.ones(3, 3)})
    assert model[0] is model[2]
    assert tied[1].weight is layer.weight and layer.weight.shape == (3, 3)


@pytest.mark.parametrize(
    ("layer", "shapes", "why"),
    [
        (nn.Conv2d(8, 8, 3, groups=2), {"weight": (6, 4, 3, 3), "bias": (6,)}, "whole groups of 4"),
        (nn.Conv2d(8, 8, 3), {"weight": (6, 8, 2, 3), "bias": (6,)}, "the kernel was"),
        (nn.ConvTranspose2d(8, 4, 3), {"weight": (8, 3, 3, 3)}, "3 outputs and a bias"),
        (nn.Linear(4, 4), {"weight": (3, 4)}, "3 outputs and a bias"),
        (nn.GroupNorm(4, 8), {"weight": (5,), "bias": (5,)}, "no whole groups"),
        (nn.LayerNorm(8), {"weight": (5,)}, "of a norm have one shape"),
        (nn.GRU(4, 4), {"weight_ih_l0": (9, 4)}, "recurrent layer"),
    ],
)
def test_shapes_that_no_layer_can_have_are_told(layer, shapes, why):
    (told,) = misfits(layer, shapes)
    assert why in told


@pytest.mark.parametrize(
    ("layer", "shapes"),
    [
        (nn.Conv2d(8, 8, 3, groups=2), {"weight": (4, 4, 3, 3), "bias": (4,)}),
        (nn.Conv2d(8, 8, 3, bias=False), {"weight": (4, 3, 3, 3), "bias": (4,)}),
        (nn.ConvTranspose2d(8, 8, 3, groups=8), {"weight": (4, 1, 3, 3), "bias": (4,)}),
        (nn.GroupNorm(8, 8), {"weight": (5,), "bias": (5,)}),
        (nn.BatchNorm1d(8), dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (5,))),
        (nn.Linear(4, 4), {}),
    ],
)
def test_shapes_that_layers_can_have_are_not(layer, shapes):
    assert list(misfits(layer, shapes)) == []


class TwoHeads(nn.Module):
    """Two attentions of one weight."""

    def __init__(self):
        super().__init__()
        self.one, self.two = Attention(), Attention()
        self.two.qkv.weight = self.one.qkv.weight

    def forward(self, x):
        return self.one(x) + self.two(x)


def test_heads_of_tied_attentions_are_all_remembered(tmp_path):
    x = torch.randn(2, 7, 8)
    less, model = cut(TwoHeads(), x), TwoHeads()
    assert (less.one.num_heads, less.two.num_heads) == (3, 3)
    thrifty.save(less, tmp_path / "w.safetensors")
    load_weights(model, tmp_path / "w.safetensors", resize=True)
    assert model.two.qkv.weight is model.one.qkv.weight
    assert torch.equal(model(x), less(x))


class OnlyRealNumbers(Own):
    """It cannot run on tensors without numbers."""

    def forward(self, x):
        return super().forward(x if float(x.abs().sum()) < 1e9 else x / 2)


def test_a_network_that_needs_numbers_is_tried_with_them(tmp_path):
    less, model = cut(own(), IMAGE), OnlyRealNumbers().eval()
    remember(model, Architecture("my.package:own", None, (1, 8, 8)))
    torch.save(less.state_dict(), tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt", resize=True)
    assert torch.equal(model(IMAGE), less(IMAGE))
    wrong = {**state(less), "fc.weight": torch.ones(3, 2)}
    torch.save(wrong, tmp_path / "w.pt")
    before = state(model)
    with pytest.raises(UserError, match="sizes of its tensors do not go together"):
        load_weights(model, tmp_path / "w.pt", resize=True)
    assert equal(state(model), before)
