"""Seeds: what each pruned network lost against its own dense parent."""

import math
from collections.abc import Mapping
from typing import Any

from thrifty.lab.front import Front
from thrifty.report import REPORTS
from thrifty.report.extra import altair
from thrifty.report.look import each_pair, grid, note, panel_title
from thrifty.report.parts import method_colors, methods, pair_name
from thrifty.report.rows import NEAR, place
from thrifty.report.units import label_expression, log_domain, sparsity_percent, ticks


@REPORTS.entry("seeds")
def seeds_chart(front: Front, *, colors: Mapping[str, str] | None = None) -> Any:
    """Points gained or lost by every seed against its own dense parent, a panel a method.

    A pair shares its parent, so the luck of the dense training cancels, which the spread of
    accuracies does not show.

    Args:
        front: what was measured; several models and data sets give a picture each.
        colors: the colour of each method; chosen in first-seen order if not given.

    Returns:
        An Altair chart, cut off at 5 points lost.

    Raises:
        MissingExtra: altair is not installed.
    """
    return each_pair(front, lambda part: _panels(part, colors or method_colors(front)))


def _panels(front: Front, colors: Mapping[str, str]) -> Any:
    alt = altair()
    title = f"Every seed against its own dense parent: {pair_name(front)}"
    names = methods(front)
    rows: list[dict[str, Any]] = [
        {
            "method": record.method,
            "seed": record.seed,
            "level": record.level,
            "x": place(record, "sparsity"),
            "y": -100 * record.drop,
            "sparsity": sparsity_percent(record.sparsity),
            "points gained": f"{-100 * record.drop:+.2f}",
        }
        for record in front.records
        if record.method in names and math.isfinite(record.drop)
    ]  # fmt: skip
    if not rows:
        return note("no pruned network yet", title)
    lost = min(row["y"] for row in rows) < -100 * NEAR
    about = "A line a seed; 0 is the parent." + (
        f" Cut off at {100 * NEAR:.0f} points lost." if lost else ""
    )
    columns = min(len(names), 3)
    panels = [
        _panel(rows, name, colors[name], first=i % columns == 0) for i, name in enumerate(names)
    ]
    return grid(panels, columns).properties(title=alt.TitleParams(title, subtitle=[about]))


def _panel(rows: list[dict[str, Any]], method: str, color: str, first: bool) -> Any:
    """The lines of one method; all panels have the axes of all ``rows``."""
    alt = altair()
    gains = [0.0, *(row["y"] for row in rows)]
    bottom, top = max(min(gains) - 0.2, -100 * NEAR), max(gains) + 0.2
    ends = log_domain([row["x"] for row in rows], most=1.0)
    x = alt.X(
        "x:Q",
        title="sparsity",
        scale=alt.Scale(type="log", domain=list(ends), reverse=True, nice=False),
        axis=alt.Axis(
            values=ticks(*ends), labelExpr=label_expression("sparsity"), labelOverlap="parity"
        ),
    )
    y = alt.Y(
        "y:Q",
        title="points against the parent" if first else None,
        scale=alt.Scale(domain=[bottom, top], nice=False, zero=False),
        axis=alt.Axis(tickCount=6),
    )
    base = alt.Chart(alt.Data(values=tuple(row for row in rows if row["method"] == method))).encode(
        x=x, y=y, detail="seed:O", tooltip=["method:N", "seed:O", "sparsity:N", "points gained:N"]
    )
    zero = alt.Chart(alt.Data(values=[{"y": 0}])).mark_rule(color="#888888").encode(y=y)
    line = base.mark_line(strokeWidth=1, strokeOpacity=0.6, clip=True, color=color)
    dot = base.transform_filter(alt.datum.y >= bottom)
    return alt.layer(
        zero,
        line.encode(order="level:Q"),
        dot.mark_circle(size=28, opacity=1, clip=True, color=color),
    ).properties(width=240, height=190, title=panel_title(method))
