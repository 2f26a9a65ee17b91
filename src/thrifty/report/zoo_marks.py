"""What charts of populations are drawn with: boxes, bands, method colours, axes in percent."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from thrifty.report.extra import altair
from thrifty.report.parts import COLORS, DENSE_COLOR, finite
from thrifty.zoo.comparing import Comparison
from thrifty.zoo.levels import standing
from thrifty.zoo.statistics import Floats, Spread, quartiles

ORIGINALS = "originals"
OUTLIERS = 40
"""Values beyond the whiskers that are drawn for one box."""
MOST_DOTS = 400
"""Models drawn as dots in one panel; of more, so many evenly spread ones."""

Row = dict[str, Any]


def method_colors(study: Comparison) -> dict[str, str]:
    """A colour for each method, the same in every chart."""
    return {name: COLORS[i % len(COLORS)] for i, name in enumerate(study.methods)}


def color_of(study: Comparison, legend: bool = True, names: Sequence[str] | None = None) -> Any:
    """The colour channel of rows with a ``method``; the legend shows ``names``, or all."""
    alt = altair()
    every = method_colors(study)
    colors = {name: every[name] for name in (every if names is None else names)}
    scale = alt.Scale(domain=list(colors), range=list(colors.values()))
    shown = alt.Legend(orient="top", title=None, symbolType="square") if legend else None
    return alt.Color("method:N", scale=scale, legend=shown)


def spread_row(spread: Spread, percent: bool = True) -> Row:
    """A spread as the fields of a row that boxes and bands draw."""
    by = 100 if percent else 1
    found = {
        name: by * getattr(spread, name) for name in ("low", "q1", "median", "q3", "high", "mean")
    }
    return finite(found | {"models": spread.count})


def spread_text(spread: Spread, digits: int = 1) -> str:
    """Median and quartiles in percent: ``87.5 (86.7 to 88.3)``, or ``80.0`` where they are one.

    A dash where there is no value.
    """
    if not spread.count:
        return "-"
    low, middle, high = (f"{100 * v:.{digits}f}" for v in (spread.q1, spread.median, spread.q3))
    return middle if low == high else f"{middle} ({low} to {high})"


def outliers(values: Floats, spread: Spread) -> list[float]:
    """Values beyond the whiskers in percent, at most :data:`OUTLIERS`, evenly picked."""
    beyond = np.sort(values[(values < spread.low) | (values > spread.high)])
    return [100 * float(beyond[i]) for i in picked(len(beyond), OUTLIERS)]


def picked(count: int, most: int) -> list[int]:
    """Numbers under ``count``, all or ``most`` of them, evenly spread.

    Example:
        >>> picked(3, 5), picked(9, 3)
        ([0, 1, 2], [0, 4, 8])
    """
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)] if most > 1 else [0]


def boxes(
    rows: Sequence[Row], x: Any, y: Any, color: Any, size: int, tooltip: Any = None
) -> list[Any]:
    """The layers of boxes of quartiles, with whiskers and the median, at the places of ``x``.

    Args:
        rows: of :func:`spread_row`.
        y: makes the vertical channel of a field.
        color: channel, or a colour.
        size: width of a box in pixels.
    """
    alt = altair()
    shade = color if not isinstance(color, str) else alt.value(color)
    tips = {} if tooltip is None else {"tooltip": tooltip}
    base = alt.Chart(alt.Data(values=tuple(rows))).encode(x=x, color=shade, **tips)
    whisker = base.mark_rule(strokeWidth=1.3, clip=True).encode(y=y("low"), y2="high:Q")
    paper = base.mark_bar(size=size, color="white", opacity=1, clip=True).encode(
        y=y("q1"), y2="q3:Q", color=alt.value("white")
    )
    box = base.mark_bar(
        size=size, fillOpacity=0.35, strokeOpacity=1, strokeWidth=1.3, clip=True
    ).encode(y=y("q1"), y2="q3:Q", stroke=_stroke(color))
    middle = base.mark_tick(
        orient="horizontal", thickness=2.2, size=size, opacity=1, clip=True
    ).encode(y=y("median"))
    return [whisker, paper, box, middle]


def _stroke(color: Any) -> Any:
    """The colour channel again, for outlines."""
    alt = altair()
    if isinstance(color, str):
        return alt.value(color)
    told = color.to_dict()
    return alt.Stroke(f"{told['field']}:N", scale=alt.Scale(**told["scale"]), legend=None)


def band(
    rows: Sequence[Row], x: Any, y: Any, color: Any, opacity: float, ends: tuple[str, str]
) -> Any:
    """An area between two fields of rows."""
    alt = altair()
    shade = color if not isinstance(color, str) else alt.value(color)
    base = alt.Chart(alt.Data(values=tuple(rows))).encode(x=x, color=shade)
    return base.mark_area(opacity=opacity, clip=True).encode(y=y(ends[0]), y2=f"{ends[1]}:Q")


def sparsity_axis(field: str = "x", step: int = 10) -> Any:
    """The horizontal channel of a sparsity in percent, a little wider than 0 to 100."""
    alt = altair()
    scale = alt.Scale(domain=[-1.5, 101.5], nice=False, zero=False)
    axis = alt.Axis(values=list(range(0, 101, step)))
    return alt.X(f"{field}:Q", title="sparsity, %", scale=scale, axis=axis)


def percent_axis(domain: Sequence[float], title: str | None, ticks: int = 6) -> Any:
    """A maker of vertical channels on one scale."""
    alt = altair()
    scale = alt.Scale(domain=list(domain), nice=False, zero=False)

    def channel(field: str) -> Any:
        return alt.Y(f"{field}:Q", title=title, scale=scale, axis=alt.Axis(tickCount=ticks))

    return channel


def original_lines(study: Comparison, y: Any) -> list[Any]:
    """The originals behind a chart of accuracy: a band of quartiles and a dashed median."""
    alt = altair()
    spread = original_spread(study)
    if not spread.count:
        return []
    base = alt.Chart(alt.Data(values=[spread_row(spread)]))
    return [
        base.mark_rect(color=DENSE_COLOR, opacity=0.13, clip=True).encode(y=y("q1"), y2="q3:Q"),
        base.mark_rule(color=DENSE_COLOR, strokeDash=[5, 4], strokeWidth=1.1, clip=True).encode(
            y=y("median")
        ),
    ]


def original_spread(study: Comparison) -> Spread:
    """Test accuracy of the originals at their last epoch."""
    return quartiles(standing(study.last, "test_accuracy"))


def padded(values: Iterable[Any], share: float = 0.06, least: float = 1.0) -> tuple[float, float]:
    """Ends of an axis around ``values``: some air, and not less than ``least`` in all."""
    known = [v for v in values if v is not None and math.isfinite(v)] or [0.0]
    low, high = min(known), max(known)
    air = max(share * (high - low), (least - (high - low)) / 2, 1e-9)
    return low - air, high + air


def share_ends(values: Iterable[Any], least: float = 1.0) -> tuple[float, float]:
    """:func:`padded`, and never beyond 0 to 100."""
    low, high = padded(values, least=least)
    return max(0.0, low), min(100.0, high)


def headed(layers: Sequence[Any], *lines: str) -> Any:
    """A panel of ``layers`` under its name, and a fainter second line.

    A title of Vega lies above whatever reaches out of the panel, so that those of neighbours
    would stand at different heights.  Layers are laid in one go, for Altair copies layers of
    layers over and over.
    """
    alt = altair()
    words = [
        alt.Chart(alt.Data(values=[{"text": line}]))
        .mark_text(
            align="left",
            baseline="bottom",
            fontSize=11 if place else 12,
            color="#555555" if place else "#222222",
            clip=False,
        )
        .encode(x=alt.value(0), y=alt.value(-7 - 14 * (len(lines) - 1 - place)), text="text:N")
        for place, line in enumerate(lines)
    ]
    return alt.layer(*layers, *words)


def title_of(title: str, about: Sequence[str]) -> Any:
    """A title with lines under it."""
    return altair().TitleParams(title, subtitle=list(about), offset=14)


def counted(study: Comparison) -> str:
    """How many models: ``1,000 models``, ``one model``."""
    number = len(study.last["model"])
    return "one model" if number == 1 else f"{number:,} models"
