"""``thrifty sensitivity`` as its users meet it."""

import json

import pytest
import torch
import yaml

import thrifty
from thrifty.cli import main

DATA = "digits?train=160&test=80"


@pytest.fixture
def net(tmp_path):
    torch.manual_seed(0)
    model = thrifty.resolve("lenet", classes=10, shape=(1, 8, 8))
    thrifty.train(model, thrifty.load_data(DATA), thrifty.Plan(epochs=3))
    path = tmp_path / "net.safetensors"
    thrifty.save(model, path)
    return path


def test_the_table_the_findings_and_the_recipe_are_shown(ended, net, tmp_path, capsys, no_pictures):
    out = tmp_path / "out"
    arguments = ["--data", DATA, "--sparsity", ".3", ".9", "--out", out, "--max-drop", 9]
    assert ended("sensitivity", net, *arguments) == 0
    printed = capsys.readouterr()
    assert printed.out.split()[:4] == ["layer", "weights", "0.3", "0.9"]
    assert "160 training inputs" in printed.out
    assert "layers:\n" in printed.out
    assert "5 layers to try" in printed.err
    assert "[5/5]" in printed.err
    said = yaml.safe_load((out / "layers.yaml").read_text())
    assert said["prune"]["allocation"] == "explicit"
    assert said["train"] == {"epochs": 0}
    assert "thrifty[report]" in (out / "report.html").read_text()
    try:
        main(["validate", str(out / "layers.yaml")])
    except SystemExit as end:
        pytest.fail(str(end))


def test_channels_as_json(ended, net, tmp_path, capsys, no_pictures):
    arguments = [net, "--data", DATA, "--method", "l1_filter", "--sparsity", ".5", "--json", "-q"]
    assert ended("sensitivity", *arguments, "--out", tmp_path / "out") == 0
    printed = capsys.readouterr()
    values = json.loads(printed.out)
    assert printed.err == ""
    assert [row["layer"] for row in values["rows"]] == ["conv1", "conv2", "fc1", "fc2"]
    assert "fc3" in values["whole"]
    assert values["max_drop"] == 0.01
    assert values["removes"] == "channels"


def test_pictures_and_a_page_elsewhere(ended, net, tmp_path, capsys):
    pytest.importorskip("altair")
    page, out = tmp_path / "elsewhere" / "page.html", tmp_path / "out"
    arguments = ["--data", DATA, "--sparsity", ".5", ".9", "--out", out, "--html", page]
    assert ended("sensitivity", net, *arguments) == 0
    names = {p.name for p in out.iterdir()}
    stems = ("sensitivity", "sensitivity-lines")
    assert {f"{stem}.{end}" for stem in stems for end in ("svg", "png")} <= names
    picture = (out / "sensitivity.svg").read_text()
    assert ">conv1<" in picture
    assert "sparsity of that layer" in picture
    text = page.read_text()
    assert text == (out / "report.html").read_text()
    assert "What each layer bears" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lenet"], "--data"),
        (["lenet", "--data", "digits", "--max-drop", "200"], "points of accuracy"),
        (["lenet", "--data", "digits", "--sparsity", "90"], "written 0.9"),
        (["lenet", "--data", "digits", "--method", "l1filter"], "l1_filter"),
        (["lenet", "--data", "digits", "--html", "net.safetensors"], "name a page"),
        (["lenet", "--data", "digits", "--inputs", "1.5"], "whole number"),
        (["lent", "--data", "digits"], "lenet"),
    ],
)
def test_mistakes_are_told(ended, arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ended("sensitivity", *arguments) == 2
    assert said in capsys.readouterr().err
