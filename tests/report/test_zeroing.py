"""What zeroing costs, in words and pictures: true for every curve, whatever its shape."""

import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from typing import Any

import pytest

from thrifty.errors import MissingExtra, UserError
from thrifty.lab.zeroed import Outcome, Zeroed, Zeroing
from thrifty.report.render import Drawn
from thrifty.report.zeroing import write_zeroing
from thrifty.report.zeroing_charts import ZEROING_CHARTS, labels
from thrifty.report.zeroing_words import headline, moved

UNDER = (0.001, 0.01, 0.1, 1.0)
SHARES = (0.01, 0.1, 0.6, 1.0)
FALLS = (0.900, 0.897, 0.5, 0.1)
MENDED = (0.899, 0.898, 0.88, 0.1)


def outcome(right: int, intact: int, inputs: int) -> Outcome:
    swapped = 3 if min(right, intact) > 3 and max(right, intact) + 3 < inputs else 0
    lost, gained = max(0, intact - right) + swapped, max(0, right - intact) + swapped
    return Outcome(
        accuracy=right / inputs,
        loss=0.5,
        agreement=1 - (lost + gained) / inputs,
        lost=lost if right != intact else 0,
        gained=gained if right != intact else 0,
    )


def make(
    accuracies: Sequence[float] = FALLS,
    fresh: Sequence[float] | None = MENDED,
    *,
    intact: float = 0.9,
    shares: Sequence[float] = SHARES,
    zeros: int = 0,
    inputs: int = 10_000,
    weights: int = 1000,
    layers: int = 2,
    under: Sequence[float] = UNDER,
    **changes: Any,
) -> Zeroing:
    """A study of a network with those accuracies at the thresholds of ``UNDER``."""

    def count(share: float) -> int:
        return round(inputs * share)

    def row(t: float, share: float, accuracy: float, other: float | None) -> Zeroed:
        zero = max(zeros, round(weights * share))
        return Zeroed(
            key=f"{t:012.6f}",
            model="net",
            data="toy",
            threshold=t,
            seed=0,
            zeros=zero,
            weights=weights,
            zeros_all=zero,
            params=weights + 10,
            plain=outcome(count(accuracy), count(intact), inputs),
            recalibrated=None if other is None else outcome(count(other), count(intact), inputs),
            layers={f"layer{n}.weight": [zero // layers, weights // layers] for n in range(layers)},
        )

    others = [None] * len(accuracies) if fresh is None else fresh
    cut = [row(*said) for said in zip(under, shares, accuracies, others, strict=False)]
    first = row(0.0, 0.0, intact, None if fresh is None else intact)
    said = {
        "model": "net",
        "data": "toy",
        "weights": None,
        "classes": 10,
        "relative": False,
        "everything": False,
        "keep": (),
        "seed": 0,
        "conditions": {"threads": 1},
    }
    return Zeroing(**{**said, "inputs": inputs, "rows": (first, *cut), **changes})


STUDIES = {
    "falls": make(),
    "no batch norm": make(fresh=None),
    "never survives": make((0.5, 0.4, 0.2, 0.1), (0.5, 0.4, 0.2, 0.1)),
    "always survives": make((0.9,) * 4, (0.9,) * 4),
    "gains": make((0.91, 0.92, 0.93, 0.94)),
    "nothing is zeroed": make((0.9,) * 4, (0.9,) * 4, shares=(0,) * 4),
    "only the intact network": make((), ()),
    "one threshold": make((0.8,), (0.85,)),
    "it only guesses": make((0.1,) * 4, (0.1,) * 4, intact=0.1),
    "all wrong": make((0.0,) * 4, (0.0,) * 4, intact=0.0),
    "few test inputs": make((0.8, 0.8, 0.4, 0.2), inputs=5),
    "zeros before": make(zeros=500),
    "relative": make(relative=True),
    "everything": make(everything=True),
    "layers kept": make(keep=("conv1",)),
    "many layers": make(layers=300),
    "perfect": make((1.0,) * 4, (1.0,) * 4, intact=1.0),
    "with a note": make(notes=("Mind the <gap>.",)),
    "close thresholds": make(
        [0.9 - 0.001 * n for n in range(40)],
        None,
        under=[0.001 * (n + 1) for n in range(40)],
        shares=[0.002 * n for n in range(40)],
    ),
}


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
@pytest.mark.parametrize("name", ZEROING_CHARTS)
def test_a_chart_draws_a_picture_of_any_study(name, study):
    root = ElementTree.fromstring(Drawn(ZEROING_CHARTS[name](study)).svg)
    assert 100 < float(root.attrib["width"]) < 2500
    words = "".join(root.itertext())
    assert words.strip()
    assert not any(bad in words for bad in ("NaN", "null", "undefined"))


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_sentences_are_whole_whatever_was_measured(study):
    found = headline(study)
    assert found
    for sentence in found:
        assert sentence[0].isupper() or sentence[0].isdigit()
        assert sentence.endswith(".") and ".." not in sentence and "  " not in sentence
        assert "nan" not in sentence


def test_the_largest_harmless_share_is_named():
    found = headline(make())
    assert found[1] == (
        "Up to 10.00 % of the weights, those under 0.01, can be zeroed for no more than half "
        "a point: accuracy falls from 90.0 to 89.7 % (-0.30 +- 0.06 points)."
    )
    assert found[2].startswith(
        "With fresh batch norm statistics, up to 10.00 % of the weights, those under 0.01,"
    )


def test_what_hurts_is_told_beside_what_new_statistics_mend():
    found = make((0.9, 0.897, 0.412, 0.1), (0.899, 0.898, 0.799, 0.1))
    assert (
        "60.00 % of the weights lie under 0.1; without them accuracy falls from 90.0 to 41.2 %, "
        "with fresh batch norm statistics from 90.0 to 79.9 %." in headline(found)
    )


def test_where_only_guessing_is_left_is_told():
    both = "From 1 on, with all weights zero, the network cannot be told from guessing (10 %)"
    assert f"{both}, recalibrated or not." in headline(make())
    assert f"{both}." in headline(make(fresh=(0.9, 0.9, 0.9, 0.5)))
    late = headline(make((0.9, 0.9, 0.1, 0.1)))
    assert any(s.startswith("From 0.1 on, with 60.00 % of the weights zero,") for s in late)
    assert any(s.startswith("With fresh batch norm statistics, from 1 on, with all") for s in late)


def test_a_network_that_survives_everything_is_said_to():
    found = headline(STUDIES["always survives"])
    assert (
        "Even the largest threshold, 1, which leaves all weights zero, costs no more than half a "
        "point: accuracy stays at 90.0 % (+0.00 +- 0.00 points)." in found
    )
    assert not any("lie under" in s or "guessing" in s for s in found)


def test_a_network_that_survives_nothing_is_said_to():
    found = headline(STUDIES["never survives"])
    assert (
        "Already the smallest threshold that zeroes any, 0.001, costs more than half a point: it "
        "leaves 1.00 % of the weights zero, and accuracy falls from 90.0 to 50.0 % (-40.00 +- 0.49 "
        "points)." in found
    )
    assert not any(s.startswith("Up to") for s in found)


def test_a_later_recovery_does_not_make_a_threshold_harmless():
    found = headline(make((0.9, 0.5, 0.9, 0.1), None))
    assert any(s.startswith("Up to 1.00 % of the weights, those under 0.001,") for s in found)


def test_nothing_zeroed_is_said_and_nothing_is_concluded():
    found = headline(STUDIES["nothing is zeroed"])
    assert found[-1] == "None of the weights lies under 1: nothing was zeroed."
    assert len(found) == 2


def test_a_network_that_guesses_shows_nothing_by_guessing_on():
    found = headline(STUDIES["it only guesses"])
    assert found[0].endswith("which cannot be told from guessing (10 %).")
    assert len(found) == 1


def test_a_network_that_only_new_statistics_wake_is_judged_by_those():
    study = make((0.1,) * 4, (0.9, 0.9, 0.5, 0.1))
    rows = [study.rows[0]]
    sleeping = Zeroed(**{**vars(rows[0]), "plain": outcome(1000, 1000, 10_000)})
    study = Zeroing(**{**vars(study), "rows": (sleeping, *study.rows[1:])})
    found = headline(study)
    assert any(s.startswith("With fresh batch norm statistics, up to 10.00 %") for s in found)
    assert not any(s.startswith("Up to") for s in found)


def test_zeros_that_were_there_are_told_apart():
    assert headline(STUDIES["zeros before"])[0].endswith(
        "; 50.00 % of its weights are zero already."
    )


def test_few_test_inputs_cannot_tell_half_a_point():
    assert "One test input is 20 points of accuracy, so half a point cannot be told here." in (
        headline(STUDIES["few test inputs"])
    )


def test_kept_layers_are_not_said_to_lie_under_a_threshold():
    found = headline(STUDIES["layers kept"])
    assert not any("lie under" in s for s in found)
    assert any("those under 1 outside the layers left whole" in s for s in found)
    nothing = headline(make((0.9,) * 4, shares=(0,) * 4, keep=("conv1",)))
    assert nothing[-1].startswith("None of the weights outside the layers left whole lies under 1")


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((0.5, 0.5), "stays at 50.0 %"),
        ((0.5, 0.4), "falls from 50.0 to 40.0 %"),
        ((0.4, 0.5), "rises from 40.0 to 50.0 %"),
        ((0.8, 0.7999), "falls from 80.00 to 79.99 %"),
    ],
)
def test_a_change_is_told_with_the_digits_it_needs(ends, text):
    assert moved(*ends) == text


