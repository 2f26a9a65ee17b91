"""``thrifty export`` as its users meet it."""

import importlib.util
import json

import pytest
import torch
from torch import nn

import thrifty
from thrifty.pruning import masks as masks_file


@pytest.fixture
def net(tmp_path):
    torch.manual_seed(0)
    model = thrifty.resolve("three_methods_cnn?width=0.5", shape=(1, 8, 8))
    thrifty.save(model, tmp_path / "net.safetensors", metadata={"measured": "something"})
    return tmp_path / "net.safetensors"


def test_onnx_is_written_checked_and_told(ended, net, tmp_path, capsys):
    assert ended("export", net, "--to", "onnx", "-o", tmp_path / "net.onnx", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["bytes"] == (tmp_path / "net.onnx").stat().st_size
    assert said["facts"]["batch"] == "any"
    assert said["facts"]["difference"] < 1e-4


def test_the_shape_may_be_said_where_the_network_does_not_know_it(ended, tmp_path, capsys):
    # pytest.importorskip would import torchvision, whose operators may be missing.
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    onnx = tmp_path / "m.onnx"
    given = ("export", "torchvision:squeezenet1_1", "--to", "onnx", "-o", onnx)
    assert ended(*given) == 2
    assert "say" in (err := capsys.readouterr().err) or "--shape" in err
    assert ended(*given, "--shape", "3x64x64") == 0
    assert "any" in capsys.readouterr().out


def test_a_folder_for_the_hub_keeps_what_the_file_said_and_gains_the_accuracy(
    ended, net, tmp_path, capsys
):
    out = tmp_path / "hub"
    data = "digits?train=50&test=40"
    assert ended("export", net, "--to", "hf", "-o", out, "--data", data) == 0
    card = (out / "README.md").read_text()
    assert "| measured | something |" in card
    assert "on 40 test inputs of digits" in card
    assert str(out) in capsys.readouterr().out


def test_masks_are_written_as_zeros(ended, net, tmp_path, capsys):
    model = thrifty.load(net)
    masks = {n: torch.rand(p.shape) < 0.02 for n, p in model.named_parameters() if p.dim() > 1}
    masks_file.save(masks, tmp_path / "masks.safetensors")
    out = tmp_path / "m.pt"
    given = ("export", net, "--to", "torch_sparse", "-o", out, "--json")
    assert ended(*given, "--masks", tmp_path / "masks.safetensors") == 0
    assert json.loads(capsys.readouterr().out)["facts"]["sparse_coo tensors"] >= 1
    state = torch.load(out, weights_only=True)
    for name, mask in masks.items():
        assert not state[name].to_dense()[~mask].any()


def test_a_safetensors_export_loads_again(ended, net, tmp_path, capsys):
    assert ended("export", net, "--to", "safetensors", "-o", tmp_path / "b.safetensors") == 0
    one, two = thrifty.load(net), thrifty.load(tmp_path / "b.safetensors")
    for name, x in one.state_dict().items():
        assert torch.equal(two.state_dict()[name], x)
    assert "bytes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("lenet", "--to", "onx", "-o", "m.onnx"), "did you mean onnx?"),
        (("lenet", "--to", "onnx", "-o", "m.txt"), "does not end in .onnx"),
        (("lenet", "--to", "onnx"), "needs --out"),
        (("lenet", "-o", "m.onnx"), "needs --to"),
        (("nonet", "--to", "onnx", "-o", "m.onnx"), "no network is called 'nonet'"),
        (
            ("lenet", "--to", "onnx", "-o", "m.onnx", "--shape", "1x28x28", "--data", "digits"),
            "both say what an input is",
        ),
        (("lenet", "--to", "onnx", "-o", "m.onnx", "--shape", "a"), "--shape is 'a'"),
        (("lenet", "--to", "onnx", "-o", "m.onnx", "--masks", "no"), "no"),
    ],
)
def test_wrong_input_is_told_in_one_line(ended, arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ended("export", *arguments) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_what_is_only_written_says_so_when_it_is_loaded(tmp_path):
    from thrifty.pack.exporting import export

    export(nn.Linear(2, 2), tmp_path / "m.onnx", "onnx", example=torch.zeros(1, 2))
    with pytest.raises(thrifty.UserError, match="written for other programs and not read back"):
        thrifty.load(tmp_path / "m.onnx")
