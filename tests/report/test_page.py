"""The page: one file that needs nothing else, whatever is on it."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from thrifty.errors import UnknownName
from thrifty.lab.front import Front
from thrifty.report.page import default_charts, drawer, write_page
from thrifty.report.parts import pairs

HOSTILE = '</script><script>alert(1)</script><b onmouseover="x">&\''


class Page(HTMLParser):
    """The elements of a page, the text of its scripts, and its visible text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def written(front: Front, folder: Path, **options: Any) -> Page:
    options = {"title": "a title", "conditions": {}, "charts": [], **options}
    write_page(front, folder / "report.html", **options)
    return Page((folder / "report.html").read_text())


def test_the_page_asks_the_network_for_nothing(front, tmp_path):
    page = written(front, tmp_path, charts=None)
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#")), (tag, attributes)
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert "default-src 'none'" in policy and "http" not in policy
    styles = re.findall(r"<style>.*?</style>", (tmp_path / "report.html").read_text(), re.S)
    assert styles and not any("url(" in style or "@import" in style for style in styles)


def test_vega_is_inside_once_for_all_charts(front, tmp_path):
    page = written(front, tmp_path, charts=["front", "layers", "agreement"])
    assert sum("vegaEmbed=" in s.replace(" ", "") for s in page.scripts) == 1
    assert page.count("img") == 3
    assert (tmp_path / "report.html").stat().st_size < 2_500_000


def test_every_chart_is_a_picture_and_a_specification(front, tmp_path):
    page = written(front, tmp_path, charts=None)
    places = [a["data-spec"] for t, a in page.tags if t == "div" and "data-spec" in a]
    found = {a["id"] for t, a in page.tags if a.get("type") == "application/json"}
    assert set(places) == found and len(places) == 7
    for text in page.scripts:
        if text.startswith("{"):
            assert "$schema" in json.loads(text)


def test_names_cannot_become_markup(tmp_path, some_front):
    front = some_front([HOSTILE], model=HOSTILE, data=HOSTILE, seeds=1)
    conditions = {HOSTILE: HOSTILE, "recipe": {"model": HOSTILE}}
    plain = written(
        some_front(["magnitude"], seeds=1),
        tmp_path,
        conditions={"recipe": {"a": 1}},
        charts=["layers", "agreement"],
    )
    charts = ["layers", "agreement"]
    page = written(front, tmp_path, title=HOSTILE, conditions=conditions, charts=charts)
    assert page.count("script") == plain.count("script")
    assert page.count("b") == 0
    assert not any("onmouseover" in attributes for _, attributes in page.tags)
    assert HOSTILE in page.text


def test_the_first_sentences_say_what_was_found(front, tmp_path):
    text = written(front, tmp_path).text
    assert "The dense lenet on digits is right on 98.18 \u00b1 0.09 %" in text
    assert "The smallest within half a point is magnitude" in text
    assert "times less than the dense network" in text
    assert "the knee of the front" in text
    assert "come from longer training, not from pruning" in text


def test_the_table_has_a_row_for_every_point(front, tmp_path):
    page = written(front, tmp_path)
    assert page.count("tr") == len(front.points) + 1
    marked = [a["class"] for t, a in page.tags if t == "tr" and "pick" in a.get("class", "")]
    assert len(marked) == 1


def test_a_column_in_which_nothing_was_measured_is_left_out(tmp_path, some_front):
    timed, untimed = (
        written(some_front(latency=t), tmp_path).text.rpartition("Terms")[0] for t in (True, False)
    )
    for column in ("torch us", "engine ms", "speedup"):
        assert column in timed and column not in untimed


