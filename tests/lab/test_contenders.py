"""Contenders compared on tiny networks; which is faster is nobody's business here."""

import json

import pytest
import torch
from torch import nn

import thrifty.lab.contenders as contenders
from thrifty.errors import UserError
from thrifty.lab.contenders import OURS, Row, compare, ours, profiled
from thrifty.lab.paired import Ratio
from thrifty.lab.verdicts import verdicts
from thrifty.rivals import RIVALS, Rival
from thrifty.rivals.eager import eager, version
from thrifty.shown import to_json


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def row(name, ratio, precision="f32", equal=True, base=OURS, batch=1):
    return Row(
        contender=name,
        precision=precision,
        batch=batch,
        threads=1,
        difference=0.0 if equal else 0.5,
        equal=equal,
        median=None if not equal else 1.0,
        ratio=None if not equal or base is None else ratio,
        base=base,
    )


@pytest.fixture
def liar():
    """A rival whose answers are wrong."""

    def load(model, example, threads):
        right = eager(model, example, threads, torch.float32)
        return lambda x: right(x) + 1

    RIVALS.add("liar", Rival(about="wrong", load=load, version=version))
    yield "liar"
    del RIVALS._things["liar"], RIVALS._files["liar"]


def test_a_row_for_every_contender_batch_and_threads():
    found = compare(
        network(), torch.randn(2, 4), against=["torch", "torch_bf16"], batches=[1, 3], rounds=6
    )
    rivals = [r for r in found.rows if r.contender != OURS]
    assert [(r.contender, r.batch) for r in rivals] == [
        ("torch", 1),
        ("torch_bf16", 1),
        ("torch", 3),
        ("torch_bf16", 3),
    ]
    for r in found.rows:
        assert r.equal and 0 < r.least <= r.median * 1.001
        assert r.ratio.low <= r.ratio.middle <= r.ratio.high
    assert json.loads(to_json(found.to_rows()))[0]["ratio"]["low"] > 0


def test_conditions_say_where_with_what_and_under_which_load():
    found = compare(network(), torch.randn(1, 4), against=["torch"], rounds=1).conditions
    assert {"processor", "cores", "load", "torch", "thrifty", "date", "rounds"} <= set(found)


def test_wrong_answers_are_told_and_not_timed(liar):
    found = compare(network(), torch.randn(1, 4), against=["torch", liar], rounds=1)
    wrong = next(r for r in found.rows if r.contender == liar)
    assert not wrong.equal and wrong.median is None and wrong.ratio is None
    assert any("liar gives other answers" in text for text in verdicts(found.rows))


def test_the_network_and_the_threads_are_left_as_they_were():
    model = network().train()
    before = torch.get_num_threads()
    compare(model, torch.randn(1, 4), against=["torch"], rounds=1)
    assert model.training
    assert torch.get_num_threads() == before


def test_a_network_in_half_precision_is_compared_in_float32():
    found = compare(network().half(), torch.randn(1, 4), against=["torch"], rounds=1)
    assert all(r.equal for r in found.rows)


def test_inputs_that_do_not_fit_are_told():
    with pytest.raises(UserError, match=r"does not take inputs of shape \[1, 5\]"):
        compare(network(), torch.randn(1, 5), against=["torch"], rounds=1)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"against": ["onxruntime"]}, "did you mean onnxruntime"),
        ({"threads": [0]}, "the cores that may be used here"),
        ({"threads": [10**6]}, "the cores that may be used here"),
        ({"batches": [0]}, "a batch of 0"),
        ({"rounds": 0}, "1 or more"),
    ],
)
def test_wrong_numbers_and_names_are_told(wrong, match):
    with pytest.raises(UserError, match=match):
        compare(network(), torch.randn(1, 4), **{"against": ["torch"], "rounds": 1, **wrong})


def test_a_named_rival_that_cannot_run_is_an_error_and_an_unnamed_one_is_left_out():
    def load(model, example, threads):
        raise UserError("not on this processor")

    RIVALS.add("absent", Rival(about="never runs", load=load, version=version))
    try:
        with pytest.raises(UserError, match="not on this processor"):
            compare(network(), torch.randn(1, 4), against=["absent"], rounds=1)
        found = compare(network(), torch.randn(1, 4), rounds=1)
        assert found.left_out["absent"] == "not on this processor"
        assert "torch" in {r.contender for r in found.rows}
    finally:
        del RIVALS._things["absent"], RIVALS._files["absent"]


def test_without_an_engine_rivals_are_compared_and_that_is_said(monkeypatch):
    monkeypatch.setattr(contenders, "_engine", lambda: None)
    with pytest.raises(ImportError, match="no engine"):
        ours(network(), torch.randn(1, 4), 1)
    with pytest.raises(UserError, match="no engine"):
        profiled(network(), torch.randn(1, 4))
    found = compare(network(), torch.randn(1, 4), against=["torch", "torch_bf16"], rounds=1)
    assert "no engine" in found.left_out[OURS]
    assert {r.base for r in found.rows} == {"torch"}
    assert "dense" in verdicts(found.rows)[0]


def test_it_says_plainly_where_dense_wins():
    rows = [row(OURS, Ratio(1, 1, 1)), row("openvino", Ratio(0.77, 0.75, 0.8))]
    assert verdicts(rows) == ["batch 1, 1 thread: dense openvino is 1.30x faster here"]


def test_the_best_of_each_precision_is_named():
    rows = [
        row(OURS, Ratio(1, 1, 1)),
        row("onnxruntime", Ratio(3.5, 3, 4)),
        row("openvino", Ratio(3, 2.9, 3.1)),
        row("openvino_bf16", Ratio(1.5, 1.4, 1.6), "bf16"),
    ]
    first, second = verdicts(rows)
    assert "3.0x faster than openvino, the best dense runtime in f32" in first
    assert "1.50x faster than openvino_bf16" in second


def test_what_is_not_certain_is_not_claimed():
    rows = [row(OURS, Ratio(1, 1, 1)), row("openvino", Ratio(1.1, 0.9, 1.3))]
    assert "no difference" in verdicts(rows)[0]


def test_ours_with_other_answers_claims_nothing():
    rows = [row(OURS, None, equal=False), row("torch", Ratio(1, 1, 1), base="torch")]
    said = verdicts(rows)
    assert "thrifty gives other answers" in said[0]
    assert not any("faster than" in text for text in said)
