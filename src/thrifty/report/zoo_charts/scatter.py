"""Scatter: does a better original have a better twin?"""

import math
from typing import Any

import numpy as np

from thrifty.report.extra import altair
from thrifty.report.look import finished, grid
from thrifty.report.zoo_charts import ZOO_REPORTS
from thrifty.report.zoo_marks import (
    MOST_DOTS,
    counted,
    headed,
    method_colors,
    padded,
    picked,
    title_of,
)
from thrifty.zoo.comparing import Comparison
from thrifty.zoo.levels import Level

COLUMNS, MOST_PANELS = 5, 15
FEW = 100
"""Up to so many models the dots are larger."""
ROOM = 715
"""Width of the panels of a row in pixels, without what is between them."""


@ZOO_REPORTS.entry("twins-scatter")
def scatter_chart(study: Comparison) -> Any:
    """Accuracy of each original against that of its twin, a panel a level, with correlations.

    Raises:
        MissingExtra: altair is not installed.
    """
    levels = [level for level in study.finals if _both(level).sum() > 1]
    if not levels:
        return None
    levels = [levels[i] for i in picked(len(levels), MOST_PANELS)]
    alike = padded([100 * v for level in levels for v in level.original[_both(level)]])
    colors = method_colors(study)
    columns = -(-len(levels) // -(-len(levels) // COLUMNS))
    side = min(200, ROOM // columns - 42)
    panels = [
        _panel(
            level,
            colors[level.method],
            alike,
            side,
            titles=("original, %" if i + columns >= len(levels) else None,)
            + ("twin, %" if i % columns == 0 else None,),
        )
        for i, level in enumerate(levels)
    ]
    about = [
        "r: Pearson, \u03c1: Spearman. Solid line: twin as accurate as original; "
        "vertical axes differ."
    ]
    if any(_both(level).sum() > MOST_DOTS for level in levels):
        about.append(f"{MOST_DOTS} models a panel are drawn; the correlations are of all.")
    title = title_of(f"Accuracy of twin and original, {counted(study)}", about)
    return finished(grid(panels, columns).properties(title=title))


def _both(level: Level) -> Any:
    return np.isfinite(level.original) & np.isfinite(level.accuracy)


def _panel(
    level: Level,
    color: str,
    alike: tuple[float, float],
    side: int,
    titles: tuple[str | None, str | None],
) -> Any:
    alt = altair()
    known = np.flatnonzero(_both(level))
    shown = known[picked(len(known), MOST_DOTS)]
    rows = [
        {
            "model": int(level.models[i]),
            "x": round(100 * float(level.original[i]), 3),
            "y": round(100 * float(level.accuracy[i]), 3),
        }
        for i in shown
    ]
    ends = padded([row["y"] for row in rows], least=2.0)
    x = alt.X(
        "x:Q",
        title=titles[0],
        scale=alt.Scale(domain=list(alike), nice=False, zero=False),
        axis=alt.Axis(tickCount=4),
    )
    y = alt.Y(
        "y:Q",
        title=titles[1],
        scale=alt.Scale(domain=list(ends), nice=False, zero=False),
        axis=alt.Axis(tickCount=4),
    )
    line = alt.Chart(alt.Data(values=[{"x": v, "y": v} for v in alike]))
    dots = alt.Chart(alt.Data(values=tuple(rows)))
    r, rho = number(level.figures["pearson"]), number(level.figures["spearman"])
    layers = [
        line.mark_line(color="#777777", strokeWidth=1, clip=True).encode(x=x, y=y),
        dots.mark_circle(
            size=10 if len(rows) > FEW else 22, opacity=0.45, color=color, clip=True
        ).encode(x=x, y=y, tooltip=["model:Q", "x:Q", "y:Q"]),
    ]
    named = headed(layers, f"{level.method}, {level.name}", f"r {r}, \u03c1 {rho}")
    return named.properties(width=side, height=side)


def number(value: float) -> str:
    """A correlation in words: ``0.62``; - where it is not defined."""
    return f"{value:.2f}" if math.isfinite(value) else "-"
