"""What holds for every network of the registry."""

import copy
import hashlib
import inspect

import pytest
import torch

from thrifty.nets import NETS, architecture_of, count_macs, resolve
from thrifty.pack import load, save

TABLE = {
    # name: parameters, multiply-adds, digest of the tensor names; all at the defaults
    "highway": (8_906_714, 323_668_480, "fc3746ab"),
    "lenet": (61_706, 416_520, "3fce4212"),
    "lenet_caffe": (431_080, 2_293_000, "ad8afb0b"),
    "lenet_300_100": (266_610, 266_200, "0b5e7882"),
    "resnet20": (269_722, 40_551_040, "ebff264b"),
    "resnet32": (464_154, 68_862_592, "d90940ad"),
    "resnet44": (658_586, 97_174_144, "61237927"),
    "resnet56": (853_018, 125_485_696, "4fbf5dd3"),
    "resnet110": (1_727_962, 252_887_680, "d58b9e52"),
    "resnet18_cifar": (11_173_962, 555_422_720, "779447cf"),
    "squeezenet": (1_248_424, 832_667_936, "3dc44813"),
    "three_methods_cnn": (156_022, 19_895_592, "ad8afb0b"),
    "thriftynet": (39_636, 229_448_254, "2a1f176f"),
    "vgg11_bn": (9_228_362, 152_769_536, "3e277851"),
    "vgg13_bn": (9_413_066, 228_267_008, "8c79a24f"),
    "vgg16_bn": (14_724_042, 313_201_664, "43edfff2"),
    "vgg19_bn": (20_035_018, 398_136_320, "b666bcd0"),
    "zoo_cnn_l": (9_665, 694_292, "5da3ff78"),
    "zoo_cnn_m": (3_047, 176_024, "5da3ff78"),
    "zoo_cnn_s": (2_464, 193_784, "5da3ff78"),
}
every_net = pytest.mark.parametrize("name", NETS.names())


def narrow(name, classes=10):
    torch.manual_seed(0)
    return resolve(f"{name}?width=0.1", classes=classes)


def batch(model, size=2):
    shape = architecture_of(model).shape
    return torch.rand(size, *shape, generator=torch.Generator().manual_seed(0))


def digest(names):
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:8]


@every_net
def test_it_says_in_one_line_what_it_is(name):
    assert NETS.summary(name)


@every_net
def test_it_takes_classes_shape_and_width_by_name_with_defaults(name):
    parameters = inspect.signature(NETS.get(name)).parameters
    assert {"classes", "shape", "width"} <= set(parameters)
    for parameter in parameters.values():
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert parameter.default is not parameter.empty


@every_net
def test_its_size_and_the_names_of_its_tensors_are_those_of_the_table(name):
    """A change here orphans every file that was saved: it needs a reason, and the changelog."""
    with torch.device("meta"):
        model = resolve(name)
    parameters = sum(p.numel() for p in model.parameters())
    macs = count_macs(model, architecture_of(model).shape)
    assert (parameters, macs, digest(model.state_dict())) == TABLE[name]


@every_net
def test_it_gives_one_finite_logit_a_class(name):
    model = narrow(name, classes=7).eval()
    logits = model(batch(model))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()


@every_net
def test_the_seed_decides_its_weights(name):
    one, two = narrow(name).state_dict(), narrow(name).state_dict()
    assert all(torch.equal(one[n], two[n]) for n in one)
    other = resolve(f"{name}?width=0.1").state_dict()
    assert any(not torch.equal(one[n], other[n]) for n in one)


@every_net
def test_width_and_classes_change_no_names(name):
    assert list(narrow(name, classes=3).state_dict()) == list(narrow(name).state_dict())


@every_net
def test_a_copy_computes_the_same(name):
    model = narrow(name).eval()
    again = copy.deepcopy(model)
    assert torch.equal(model(batch(model)), again(batch(model)))
    assert architecture_of(again) == architecture_of(model)


@every_net
def test_every_parameter_gets_a_gradient(name):
    model = narrow(name)
    model(batch(model, size=4)).square().sum().backward()
    for parameter_name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), parameter_name
        assert p.grad.any() or p.numel() < 9, parameter_name


@every_net
@pytest.mark.parametrize("suffix", [".safetensors", ".safetensors.zst"])
def test_a_file_gives_it_back_bit_for_bit(name, suffix, tmp_path):
    model = narrow(name, classes=7).eval()
    save(model, tmp_path / f"m{suffix}")
    again = load(tmp_path / f"m{suffix}").eval()
    one, two = model.state_dict(), again.state_dict()
    assert list(one) == list(two)
    assert all(torch.equal(one[n], two[n]) for n in one)
    assert torch.equal(model(batch(model)), again(batch(model)))
    assert architecture_of(again) == architecture_of(model)


@every_net
def test_it_exports(name):
    model = narrow(name).eval()
    x = batch(model)
    exported = torch.export.export(model, (x,))
    torch.testing.assert_close(exported.module()(x), model(x))
