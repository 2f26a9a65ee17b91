"""Pages and pictures of a census and of a comparison."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

import thrifty
from thrifty.report.census_charts import CENSUS_REPORTS
from thrifty.report.census_page import sentences, write_census
from thrifty.report.comparison_page import write_comparison


def networks(folder, count: int, zeros: bool = False):
    rng = np.random.default_rng(0)
    for i in range(count):
        w = rng.normal(0, 0.1, (20, 10)).astype(np.float32) * (not zeros)
        save_file({"fc.weight": w, "fc.bias": w[:, 0]}, folder / f"net{i}.safetensors")
    return thrifty.look(folder, relative=True, curves=True)


@pytest.mark.parametrize("name", CENSUS_REPORTS.names())
@pytest.mark.parametrize("count", [1, 3, 15])
def test_every_chart_draws_one_network_several_and_a_population(tmp_path, name, count):
    chart = CENSUS_REPORTS.get(name)(networks(tmp_path, count))
    if chart is None:
        assert (name, count) == ("layers", 15)
    else:
        text = json.dumps(chart.to_dict())
        assert "NaN" not in text
        assert len(text) > 500


@pytest.mark.parametrize("name", CENSUS_REPORTS.names())
def test_every_chart_takes_a_network_of_zeros(tmp_path, name):
    chart = CENSUS_REPORTS.get(name)(networks(tmp_path, 1, zeros=True))
    assert (chart is None) == (name in ("energy", "decades"))


def test_a_page_needs_no_network_and_holds_every_chart(tmp_path):
    census = networks(tmp_path, 2)
    page = tmp_path / "out" / "look.html"
    written = write_census(census, page)
    text = page.read_text()
    assert text.count('class="draw"') == 6
    assert not re.search(r'(src|href)="http', text)
    assert "default-src 'none'" in text
    assert {p.suffix for p in written} == {".html", ".svg", ".png"}
    assert len(written) == 13
    assert all(p.stat().st_size for p in written)


def test_names_in_a_file_cannot_write_html(tmp_path):
    w = np.ones((2, 2), np.float32)
    save_file({"<script>alert(1)</script>.weight": w}, tmp_path / "a.safetensors")
    page = tmp_path / "look.html"
    write_census(thrifty.look(tmp_path / "a.safetensors"), page, pictures=False)
    assert "<script>alert" not in page.read_text()


def test_sentences_say_shares_zeros_and_energy(tmp_path):
    w = np.zeros((10, 10), np.float32)
    w[0] = 1
    save_file({"fc.weight": w}, tmp_path / "a.safetensors")
    (said,) = sentences(
        thrifty.look(tmp_path / "a.safetensors", under=[0.5], counted="weights", curves=True)
    )
    assert said == (
        "a: of 100 weights, 90.00 % under 0.5; 90.00 % are exactly zero; 9.0 % of them hold nine "
        "tenths of the energy; the largest is 1."
    )


def test_a_comparison_has_a_page_and_pictures(tmp_path):
    networks(tmp_path, 2)
    found = thrifty.compare(tmp_path / "net0.safetensors", tmp_path / "net1.safetensors")
    written = write_comparison(found, tmp_path / "both.html")
    assert [p.name for p in written] == ["both.html", "both.svg", "both.png"]
    assert "Only in" not in written[0].read_text()
