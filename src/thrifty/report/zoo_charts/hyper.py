"""Hyper-parameters: what they do to accuracy over a whole zoo."""

from typing import Any

import numpy as np

from thrifty.report.extra import altair
from thrifty.report.look import finished, grid
from thrifty.report.parts import COLORS
from thrifty.report.zoo_charts import ZOO_REPORTS
from thrifty.report.zoo_marks import (
    Row,
    boxes,
    counted,
    headed,
    outliers,
    percent_axis,
    share_ends,
    spread_row,
    spread_text,
    title_of,
)
from thrifty.zoo.comparing import Comparison
from thrifty.zoo.levels import standing
from thrifty.zoo.statistics import Floats, quartiles

HYPER = ("net", "act", "init", "optimizer", "dropout", "lr", "weight_decay", "batch", "momentum")
MOST_VALUES, COLUMNS = 12, 3
LETTERS = 24
"""Names of values that are longer together are written aslant."""


@ZOO_REPORTS.entry("zoo-hyper")
def hyper_chart(study: Comparison) -> Any:
    """Test accuracy by each hyper-parameter that differs between models.

    Raises:
        MissingExtra: altair is not installed.
    """
    accuracy = standing(study.last, "test_accuracy")
    varied = {name: _values(study, name) for name in HYPER if name in study.last}
    varied = {n: v for n, v in varied.items() if 1 < len(set(v)) <= MOST_VALUES}
    if not varied or not np.isfinite(accuracy).any():
        return None
    domain = share_ends((100 * accuracy).tolist())
    panels = [
        _panel(name, values, accuracy, domain, first=place % COLUMNS == 0)
        for place, (name, values) in enumerate(varied.items())
    ]
    title = title_of(
        f"Test accuracy by hyper-parameter, {counted(study)}",
        ["Box: quartiles; line: median; whiskers: 1.5 interquartile ranges; dots: beyond."],
    )
    return finished(grid(panels, COLUMNS).properties(title=title))


def _panel(
    name: str, values: list[str], accuracy: Floats, domain: tuple[float, float], first: bool
) -> Any:
    """Boxes of one hyper-parameter, one a value."""
    alt = altair()
    order = sorted(set(values), key=_order)
    rows: list[Row] = []
    dots: list[Row] = []
    for value in order:
        chosen = accuracy[np.array([v == value for v in values])]
        spread = quartiles(chosen)
        if spread.count:
            told = {"value": value, "accuracy": spread_text(spread, 2)}
            rows.append(spread_row(spread) | told)
            dots += [{"value": value, "y": o} for o in outliers(chosen, spread)]
    angle = 0 if sum(len(value) for value in order) < LETTERS else -40
    axis = alt.Axis(labelAngle=angle, grid=False)
    x = alt.X("value:N", title=None, sort=order, axis=axis)
    y = percent_axis(domain, "test accuracy, %" if first else None)
    tips = [alt.Tooltip(f"{n}:N") for n in ("value", "accuracy", "models")]
    layers = boxes(rows, x, y, COLORS[0], 16, tips)
    if dots:
        beyond = alt.Chart(alt.Data(values=tuple(dots)))
        layers.append(
            beyond.mark_circle(size=9, opacity=0.4, color=COLORS[0]).encode(x=x, y=y("y"))
        )
    return headed(layers, name).properties(width=206, height=180)


def _values(study: Comparison, name: str) -> list[str]:
    return [f"{v:g}" if isinstance(v, float) else str(v) for v in study.last[name].tolist()]


def _order(text: str) -> tuple[float, str]:
    """Numbers by size, words by letters."""
    try:
        return float(text), ""
    except ValueError:
        return float("inf"), text
