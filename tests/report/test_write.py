"""A folder of report files, with and without the extra that draws."""

import sys
import xml.etree.ElementTree as ElementTree

import pytest

from thrifty.errors import MissingExtra, UserError
from thrifty.report.page import write_page
from thrifty.report.units import quantity, ticks
from thrifty.report.write import file_stem, write_report


@pytest.fixture
def without_altair(monkeypatch):
    monkeypatch.setitem(sys.modules, "altair", None)


def test_a_report_has_a_page_and_a_picture_of_every_chart(tmp_path, some_front):
    front = some_front(["magnitude"], seeds=2, levels=(0.5, 0.9), latency=False)
    found = write_report(front, tmp_path / "new", title="t", conditions={}, formats=("html", "svg"))
    stems = {"front", "front-packed_bytes", "layers", "agreement", "seeds"}
    assert {p.name for p in found} == {"report.html", *(f"{stem}.svg" for stem in stems)}
    assert {p.name for p in (tmp_path / "new").iterdir()} == {p.name for p in found}
    for path in found[1:]:
        assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_pictures_alone_can_be_asked_for(tmp_path, some_front):
    front = some_front(["magnitude"], seeds=1, levels=(0.9,), latency=False)
    found = write_report(front, tmp_path, title="t", conditions={}, formats=("png",))
    assert all(p.suffix == ".png" and p.read_bytes().startswith(b"\x89PNG") for p in found)


def test_an_unknown_format_is_refused(front, tmp_path):
    with pytest.raises(UserError, match="html, svg, png"):
        write_report(front, tmp_path, title="t", conditions={}, formats=("pdf",))


def test_without_altair_the_page_says_how_to_get_charts(front, tmp_path, without_altair):
    found = write_report(front, tmp_path, title="t", conditions={"threads": 2})
    assert [p.name for p in found] == ["report.html"]
    text = found[0].read_text()
    assert "pip install &#39;thrifty[report]&#39;" in text
    assert "The smallest within half a point is magnitude" in text
    assert "<table>" in text and "threads" in text
    assert "vega" not in text.split("</style>")[1]


def test_without_vl_convert_the_page_is_still_written(front, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    write_page(front, tmp_path / "report.html", title="t", conditions={})
    assert "thrifty[report]" in (tmp_path / "report.html").read_text()


def test_without_altair_pictures_alone_are_an_error(front, tmp_path, without_altair):
    with pytest.raises(MissingExtra, match=r"thrifty\[report\]"):
        write_report(front, tmp_path, title="t", conditions={}, formats=("svg",))


def test_without_altair_a_front_in_a_notebook_is_its_table(front, without_altair):
    assert front._repr_html_().startswith("<table>")


def test_a_front_in_a_notebook_is_a_picture_and_a_table(front):
    assert front._repr_html_().startswith("<svg")


def test_file_names_tell_the_options():
    assert file_stem("front") == "front"
    assert file_stem("front?of=bytes") == "front-bytes"


@pytest.mark.parametrize(
    ("value", "of", "text"),
    [
        (0, "bytes", "0 B"),
        (999, "bytes", "999 B"),
        (12_345, "bytes", "12.3 kB"),
        (999_999, "bytes", "1.00 MB"),
        (820.4, "latency_us", "820 us"),
        (8.24, "latency_us", "8.2 us"),
        (1_500, "latency_us", "1.50 ms"),
        (0.0345, "engine_ms", "34.5 us"),
        (0.0005, "engine_ms", "0.5 us"),
        (12.34, "engine_ms", "12.3 ms"),
        (2_000, "engine_ms", "2.00 s"),
        (950, "packed_bytes", "950 B"),
        (61_706, "nonzero", "61.7 k"),
    ],
)
def test_quantities_have_three_digits_and_a_unit(value, of, text):
    assert quantity(value, of) == text


def test_an_axis_has_at_least_three_round_ticks():
    assert ticks(0.001, 1) == [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    assert ticks(60, 220) == [70, 100, 150, 200]
