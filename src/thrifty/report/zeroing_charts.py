"""Charts of what zeroing small weights costs: the curve, the thresholds, the layers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from thrifty.census.words import percent, threshold
from thrifty.lab.naming import titled
from thrifty.lab.zeroed import Series, Zeroed, Zeroing
from thrifty.report.extra import altair
from thrifty.report.look import WIDTH, finished, note
from thrifty.report.parts import COLORS, DENSE_COLOR, finite

SERIES_COLORS: dict[str, str] = {"as it is": COLORS[0], "recalibrated": COLORS[1]}
SHARE, SHARE_COLOR = "share zero", COLORS[2]
LETTER, LINE = 0.72, 5.0
"""Width of a letter and height of a line of a label, in percent of the axes."""
CELL_WIDTH, CELL_HEIGHT, MANY, THIN = 46, 18, 60, 7
"""Cells of the map of layers; more layers than ``MANY`` get thin rows without numbers."""

ACCURACY = "accuracy, %"

Row = dict[str, Any]


def curve_chart(study: Zeroing) -> Any:
    """Accuracy against the share zeroed, as it is and recalibrated, a point a threshold.

    Raises:
        MissingExtra: altair is not installed.
    """
    alt = altair()
    rows = [row for series in study.series for row in _points(study, series)]
    x = alt.X(
        "x:Q",
        title=f"{_what(study)} that are zero, %",
        scale=alt.Scale(domain=[0, 100], nice=False),
    )
    base = alt.Chart(alt.Data(values=tuple(rows))).encode(x=x, color=_color(study.series))
    y = _y("y")
    bars = base.mark_rule(strokeWidth=1.2, opacity=0.75).encode(y=_y("low"), y2="high:Q")
    line = base.mark_line(strokeWidth=1.8).encode(y=y, order="threshold:Q")
    dot = base.mark_point(filled=True, size=52, opacity=1).encode(
        y=y, shape=_shape(study.series), tooltip=_tooltip()
    )
    chart = alt.layer(*_references(study), bars, line, dot, *_labels(rows, x))
    about = [
        "Beside the points: the threshold under which weights are zero. Bars, where longer "
        f"than the points: 95 % intervals for {study.inputs:,} test inputs.",
        "Dashed: the intact network as it is. Dotted: guessing.",
    ]
    return _titled(chart.properties(width=WIDTH, height=360), "Accuracy left", study, about)


def thresholds_chart(study: Zeroing) -> Any:
    """Share zeroed and accuracy against the threshold, on a log axis.

    Raises:
        MissingExtra: altair is not installed.
    """
    alt = altair()
    if not study.cut:
        return finished(note("no threshold above 0 was measured"))
    rows = [
        {
            "series": SHARE,
            "threshold": row.threshold,
            "y": 100 * study.share(row),
            **_texts(study, row),
        }
        for row in study.cut
    ]
    rows += [r for s in study.series for r in _points(study, s) if r["threshold"] > 0]
    values = [row.threshold for row in study.cut]
    unit = ", in standard deviations of each tensor" if study.relative else ""
    x = alt.X(
        "threshold:Q",
        title=f"threshold{unit} (log scale)",
        scale=alt.Scale(type="log", domain=[values[0] / 1.4, values[-1] * 1.4], nice=False),
        axis=alt.Axis(values=values, labelExpr=_names(values), labelOverlap="greedy"),
    )
    names = [SHARE, *study.series]
    base = alt.Chart(alt.Data(values=tuple(rows))).encode(x=x, y=_y("y", "%"), color=_color(names))
    line = base.mark_line(strokeWidth=1.8).encode(order="threshold:Q")
    dot = base.mark_point(filled=True, size=46, opacity=1).encode(
        shape=_shape(names), tooltip=_tooltip()
    )
    chart = alt.layer(*_references(study, "%"), line, dot)
    about = [
        f"{_what(study).capitalize()} that are zero, and accuracy as it is"
        + (" and with recalibrated statistics." if study.series[1:] else "."),
        "Dashed: accuracy of the intact network as it is. Dotted: guessing.",
    ]
    return _titled(chart.properties(width=WIDTH, height=300), "Thresholds", study, about)


def layers_chart(study: Zeroing) -> Any:
    """Share of each layer that is zero at each threshold, layers in network order.

    Raises:
        MissingExtra: altair is not installed.
    """
    alt = altair()
    rows = [
        {
            "number": number,
            "layer": name.removesuffix(".weight"),
            "under": study.named(row.threshold) if row.threshold else "intact",
            "share": zeros / max(1, size),
            "text": f"{100 * zeros / max(1, size):.0f}",
            "zero": f"{zeros:,} of {size:,}, {percent(zeros, size) or '0 %'}",
        }
        for row in study.rows
        for number, (name, (zeros, size)) in enumerate(row.layers.items())
    ]
    many = len(study.intact.layers) > MANY
    bare: dict[str, Any] = {"domain": False, "ticks": False, "grid": False}
    order = list(dict.fromkeys(row["under"] for row in rows))
    columns = alt.Axis(orient="top", labelAngle=0, labelFontSize=10, labelLimit=90, **bare)
    base = alt.Chart(alt.Data(values=tuple(rows))).encode(
        x=alt.X("under:N", title="zero: weights under", sort=order, axis=columns),
        y=alt.Y(
            "layer:N",
            title=None,
            sort=list(dict.fromkeys(row["layer"] for row in rows)),
            axis=alt.Axis(labelLimit=230, labelPadding=5, labelOverlap="greedy", **bare),
        ),
        tooltip=["layer:N", "under:N", "zero:N"],
    )
    scale = alt.Scale(domain=[0, 1], scheme="blues")
    legend = alt.Legend(title="zero, %", labelExpr="format(100 * datum.value, '.3~g')")
    cell = base.mark_rect(stroke="white", strokeWidth=0 if many else 1).encode(
        color=alt.Color("share:Q", scale=scale, legend=legend)
    )
    dark = alt.when(alt.datum.share > 0.55).then(alt.value("white"))
    number = base.mark_text(fontSize=10).encode(
        text="text:N", color=dark.otherwise(alt.value("#222222"))
    )
    height = THIN if many else CELL_HEIGHT
    chart = alt.layer(cell, *([] if many else [number])).properties(
        width=CELL_WIDTH * len(order), height=height * len(study.intact.layers)
    )
    about = ["Percent of each layer that is zero. Rows: layers in network order."]
    return _titled(chart, "Layer by layer", study, about)


ZEROING_CHARTS: dict[str, Callable[[Zeroing], Any]] = {
    "zeroing": curve_chart,
    "zeroing-thresholds": thresholds_chart,
    "zeroing-layers": layers_chart,
}
"""File stem -> chart, in the order of the page."""


def labels(rows: Sequence[Row]) -> list[Row]:
    """A label for each point, or one for several where they would overlap.

    Args:
        rows: points ``x``, ``y`` (percent), ascending in ``x``, and their ``name``.

    Returns:
        A row a label: where its middle goes, and its ``text``, ``0.1`` or ``0.1 to 1``.
    """
    found: list[list[Row]] = []
    for row in rows:
        found.append([row])
        while len(found) > 1 and _overlap(_label(found[-2]), _label(found[-1])):
            found[-2:] = [found[-2] + found[-1]]
    return [_label(group) for group in found]


def _label(group: Sequence[Row]) -> Row:
    """The label of neighbouring points: over their middle, at the height of the highest."""
    text = " to ".join(dict.fromkeys(row["name"] for row in (group[0], group[-1])))
    half = LETTER * len(text) / 2
    middle = (group[0]["x"] + group[-1]["x"]) / 2
    x = min(max(middle, half), max(100 - half, half))
    return {"x": x, "y": max(row["y"] for row in group), "text": text, "half": half}


def _overlap(one: Row, other: Row) -> bool:
    beside = abs(one["x"] - other["x"]) >= one["half"] + other["half"] + LETTER
    return not beside and abs(one["y"] - other["y"]) < LINE


def _labels(rows: Sequence[Row], x: Any) -> list[Any]:
    """Labels above the higher line; below the lower one where it is far enough from the other."""
    alt = altair()
    cut = [row for row in rows if row["threshold"] > 0]
    tops: dict[float, Row] = {}
    for row in cut:
        best = tops.get(row["threshold"])
        if best is None or row["y"] > best["y"]:
            tops[row["threshold"]] = row
    apart = [row for row in cut if tops[row["threshold"]]["y"] - row["y"] > 2 * LINE]
    found = []
    for chosen, dy in ((list(tops.values()), -13), (apart, 14)):
        placed = alt.Chart(alt.Data(values=tuple(labels(chosen)))).encode(
            x=x, y=_y("y"), text="text:N"
        )
        halo = placed.mark_text(fontSize=11, dy=dy, stroke="white", strokeWidth=4, color="white")
        found += [halo, placed.mark_text(fontSize=11, dy=dy, color="#333333")]
    return found


def _references(study: Zeroing, title: str = ACCURACY) -> list[Any]:
    """The accuracy of the intact network, dashed, and of guessing, dotted."""
    alt = altair()
    found = []
    for value, dash in ((study.intact.plain.accuracy, [5, 4]), (study.chance, [1, 3])):
        data = alt.Chart(alt.Data(values=[{"y": 100 * value}]))
        found.append(
            data.mark_rule(color=DENSE_COLOR, strokeWidth=1.1, strokeDash=dash).encode(
                y=_y("y", title)
            )
        )
    return found


def _points(study: Zeroing, series: Series) -> list[Row]:
    found = []
    for row in study.rows:
        outcome = row.outcome(series)
        if outcome is None:
            continue
        low, high = study.interval(outcome.accuracy)
        point = {
            "series": series,
            "threshold": row.threshold,
            "name": threshold(row.threshold),
            "x": 100 * study.share(row),
            "y": 100 * outcome.accuracy,
            "low": 100 * low,
            "high": 100 * high,
            "accuracy": f"{100 * outcome.accuracy:.2f} %",
            "lost": f"{100 * study.drop(row, series):+.2f} points",
            "agreement": f"{100 * outcome.agreement:.2f} %",
        }
        found.append(finite(point | _texts(study, row)))
    return found


def _texts(study: Zeroing, row: Zeroed) -> Row:
    return {
        "under": study.named(row.threshold) if row.threshold else "intact",
        "zeros": f"{percent(*study.count(row))}",
    }


def _tooltip() -> list[Any]:
    names = ("series", "under", "zeros", "accuracy", "lost", "agreement")
    return [altair().Tooltip(f"{name}:N") for name in names]


def _y(field: str, title: str = ACCURACY) -> Any:
    alt = altair()
    return alt.Y(f"{field}:Q", title=title, scale=alt.Scale(domain=[0, 100], nice=False))


def _color(names: Sequence[str]) -> Any:
    alt = altair()
    colors: Mapping[str, str] = {SHARE: SHARE_COLOR} | SERIES_COLORS
    scale = alt.Scale(domain=list(names), range=[colors[name] for name in names])
    return alt.Color("series:N", title=None, scale=scale)


def _shape(names: Sequence[str]) -> Any:
    alt = altair()
    shapes = {SHARE: "triangle-up", "as it is": "circle", "recalibrated": "square"}
    scale = alt.Scale(domain=list(names), range=[shapes[name] for name in names])
    return alt.Shape("series:N", title=None, scale=scale)


def _names(values: Sequence[float]) -> str:
    """The Vega expression that names each of these thresholds."""
    cases = [f"datum.value == {value!r} ? '{threshold(value)}' : " for value in values]
    return "".join(cases) + "''"


def _what(study: Zeroing) -> str:
    return "parameters" if study.everything else "weights"


def _titled(chart: Any, title: str, study: Zeroing, about: Sequence[str]) -> Any:
    params = altair().TitleParams(
        f"{title}: {titled(study.model, study.data)}", subtitle=list(about)
    )
    return finished(chart.properties(title=params))
