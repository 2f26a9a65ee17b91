"""``thrifty train --budget`` and ``thrifty nets --describe`` as people type them."""

import json

import pytest

from thrifty.cli import main
from thrifty.errors import UserError
from thrifty.trainings import budgeted


def said(capsys, *words):
    code = 0
    try:
        main(list(words))
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_a_budget_becomes_an_option_of_the_network():
    assert budgeted("thriftynet", "params=40k") == "thriftynet?budget=40k"
    assert budgeted("thriftynet?mode=mb2", "params=4e4") == "thriftynet?mode=mb2&budget=4e4"
    assert budgeted("resnet20", None) == "resnet20"


@pytest.mark.parametrize(
    "net, budget, message",
    [
        ("thriftynet", "40k", "write it as params=40k"),
        ("thriftynet", "bytes=40k", "write it as params=40k"),
        ("thriftynet", "params=", "write it as params=40k"),
        ("thriftynet", "params=much", "no number of parameters"),
        ("resnet20", "params=40k", "takes no budget; give thriftynet"),
        ("thriftynet?budget=20k", "params=40k", "give one of them"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(net, budget, message):
    with pytest.raises(UserError, match=message):
        budgeted(net, budget)


def test_a_description_can_be_read_by_programs(capsys):
    code, out, _ = said(capsys, "nets", "--describe", "thriftynet?budget=40k", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["parameters"] == 39_636
    assert found["layers"][0]["uses"] == 30


def test_a_description_of_nothing_ends_with_what_there_is(capsys):
    code, _, err = said(capsys, "nets", "--describe", "resnet21")
    assert code == 2
    assert "resnet20" in err


def test_training_begins_with_what_the_budget_gave(capsys, tmp_path):
    code, _, err = said(
        capsys,
        *("train", "thriftynet?iterations=3&history=2", "--budget", "params=1k"),
        *("--data", "digits?train=40&test=20", "--epochs", "1", "--workers", "1"),
        *("--out", str(tmp_path / "run")),
    )
    assert code == 0
    assert "T = 3 iterations of one convolution, f = " in err
