"""Charts: what is drawn, where, in which colour, and how it is rendered."""

import math
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from typing import Any

import pytest

from thrifty.errors import UserError
from thrifty.lab.front import COSTS, Front
from thrifty.report import REPORTS
from thrifty.report.charts.layers import layer_rows
from thrifty.report.parts import CONTROL_COLOR, DENSE_COLOR, method_colors, method_shapes, pairs
from thrifty.report.render import Drawn, svg, vega_script
from thrifty.report.rows import domain, place, point_rows, zoomed


def scales(spec: Any, channel: str) -> list[dict[str, str]]:
    """Every scale of ``channel`` in a specification, as name to value."""
    if isinstance(spec, list):
        return [found for item in spec for found in scales(item, channel)]
    if not isinstance(spec, dict):
        return []
    scale = spec.get(channel, {}).get("scale") if isinstance(spec.get(channel), dict) else None
    own = (
        [dict(zip(scale["domain"], scale["range"], strict=True))]
        if "range" in (scale or {})
        else []
    )
    return own + [found for item in spec.values() for found in scales(item, channel)]


def words(text: str) -> str:
    return " ".join(ElementTree.fromstring(text).itertext())


def test_a_method_has_one_colour_in_all_charts(front):
    expected = method_colors(front)
    for name in ("front", "agreement"):
        found = scales(REPORTS.get(name)(front).to_dict(), "color")
        assert found
        for scale in found:
            assert {m: c for m, c in scale.items() if m in expected} == expected


def test_a_method_keeps_its_look_in_the_section_of_another_model(some_front):
    other = some_front(["magnitude"], model="mlp")
    both = Front(some_front(["random", "magnitude"]).records + other.records)
    second = REPORTS.get("front")(pairs(both)[1], colors=method_colors(both)).to_dict()
    assert scales(second, "color")[0]["magnitude"] == method_colors(both)["magnitude"]
    assert (
        scales(second, "shape")[0]["magnitude"]
        == method_shapes(["random", "magnitude"])["magnitude"]
    )


def test_parent_and_control_are_grey(front):
    scale = scales(REPORTS.get("front")(front).to_dict(), "color")[0]
    assert scale["dense"] == DENSE_COLOR
    assert scale["dense, trained on"] == CONTROL_COLOR


def test_forty_methods_differ_in_colour_or_shape(some_record):
    names = [f"method {i}" for i in range(40)]
    front = Front(tuple(some_record(method=name) for name in names))
    looks = {(method_colors(front)[n], method_shapes(names)[n]) for n in names}
    assert len(looks) == 40


@pytest.mark.parametrize("of", COSTS)
def test_the_front_is_drawn_over_every_cost(front, of):
    assert "magnitude" in words(svg(REPORTS.get("front")(front, of=of)))


def test_an_unknown_cost_is_refused_with_the_known_ones(front):
    with pytest.raises(UserError, match="did you mean bytes"):
        REPORTS.get("front")(front, of="byte")


def test_a_cost_that_was_not_measured_is_said(some_front):
    chart = REPORTS.get("front")(some_front(latency=False), of="latency_us")
    assert "latency in eager torch was not measured" in words(svg(chart))


def test_high_sparsities_are_apart_on_the_axis(front):
    text = words(svg(REPORTS.get("front")(front)))
    for label in ("50 %", "90 %", "95 %", "98 %", "99 %", "99.5 %"):
        assert label in text


def test_sizes_have_their_unit_on_the_axis(front):
    assert "10 kB" in words(svg(REPORTS.get("front")(front, of="bytes")))


def test_the_words_of_a_picture_are_text_in_a_font_every_machine_has(front):
    text = svg(REPORTS.get("front")(front))
    assert "Accuracy against sparsity: lenet on digits" in words(text)
    assert "sans-serif" in text
    assert "http" not in text.replace("http://www.w3.org/", "")


def test_a_png_has_twice_the_size_of_the_picture(front):
    chart = REPORTS.get("layers")(front)
    wide = ElementTree.fromstring(svg(chart)).attrib["width"]
    content = Drawn(chart).png()
    assert content.startswith(b"\x89PNG")
    width = int.from_bytes(content[16:20], "big")
    assert width == pytest.approx(2 * float(wide), abs=2)


def test_a_method_that_collapses_gets_a_panel_of_its_own(front, some_front):
    assert "accuracy, whole range" in words(svg(REPORTS.get("front")(front)))
    mild = some_front(["magnitude"], levels=(0.5, 0.8, 0.9), cut=False)
    assert "whole range" not in words(svg(REPORTS.get("front")(mild)))


def test_the_accuracy_before_retraining_gets_a_panel_if_it_is_far_below(some_front):
    front = some_front(["one_shot"], levels=(0.5, 0.8, 0.9))
    assert "dotted: before retraining" in words(svg(REPORTS.get("front")(front)))


def test_only_beaten_points_are_hollow(front):
    rows = point_rows(front, "accuracy", "sparsity")
    best = {(p.method, p.level) for p in front.pareto()}
    assert {(r["method"], r["level"]) for r in rows if not r["beaten"]} == best


def test_a_network_that_kept_nothing_has_a_place_on_the_log_axis(some_record):
    record = some_record(method="magnitude", sparsity=1.0, params=100)
    assert place(record, "sparsity") == 0.005


def test_a_share_axis_ends_on_half_points_and_within_0_and_1():
    assert domain([0.981, 0.9996]) == (0.98, 1.0)
    assert domain([]) == (0.0, 1.0)


def test_the_zoom_needs_something_near_and_something_far():
    assert zoomed([0.97, 0.2], [], 0.98)
    assert not zoomed([0.97, 0.95], [], 0.98)
    assert not zoomed([0.2, 0.1], [], 0.98)


def test_layers_keep_the_order_of_the_network(some_front, many_layers):
    layers = many_layers()
    rows = layer_rows(some_front(["magnitude"], seeds=2, layers=layers))
    assert list(dict.fromkeys(r["layer"] + ".weight" for r in rows)) == list(layers)


def test_layers_are_means_over_seeds(some_record):
    records = [
        some_record(method="magnitude", level=0.5, seed=seed, layers={"a.weight": [kept, 10]})
        for seed, kept in enumerate((4, 6))
    ]
    (row,) = layer_rows(Front(tuple(records)))
    assert (row["share"], row["text"], row["kept"]) == (0.5, "50", "5 of 10 weights")


def test_a_layer_with_no_weight_left_is_called_out(some_record):
    record = some_record(method="magnitude", level=0.9, layers={"a": [0, 10], "b": [2, 10]})
    assert "no weight is left" in words(svg(REPORTS.get("layers")(Front((record,)))))


def test_a_network_that_diverged_does_not_spoil_the_picture(front):
    broken = replace(front.records[-1], accuracy=math.nan, agreement=math.nan)
    spoilt = Front((*front.records[:-1], broken))
    for name in REPORTS.names():
        assert "NaN" not in REPORTS.get(name)(spoilt).to_json()


def test_the_script_can_stand_inside_a_page():
    assert "</script" not in vega_script().lower()
    assert "vegaEmbed" in vega_script()


def test_equal_fronts_give_equal_pictures(front):
    chart = REPORTS.get("front")
    assert svg(chart(front)) == svg(chart(front))
