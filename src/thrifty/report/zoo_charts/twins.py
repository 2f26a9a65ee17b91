"""Twins: what sparsity costs the population, method beside method."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from thrifty.report.extra import altair
from thrifty.report.look import WIDTH, finished
from thrifty.report.zoo_charts import ZOO_REPORTS
from thrifty.report.zoo_marks import (
    Row,
    band,
    boxes,
    color_of,
    counted,
    headed,
    original_lines,
    original_spread,
    outliers,
    percent_axis,
    share_ends,
    sparsity_axis,
    spread_row,
    spread_text,
    title_of,
)
from thrifty.zoo.comparing import Comparison
from thrifty.zoo.levels import Level
from thrifty.zoo.statistics import quartiles

NEAR = 12.0
"""Points under the originals' median that the upper panel reaches down to, at the least."""
BOX, NARROW = 15, 9
APART = 5.0
"""Points of sparsity that labels of epochs are apart."""


@ZOO_REPORTS.entry("twins")
def twins_chart(study: Comparison) -> Any:
    """Test accuracy of the twins against their sparsity, method by method, a box a level.

    Raises:
        MissingExtra: altair is not installed.
    """
    levels = study.finals
    rows = [row for level in levels for row in [_row(level)] if row["median"] is not None]
    if not rows:
        return None
    paths = [row for level in _ways(study) for row in [_row(level)] if row["median"] is not None]
    original = original_spread(study)
    kept = [100 * v for v in (original.q1, original.median, original.q3) if original.count]
    values = [v for row in rows + paths for v in (row["low"], row["high"], *row["outliers"])]
    whole = share_ends([*values, *kept])
    panels = [_panel(study, rows, paths, whole)]
    if original.count and kept[1] - NEAR - whole[0] > NEAR / 2:
        near = _near(rows + paths, kept)
        depth = f"down to {kept[1] - near[0]:.0f} points under the originals' median"
        panels = [
            _panel(study, rows, paths, near, depth),
            _panel(study, rows, paths, whole, "the whole range", told=False),
        ]
    title = title_of(f"Accuracy of the sparse twins of {counted(study)}", _about(study))
    return finished(altair().vconcat(*panels, spacing=20).properties(title=title))


def _near(rows: Sequence[Row], originals: Sequence[float]) -> tuple[float, float]:
    """Ends of the upper panel: the originals, and whole boxes of the levels that come near them.

    Args:
        originals: their first quartile, median and third quartile.
    """
    median = originals[1]
    high = [row for row in rows if row["median"] > median - NEAR]
    boxes = [row["q1"] - 1 for row in high if row["q1"] > median - 2 * NEAR]
    tops = [max(row["high"], *row["outliers"], 0) for row in high]
    return min([median - NEAR, *boxes]), share_ends([*tops, *originals])[1]


def _panel(
    study: Comparison,
    rows: Sequence[Row],
    paths: Sequence[Row],
    domain: tuple[float, float],
    *name: str,
    told: bool = True,
) -> Any:
    """All of the chart between two accuracies; in the larger panel epochs are ``told``."""
    alt = altair()
    x, y = sparsity_axis(), percent_axis(domain, "test accuracy, %", ticks=8)
    color = color_of(study)
    layers = original_lines(study, y)
    if paths:
        layers.append(band(paths, x, y, color, 0.16, ("q1", "q3")))
    line = alt.Chart(alt.Data(values=(*paths, *_asked(rows))))
    layers.append(
        line.mark_line(strokeWidth=1.4, clip=True).encode(
            x=x, y=y("median"), color=color, order="order:Q"
        )
    )
    size = NARROW if _crowded(rows) else BOX
    layers += boxes(rows, x, y, color, size, _tooltip())
    layers.append(_across(study, rows, y))
    dots = [
        {"x": row["x"], "y": o, "method": row["method"]} for row in rows for o in row["outliers"]
    ]
    if dots:
        beyond = alt.Chart(alt.Data(values=tuple(dots)))
        layers.append(
            beyond.mark_circle(size=9, opacity=0.45, clip=True).encode(x=x, y=y("y"), color=color)
        )
    layers += _epochs(paths, rows, study, x, y) if told else []
    layers += _passing(study, x, domain) if told else []
    return headed(layers, *name).properties(width=WIDTH - 20, height=330 if told else 190)


def _row(level: Level) -> Row:
    sparsity, accuracy = quartiles(level.sparsity), quartiles(level.accuracy)
    return spread_row(accuracy) | {
        "method": level.method,
        "level": level.name,
        "epoch": level.epoch,
        "chosen": level.chosen,
        "order": level.epoch if not level.chosen else 100 * level.asked,
        "x": 100 * sparsity.median if sparsity.count else None,
        "x_q1": 100 * sparsity.q1 if sparsity.count else None,
        "x_q3": 100 * sparsity.q3 if sparsity.count else None,
        "outliers": _outliers(level),
        "sparsity": spread_text(sparsity),
        "accuracy": spread_text(accuracy, 2),
        "collapsed": f"{100 * level.figures['collapsed']:.1f} %",
    }


