import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from thrifty._compat import import_timm, import_torchvision
from thrifty.errors import UnknownName, UserError
from thrifty.sources import BITS, SOURCES
from thrifty.sources.formats import networks
from thrifty.sources.formats.networks import of_module, open_network
from thrifty.sources.opening import only


def by_name(source):
    return {x.name: x for x in source.tensors}


def small():
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 4))


def test_a_built_in_network_is_the_same_every_time_and_says_that_it_is_random():
    torch.manual_seed(5)
    one, two = only("resnet20?width=0.1"), only("network:resnet20?width=0.1")
    assert (one.label, one.kind, one.nbytes) == ("resnet20?width=0.1", "network", None)
    assert "random weights as built (no training)" in one.notes[0]
    assert np.array_equal(one.tensors[0].whole(), two.tensors[0].whole())
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn)


def test_tensors_are_views_of_the_memory_of_the_module():
    model = small()
    weight = by_name(of_module(model, "m"))["0.weight"]
    with torch.no_grad():
        model[0].weight.fill_(7)
    assert (weight.whole() == 7).all()


def test_roles_are_those_of_the_modules_and_not_of_the_names():
    model = nn.ModuleDict(
        {
            "a": nn.Conv2d(2, 3, 3),
            "b": nn.BatchNorm2d(3),
            "c": nn.LayerNorm(4),
            "d": nn.Embedding(3, 2),
            "e": nn.PReLU(),
            "f": nn.LSTM(2, 2),
        }
    )
    model.register_buffer("relative_position", torch.zeros(3, 3))
    roles = {name: x.role for name, x in by_name(of_module(model, "m")).items()}
    assert roles["a.weight"] == roles["d.weight"] == roles["f.weight_hh_l0"] == "weight"
    assert roles["a.bias"] == roles["f.bias_ih_l0"] == "bias"
    assert roles["b.weight"] == roles["c.weight"] == "scale"
    assert roles["b.bias"] == roles["c.bias"] == "shift"
    assert roles["b.running_mean"] == roles["b.running_var"] == "statistic"
    assert roles["b.num_batches_tracked"] == roles["relative_position"] == "other"
    assert roles["e.weight"] is None


def test_output_channels_of_a_transposed_convolution_lie_on_the_second_axis():
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ConvTranspose1d(2, 3, 3))
    assert [x.out_axis for x in of_module(model, "m").tensors] == [0, 0, 1, 0]


def test_a_tensor_of_two_names_is_counted_once_with_a_note():
    model = nn.ModuleDict({"a": nn.Embedding(3, 2), "b": nn.Linear(2, 3, bias=False)})
    model["b"].weight = model["a"].weight
    source = of_module(model, "m")
    assert [x.name for x in source.tensors] == ["a.weight"]
    assert source.notes == ("b.weight is a.weight, and counted once",)


def test_parameters_that_share_memory_are_counted_once():
    model = nn.ModuleDict({"a": nn.Linear(2, 3, bias=False), "b": nn.Linear(2, 3, bias=False)})
    model["b"].weight.data = model["a"].weight.data
    assert len(of_module(model, "m").tensors) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.float32])
def test_floats_of_every_size_come_bit_for_bit(dtype):
    model = nn.Linear(3, 4, bias=False).to(dtype)
    (stored,) = of_module(model, "m").tensors
    raw = model.weight.detach().reshape(-1).view(torch.uint8).numpy()
    assert stored.whole().dtype == BITS[stored.dtype]
    assert np.array_equal(stored.whole().reshape(-1).view(np.uint8), raw)


@pytest.mark.parametrize(
    ("dtype", "named"),
    [
        (torch.float8_e4m3fn, "F8_E4M3"),
        (torch.float8_e5m2, "F8_E5M2"),
        (torch.int8, "I8"),
        (torch.uint16, "U16"),
        (torch.bool, "BOOL"),
    ],
)
def test_other_dtypes_are_given_under_the_name_that_sources_use(dtype, named):
    model = nn.Module()
    model.register_buffer("x", torch.ones(3).to(dtype))
    (stored,) = of_module(model, "m").tensors
    assert stored.dtype == named
    assert stored.whole().dtype == BITS[named]


