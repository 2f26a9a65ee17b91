"""Several runs as one front: what differs stays apart, what is one network is taken once."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from thrifty.lab.combined import combined
from thrifty.lab.front import Front
from thrifty.lab.records import DENSE, Record

Trained = Callable[..., Front]


@pytest.fixture
def trained(some_record: Callable[..., Record]) -> Trained:
    """A front of one network that was only trained, with seeds 0 and 1."""

    def make(key: str, model: str = "lenet", accuracy: float = 0.9) -> Front:
        return Front(
            tuple(
                some_record(
                    key=f"{key}{seed}", model=model, method=DENSE, seed=seed, accuracy=accuracy
                )
                for seed in (0, 1)
            )
        )

    return make


def test_one_network_trained_in_two_ways_is_two(trained: Trained) -> None:
    front = combined([trained("a"), trained("b", accuracy=0.8)], ["runs/plain", "runs/taught"])
    found = {p.model: (p.accuracy, p.seeds) for p in front.points}
    assert found == {"lenet (plain)": (0.9, 2), "lenet (taught)": (0.8, 2)}


def test_the_same_network_in_two_runs_is_one(trained: Trained) -> None:
    front = combined([trained("a"), trained("a")], ["runs/one", "runs/two"])
    assert [(p.model, p.seeds) for p in front.points] == [("lenet", 2)]


def test_only_networks_of_one_name_that_differ_are_renamed(trained: Trained) -> None:
    fronts = [trained("a"), trained("b"), trained("c", model="vgg16")]
    front = combined(fronts, ["x/run", "y/run", "z/run"])
    assert {r.model for r in front.records} == {"lenet (x run)", "lenet (y run)", "vgg16"}


def test_a_network_that_was_pruned_keeps_its_name(trained: Trained) -> None:
    dense = trained("a")
    cut = replace(dense.records[0], key="cut", method="magnitude", level=0.5)
    front = combined([Front((*dense.records, cut)), trained("b")], ["runs/cut", "runs/plain"])
    assert {r.model for r in front.records if r.method == "magnitude"} == {"lenet"}
    assert {r.model for r in front.records if r.method == DENSE} == {"lenet", "lenet (plain)"}
