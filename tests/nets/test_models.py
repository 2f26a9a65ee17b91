import json
import os
import socket
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from thrifty.errors import MissingExtra, UnknownName, UserError
from thrifty.nets import Architecture, architecture_of, resolve
from thrifty.pack import save

FACTORIES = """
import torch
from torch import nn
class Net(nn.Linear):
    def __init__(self, width=2, num_classes=3):
        super().__init__(width, num_classes)
def plain(): return nn.Linear(1, 1)
def shaped(*, classes, shape): return nn.Linear(shape[0], classes)
def wrong(): return 3
def broken(): raise ZeroDivisionError("mine")
ready = nn.Linear(4, 4)
number = 5
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder with a module of factories."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_factories", raising=False)
    (tmp_path / "my_factories.py").write_text(FACTORIES)
    return tmp_path


def no_connection(*_, **__):
    raise OSError("no connection")


def equal(one, two):
    a, b = one.state_dict(), two.state_dict()
    return list(a) == list(b) and all(torch.equal(a[n], b[n]) for n in a)


def test_a_module_passes_through():
    model = nn.Linear(2, 2)
    assert resolve(model) is model


def test_a_module_takes_weights(tmp_path):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "w.pt")
    model = resolve(nn.Linear(2, 2), weights=tmp_path / "w.pt")
    assert torch.equal(model.weight, torch.load(tmp_path / "w.pt")["weight"])


def test_options_come_before_arguments():
    assert resolve("lenet?classes=5", classes=7).fc3.out_features == 5


def test_a_factory_of_the_current_folder_is_called_with_its_options(here):
    model = resolve("my_factories:Net?width=4")
    assert (model.in_features, model.out_features) == (4, 3)
    assert architecture_of(model).model == "my_factories:Net?width=4"
    assert str(here) not in sys.path


def test_a_factory_gets_classes_and_shape_if_it_takes_them(here):
    assert resolve("my_factories:Net", classes=6).out_features == 6
    assert resolve("my_factories:Net?num_classes=5", classes=6).out_features == 5
    assert resolve("my_factories:plain", classes=6).out_features == 1
    assert resolve("my_factories:shaped", classes=6, shape=(7,)).in_features == 7


def test_a_module_instead_of_a_factory_is_copied(here):
    assert resolve("my_factories:ready") is not resolve("my_factories:ready")


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("my_factories:wrong", "returned int"),
        ("my_factories:number", "is a int; give a function"),
        ("my_factories:shapd", "did you mean shaped"),
        ("my_factories:shaped", "needs classes, shape"),
        ("my_factories:plain?x=1", "no option 'x'"),
        ("no_such_module_of_mine:f", "no module 'no_such_module_of_mine'"),
    ],
)
def test_a_factory_that_cannot_be_used_is_told(here, spec, told):
    with pytest.raises(UserError, match=told):
        resolve(spec)


def test_an_error_inside_a_factory_is_the_user_s_own(here):
    with pytest.raises(ZeroDivisionError, match="mine"):
        resolve("my_factories:broken")


def test_a_module_that_needs_another_says_which(here):
    (here / "needs_more.py").write_text("import no_such_package_of_anyone")
    with pytest.raises(UserError, match="no_such_package_of_anyone.*install it"):
        resolve("needs_more:f")


@pytest.mark.parametrize("suffix", [".safetensors", ".safetensors.zst"])
def test_a_file_of_ours_is_a_network(tmp_path, suffix):
    model = resolve("lenet", classes=4, shape=(1, 8, 8))
    save(model, tmp_path / f"any{suffix}")
    again = resolve(tmp_path / f"any{suffix}")
    assert equal(again, model)
    assert architecture_of(again) == Architecture("lenet", 4, (1, 8, 8))
    with pytest.raises(UserError, match="network of 4 classes and 5 are asked for"):
        resolve(str(tmp_path / f"any{suffix}"), classes=5)


def test_a_folder_is_the_network_in_it(tmp_path):
    model = resolve("lenet?width=0.2")
    save(model, tmp_path / "model.safetensors")
    assert equal(resolve(tmp_path), model)
    smaller = resolve("lenet?width=0.1")
    save(smaller, tmp_path / "model.safetensors.zst")
    assert equal(resolve(str(tmp_path)), smaller)


def test_a_folder_of_a_run_is_its_dense_network(tmp_path):
    model = resolve("lenet?width=0.2")
    save(model, tmp_path / "seed0" / "dense.safetensors")
    (tmp_path / "run.json").write_text(json.dumps({"dense": "seed0/dense.safetensors"}))
    assert equal(resolve(tmp_path), model)


@pytest.mark.parametrize(
    ("run", "told"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ("{}", "does not say"),
        ('{"dense": 3}', "does not say"),
        ('{"dense": "../other.safetensors"}', "not in"),
        ('{"dense": "gone.safetensors"}', "missing"),
    ],
)
def test_a_run_that_names_no_network_is_told(tmp_path, run, told):
    (tmp_path / "run.json").write_text(run)
    with pytest.raises(UserError, match=told):
        resolve(tmp_path)


def test_an_empty_folder_is_told(tmp_path):
    with pytest.raises(UserError, match="has no network"):
        resolve(tmp_path)


def test_a_folder_does_not_hide_a_built_in_name(here):
    save(resolve("lenet_300_100"), here / "lenet" / "model.safetensors")
    assert architecture_of(resolve("lenet")).model == "lenet"
    assert architecture_of(resolve("./lenet")).model == "lenet_300_100"


def test_weights_alone_are_no_network(tmp_path):
    torch.save(resolve("lenet").state_dict(), tmp_path / "w.pt")
    with pytest.raises(UserError, match="name the network.*--weights"):
        resolve(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("resnet21", "did you mean .*resnet20"),
        ("gone/model.safetensors", "no file or folder"),
        ("gone.pt", "no file or folder"),
        ("hf:someone/something", "no file or folder"),
        ("", "names no network"),
        (None, "names no network"),
        ("lenet?width", "options that cannot be read"),
        ("a\0b", "no network is called"),
        ("x" * 5000, "no network is called"),
    ],
)
def test_what_names_nothing_is_told(given, told):
    with pytest.raises(UserError, match=told):
        resolve(given)


def test_a_path_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match="no file or folder"):
        resolve(tmp_path / "lenet")


def test_a_name_of_torchvision_is_suggested_with_its_prefix(torchvision):
    with pytest.raises(UnknownName, match="write torchvision:resnet18"):
        resolve("resnet18")


def test_torchvision_builds_its_networks(torchvision):
    model = resolve("torchvision:resnet18", classes=5)
    assert model.fc.out_features == 5
    assert architecture_of(model) == Architecture("torchvision:resnet18", 5, None)
    with pytest.raises(UnknownName, match="did you mean resnet18"):
        resolve("torchvision:resnet19")
    with pytest.raises(UserError, match="unexpected keyword argument 'depth'"):
        resolve("torchvision:resnet18?depth=3")
    with pytest.raises(UnknownName, match="no weights 'BEST'"):
        resolve("torchvision:resnet18?weights=BEST")


def test_torchvision_reads_published_weights_from_the_cache(torchvision, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    weights = torchvision.models.get_model_weights("squeezenet1_1")["DEFAULT"]
    (tmp_path / "checkpoints").mkdir()
    cached = tmp_path / "checkpoints" / os.path.basename(weights.url)
    torch.save(torchvision.models.squeezenet1_1().state_dict(), cached)
    model = resolve("torchvision:squeezenet1_1?weights=DEFAULT", classes=5)
    assert architecture_of(model) == Architecture("torchvision:squeezenet1_1", 1000, None)


def test_timm_builds_its_networks(timm):
    model = resolve("timm:resnet18", classes=5)
    assert model.fc.out_features == 5
    assert architecture_of(model) == Architecture("timm:resnet18", 5, None)
    assert isinstance(resolve("timm:resnet18.a1_in1k"), nn.Module)
    with pytest.raises(UnknownName, match="did you mean resnet18"):
        resolve("timm:resnet19")
    with pytest.raises(UnknownName, match="timm has no network"):
        resolve("timm:hf-hub:someone/something")


def test_timm_reads_published_weights_from_the_cache(timm, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", no_connection)
    cached = tmp_path / "models--timm--mobilenetv3_small_050.lamb_in1k"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("f" * 40)
    (cached / "snapshots" / ("f" * 40)).mkdir(parents=True)
    published = timm.create_model("mobilenetv3_small_050").state_dict()
    save_file(published, cached / "snapshots" / ("f" * 40) / "model.safetensors")
    model = resolve("timm:mobilenetv3_small_050?pretrained=true", classes=5)
    assert torch.equal(model.conv_stem.weight, published["conv_stem.weight"])
    assert architecture_of(model) == Architecture("timm:mobilenetv3_small_050", 1000, None)


def test_published_weights_that_cannot_be_had_are_told(torchvision, timm, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", no_connection)
    for spec in ("torchvision:squeezenet1_1?weights=DEFAULT", "timm:resnet18?pretrained=true"):
        with pytest.raises(UserError, match="no connection.*--weights"):
            resolve(spec)


def test_importing_torchvision_twice_gives_the_same_module(torchvision):
    from thrifty._compat import import_torchvision

    assert import_torchvision() is torchvision


def test_an_absent_torchvision_is_told_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(MissingExtra, match=r"thrifty\[vision\]"):
        resolve("torchvision:resnet18")
