"""``thrifty pack`` as its users meet it, and the format behind ``save`` and ``load``."""

import json

import pytest
import torch
from torch import nn

import thrifty
from thrifty.container import Reader
from thrifty.errors import UserError
from thrifty.nets import read_weights
from thrifty.pack.packing import pack
from thrifty.pruning import masks as masks_file


def equal(one, two):
    a, b = one.state_dict(), two.state_dict()
    return list(a) == list(b) and all(
        a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a
    )


@pytest.fixture
def model():
    torch.manual_seed(0)
    net = thrifty.resolve("lenet", classes=10, shape=(1, 8, 8))
    thrifty.apply(net, thrifty.prune(net, "magnitude", thrifty.Budget(0.9)))
    return net


def test_it_prints_the_bytes_and_the_file_holds_the_network(ended, model, tmp_path, capsys):
    thrifty.save(model, tmp_path / "net.safetensors")
    assert ended("pack", tmp_path / "net.safetensors", "-o", tmp_path / "net.thrifty") == 0
    out = capsys.readouterr().out
    rows = {line.rpartition("  ")[0].strip()[:13].strip() for line in out.splitlines()[1:6]}
    assert rows == {"dense", "zstd of dense", "packed", "of it header", "order-0 bound"}
    assert "times smaller than dense" in out
    assert equal(thrifty.load(tmp_path / "net.thrifty"), model)


def test_json_adds_up_and_beats_zstd(ended, model, tmp_path, capsys):
    thrifty.save(model, tmp_path / "net.safetensors")
    out = tmp_path / "net.thrifty"
    assert ended("pack", tmp_path / "net.safetensors", "-o", out, "--per-layer", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["packed"] == out.stat().st_size < said["zstd of dense"] < said["dense"]
    assert said["packed"] == said["of it header"] + sum(t["packed"] for t in said["tensors"])
    weights = {t["name"]: t for t in said["tensors"]}["fc1.weight"]
    assert weights["encoding"] == "gap8"
    assert weights["nonzero"] == int(model.get_parameter("fc1.weight").count_nonzero())


def test_layers_are_shown_on_demand(ended, tmp_path, capsys):
    assert ended("pack", "lenet", "-o", tmp_path / "a.thrifty", "--per-layer") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        *("tensor", "elements", "zeros", "stored", "dense", "zstd", "packed", "bound")
    ]
    assert lines[1].split()[:5] == ["conv1.weight", "150", "0.00%", "raw", "F32"]


def test_accuracy_before_and_after_is_measured_on_data(ended, tmp_path, capsys):
    options = ["--values", "int8", "--data", "digits", "--json"]
    assert ended("pack", "lenet", "-o", tmp_path / "a.thrifty", *options) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["accuracy"].keys() == {"before", "after"}
    assert abs(said["accuracy"]["before"] - said["accuracy"]["after"]) < 0.05
    assert said["packed"] < said["dense"] / 3.5


