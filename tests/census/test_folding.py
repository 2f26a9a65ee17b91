import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from thrifty.census.folding import folded, norms_by_name
from thrifty.census.transform import values
from thrifty.sources import Norm, Source, Stored
from thrifty.sources.opening import expand


def outline(*tensors: tuple[str, tuple[int, ...]]) -> list[Stored]:
    return [Stored(name, shape, "F32", lambda: iter(())) for name, shape in tensors]


def normed(base: str, channels: int, separator: str = ".") -> list[tuple[str, tuple[int, ...]]]:
    ends = ("weight", "bias", "running_mean", "running_var")
    return [(f"{base}{separator}{end}", (channels,)) for end in ends]


@pytest.mark.parametrize(
    ("weight", "norm"),
    [
        ("conv1", "bn1"),
        ("layer1.0.conv2", "layer1.0.bn2"),
        ("features.0", "features.1"),
        ("layer2.0.downsample.0", "layer2.0.downsample.1"),
        ("stem.conv", "stem.bn"),
        ("block.conv", "block.conv_bn"),
        ("a.conv3", "a.norm3"),
    ],
)
def test_what_comes_before_a_normalisation_of_usual_names(weight, norm):
    found = norms_by_name(outline((f"{weight}.weight", (8, 4, 3, 3)), *normed(norm, 8)))
    assert [(n.weight, n.scale) for n in found] == [(f"{weight}.weight", f"{norm}.weight")]


def test_a_normalisation_of_other_channels_is_not_taken():
    tensors = outline(("conv1.weight", (4, 8, 3, 3)), *normed("bn1", 8))
    assert norms_by_name(tensors) == ()


def test_a_normalisation_before_its_convolution_is_named_and_left():
    tensors = outline(("conv.weight", (8, 8, 3, 3)), *normed("pre_activation", 8))
    kept, note = folded(Source("net", "test", tuple(tensors)))
    assert {t.name for t in kept} == {t.name for t in tensors}
    assert "folded into 0 of 1" in note
    assert "pre_activation" in note


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.bn1 = nn.BatchNorm2d(4)
        self.up = nn.Sequential(nn.ConvTranspose2d(4, 5, 2, bias=False), nn.BatchNorm2d(5))

    def forward(self, x):
        return self.up(self.bn1(self.conv1(x)).relu())


def test_a_folded_network_computes_what_the_network_computed(tmp_path):
    torch.manual_seed(0)
    net = Net()
    for norm in (net.bn1, net.up[1]):
        for x in (norm.weight, norm.bias, norm.running_mean):
            nn.init.normal_(x)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    norms = (
        Norm("conv1.weight", "conv1.bias", *(f"bn1.{e}" for e in ENDS)),
        Norm("up.0.weight", None, *(f"up.1.{e}" for e in ENDS)),
    )
    with expand(tmp_path / "net.safetensors")[0].open() as source:
        transposed = tuple(
            Stored(t.name, t.shape, t.dtype, t.read, out_axis=1 if t.name == "up.0.weight" else 0)
            for t in source.tensors
        )
        tensors, note = folded(Source("net", "test", transposed, norms=norms))
        found = {t.name: torch.from_numpy(values(t)).float() for t in tensors}
    assert set(found) == {"conv1.weight", "conv1.bias", "up.0.weight", "up.0.bias"}
    assert note == "batch normalisation folded into 2 of 2 layers"
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 5, 2))
    plain.load_state_dict(
        {
            "0.weight": found["conv1.weight"],
            "0.bias": found["conv1.bias"],
            "2.weight": found["up.0.weight"],
            "2.bias": found["up.0.bias"],
        }
    )
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(plain(x), net.eval()(x), rtol=1e-4, atol=1e-5)


ENDS = ("weight", "bias", "running_mean", "running_var")


def test_without_statistics_mean_is_0_and_variance_1(stored):
    w = np.full((2, 1, 1, 1), 3.0, np.float32)
    tensors = (
        stored("conv1.weight", w),
        stored("bn1.weight", np.float32([2, 4])),
        stored("bn1.bias", np.float32([1, 1])),
    )
    kept, _ = folded(Source("net", "test", tensors))
    found = {t.name: values(t).reshape(-1) for t in kept}
    assert found["conv1.weight"] == pytest.approx([6, 12], rel=1e-4)
    assert found["conv1.bias"].tolist() == [1, 1]


def test_a_network_without_normalisation_is_as_it_is(stored):
    source = Source("net", "test", (stored("fc.weight", np.ones((2, 2), np.float32)),))
    kept, note = folded(source)
    assert kept == source.tensors
    assert "no batch normalisation" in note


def test_without_statistics_a_numbered_normalisation_is_known_by_its_convolution(stored):
    def norm(base: str, count: int) -> tuple:
        ones = np.ones(count, np.float32)
        return stored(f"{base}.weight", ones), stored(f"{base}.bias", ones)

    tensors = (
        stored("conv1.weight", np.ones((2, 1, 3, 3), np.float32)),
        *norm("bn1", 2),
        stored("downsample.0.weight", np.ones((4, 2, 1, 1), np.float32)),
        *norm("downsample.1", 4),
        stored("head.0.weight", np.ones((3, 4), np.float32)),
        *norm("head.1", 3),  # after a linear layer it may be of another kind
    )
    _, note = folded(Source("net", "test", tensors))
    assert note == "batch normalisation folded into 2 of 2 layers"
