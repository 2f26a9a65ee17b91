"""Epochs: how twins that choose their sparsity get there."""

from collections.abc import Callable
from typing import Any

from thrifty.report.extra import altair
from thrifty.report.look import finished
from thrifty.report.zoo_charts import ZOO_REPORTS
from thrifty.report.zoo_marks import (
    Row,
    band,
    color_of,
    counted,
    headed,
    padded,
    percent_axis,
    spread_row,
    spread_text,
    title_of,
)
from thrifty.zoo.comparing import Comparison
from thrifty.zoo.levels import Level
from thrifty.zoo.statistics import Floats, quartiles

PANELS: tuple[tuple[str, Callable[[Level], Floats]], ...] = (
    ("sparsity, %", lambda level: level.sparsity),
    ("test accuracy, %", lambda level: level.accuracy),
    ("generalisation gap, points", lambda level: level.gap),
)


@ZOO_REPORTS.entry("twins-epochs")
def epochs_chart(study: Comparison) -> Any:
    """Sparsity, accuracy and generalisation gap of the twins, epoch by epoch.

    Raises:
        MissingExtra: altair is not installed.
    """
    levels = [level for level in study.levels if not level.chosen]
    if len({level.epoch for level in levels}) < 2:
        return None
    panels = [
        panel
        for name, read in PANELS
        for panel in [_panel(study, levels, name, read)]
        if panel is not None
    ]
    about = ["Line: median; dark band: quartiles; light band: whiskers."]
    title = title_of(f"Twins epoch by epoch, of {counted(study)}", about)
    return finished(altair().hconcat(*panels, spacing=18).properties(title=title))


def _panel(
    study: Comparison, levels: list[Level], name: str, read: Callable[[Level], Floats]
) -> Any:
    alt = altair()
    rows: list[Row] = [
        spread_row(spread)
        | {"method": level.method, "epoch": level.epoch, "median, quartiles": spread_text(spread)}
        for level in levels
        for spread in [quartiles(read(level))]
        if spread.count
    ]
    if not rows:
        return None
    y = percent_axis(padded([v for row in rows for v in (row["low"], row["high"])]), None)
    last = max(row["epoch"] for row in rows)
    x = alt.X(
        "epoch:Q",
        title="epoch",
        scale=alt.Scale(domain=[min(row["epoch"] for row in rows), last], nice=False),
        axis=alt.Axis(tickCount=min(6, last), format="d"),
    )
    methods = list(dict.fromkeys(row["method"] for row in rows))
    color = color_of(study, len(methods) > 1, methods)
    base = alt.Chart(alt.Data(values=tuple(rows))).encode(x=x, color=color, y=y("median"))
    tips = [alt.Tooltip(f"{n}:N") for n in ("method", "epoch", "median, quartiles", "models")]
    layers = [
        band(rows, x, y, color, 0.12, ("low", "high")),
        band(rows, x, y, color, 0.28, ("q1", "q3")),
        base.mark_line(strokeWidth=1.8),
        base.mark_point(filled=True, size=18, opacity=1).encode(tooltip=tips),
    ]
    return headed(layers, name).properties(width=206, height=190)
