"""``thrifty look`` as its users meet it."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file


@pytest.fixture
def net(tmp_path):
    path = tmp_path / "net.safetensors"
    w = np.float32([[0.5, -0.05], [0.0, 2.0]])
    save_file({"fc.weight": w, "fc.bias": np.float32([0.2, 0.0])}, path)
    return path


def test_the_table_shows_both_conventions_and_says_them(ended, net, capsys):
    assert ended("look", net, "--under", ".1", "1") == 0
    out = capsys.readouterr().out
    header, weights, parameters = out.splitlines()[:3]
    assert header.split()[:4] == ["network", "counted", "count", "bytes"]
    assert "50.00 %" in weights
    assert "75.00 %" in weights
    assert "parameters" in parameters
    assert "batch normalisation as stored, not folded" in out


def test_flags_choose_what_counts(ended, net, capsys):
    assert ended("look", net, "--weights-only", "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert [row["counted"] for row in values["networks"]] == ["weights"]
    assert ended("look", net, "--weights-only", "--all") == 2
    assert "exclude each other" in capsys.readouterr().err


def test_per_layer_has_a_row_a_tensor(ended, net, capsys):
    assert ended("look", net, "--per-layer", "--relative") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["tensor", "fc.bias", "fc.weight"]


def test_a_page_is_written_without_pictures_where_altair_is_missing(
    ended, net, tmp_path, capsys, no_pictures
):
    page = tmp_path / "new" / "look.html"
    assert ended("look", net, "--html", page) == 0
    text = page.read_text()
    assert "thrifty[report]" in text
    assert "75.00 %" in text
    assert "Tensors" in text
    assert str(page) in capsys.readouterr().out


def test_one_bad_file_of_a_folder_is_named_and_the_others_are_reported(ended, net, capsys):
    (net.parent / "worse.safetensors").write_bytes(b"no header")
    assert ended("look", net.parent) == 1
    printed = capsys.readouterr()
    assert "50.00 %" in printed.out or "75.00 %" in printed.out
    assert "worse" in printed.err
    assert "net:" not in printed.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["look"], "name a network to look at"),
        (["look", "none.safetensors"], "there is no file"),
        (["look", "lenet", "--under", "0"], "above 0"),
        (["look", "resnet21"], "resnet20"),
        (["look", "lenet", "--under", "inf"], "above 0"),
        (["look", "lenet", "--threads", "0"], "1 or more"),
        (["look", "compare", "lenet"], "B"),
    ],
)
def test_mistakes_are_told(ended, arguments, said, capsys):
    assert ended(*arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", [["look"], ["look", "compare", "lenet"]])
def test_a_page_is_not_written_over_a_network(ended, command, net, capsys):
    before = net.read_bytes()
    assert ended(*command, net, "--html", net) == 2
    assert "name a page" in capsys.readouterr().err
    assert net.read_bytes() == before


def test_a_terminal_of_few_letters_and_none_at_all_are_printed_to(net):
    named = net.rename(net.with_name("n\xfct.safetensors"))
    code = "import sys; from thrifty.cli import main; {}main(['look', sys.argv[1]])"
    for before, out in (("", rb"n\xfct"), ("sys.stdout = None; ", b"")):
        run = subprocess.run(
            [sys.executable, "-c", code.format(before), named],
            capture_output=True,
            env=os.environ | {"PYTHONIOENCODING": "ascii"},
        )
        assert (run.returncode, run.stderr) == (0, b"")
        assert out in run.stdout


def test_a_pickle_with_code_is_refused(ended, tmp_path, capsys):
    path = tmp_path / "net.pt"
    torch.save({"model": torch.nn.Linear(2, 2)}, path)
    assert ended("look", path) == 2
    assert "execute code" in capsys.readouterr().err


def test_two_networks_side_by_side(ended, net, tmp_path, capsys, no_pictures):
    page = tmp_path / "both.html"
    assert ended("look", "compare", net, net, "--html", page) == 0
    out = capsys.readouterr().out
    assert "1.0000" in out
    assert "A  net" in out
    assert "Jaccard" in page.read_text()
    assert ended("look", "compare", net, net, "--json", "--all") == 0
    assert json.loads(capsys.readouterr().out)["whole"]["count"] == 6


def test_a_recipe_of_a_look_runs_and_writes(ended, net, tmp_path, capsys, no_pictures):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"look:\n  sources: {net}\n  under: [1, .1]\n")
    out = tmp_path / "out"
    assert ended("run", recipe, "look.relative=true", "--out", out) == 0
    assert "std" in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == ["census.json", "look.html", "recipe.yaml"]
    assert json.loads((out / "census.json").read_text())["under"] == [1.0, 0.1]
    assert ended("validate", recipe) == 0


def test_every_mistake_in_a_recipe_of_a_look_is_told(ended, tmp_path, capsys):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("look:\n  sources: []\n  under: [-1]\n  folded: true\nmore: 1\n")
    assert ended("validate", recipe) == 2
    said = capsys.readouterr().err
    for word in ("look.sources", "look.under.0", "look.folded", "more"):
        assert word in said


def test_the_recipe_of_the_four_networks_can_do_without_published_weights(capsys):
    from thrifty.census.recipe import make_look
    from thrifty.lab.recipe import values_of

    values, where = values_of("imagenet-weights", ["look.pretrained=false"])
    named = make_look(values, where).look.named()
    assert named == (
        "torchvision:alexnet",
        "torchvision:vgg16",
        "torchvision:googlenet",
        "torchvision:resnet152",
    )
