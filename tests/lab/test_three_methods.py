"""The study of three methods: what its recipe measures, and what it refuses before training."""

from pathlib import Path

import pytest

from thrifty.errors import UserError
from thrifty.lab.front import Front
from thrifty.lab.recipe import read
from thrifty.lab.run import run
from thrifty.report.page import default_charts

SMALL = [
    "model=three_methods_cnn?hidden=8&width=0.25",
    "data=digits?train=100&test=60",
    "seeds=1",
    "train.epochs=1",
    "retrain.epochs=1",
    "prune.sparsity=[.4,.8]",
    "latency=false",
    "machine.workers=1",
]


@pytest.fixture(scope="module")
def told() -> list[dict[str, object]]:
    return []


@pytest.fixture(scope="module")
def front(tmp_path_factory, told) -> Front:
    return run(read("three-methods", SMALL), tmp_path_factory.mktemp("run"), tell=told.append)


def test_both_baselines_and_the_combination_are_on_the_front(front):
    assert {p.method for p in front.pruned} == {
        "magnitude",
        "l1_filter",
        "slimming",
        "rules",
        "random",
        "random_filter",
    }
    assert front.dense is not None and front.control is not None


def test_accuracy_is_drawn_against_all_weights_and_those_of_the_convolutions(front):
    assert default_charts(front)[:2] == ["front", "front?of=sparsity_conv"]


def test_slimming_leaves_the_hidden_units_alone_and_filters_do_not(front):
    last = {p.method: p for p in front.records if p.level == 0.8}
    assert last["slimming"].layers["fc2.weight"] == [80, 80]
    assert last["l1_filter"].layers["fc2.weight"][0] < 80


def test_only_what_removes_channels_has_fewer_parameters(front):
    assert {p.method for p in front.smaller} == {"l1_filter", "slimming", "rules", "random_filter"}
    dense = front.dense
    assert dense is not None
    assert all(p.params == dense.params for p in front.pruned if p not in front.smaller)


def test_the_parent_with_gates_is_counted_among_what_is_made(front, told):
    (begin,) = [e for e in told if "total" in e]
    assert begin["total"] == sum(e.get("done") is True for e in told)


@pytest.mark.parametrize("name", ["three-methods", "three-methods-full"])
def test_every_method_of_the_study_has_equal_epochs_half_those_of_the_parent(name):
    recipe = read(name)
    assert recipe.train.epochs == 2 * recipe.retrain.epochs
    assert recipe.prune.gate is not None and recipe.prune.gate.startswith("bn_finder")


def test_a_level_that_filters_cannot_reach_is_refused_before_any_training(tmp_path: Path):
    with pytest.raises(UserError, match="cannot be met"):
        run(read("three-methods", [*SMALL, "prune.sparsity=[.5,.99]"]), tmp_path)
    assert not list(tmp_path.glob("steps/*/*.json"))


def test_a_round_that_leaves_odd_widths_is_told_before_training(front, told, tmp_path):
    assert str(told[0]["message"]).startswith("round 1 leaves odd widths")
    assert sum("message" in event for event in told) == 1
    said: list[dict[str, object]] = []
    small = [*SMALL, "prune.method=[l1_filter]", "prune.rules=null", "prune.sparsity=.4"]
    run(read("three-methods", [*small, "prune.round=8"]), tmp_path / "even", tell=said.append)
    assert not any("message" in event for event in said)