def test_the_error_of_a_drop_is_that_of_paired_inputs():
    study = make((0.9,), None, inputs=100)
    row = study.rows[1]
    paired = Outcome(accuracy=0.86, loss=0.5, agreement=0.9, lost=6, gained=2)
    study = Zeroing(
        **{**vars(study), "rows": (study.rows[0], Zeroed(**{**vars(row), "plain": paired}))}
    )
    differences = [1] * 6 + [-1] * 2 + [0] * 92
    mean = sum(differences) / 100
    error = (sum((d - mean) ** 2 for d in differences) / 100 / 100) ** 0.5
    assert study.drop(study.rows[1]) == mean
    assert study.drop_error(study.rows[1]) == pytest.approx(error)


def test_an_interval_holds_its_accuracy_and_is_never_empty():
    for inputs in (1, 80, 10_000):
        study = make((), (), inputs=inputs)
        for accuracy in (0.0, 0.5, 1.0):
            low, high = study.interval(accuracy)
            assert 0 <= low <= accuracy + 1e-12 and accuracy - 1e-12 <= high <= 1 and low < high
    low, high = study.interval(0.5)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.5098, abs=1e-4))


def test_points_that_lie_close_share_a_label_and_none_is_lost():
    rows = [{"x": x, "y": 80.0, "name": name} for x, name in ((0, "1e-4"), (1, "0.01"), (50, "1"))]
    assert [label["text"] for label in labels(rows)] == ["1e-4 to 0.01", "1"]
    apart = [{"x": 50, "y": 80.0, "name": "a"}, {"x": 50, "y": 10.0, "name": "b"}]
    assert [label["text"] for label in labels(apart)] == ["a", "b"]
    assert labels([]) == []