def test_a_dtype_that_cannot_be_counted_is_left_out_by_name():
    model = nn.Linear(2, 2)
    model.register_buffer("z", torch.zeros(2, dtype=torch.complex64))
    source = of_module(model, "m")
    assert "z" not in by_name(source)
    assert source.notes == ("left out, for their dtypes cannot be counted: z (complex64)",)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.t(),
        lambda x: x[:, ::2],
        lambda x: x[0].expand(5, 40),
        lambda x: x.to_sparse(),
        lambda x: x.reshape(2, 2, 2, 150).to(memory_format=torch.channels_last),
    ],
)
def test_elements_come_in_row_major_order_however_they_lie_in_memory(make, monkeypatch):
    monkeypatch.setattr(networks, "PIECE", 64)
    model = nn.Module()
    model.register_buffer("x", make(torch.arange(1200.0).reshape(30, 40)))
    (stored,) = of_module(model, "m").tensors
    dense = model.x.to_dense() if model.x.is_sparse else model.x
    assert np.array_equal(stored.whole(), dense.contiguous().numpy())


def test_pieces_have_about_the_size_asked_for(monkeypatch):
    monkeypatch.setattr(networks, "PIECE", 400)
    (stored,) = of_module(nn.Linear(100, 30, bias=False), "m").tensors
    assert [len(p) for p in stored.read()] == [100] * 30


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantised_weights_come_as_integers_with_their_scales():
    numbers = torch.tensor([[0.5, -1.0], [0.25, 0.0]])
    model = nn.Module()
    model.register_buffer(
        "each",
        torch.quantize_per_channel(
            numbers, torch.tensor([0.5, 0.25]), torch.zeros(2), 0, torch.qint8
        ),
    )
    model.register_buffer("all", torch.quantize_per_tensor(numbers, 0.25, 4, torch.quint8))
    tensors = by_name(of_module(model, "m"))
    each, both = tensors["each"], tensors["all"]
    assert (each.dtype, both.dtype, each.role) == ("I8", "U8", "weight")
    assert np.array_equal(each.whole() * each.quantised.scale[:, None], numbers.numpy())
    assert np.array_equal((both.whole() - both.quantised.zero) * both.quantised.scale, numbers)


def test_a_normalisation_is_paired_with_the_layer_whose_output_goes_nowhere_else():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.three = (nn.Conv2d(2, 2, 1) for _ in range(3))
            self.a, self.b, self.c = nn.BatchNorm2d(2), nn.BatchNorm2d(2), nn.BatchNorm2d(2)
            self.c.eps = 0.5

        def forward(self, x):
            x = self.one(x)
            y = self.a(x) + x  # the output of one goes elsewhere too
            y = self.b(self.two(y).relu())  # something is between
            return self.c(self.three(y))

    (norm,) = of_module(Net(), "m").norms
    assert (norm.weight, norm.bias, norm.eps) == ("three.weight", "three.bias", 0.5)
    assert (norm.scale, norm.mean, norm.variance) == ("c.weight", "c.running_mean", "c.running_var")


def test_what_is_called_twice_is_not_paired():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)

        def forward(self, x):
            return self.bn(self.conv(self.bn(self.conv(x))))

    assert of_module(Net(), "m").norms == ()


def test_a_normalisation_without_running_statistics_is_not_paired():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, track_running_stats=False))
    assert of_module(model, "m").norms == ()


def test_a_grouped_transposed_convolution_is_not_paired():
    model = nn.Sequential(nn.ConvTranspose2d(4, 4, 1, groups=2), nn.BatchNorm2d(4))
    assert of_module(model, "m").norms == ()


