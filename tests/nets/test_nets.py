import pytest
import torch

from thrifty.errors import UserError
from thrifty.nets import resolve


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("side", range(8, 65))
def test_lenet_takes_every_side_from_8_to_64(side):
    model = resolve("lenet?width=0.2", shape=(1, side, side)).eval()
    assert model(torch.zeros(1, 1, side, side)).shape == (1, 10)


@pytest.mark.parametrize("side", [28, 32])
def test_lenet_leaves_5x5_as_published(side):
    model = resolve("lenet", shape=(1, side, side))
    assert model.fc1.in_features == 16 * 5 * 5
    assert parameters(model) == 61_706


def test_the_three_methods_network_on_digits_has_128_units():
    model = resolve("three_methods_cnn", shape=(1, 8, 8))
    assert model.fc1.out_features == 128
    assert parameters(model) == 151_306


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 48), (1, 4, 5)])
@pytest.mark.parametrize("options", ["", "?width=2", "?classes=100"])
def test_an_eighth_of_the_weights_is_in_convolutions(shape, options):
    model = resolve(f"three_methods_cnn{options}", shape=shape)
    weights = {n: p.numel() for n, p in model.named_parameters() if p.dim() > 1}
    share = sum(count for n, count in weights.items() if "conv" in n) / sum(weights.values())
    assert share == pytest.approx(0.124, abs=0.002)


def test_hidden_units_may_be_given():
    assert resolve("three_methods_cnn?hidden=7").fc1.out_features == 7


def test_a_shortcut_of_zeros_repeats_every_second_pixel_and_adds_channels():
    shortcut = resolve("resnet20").layer2[0].downsample
    x = torch.arange(16.0 * 16).reshape(1, 16, 4, 4)
    y = shortcut(x)
    assert y.shape == (1, 32, 2, 2)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any() and not y[:, 24:].any()


def test_shortcuts_may_be_projections():
    names = set(resolve("resnet20?shortcut=projection").state_dict())
    assert {"layer2.0.downsample.0.weight", "layer2.0.downsample.1.weight"} <= names
    assert "layer1.0.downsample.0.weight" not in names


def test_squeezenet_has_the_parameters_of_the_paper():
    with torch.device("meta"):
        model = resolve("squeezenet")
    assert parameters(model) == 1_248_424
    assert model.conv_final.out_channels == 1000


@pytest.mark.parametrize("side", [21, 22, 29, 30, 224, 227])
def test_pooling_of_squeezenet_rounds_up_as_in_caffe(side):
    model = resolve("squeezenet?width=0.1", shape=(3, side, side)).eval()
    x = model[:3](torch.zeros(1, 3, side, side))
    before = (side - 7) // 2 + 1
    assert x.shape[-1] == -(-(before - 3) // 2) + 1
    assert model[3:](x).shape == (1, 1000)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("resnet20?classes=1", "2 or more"),
        ("resnet20?classes=2.5", "2 or more"),
        ("lenet?width=0", "above 0"),
        ("lenet?width=nan", "above 0"),
        ("lenet?width=wide", "above 0"),
        ("lenet?shape=64", "lenet_300_100"),
        ("lenet?shape=1x7x8", "sides from 8 to 64"),
        ("lenet?shape=1x65x8", "sides from 8 to 64"),
        ("lenet?shape=large", "write it as 3x32x32"),
        ("vgg16_bn?shape=3x31x32", "sides from 32"),
        ("squeezenet?shape=3x20x40", "sides from 21"),
        ("resnet20?shape=0x32x32", "at least one channel"),
        ("resnet20?shortcut=none", "zeros, projection"),
        ("resnet20?blocks=3", "no option 'blocks'"),
        ("three_methods_cnn?hidden=0", "1 or more"),
        ("lenet_300_100?shape=0", "shape of one input"),
    ],
)
def test_what_cannot_be_built_is_told_with_what_can(spec, told):
    with pytest.raises(UserError, match=told):
        resolve(spec)
