"""``thrifty bench`` as its users meet it; who is faster is not asserted."""

import importlib.util
import json

import pytest
import torch

import thrifty
import thrifty.lab.contenders as contenders
from thrifty.lab.contenders import OURS

NET = "three_methods_cnn?width=0.5&shape=1x8x8"
QUICK = ("--rounds", "2", "--against", "torch", "torch_bf16")


class Engine:
    """What our engine is to this command: torch, with an error added where asked for."""

    def __init__(self, source, example, threads, off=0.0):
        model = source if isinstance(source, torch.nn.Module) else thrifty.load(source)
        self.model, self.off = model.eval(), off

    def __call__(self, x):
        with torch.no_grad():
            return self.model(torch.from_numpy(x)).numpy() + self.off

    def profile(self, x):
        class Op:
            name, kind, how, us, density = "conv1", "conv", "sparse rows", 12.5, 0.1

        return [Op(), Op()]


def test_a_table_a_verdict_and_the_conditions_are_printed(ended, capsys):
    assert ended("bench", NET, *QUICK) == 0
    table, said, conditions = capsys.readouterr().out.split("\n\n")
    head, *rows = table.splitlines()
    assert head.split()[:4] == ["contender", "batch", "threads", "ms"]
    assert {"torch", "torch_bf16"} <= {row.split()[0] for row in rows}
    assert "batch 1, 1 thread:" in said
    assert "processor" in conditions and "load" in conditions


def test_json_holds_every_row_for_every_batch(ended, capsys):
    assert ended("bench", NET, *QUICK, "--batch", "1", "3", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    rows = [(r["contender"], r["batch"]) for r in said["rows"] if r["contender"] != OURS]
    assert rows == [("torch", 1), ("torch_bf16", 1), ("torch", 3), ("torch_bf16", 3)]
    assert said["verdicts"] and said["conditions"]["rounds"] == 2


def test_inputs_may_come_from_data(ended, capsys):
    assert ended("bench", "lenet", "--data", "digits?train=20&test=3", *QUICK, "--batch", "5") == 0
    assert " 5 " in capsys.readouterr().out


def test_ours_is_the_base_of_the_ratios(ended, capsys, monkeypatch):
    monkeypatch.setattr(contenders, "_engine", lambda: Engine)
    assert ended("bench", NET, *QUICK, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["rows"][0]["contender"] == OURS
    assert {row["base"] for row in said["rows"]} == {OURS}
    assert "no difference between thrifty and dense torch is certain" in said["verdicts"][0]


def test_other_answers_of_ours_end_it_with_1_after_the_table(ended, capsys, monkeypatch):
    monkeypatch.setattr(contenders, "_engine", lambda: lambda *a, **k: Engine(*a, **k, off=1.0))
    assert ended("bench", NET, *QUICK) == 1
    out, err = capsys.readouterr()
    assert "NO" in out and "thrifty gives other answers" in out
    assert "the engine's answers differ from torch's" in err


def test_a_profile_shows_every_operation_and_how_it_ran(ended, capsys, monkeypatch):
    monkeypatch.setattr(contenders, "_engine", lambda: Engine)
    assert ended("bench", NET, "--profile") == 0
    out = capsys.readouterr().out
    assert "sparse rows" in out and "50.0%" in out and "10.0%" in out
    assert ended("bench", NET, "--profile", "--json", "--batch", "1", "2") == 0
    assert [row["batch"] for row in json.loads(capsys.readouterr().out)] == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((NET, "--against", "onxruntime"), "did you mean onnxruntime"),
        ((NET, "--batch", "0"), "--batch is 0; it must be 1 or more"),
        ((NET, "--batch", "x"), "must be a whole number"),
        ((NET, "--threads", "100000"), "the cores that may be used here"),
        ((NET, "--rounds", "0"), "--rounds is 0"),
        ((NET, "--batch", "100000"), "a batch of 100000"),
        (("nonet",), "no network is called 'nonet'"),
        (("resnet20", "--batch", "60000", "--shape", "3x64x64"), "more than the"),
        (("lenet", "--shape", "3x0x2"), "--shape is '3x0x2'"),
    ],
)
def test_wrong_input_is_told_in_one_line(ended, arguments, said, capsys):
    assert ended("bench", *arguments) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_network_that_does_not_say_what_it_takes_needs_a_shape(ended, capsys):
    # pytest.importorskip would import torchvision, whose operators may be missing.
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    assert ended("bench", "torchvision:alexnet") == 2
    assert "say --shape" in capsys.readouterr().err