def test_a_subclass_that_may_change_its_weight_is_not_paired():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            weight = self.weight / self.weight.std()
            return nn.functional.conv2d(x, weight, self.bias)

    assert of_module(nn.Sequential(Standardised(2, 2, 1), nn.BatchNorm2d(2)), "m").norms == ()


def test_a_network_that_cannot_be_traced_leaves_pairs_to_the_names():
    class Net(nn.Sequential):
        def forward(self, x):
            return super().forward(x if x.sum() > 0 else -x)

    assert of_module(Net(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)), "m").norms is None


def test_every_normalisation_of_a_residual_network_is_paired():
    assert len(only("resnet20?width=0.1").norms) == 19


def test_the_module_is_left_as_it_was():
    model = small().eval()
    before = {n: x.clone() for n, x in model.state_dict().items()}
    for stored in of_module(model, "m").tensors:
        stored.whole()
    assert not model.training
    assert all(torch.equal(x, before[n]) for n, x in model.state_dict().items())


@pytest.mark.parametrize(
    ("thing", "told"),
    [
        (3, "int is no source of weights"),
        (nn.ReLU(), "no parameters and no buffers"),
        (nn.Linear(2, 2, device="meta"), "weight is on the device 'meta'"),
        (nn.LazyLinear(2), "no shape yet; run the network once"),
    ],
)
def test_what_has_no_numbers_is_refused(thing, told):
    with pytest.raises(UserError, match=told):
        of_module(thing, "m")


def test_a_factory_of_the_current_folder_is_a_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_networks", raising=False)
    Path("own_networks.py").write_text(
        "from torch import nn\ndef make(*, width=2): return nn.Linear(width, 3)\n"
    )
    source = only("own_networks:make?width=5")
    assert (source.kind, source.notes) == ("factory", ())
    assert source.tensors[0].shape == (3, 5)


@pytest.mark.parametrize("name", ["resnet21", "no_such_module:factory", "resnet20?depth=3"])
def test_a_name_of_nothing_is_told(name):
    with pytest.raises(UserError):
        only(name)


def test_a_network_of_torchvision_is_random_unless_weights_are_asked_for():
    import_torchvision()
    source = only("torchvision:shufflenet_v2_x0_5")
    assert source.kind == "torchvision"
    assert source.notes == ("random weights as built (no training); ask for ?weights=DEFAULT",)
    assert len(source.norms) == 56
    with pytest.raises(UnknownName, match="no weights 'BEST'"):
        only("torchvision:shufflenet_v2_x0_5?weights=BEST")


def test_published_weights_come_from_the_cache_and_are_named(tmp_path, monkeypatch):
    torchvision = import_torchvision()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    model = torchvision.models.squeezenet1_1()
    weights = torchvision.models.get_model_weights("squeezenet1_1")["DEFAULT"]
    (tmp_path / "checkpoints").mkdir()
    torch.save(model.state_dict(), tmp_path / "checkpoints" / Path(weights.url).name)
    source = only("torchvision:squeezenet1_1?weights=DEFAULT")
    assert source.notes == ("published weights of torchvision, IMAGENET1K_V1",)
    assert np.array_equal(source.tensors[0].whole(), model.features[0].weight.detach().numpy())


def test_a_detector_does_not_fetch_the_weights_of_its_backbone_unasked():
    import_torchvision()
    source = open_network("torchvision:lraspp_mobilenet_v3_large")
    assert "random weights" in source.notes[0]


def test_building_the_largest_of_the_usual_networks_warns_of_nothing():
    import_torchvision()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = only("torchvision:googlenet")
    assert sum(x.count for x in source.tensors if x.role == "weight") > 12_000_000


def test_layers_of_timm_that_fuse_an_activation_are_paired():
    import_timm()
    source = only("timm:mobilenetv3_small_050")
    assert source.notes == ("random weights as built (no training); ask for ?pretrained=true",)
    assert len(source.norms) == 34


def test_the_prefix_may_be_written():
    assert SOURCES.get("networks").prefix == "network"