def _outliers(level: Level) -> list[float]:
    return outliers(level.accuracy, quartiles(level.accuracy))


def _ways(study: Comparison) -> list[Level]:
    """The levels by epoch, of the methods that choose their sparsity."""
    return [level for m in study.methods for level in study.path(m) if not level.chosen]


def _asked(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["chosen"]]


def _crowded(rows: Sequence[Row]) -> bool:
    places = sorted(row["x"] for row in rows if row["chosen"])
    return any(b - a < 3 for a, b in zip(places, places[1:], strict=False))


def _across(study: Comparison, rows: Sequence[Row], y: Any) -> Any:
    """A bar over the quartiles of a sparsity that the method chose."""
    alt = altair()
    free = [row for row in rows if not row["chosen"]]
    base = alt.Chart(alt.Data(values=tuple(free)))
    return base.mark_rule(strokeWidth=2.2, clip=True).encode(
        x=sparsity_axis("x_q1"),
        x2="x_q3:Q",
        y=y("median"),
        color=color_of(study),
    )


def _epochs(
    paths: Sequence[Row], rows: Sequence[Row], study: Comparison, x: Any, y: Any
) -> list[Any]:
    """Points along a path, and numbers of the epochs where there is room."""
    alt = altair()
    if not paths:
        return []
    points = alt.Chart(alt.Data(values=tuple(paths)))
    marks = points.mark_point(filled=True, size=16, opacity=1, clip=True).encode(
        x=x, y=y("median"), color=color_of(study), tooltip=_tooltip()
    )
    told = _told(paths, study)
    asked = sorted((row["x"], row["median"]) for row in _asked(rows))
    layers = [marks]
    for below in (True, False):
        group = tuple(row for row in told if _under(row, asked) == below)
        if not group:
            continue
        style: dict[str, Any] = {"fontSize": 10.5, "dy": 14 if below else -12, "clip": True}
        words = alt.Chart(alt.Data(values=group)).encode(x=x, y=y("median"), text="text:N")
        halo = words.mark_text(stroke="white", strokeWidth=3.5, color="white", **style)
        layers += [halo, words.mark_text(**style).encode(color=color_of(study))]
    return layers


def _told(paths: Sequence[Row], study: Comparison) -> list[Row]:
    """The epochs that are named: the last of each path, and those apart from others."""
    told: list[Row] = []
    for method in study.methods:
        own = [row for row in paths if row["method"] == method]
        if not own:
            continue
        placed: list[Row] = [own[-1] | {"text": f"epoch {own[-1]['epoch']}"}]
        for row in own[:-1]:
            if all(abs(row["x"] - p["x"]) >= APART for p in placed):
                placed.append(row | {"text": str(row["epoch"])})
        told += placed
    return told


def _under(row: Row, asked: Sequence[tuple[float, float]]) -> bool:
    """Whether a path is under the other methods there, so that its words go below it."""
    if not asked:
        return False
    places, medians = [x for x, _ in asked], [y for _, y in asked]
    return bool(row["median"] < np.interp(row["x"], places, medians))


def _passing(study: Comparison, x: Any, domain: tuple[float, float]) -> list[Any]:
    """A dotted line where one method's median passes another's."""
    alt = altair()
    found = [
        {"x": 100 * at, "y": domain[0], "text": f"{second} ahead from {100 * at:.1f} % on"}
        for first, second in _rivals(study)
        for at in [study.overtaking(first, second)]
        if at is not None and at > _start(study, first, second) + 1e-9
    ]
    if not found:
        return []
    base = alt.Chart(alt.Data(values=tuple(found))).encode(x=x)
    words = base.mark_text(align="right", dx=-5, dy=-7, fontSize=11, color="#333333").encode(
        y=percent_axis(domain, "test accuracy, %", ticks=8)("y"), text="text:N"
    )
    return [base.mark_rule(strokeDash=[1, 3], color="#333333", strokeWidth=1.2), words]


def _rivals(study: Comparison) -> list[tuple[str, str]]:
    """Each method whose sparsity was asked for, before each that chose its own."""
    asked = [m for m in study.methods if any(level.chosen for level in study.path(m))]
    return [(first, second) for first in asked for second in study.methods if second not in asked]


def _start(study: Comparison, first: str, second: str) -> float:
    return max(min(study.medians(first)[0]), min(study.medians(second)[0]))


def _about(study: Comparison) -> list[str]:
    said = [
        "Box: quartiles; line across: median; whiskers: 1.5 interquartile ranges; dots: beyond."
    ]
    if _ways(study):
        said[0] += " Band: quartiles, epoch by epoch."
        said.append("A method that chooses its sparsity lies at the median of what was measured.")
    said.append("Dashed, grey: the originals, median and quartiles.")
    return said


def _tooltip() -> list[Any]:
    names = ("method", "level", "sparsity", "accuracy", "collapsed", "models")
    return [altair().Tooltip(f"{name}:N") for name in names]
