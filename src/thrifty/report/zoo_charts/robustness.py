"""Robustness: what share of the twins collapses, how ranks hold, how the gap moves."""

from collections.abc import Callable, Sequence
from typing import Any

from thrifty.report.extra import altair
from thrifty.report.look import finished
from thrifty.report.zoo_charts import ZOO_REPORTS
from thrifty.report.zoo_marks import (
    Row,
    color_of,
    counted,
    headed,
    padded,
    percent_axis,
    sparsity_axis,
    spread_row,
    spread_text,
    title_of,
)
from thrifty.zoo.comparing import Comparison
from thrifty.zoo.levels import Level
from thrifty.zoo.statistics import quartiles

SIZE: dict[str, Any] = {"width": 206, "height": 200}


@ZOO_REPORTS.entry("twins-robustness")
def robustness_chart(study: Comparison) -> Any:
    """Share of collapsed twins, correlation with the originals, and generalisation gap.

    Raises:
        MissingExtra: altair is not installed.
    """
    levels = [level for level in study.levels if quartiles(level.sparsity).count]
    if not levels:
        return None
    finals = [level for level in levels if level.last]
    panels = [_collapsed(study, levels), _correlation(study, levels), _gap(study, finals)]
    about = [
        "Collapsed: more than 10 points lost, or at most 1.5 times as good as guessing.",
        "Correlation of accuracies, solid: Pearson, dashed: Spearman. "
        "Gap: training less test accuracy, median and quartiles.",
    ]
    title = title_of(f"How sparsity changes the population of {counted(study)}", about)
    kept = [panel for panel in panels if panel is not None]
    return finished(altair().hconcat(*kept, spacing=18).properties(title=title))


def _collapsed(study: Comparison, levels: Sequence[Level]) -> Any:
    rows = _rows(levels, lambda level: 100 * level.figures["collapsed"])
    top = max(5.0, 1.05 * max(row["y"] for row in rows))
    y = percent_axis((0, min(100.0, top)), None)
    return headed(_lines(study, rows, y), "collapsed, %").properties(**SIZE)


def _correlation(study: Comparison, levels: Sequence[Level]) -> Any:
    alt = altair()
    linear = _rows(levels, lambda level: level.figures["pearson"])
    ranks = _rows(levels, lambda level: level.figures["spearman"])
    if not linear:
        return None
    y = percent_axis((min(0.0, *(r["y"] - 0.05 for r in linear + ranks)), 1), None)
    dashed = alt.Chart(alt.Data(values=tuple(ranks))).mark_line(strokeDash=[4, 3], strokeWidth=1.3)
    x = sparsity_axis(step=20)
    layers = [
        dashed.encode(x=x, y=y("y"), order="order:Q", color=color_of(study)),
        *_lines(study, linear, y),
    ]
    return headed(layers, "correlation with the originals").properties(**SIZE)


def _gap(study: Comparison, levels: Sequence[Level]) -> Any:
    alt = altair()
    rows = [
        row | spread_row(spread) | {"gap": spread_text(spread, 2)}
        for row, level in zip(_rows(levels, lambda _: 0.0), levels, strict=True)
        for spread in [quartiles(level.gap)]
        if spread.count
    ]
    if not rows:
        return None
    ends = padded([v for row in rows for v in (row["low"], row["high"])] + [0.0])
    y, x = percent_axis(ends, None), sparsity_axis(step=20)
    base = alt.Chart(alt.Data(values=tuple(rows))).encode(
        x=x, color=color_of(study, legend=len(study.methods) > 1)
    )
    tips = [alt.Tooltip(f"{n}:N") for n in ("method", "level", "gap", "models")]
    layers = [
        alt.Chart(alt.Data(values=[{"y": 0}])).mark_rule(color="#888888").encode(y=y("y")),
        base.mark_rule(strokeWidth=1, opacity=0.6).encode(y=y("low"), y2="high:Q"),
        base.mark_bar(size=7, fillOpacity=0.45).encode(y=y("q1"), y2="q3:Q"),
        base.mark_point(filled=True, size=26, opacity=1).encode(y=y("median"), tooltip=tips),
    ]
    return headed(layers, "generalisation gap, points").properties(**SIZE)


def _lines(study: Comparison, rows: Sequence[Row], y: Any) -> list[Any]:
    alt = altair()
    base = alt.Chart(alt.Data(values=tuple(rows))).encode(
        x=sparsity_axis(step=20), y=y("y"), color=color_of(study, legend=len(study.methods) > 1)
    )
    tips = [alt.Tooltip("method:N"), alt.Tooltip("level:N"), alt.Tooltip("y:Q", format=".3")]
    dots = base.transform_filter("datum.last")
    return [
        base.mark_line(strokeWidth=1.6).encode(order="order:Q"),
        dots.mark_point(filled=True, size=34, opacity=1).encode(tooltip=tips),
    ]


def _rows(levels: Sequence[Level], read: Callable[[Level], float]) -> list[Row]:
    found = [
        {
            "method": level.method,
            "level": level.name,
            "last": level.last,
            "order": 100 * level.asked if level.chosen else level.epoch,
            "x": 100 * quartiles(level.sparsity).median,
            "y": read(level),
        }
        for level in levels
    ]
    return [row for row in found if row["y"] == row["y"]]
