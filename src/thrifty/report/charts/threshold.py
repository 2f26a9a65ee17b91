"""Threshold: what cutting gates below it costs in accuracy and saves on disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from thrifty.lab.front import Front
from thrifty.report import REPORTS
from thrifty.report.extra import altair
from thrifty.report.look import WIDTH, finished, grid, note, panel_title
from thrifty.report.parts import COLORS, pair_name, pairs
from thrifty.report.rows import domain
from thrifty.report.threshold_rows import (
    ACCURACY,
    CUT,
    SIZE,
    Curve,
    Row,
    curves,
    dense_accuracy,
    dense_bytes,
    place_of_zero,
    seeds_of,
    size_ends,
)
from thrifty.report.units import label_expression, log_domain, ticks

BLUE, ORANGE = COLORS[0], COLORS[1]
SHOWN = {ACCURACY: BLUE, CUT: BLUE, SIZE: ORANGE}
HEIGHT, HALF = 300, 330
"""Pixels: of the height of a panel, and of its width where there are two to a row."""
MOST_TICKS = 10
FALLEN = 0.10
"""Accuracies before retraining are drawn as far as this share below the lowest after it."""


@REPORTS.entry("threshold")
def threshold_chart(front: Front) -> Any:
    """Accuracy (left axis) and size on disk (right axis) against the threshold on the gates.

    Args:
        front: what was measured; several models and data sets give a picture each.

    Returns:
        An Altair chart, a panel a method; runs that were read together count as methods.  All
        panels of a model and data set have the same axes.

    Raises:
        MissingExtra: altair is not installed.
    """
    alt = altair()
    parts = [part for part in pairs(front) if curves(part)]
    if not parts:
        return finished(note("nothing was cut by a threshold"))
    drawn = [_panels(part) for part in parts]
    return finished(drawn[0] if len(drawn) == 1 else alt.vconcat(*drawn, spacing=36))


@dataclass(frozen=True)
class Axes:
    """The axes that all panels of one model and data set share."""

    zero: float | None
    """Where the threshold 0 lies on a logarithmic axis; ``None`` if it is not one."""
    thresholds: tuple[float, ...]
    shares: tuple[float, float]
    sizes: tuple[float, float, bool]
    """The ends of the sizes, and whether their axis is logarithmic."""
    size: str
    dense: float | None
    """Bytes of the dense network."""

    @classmethod
    def of(cls, front: Front, found: Sequence[Curve]) -> "Axes":
        """Around everything that is drawn."""
        size = found[0].size
        dense = dense_bytes(front, size)
        rows = [row for curve in found for row in curve.rows()]
        near = [r[end] for r in rows if r["quantity"] == ACCURACY for end in ("low", "high")]
        near += [a for curve in found if (a := dense_accuracy(curve)) is not None]
        cuts = [r["y"] for r in rows if r["quantity"] == CUT]
        near += [cut for cut in cuts if cut >= min(near, default=1.0) - FALLEN]
        thresholds = tuple(sorted({t for curve in found for t in curve.thresholds}))
        sizes = [r[end] for r in rows if r["quantity"] == SIZE for end in ("y", "high")]
        ends = size_ends([*sizes, dense or 0.0])
        return cls(place_of_zero(thresholds), thresholds, domain(near), ends, size, dense)

    def place(self, threshold: float) -> float:
        """Where a threshold is drawn."""
        return threshold or (0.0 if self.zero is None else self.zero)

    def x(self) -> Any:
        """The axis of thresholds; if it is logarithmic, 0 is at its left end."""
        alt = altair()
        places = [self.place(t) for t in self.thresholds]
        zero = f"datum.value == {self.zero!r} ? '0' : " if 0 in self.thresholds else ""
        if self.zero is None:
            zero, air = "", 0.04 * (places[-1] - places[0]) or 1.0
            scale = alt.Scale(domain=[places[0] - air, places[-1] + air], zero=False, nice=False)
        else:
            scale = alt.Scale(type="log", domain=list(log_domain(places)), nice=False)
        return alt.X(
            "x:Q",
            title="threshold on the gates" + ("" if self.zero is None else " (log scale)"),
            scale=scale,
            axis=alt.Axis(
                values=places,
                labelExpr=f"{zero}format(datum.value, '~g')",
                labelOverlap="greedy",
                grid=False,
            ),
        )

    def y(self, quantity: str, field: str = "y", titled: bool = True) -> Any:
        """The axis of a quantity: shares to the left, bytes from 0 to the right."""
        alt = altair()
        color = SHOWN[quantity]
        common: dict[str, Any] = {"titleColor": color, "labelColor": color, "tickCount": 6}
        if quantity == SIZE:
            low, high, log = self.sizes
            kind = "log" if log else "linear"
            scale = alt.Scale(type=kind, domain=[low, high], nice=False, clamp=log)
            if log:
                values = _decades(low, high)
                common |= {"values": values, "tickCount": len(values)}
            axis = alt.Axis(
                orient="right", grid=False, labelExpr=label_expression(self.size), **common
            )
            file = "packed" if self.size == "packed_bytes" else "compressed"
            title = f"size on disk, {file}" + (" (log scale)" if log else "")
        else:
            scale = alt.Scale(domain=list(self.shares), zero=False, nice=False)
            axis = alt.Axis(labelExpr="format(100 * datum.value, '.4~g')", **common)
            title = "accuracy, %"
        return alt.Y(f"{field}:Q", title=title if titled else None, scale=scale, axis=axis)


def _decades(low: float, high: float) -> list[float]:
    """Round numbers for a log axis: 1, 2, 5 of every decade, or 1 alone where those are many."""
    found = ticks(low, high)
    return found if len(found) <= MOST_TICKS else [t for t in found if f"{t:e}"[0] == "1"]


def _panels(front: Front) -> Any:
    alt = altair()
    found = curves(front)
    axes = Axes.of(front, found)
    title = f"Accuracy and size against the threshold: {pair_name(front)}"
    if len(found) == 1:
        chart = _panel(found[0], axes, WIDTH, first=True, last=True)
    else:
        panels = [
            _panel(curve, axes, HALF, first=i % 2 == 0, last=i % 2 == 1 or i == len(found) - 1)
            for i, curve in enumerate(found)
        ]
        chart = grid(panels, 2)
    return chart.properties(title=alt.TitleParams(title, subtitle=_about(found, axes)))


def _panel(curve: Curve, axes: Axes, width: int, first: bool, last: bool) -> Any:
    """The curves of one method, each against its own axis."""
    alt = altair()
    rows = [row | {"x": axes.place(row["threshold"])} for row in curve.rows()]
    dots = [row | {"x": axes.place(row["threshold"])} for row in curve.dots()]
    share = _side(ACCURACY, rows, dots, axes, dense_accuracy(curve), first)
    cut = _line(CUT, rows, axes, first, dash=[1, 3], width=1.4)
    size = _side(SIZE, rows, dots, axes, axes.dense, last)
    chart = alt.layer(alt.layer(*share, cut), alt.layer(*size)).resolve_scale(y="independent")
    return chart.properties(width=width, height=HEIGHT, title=panel_title(curve.method))


def _side(
    quantity: str,
    rows: Sequence[Row],
    dots: Sequence[Row],
    axes: Axes,
    dense: float | None,
    titled: bool,
) -> list[Any]:
    """Spread, reference of the dense network, seeds, line and points of one quantity."""
    alt = altair()
    mine = tuple(row for row in rows if row["quantity"] == quantity)
    y = axes.y(quantity, titled=titled)
    base = alt.Chart(alt.Data(values=mine)).encode(x=axes.x(), y=y, color=_color())
    band = base.mark_area(opacity=1, fillOpacity=0.15, clip=True).encode(
        y=axes.y(quantity, "low", titled), y2="high:Q"
    )
    point = base.mark_point(filled=True, size=64, opacity=1, clip=True).encode(
        shape=_shape(), tooltip=_tooltip()
    )
    seeds = alt.Chart(
        alt.Data(values=tuple(row for row in dots if row["quantity"] == quantity))
    ).encode(x=axes.x(), y=y, color=_color())
    dot = seeds.mark_circle(size=12, opacity=0.5, clip=True).encode(tooltip=["seed:O", "y:Q"])
    found = [band, _line(quantity, rows, axes, titled), dot, point]
    if dense is None:
        return found
    rule = alt.Chart(alt.Data(values=[{"y": dense}])).encode(y=y)
    return [rule.mark_rule(color=SHOWN[quantity], strokeDash=[6, 4], strokeWidth=1.2), *found]


def _line(
    quantity: str,
    rows: Sequence[Row],
    axes: Axes,
    titled: bool,
    dash: Sequence[float] = (1, 0),
    width: float = 1.8,
) -> Any:
    alt = altair()
    mine = tuple(row for row in rows if row["quantity"] == quantity)
    base = alt.Chart(alt.Data(values=mine)).encode(
        x=axes.x(), y=axes.y(quantity, titled=titled), color=_color(), order="threshold:Q"
    )
    return base.mark_line(strokeWidth=width, strokeDash=list(dash), strokeCap="round", clip=True)


def _color() -> Any:
    alt = altair()
    names = [ACCURACY, SIZE]
    scale = alt.Scale(domain=[*names, CUT], range=[BLUE, ORANGE, BLUE])
    return alt.Color("quantity:N", title=None, scale=scale, legend=alt.Legend(values=names))


def _shape() -> Any:
    alt = altair()
    names = [ACCURACY, SIZE]
    scale = alt.Scale(domain=[*names, CUT], range=["circle", "square", "circle"])
    return alt.Shape("quantity:N", title=None, scale=scale, legend=alt.Legend(values=names))


def _tooltip() -> list[Any]:
    alt = altair()
    texts = {"quantity": "", "at": "threshold", "said": "mean", "seeds": ""}
    return [alt.Tooltip(f"{field}:N", title=name or field) for field, name in texts.items()]


def _about(found: Sequence[Curve], axes: Axes) -> list[str]:
    """The sentences under the title."""
    text = "Dashed: the dense network."
    if any(row["quantity"] == CUT for curve in found for row in curve.rows()):
        text += " Dotted: accuracy before retraining."
    if any(curve.dots() for curve in found):
        text += f" Means over {seeds_of(found)}; bands: one standard deviation; dots: seeds."
    lines = [text]
    for curve in found:
        told = [t for t in (curve.saved(axes.dense), curve.emptied()) if t]
        if told:
            line = "; ".join(told)
            name = f"{curve.method}: " if len(found) > 1 else ""
            lines.append(f"{name}{line}." if name else f"{line[0].upper()}{line[1:]}.")
    return lines
