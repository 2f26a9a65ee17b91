"""What every report must do, whoever wrote it."""

import inspect
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from thrifty.errors import MissingExtra
from thrifty.lab.front import Front
from thrifty.lab.records import Record
from thrifty.report import REPORTS
from thrifty.report.render import Drawn


def record(method: str, level: float, seed: int, **changes: object) -> Record:
    kept = round(1000 * (1 - level))
    values = {
        "key": f"{seed:012x}", "model": "net", "data": "toy", "method": method, "level": level,
        "seed": seed, "sparsity": level, "sparsity_all": level, "accuracy_cut": 0.5,
        "accuracy": 0.95 - 0.1 * level**20 + 0.001 * seed, "accuracy_dense": 0.95 + 0.001 * seed,
        "agreement": 0.98 - 0.1 * level**20, "loss": 0.2, "params": 1010, "prunable": 1000,
        "nonzero": kept + 10, "macs": 1000, "macs_nonzero": kept, "bytes": 4 * kept + 300,
        "bytes_dense": 4300, "layers": {"a.weight": [kept, 1000]},
    }  # fmt: skip
    return Record(**{**values, **changes})


def many(seeds: int) -> Front:
    runs = [("dense", 0.0), ("control", 0.98)]
    runs += [(m, s) for m in ("one", "two") for s in (0.5, 0.9, 0.98)]
    return Front(tuple(record(m, s, seed) for seed in range(seeds) for m, s in runs))


FRONTS = {
    "nothing": Front(()),
    "only the dense parent": Front((record("dense", 0.0, 0),)),
    "one record": Front((record("one", 0.9, 0),)),
    "many records": many(1),
    "many seeds": many(9),
    "two models": Front(
        many(2).records + tuple(record("one", s, 0, model="other") for s in (0.5, 0.9))
    ),
    "everything cut": Front((record("one", 1.0, 0), record("two", 0.0, 0))),
}


@pytest.mark.parametrize("front", FRONTS.values(), ids=FRONTS.keys())
@pytest.mark.parametrize("name", REPORTS.names())
def test_a_report_draws_a_picture_of_any_front(name, front):
    root = ElementTree.fromstring(Drawn(REPORTS.get(name)(front)).svg)
    assert root.tag.endswith("svg")
    assert 100 < float(root.attrib["width"]) < 2000
    assert "".join(root.itertext()).strip()


@pytest.mark.parametrize("name", REPORTS.names())
def test_a_report_needs_a_front_and_nothing_else(name):
    first, *others = inspect.signature(REPORTS.get(name)).parameters.values()
    assert first.name == "front"
    assert all(p.default is not p.empty for p in others)


@pytest.mark.parametrize("name", REPORTS.names())
def test_a_report_says_in_a_line_what_it_shows(name):
    assert 20 < len(REPORTS.summary(name)) < 100


@pytest.mark.parametrize("name", REPORTS.names())
def test_a_report_without_altair_names_the_extra(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(MissingExtra, match=r"pip install 'thrifty\[report\]'"):
        REPORTS.get(name)(many(1))
