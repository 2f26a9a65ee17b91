"""The picture of networks of different kinds: which lines, where they begin, when it is drawn."""

from dataclasses import replace

import pytest

from thrifty.lab.front import Front
from thrifty.lab.naming import short_names
from thrifty.report import REPORTS
from thrifty.report.charts.networks import by_data, series_rows, several
from thrifty.report.page import default_charts, write_page


@pytest.fixture
def both(some_front) -> Front:
    """A network that was pruned, and one of another kind that was only trained."""
    pruned = some_front(["magnitude", "random"])
    dense = next(r for r in pruned.records if r.method == "dense")
    return Front((*pruned.records, replace(dense, model="thriftynet?budget=4k", nonzero=77)))


def test_a_line_begins_at_the_dense_network_and_a_trained_one_is_a_point(both):
    rows = series_rows(by_data(both)[0], "nonzero")
    names = dict.fromkeys(row["network"] for row in rows)
    lines = {name: [row for row in rows if row["network"] == name] for name in names}
    assert len(lines) == 3
    dense = next(p for p in both.points if p.method == "dense")
    for name, line in lines.items():
        if "," in name:
            assert line[0]["x"] == dense.nonzero
            assert line[0]["y"] == dense.accuracy
            assert len(line) > 1
        else:
            assert (name, [row["x"] for row in line]) == ("thriftynet", [77])


def test_it_is_drawn_first_where_one_data_set_has_several_networks(both, some_front):
    assert default_charts(both)[0] == "networks"
    assert "networks" not in default_charts(some_front(["magnitude"]))
    elsewhere = Front(tuple(replace(r, data="other") for r in some_front(["random"]).records))
    alone = Front(some_front(["magnitude"]).records + elsewhere.records)
    assert not several(alone)
    assert "networks" not in default_charts(alone)


def test_networks_that_see_the_same_inputs_in_other_ways_are_shown_together(both):
    other = [r for r in both.records if r.model.startswith("thriftynet")]
    assert other
    own = Front(tuple(r for r in both.records if r not in other))
    seen = Front((*own.records, *(replace(r, data=f"{r.data}?normalize=half") for r in other)))
    assert len(by_data(seen)) == 1 and "networks" in default_charts(seen)
    fewer = Front((*own.records, *(replace(r, data=f"{r.data}?train=100") for r in other)))
    assert len(by_data(fewer)) == 2 and "networks" not in default_charts(fewer)


def test_one_network_that_sees_the_inputs_in_two_ways_is_two_lines(some_front):
    one = some_front(["magnitude"])
    two = Front((*one.records, *(replace(r, data=f"{r.data}?normalize=half") for r in one.records)))
    names = {row["network"] for row in series_rows(by_data(two)[0], "params")}
    assert len(names) == 2 and any("normalize=half" in name for name in names)


def test_networks_are_told_apart_by_what_differs():
    wide = "thriftynet?budget=8k&act=relu"
    names = short_names([wide, f"{wide} (taught)", "thriftynet?budget=4k&act=relu", "runs/cut-0.5"])
    assert names == {
        wide: "thriftynet?budget=8k",
        f"{wide} (taught)": "thriftynet?budget=8k (taught)",
        "thriftynet?budget=4k&act=relu": "thriftynet?budget=4k",
        "runs/cut-0.5": "cut-0.5",
    }


def test_networks_that_were_only_trained_are_shown_together(both):
    trained = Front(tuple(r for r in both.records if r.method == "dense"))
    assert default_charts(trained) == ["networks"]


def test_the_page_shows_all_networks_once_and_each_by_itself(both, tmp_path):
    write_page(both, tmp_path / "page.html", title="both", conditions={})
    text = (tmp_path / "page.html").read_text()
    assert text.count("All networks on ") >= 1
    assert text.index("All networks") < text.index("thriftynet?budget=4k on ")


def test_what_is_far_below_is_left_out_and_said(both):
    good = [r for r in both.records if r.accuracy > 0.9]
    assert "are left out" not in str(REPORTS.get("networks")(Front(tuple(good))).to_dict())
    bad = replace(both.records[-1], model="bad", accuracy=0.1)
    assert "are left out" in str(REPORTS.get("networks")(Front((*good, bad))).to_dict())


def test_a_cost_that_nobody_measured_is_said(both):
    unpacked = Front(tuple(replace(r, packed_bytes=None) for r in both.records))
    assert "packed size: not measured" in str(REPORTS.get("networks")(unpacked).to_dict())
