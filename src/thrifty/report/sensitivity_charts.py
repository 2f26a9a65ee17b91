"""Charts of how sensitive layers are: a map of layers and sparsities, and a line a layer.

The map is the main one, for it is read as well with 160 layers as with 4.  Its colours are
classes of points lost: differences of one point matter and of fifty do not, which a continuous
scale would show the other way round.
"""

import bisect
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from thrifty.lab.naming import titled
from thrifty.lab.sensitive import Sensitive, Sensitivity, Tried
from thrifty.report.extra import altair
from thrifty.report.look import WIDTH, finished
from thrifty.report.parts import COLORS, DENSE_COLOR
from thrifty.report.sensitivity_words import points, ranked, which

EDGES = (0.5, 1, 2, 5, 10, 20, 50)
"""Points lost at which the colours change."""
# Brewer, ColorBrewer 2.0, https://colorbrewer2.org, "Blues" of 9 classes without its last.
SHADES = ("#f7fbff", "#deebf7", "#c6dbef", "#9ecae1", "#6baed6", "#4292c6", "#2171b5", "#08519c")
CLASSES = (
    f"up to {EDGES[0]}",
    *(f"{low} to {high}" for low, high in itertools.pairwise(EDGES)),
    f"over {EDGES[-1]}",
)
DARK = 10
"""Points lost from which a cell is dark and its number white."""
FRAME = "#d55e00"
CELL_WIDTH, CELL_HEIGHT, MANY, THIN = 52, 18, 80, 7
"""Cells of the map; more layers than ``MANY`` get thin rows without numbers."""
NAMED = 6
"""Lines with a colour and a name."""

Row = dict[str, Any]


def map_chart(study: Sensitivity) -> Any:
    """Accuracy of the network with one layer cut, for every layer and sparsity.

    Raises:
        MissingExtra: altair is not installed.
    """
    alt = altair()
    many = len(study.rows) > MANY
    columns = [f"{s:g}" for s in study.sparsities]
    names = [_name(row) for row in study.rows]
    rows = [_cell(study, row, tried) for row in study.rows for tried in row.tried]
    base = alt.Chart(alt.Data(values=tuple(rows))).encode(
        x=_columns(columns), y=_names(names, True), tooltip=_tooltip(study)
    )
    scale = alt.Scale(domain=list(CLASSES), range=list(SHADES))
    legend = alt.Legend(
        title="points lost", symbolType="square", symbolStrokeColor="#999999", symbolStrokeWidth=0.5
    )
    color = alt.Color("class:N", scale=scale, legend=legend)
    cells = base.mark_rect(stroke="white", strokeWidth=0 if many else 1).encode(color=color)
    light = alt.when(alt.datum.lost >= DARK).then(alt.value("white"))
    number = base.mark_text(fontSize=10).encode(
        text="text:N", color=light.otherwise(alt.value("#222222"))
    )
    limits = base.transform_filter("datum.limit")
    frame = (
        limits.mark_point(filled=True, size=16, color=FRAME, opacity=1)
        if many
        else limits.mark_rect(fillOpacity=0, stroke=FRAME, strokeWidth=2)
    )
    layers = [cells, *([] if many else [number]), frame]
    height = (THIN if many else CELL_HEIGHT) * len(names)
    chart = alt.layer(*layers).properties(width=CELL_WIDTH * len(columns), height=height)
    both = chart if many else alt.hconcat(chart, _weights(study, names, height), spacing=4)
    about = [
        f"Accuracy, %, on {which(study)} with that layer alone cut, and nothing retrained.",
        f"Intact: {100 * study.accuracy:.2f} %. {'Dots' if many else 'Framed'}: the highest "
        f"sparsity of a layer for at most {points(study.max_drop)}.",
    ]
    return _titled(both, "Sensitivity", study, about)


def lines_chart(study: Sensitivity) -> Any:
    """Accuracy against the share of one layer that is gone, a line a layer.

    Raises:
        MissingExtra: altair is not installed.
    """
    alt = altair()
    named = [_name(row) for row in ranked(study)[:NAMED]]
    rows = [
        {**_cell(study, row, tried), "x": 100 * tried.gone, "y": 100 * tried.accuracy}
        for row in study.rows
        for tried in (_whole(study), *row.tried)
    ]
    x = alt.X(
        "x:Q",
        title=f"{'weights' if study.removes == 'weights' else 'channels'} of the layer gone, %",
        scale=alt.Scale(domain=[0, 100], nice=False),
    )
    y = alt.Y("y:Q", title="accuracy, %", scale=alt.Scale(domain=[0, 100], nice=False))
    data = alt.Chart(alt.Data(values=tuple(rows)))
    others = data.transform_filter({"not": {"field": "layer", "oneOf": named}})
    grey = others.mark_line(color="#bbbbbb", strokeWidth=1, opacity=0.8).encode(
        x=x, y=y, detail="layer:N", order="x:Q", tooltip=_tooltip(study)
    )
    colors = alt.Color(
        "layer:N",
        title=["most sensitive", "(the others grey)"],
        legend=alt.Legend(labelLimit=330),
        scale=alt.Scale(domain=named, range=list(COLORS[: len(named)])),
    )
    chosen = data.transform_filter({"field": "layer", "oneOf": named}).encode(
        x=x, y=y, color=colors, tooltip=_tooltip(study)
    )
    line = chosen.mark_line(strokeWidth=1.8).encode(order="x:Q")
    dot = chosen.mark_point(filled=True, size=36, opacity=1)
    rule = (
        alt.Chart(alt.Data(values=[{"y": 100 / study.classes}]))
        .mark_rule(color=DENSE_COLOR, strokeWidth=1.1, strokeDash=[1, 3])
        .encode(y=y)
    )
    chart = alt.layer(rule, grey, line, dot).properties(width=WIDTH - 160, height=320)
    about = [f"On {which(study)}; one layer cut at a time. Dotted: guessing."]
    return _titled(chart, "A line a layer", study, about)