def test_a_label_stays_within_the_chart():
    for x in (0.0, 100.0):
        (label,) = labels([{"x": x, "y": 5.0, "name": "0.0001"}])
        assert label["half"] <= label["x"] <= 100 - label["half"]


def test_a_table_has_a_column_of_new_statistics_only_if_there_are_any():
    assert "recal. accuracy %" in make().table()[0]
    assert "recal. accuracy %" not in make(fresh=None).table()[0]
    assert [row["under"] for row in make().table()] == ["intact", "0.001", "0.01", "0.1", "1"]
    assert make().table()[2]["drop"] == "+0.30 +- 0.06"


def test_a_share_is_not_rounded_to_all_or_nothing():
    study = make((0.9,), None, weights=10**7, shares=(0.9999999,))
    assert study.table()[1]["zero %"] == "> 99.99"


def test_results_show_themselves():
    study = make()
    assert len(study.to_pandas()) == 5
    assert study.to_dict()["headline"] == study.headline()
    assert "<svg" in study._repr_html_() and "<table>" in study._repr_html_()
    assert study.plot().to_dict()["layer"]


def test_the_page_and_every_picture_are_written(tmp_path):
    found = write_zeroing(STUDIES["with a note"], tmp_path, ("html", "svg", "png"))
    stems = ("zeroing", "zeroing-thresholds", "zeroing-layers")
    assert [p.name for p in found] == [
        "report.html",
        *(f"{stem}.{end}" for stem in stems for end in ("svg", "png")),
    ]
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in found}
    page = found[0].read_text()
    assert "Up to 10.00 % of the weights" in page
    assert "Mind the &lt;gap&gt;." in page
    assert "\u00b1 one standard error" in page and "+-" not in page.split("<script")[0]


def test_pictures_alone_can_be_asked_for(tmp_path):
    found = write_zeroing(make(), tmp_path, ["svg"])
    assert [p.suffix for p in found] == [".svg"] * 3


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(UserError, match="no report format is called 'pdf'"):
        write_zeroing(make(), tmp_path, ["pdf"])


def test_without_altair_the_page_says_how_to_get_charts(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "altair", None)
    (page,) = write_zeroing(make(), tmp_path)
    assert "pip install &#39;thrifty[report]&#39;" in page.read_text()
    assert "Up to 10.00 % of the weights" in page.read_text()
    assert "<table>" in make()._repr_html_()
    with pytest.raises(MissingExtra, match=r"thrifty\[report\]"):
        write_zeroing(make(), tmp_path, ["svg"])