def test_masks_are_cut_before_packing(ended, tmp_path, capsys):
    model = thrifty.resolve("lenet", classes=10, shape=(1, 28, 28))
    masks = thrifty.prune(model, "magnitude", thrifty.Budget(0.9))
    masks_file.save(masks, tmp_path / "masks.safetensors")
    thrifty.save(model, tmp_path / "net.safetensors")
    arguments = [tmp_path / "net.safetensors", "--masks", tmp_path / "masks.safetensors"]
    assert ended("pack", *arguments, "-o", tmp_path / "a.thrifty") == 0
    loaded = thrifty.load(tmp_path / "a.thrifty")
    thrifty.apply(model, masks)
    assert equal(loaded, model)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["lenet", "-o", "net.safetensors"], "does not end in .thrifty"),
        (["lenet", "-o", "net.thrifty", "--values", "int4"], "did you mean int8"),
        (["lenet"], "needs --out"),
        (["lenot", "-o", "net.thrifty"], "did you mean lenet"),
        (["lenet", "-o", "net.thrifty", "--weights", "x.thrifty"], "there is no file"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_written(
    ended, arguments, told, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert ended("pack", *arguments) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# The format


@pytest.mark.parametrize("values", ["bf16", "f16", "int8"])
def test_fewer_bits_keep_dtypes_and_what_is_no_weight(values, model, tmp_path):
    thrifty.save(model, tmp_path / "a.thrifty", values=values)
    again = thrifty.load(tmp_path / "a.thrifty")
    assert torch.equal(again.conv1.bias, model.conv1.bias)
    assert not torch.equal(again.conv1.weight, model.conv1.weight)
    largest = model.conv1.weight.abs().max()
    assert (again.conv1.weight - model.conv1.weight).abs().max() < largest / 200
    assert torch.equal(again.conv1.weight != 0, model.conv1.weight != 0) or values == "int8"


def test_a_shrunk_network_comes_back(tmp_path):
    torch.manual_seed(0)
    model = thrifty.resolve("lenet", classes=10, shape=(1, 28, 28))
    with torch.no_grad():
        model.conv2.weight[::2] = 0
        model.conv2.bias[::2] = 0
    small = thrifty.shrink(model, example=torch.randn(2, 1, 28, 28))
    thrifty.save(small, tmp_path / "a.thrifty")
    again = thrifty.load(tmp_path / "a.thrifty")
    assert again.conv2.weight.shape[0] < model.conv2.weight.shape[0]
    assert equal(again, small)


def test_half_precision_and_8_bit_floats_come_back(tmp_path):
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn):
        layer = nn.Linear(5, 3).to(dtype)
        thrifty.save(layer, tmp_path / "a.thrifty")
        tensors, _ = read_weights(tmp_path / "a.thrifty")
        assert tensors["weight"].dtype == dtype
        assert tensors["weight"].untyped_storage().tolist() == (
            layer.weight.detach().clone().untyped_storage().tolist()
        )


def test_tied_tensors_are_written_once_and_are_both_there(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    thrifty.save(model, tmp_path / "a.thrifty")
    tensors, _ = read_weights(tmp_path / "a.thrifty")
    assert torch.equal(tensors["1.weight"], model[0].weight)
    with Reader(tmp_path / "a.thrifty") as file:
        assert "1.weight" not in file.tensors


def test_complex_numbers_are_told(tmp_path):
    with pytest.raises(UserError, match=r"w is torch.complex64|'w' is complex64"):
        thrifty.save(nn.ParameterDict({"w": torch.zeros(2, 2) * 1j}), tmp_path / "a.thrifty")
    assert not list(tmp_path.iterdir())


def test_a_program_and_its_constants_are_stored_beside_the_network(model, tmp_path):
    constants = {"program:c": torch.randn(4, 4)}
    path = tmp_path / "a.thrifty"
    thrifty.save(model, path, values="int8", program={"ops": [1]}, constants=constants)
    with Reader(path) as file:
        assert json.loads(file.metadata["program"]) == {"ops": [1]}
        assert torch.equal(torch.from_numpy(file.read("program:c")), constants["program:c"])
    assert list(thrifty.load(path).state_dict()) == list(model.state_dict())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"values": "int8"}, r"values='int8' and a program are for .*\.thrifty"),
        ({"program": {}}, r"are for .*\.thrifty"),
        ({"constants": {"c": torch.zeros(1)}}, "its name begins with 'program:'"),
        ({"metadata": {"program": "x"}}, "'program', which is ours"),
    ],
)
def test_options_that_a_format_does_not_take_are_told(options, told, model, tmp_path):
    with pytest.raises(UserError, match=told):
        thrifty.save(model, tmp_path / "a.safetensors", **options)
    assert not list(tmp_path.iterdir())


def test_it_can_be_looked_at_and_fill_a_network(model, tmp_path, capsys):
    thrifty.save(model, tmp_path / "a.thrifty", program={}, constants={"program:c": torch.ones(3)})
    found = thrifty.look(tmp_path / "a.thrifty").networks[0]
    plain = tmp_path / "a.safetensors"
    thrifty.save(model, plain)
    wanted = thrifty.look(plain).networks[0]
    assert found.counted("all").zeros == wanted.counted("all").zeros
    filled = thrifty.resolve("lenet", weights=tmp_path / "a.thrifty", classes=10, shape=(1, 8, 8))
    assert equal(filled, model)


def test_pack_counts_what_the_file_holds(model, tmp_path):
    done = pack(model, tmp_path / "a.thrifty")
    assert done.nbytes == (tmp_path / "a.thrifty").stat().st_size
    assert done.total("dense") == sum(
        x.numel() * x.element_size() for x in model.state_dict().values()
    )
    assert done.total("packed") <= 1.03 * done.total("bound") + 200
    assert done.header < 1500