SENSITIVITY_CHARTS: dict[str, Callable[[Sensitivity], Any]] = {
    "sensitivity": map_chart,
    "sensitivity-lines": lines_chart,
}
"""File stem -> chart, in the order of the page."""


def _cell(study: Sensitivity, row: Sensitive, tried: Tried) -> Row:
    drop, error = 100 * study.drop(tried), 100 * study.drop_error(tried)
    what = "weights" if study.removes == "weights" else "channels"
    return {
        "layer": _name(row),
        "column": f"{tried.sparsity:g}",
        "lost": drop,
        "class": CLASSES[bisect.bisect_left(EDGES, round(drop, 6))],
        "limit": study.limit(row) == tried.sparsity and tried.sparsity > 0,
        "text": f"{100 * tried.accuracy:.1f}" if tried.gone else "whole",
        "accuracy": f"{100 * tried.accuracy:.2f} %",
        "drop": f"{drop:+.2f} +- {error:.2f} points".replace("+-", "\u00b1"),
        "gone": f"{100 * tried.gone:.1f} % of {row.units:,} {what}",
        "removed": f"{tried.removed:,} weights",
    }


def _name(row: Sensitive) -> str:
    return row.label.removesuffix(".weight")


def _whole(study: Sensitivity) -> Tried:
    """The intact network, where every line begins."""
    return Tried(
        sparsity=0.0,
        gone=0.0,
        removed=0,
        accuracy=study.accuracy,
        loss=study.loss,
        lost=0,
        gained=0,
    )


def _weights(study: Sensitivity, names: Sequence[str], height: int) -> Any:
    """How many weights each layer holds, as bars beside the map."""
    alt = altair()
    rows = [
        {"layer": _name(row), "weights": row.weights, "text": f"{row.weights:,}"}
        for row in study.rows
    ]
    most = max(row.weights for row in study.rows) * 1.9
    base = alt.Chart(alt.Data(values=tuple(rows))).encode(
        x=alt.X(
            "weights:Q",
            title="weights",
            scale=alt.Scale(domain=[0, most], nice=False),
            axis=alt.Axis(orient="top", labels=False, ticks=False, grid=False, domain=False),
        ),
        y=_names(names, False),
        tooltip=["layer:N", alt.Tooltip("text:N", title="weights")],
    )
    bare = alt.ViewBackground(stroke=None)
    bar = base.mark_bar(color="#c9c9c9", height={"band": 0.6})
    text = base.mark_text(align="left", dx=3, fontSize=10, color="#444444").encode(text="text:N")
    return alt.layer(bar, text).properties(width=120, height=height, view=bare)


def _columns(columns: Sequence[str]) -> Any:
    alt = altair()
    axis = alt.Axis(orient="top", labelAngle=0, domain=False, ticks=False, grid=False)
    return alt.X("column:N", title="sparsity of that layer", sort=list(columns), axis=axis)


def _names(names: Sequence[str], shown: bool) -> Any:
    alt = altair()
    bare: dict[str, Any] = {"domain": False, "ticks": False, "grid": False, "labels": shown}
    axis = alt.Axis(labelLimit=260, labelPadding=5, labelOverlap="greedy", **bare)
    return alt.Y("layer:N", title=None, sort=list(names), axis=axis)


def _tooltip(study: Sensitivity) -> list[Any]:
    alt = altair()
    words = {
        "layer": "layer",
        "column": "sparsity asked",
        "gone": "gone",
        "removed": "zero" if study.removes == "weights" else "gone with neighbours",
        "accuracy": "accuracy",
        "drop": "lost",
    }
    return [alt.Tooltip(f"{name}:N", title=title) for name, title in words.items()]


def _titled(chart: Any, title: str, study: Sensitivity, about: Sequence[str]) -> Any:
    name = f"{title}: {titled(study.model, study.data)}, {study.method}"
    params = altair().TitleParams(name, subtitle=list(about))
    return finished(chart.properties(title=params))