def test_packed_bytes_are_told_for_all_or_beside_those_of_the_other_file(tmp_path, some_front):
    def columns(front: Front) -> set[str]:
        return {column for row in front.table() for column in row if "bytes" in column}

    packed, plain = some_front(["magnitude"]), some_front(["random"], packed=False, control=False)
    assert columns(packed) == {"packed bytes"}
    assert columns(plain) == {"bytes"}
    mixed = Front(packed.records + plain.records)
    assert columns(mixed) == {"packed bytes", "bytes"}
    assert "on disk, packed." in written(packed, tmp_path).text
    assert "on disk, compressed." in written(mixed, tmp_path).text
    assert "front?of=bytes" not in default_charts(packed)
    assert "front?of=packed_bytes" not in default_charts(mixed)


def test_the_fastest_in_the_engine_is_named_and_its_chart_says_who_is_slower(front, tmp_path):
    page = written(front, tmp_path, charts=["front?of=engine_ms"])
    assert re.search(
        r"The fastest within half a point is magnitude at 9[\d.]+ % sparsity: thrifty's engine "
        r"takes [\d.]+ us for one input on one thread, [\d.]+ times as fast as the dense network",
        page.text,
    )
    assert "Thrifty's engine takes 35.0 us for one input of the dense network, and" in page.text
    assert "are slower than" not in page.text
    half = tuple(
        replace(r, engine_speedup=0.5) if r.method == "magnitude" and r.level == 0.5 else r
        for r in front.records
    )
    text = written(Front(half), tmp_path, charts=["front?of=engine_ms"]).text
    assert "1 of 24 points are slower than the dense network there, magnitude at" in text
    assert "most, at 0.50 times its speed" in text


def test_networks_that_are_no_faster_in_the_engine_are_not_called_faster(tmp_path, some_front):
    front = some_front(["magnitude"])
    slow = Front(tuple(replace(r, engine_speedup=1.01) for r in front.records))
    text = written(slow, tmp_path).text
    assert "no pruned network within half a point is faster than the dense" in text
    assert "The fastest within" not in text


def test_what_prevents_the_engine_is_said_once(tmp_path, some_front):
    front = some_front(latency=False)
    why = "its forward branches on numbers"
    told = Front(tuple(replace(r, engine_why=why) for r in front.records))
    page = written(told, tmp_path, charts=None)
    assert page.text.count(why) == 1
    assert f"Nothing was timed in thrifty's engine: {why}." in page.text
    assert "engine_ms" not in default_charts(told)
    assert why not in written(front, tmp_path).text


def test_it_is_said_which_networks_the_engine_could_not_run(front, tmp_path):
    some = [replace(r, engine_ms=None, engine_speedup=None, engine_why="no") for r in front.records]
    text = written(
        Front((*front.records[:-1], some[-1])), tmp_path, charts=["front?of=engine_ms"]
    ).text
    assert "Some were not timed: no." in text


def test_latencies_within_noise_are_not_called_faster(front, tmp_path):
    text = written(front, tmp_path, charts=["front?of=latency_us"]).text
    assert "no speed was won" in text
    assert "Masks alone do not make a dense runtime faster" in text


@pytest.fixture
def with_filters(some_front) -> Front:
    return some_front(["magnitude", "l1_filter"], removing=["l1_filter"])


def test_networks_without_some_channels_are_said_to_be_smaller(with_filters, tmp_path, some_front):
    page = written(with_filters, tmp_path)
    assert re.search(
        r"that have channels removed \(l1_filter\), the one of fewest multiply-adds within half a "
        r"point is l1_filter at [\d.]+ % sparsity: [\d.]+ k of 411 k multiply-adds",
        page.text,
    )
    assert page.count("th") == written(some_front(), tmp_path).count("th") + 2


def test_it_is_said_when_no_network_without_channels_is_good_enough(tmp_path, some_front):
    few = {"levels": (0.5, 0.8, 0.9, 0.95, 0.98), "removing": ["random"]}
    front = some_front(["magnitude", "random"], **few)
    worse = Front(tuple(r for r in front.records if r.method != "random" or r.level > 0.9))
    text = written(worse, tmp_path).text
    assert "No network that has channels removed (random) stays within half a point." in text


