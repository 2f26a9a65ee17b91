"""``thrifty groups`` and ``thrifty shrink`` as their users meet them."""

import importlib.util
import json

import pytest
import torch

import thrifty
from thrifty.pruning import masks as masks_file


@pytest.fixture
def net(tmp_path):
    """A saved network, and masks of it under which 3 of 6 and 8 of 16 filters are zero."""
    torch.manual_seed(0)
    model = thrifty.resolve("lenet", classes=10, shape=(1, 28, 28))
    names = {n: p for n, p in model.named_parameters() if p.dim() == 4}
    masks = {n: torch.ones_like(p, dtype=torch.bool) for n, p in names.items()}
    for mask in masks.values():
        mask[::2] = False
    thrifty.save(model, tmp_path / "net.safetensors")
    masks_file.save(masks, tmp_path / "masks.safetensors")
    thrifty.apply(model, masks)
    return tmp_path / "net.safetensors", tmp_path / "masks.safetensors", model.eval()


def test_groups_say_what_moves_together_what_stays_and_what_a_unit_costs(ended, capsys):
    assert ended("groups", "resnet20?width=0.25", "--shape", "3x16x16") == 0
    out = capsys.readouterr().out
    costs, ties, whole = out.split("\n\n")
    assert costs.splitlines()[1].split() == [
        "group",
        "units",
        "channels",
        "params",
        "macs",
        "bytes",
    ]
    assert "conv1, layer1.0.conv2" in ties
    assert "(add in layer1.0; " in ties
    assert "linear          they are the output of the network" in whole
    assert "joins them with what no layer makes" in whole


def test_groups_as_json_hold_everything(ended, capsys):
    assert ended("groups", "lenet", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["shape"] == [1, 28, 28]
    first = said["groups"][0]
    assert first["units"] == 6
    assert first["params"] == 25 + 1 + 16 * 25
    assert {"group", "layers", "read by", "because", "whole", "macs", "bytes"} <= set(first)


def test_keep_is_heard(ended, capsys):
    assert ended("groups", "lenet", "--json", "--keep", "*") == 0
    said = json.loads(capsys.readouterr().out)
    assert all(row["whole"] for row in said["groups"])


def test_data_say_what_an_input_is(ended, capsys):
    assert ended("groups", "lenet", "--data", "digits?train=20&size=28", "--json") == 0
    assert json.loads(capsys.readouterr().out)["shape"][0] == 1


def test_masks_shrink_a_network_that_loads_again(ended, net, tmp_path, capsys):
    path, masks, masked = net
    out = tmp_path / "small.safetensors"
    assert ended("shrink", path, "--masks", masks, "--round", 1, "-o", out) == 0
    text = capsys.readouterr().out
    assert "3 of 6 units kept" in text
    assert "8 of 16 units kept" in text
    assert text.splitlines()[1].split()[:2] == ["params", "61,706"]
    small = thrifty.load(out).eval()
    x = torch.randn(3, 1, 28, 28)
    torch.testing.assert_close(small(x), masked(x), atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in small.parameters()) < 61_706


def test_a_dry_run_writes_nothing_and_says_the_same(ended, net, tmp_path, capsys):
    path, masks, _ = net
    before = sorted(tmp_path.iterdir())
    assert ended("shrink", path, "--masks", masks, "--round", 1, "--dry-run", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert sorted(said["kept"].values()) == [[3, 6], [8, 16]]
    assert said["after"]["macs"] < said["before"]["macs"]
    assert said["difference"] <= 1e-6
    assert "file" not in said
    assert sorted(tmp_path.iterdir()) == before


def test_without_masks_the_zeros_of_the_weights_count(ended, net, tmp_path, capsys):
    *_, masked = net
    thrifty.save(masked, tmp_path / "zeros.safetensors")
    assert ended("shrink", tmp_path / "zeros.safetensors", "--dry-run", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert list(said["kept"].values()) == [[8, 16]]  # of 6, 8 are not left: they round to all


def test_a_round_that_leaves_odd_widths_is_told_in_one_line(ended, net, capsys):
    path, masks, _ = net
    for multiple, told in ((1, True), (4, True), (8, False), (16, False)):
        assert ended("shrink", path, "--masks", masks, "--round", multiple, "--dry-run") == 0
        lines = [s for s in capsys.readouterr().out.splitlines() if "odd widths" in s]
        assert len(lines) == told
    assert ended("shrink", "lenet", "--round", 1, "--dry-run") == 0  # where nothing went
    assert "odd widths" not in capsys.readouterr().out


def test_heads_that_run_in_training_only_are_told(ended, capsys):
    # pytest.importorskip would import torchvision, whose operators may be missing.
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    assert ended("groups", "torchvision:googlenet", "--shape", "3x32x32") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("run in training only, and followed there: aux1, aux2")


def test_an_intact_network_loses_nothing_and_that_is_said(ended, capsys):
    assert ended("shrink", "lenet", "--dry-run") == 0
    out = capsys.readouterr().out
    assert "100.0%" in out
    assert "no channel could go" in out


def test_a_border_error_is_told(ended, tmp_path, capsys):
    torch.manual_seed(0)
    model = thrifty.resolve("resnet20?width=0.25", classes=10, shape=(3, 32, 32))
    with torch.no_grad():
        model.layer1[0].conv1.weight[0] = 0
        model.layer1[0].bn1.bias.fill_(2.0)
    thrifty.save(model, tmp_path / "net.safetensors")
    assert ended("shrink", tmp_path / "net.safetensors", "--round", 1, "--dry-run") == 0
    assert "at borders padded with zeros" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("groups", "nonet"), "nonet"),
        (("groups", "lenet", "--shape", "3,32,32"), "--shape is '3,32,32'"),
        (("groups", "lenet", "--shape", "0x4"), "--shape is '0x4'"),
        (("groups", "lenet", "--shape", "1x999999999x999999999"), "--shape is"),
        (("groups", "lenet", "--data", "digits", "--shape", "1x8x8"), "give one of them"),
        (("groups", "lenet", "--keep", "conv9"), "matches no layer"),
        (("shrink", "lenet"), "say where the network goes"),
        (("shrink", "lenet", "--dry-run", "-o", "x.safetensors"), "--dry-run writes nothing"),
        (("shrink", "lenet", "--dry-run", "--round", "0"), "--round is 0"),
        (("shrink", "lenet", "--dry-run", "--masks", "none.safetensors"), "no such file of masks"),
        (("shrink", "lenet", "-o", "net.xyz"), "no suffix that names a format"),
    ],
    ids=" ".join,
)
def test_a_mistake_is_told_in_a_line(ended, capsys, arguments, said):
    assert ended(*arguments) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_a_network_without_a_shape_asks_for_one(ended, capsys):
    # pytest.importorskip would import torchvision, whose operators may be missing.
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    assert ended("shrink", "torchvision:resnet18", "--dry-run") == 2
    assert "say --shape" in capsys.readouterr().err


def test_masks_of_another_network_are_refused(ended, net, capsys):
    _, masks, _ = net
    assert ended("shrink", "resnet20", "--masks", masks, "--dry-run") == 2
    assert "these masks do not fit" in capsys.readouterr().err