def test_only_networks_without_some_channels_are_called_faster(with_filters, tmp_path):
    text = written(with_filters, tmp_path, charts=["front?of=latency_us"]).text
    assert "The fastest that has channels removed, l1_filter at" in text
    assert "no speed was won" not in text
    assert "Masks alone (magnitude) do not make a dense runtime faster" in text


def test_channels_removed_without_speed_are_not_called_faster(tmp_path, some_front):
    front = some_front(["l1_filter"], removing=["l1_filter"])
    slow = Front(tuple(replace(r, latency_us=100.0) for r in front.records))
    text = written(slow, tmp_path, charts=["front?of=latency_us"]).text
    assert "no speed was won" in text
    assert "The fastest that" not in text and "Masks alone" not in text


def test_accuracy_against_convolutions_is_drawn_where_a_method_removes_channels(
    with_filters, some_front
):
    assert "front?of=sparsity_conv" in default_charts(with_filters)
    assert "front?of=sparsity_conv" not in default_charts(some_front())
    assert "front?of=sparsity_conv" not in default_charts(
        some_front(["l1_filter"], removing=["l1_filter"])
    )
    linear = some_front(["magnitude", "l1_filter"], removing=["l1_filter"], layers={"fc": 900})
    assert "front?of=sparsity_conv" not in default_charts(linear)


def test_parts_of_one_name_have_charts_of_their_own(some_record):
    one, two = (some_record(method="dense", model=f"{run}/small") for run in ("one", "two"))
    draw = drawer(front := Front((one, two)))
    first, second = (draw("layers", part) for part in pairs(front))
    assert first is not second
    assert draw("layers", pairs(front)[0]) is first


def test_there_is_no_latency_chart_without_latencies(tmp_path, some_front):
    page = written(some_front(latency=False), tmp_path, charts=None)
    assert "Masks alone" not in page.text
    assert page.count("img") == 5


def test_a_page_of_nothing_says_so(tmp_path):
    page = written(Front(()), tmp_path, charts=None)
    assert "Nothing was measured yet." in page.text
    assert page.count("table") == 0


def test_a_page_without_pruned_networks_has_its_dense_parent(tmp_path, some_record):
    page = written(Front((some_record(),)), tmp_path)
    assert "No pruned network was measured yet." in page.text
    assert page.count("tr") == 2


def test_one_seed_is_said_to_have_no_spread(tmp_path, some_front):
    text = written(some_front(["magnitude"], seeds=1, levels=[0.9]), tmp_path).text
    assert "no spread is known" in text


def test_it_is_said_when_nothing_stays_within_half_a_point(tmp_path, some_front):
    front = some_front(["random"], levels=(0.5, 0.8, 0.9, 0.95))
    worse = Front(tuple(r for r in front.records if r.level == 0 or r.level > 0.8))
    text = written(worse, tmp_path).text
    assert "No pruned network stays within half a point" in text
    assert "the nearest, random at" in text


def test_each_model_and_data_set_has_its_section(tmp_path, some_front):
    other = some_front(["magnitude"], model="mlp", data="mnist", seeds=1)
    page = written(Front(some_front(seeds=1).records + other.records), tmp_path)
    assert page.count("table") == 2
    assert "lenet on digits" in page.text and "mlp on mnist" in page.text


def test_conditions_and_recipe_are_shown(front, tmp_path):
    conditions = {
        "threads": 2,
        "versions": {"torch": "2.13.0"},
        "recipe": {"prune": {"levels": [1]}},
    }
    text = written(front, tmp_path, conditions=conditions).text
    assert "torch 2.13.0" in text
    assert "prune:\n  levels:\n  - 1" in text


def test_an_unknown_chart_is_refused_before_a_file_is_written(front, tmp_path):
    with pytest.raises(UnknownName, match="did you mean front"):
        write_page(front, tmp_path / "x.html", title="", conditions={}, charts=["fromt"])
    assert not list(tmp_path.iterdir())
