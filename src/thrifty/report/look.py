"""How every chart looks: fonts, sizes, grid; and charts of several models one above the other."""

from collections.abc import Callable, Sequence
from typing import Any

from thrifty.lab.front import Front
from thrifty.report.extra import altair
from thrifty.report.parts import pairs

WIDTH = 720
FONT = "Helvetica Neue, Helvetica, Arial, sans-serif"
INK, FAINT = "#222222", "#e4e4e4"


def each_pair(front: Front, draw: Callable[[Front], Any]) -> Any:
    """The chart of each model and data set, one above the other, in the look of all charts."""
    alt = altair()
    parts = [draw(part) for part in pairs(front)]
    if not parts:
        return finished(note("nothing was measured yet"))
    if len(parts) == 1:
        return finished(parts[0])
    apart = {"color": "independent", "shape": "independent"}
    return finished(alt.vconcat(*parts, spacing=36).resolve_scale(**apart))


def grid(charts: Sequence[Any], columns: int) -> Any:
    """Charts side by side, ``columns`` to a row; the last row may be short."""
    alt = altair()
    rows = [charts[i : i + columns] for i in range(0, len(charts), columns)]
    return alt.vconcat(*(alt.hconcat(*row, spacing=14) for row in rows), spacing=18)


def panel_title(text: str) -> Any:
    """The small title of one panel of a chart."""
    return altair().TitleParams(
        text, fontSize=12, fontWeight="normal", anchor="start", frame="group", offset=6
    )


def note(text: str, title: str = "") -> Any:
    """A sentence in place of a chart that has nothing to draw."""
    alt = altair()
    chart = (
        alt.Chart(alt.Data(values=[{"text": text}]))
        .mark_text(fontSize=13, color="#666666")
        .encode(text="text:N")
        .properties(width=WIDTH, height=60)
    )
    return chart.properties(title=title) if title else chart


def finished(chart: Any) -> Any:
    """``chart`` in the look of all charts; nothing can be laid around it any more."""
    alt = altair()
    words = {"labelFont": FONT, "titleFont": FONT, "labelColor": INK, "titleColor": INK}
    whole = chart.copy(deep=False)  # chart.configure_axis and its like copy the chart each
    whole.config = alt.Config(
        aria=False,
        background="#ffffff",
        font=FONT,
        padding=14,
        view=alt.ViewConfig(stroke="#bbbbbb", strokeWidth=1),
        axis=alt.AxisConfig(
            **words,
            gridColor=FAINT,
            domainColor="#888888",
            tickColor="#888888",
            labelFontSize=11,
            titleFontSize=12,
            titleFontWeight="normal",
            titlePadding=8,
        ),
        legend=alt.LegendConfig(
            **words,
            labelFontSize=12,
            labelLimit=220,
            symbolSize=90,
            symbolOpacity=1,
            symbolStrokeWidth=2,
        ),
        header=alt.HeaderConfig(**words, labelFontSize=12, titleFontSize=12),
        title=alt.TitleConfig(
            font=FONT,
            fontSize=15,
            fontWeight=600,
            anchor="start",
            color=INK,
            offset=10,
            subtitleFont=FONT,
            subtitleFontSize=12,
            subtitleColor="#555555",
            subtitlePadding=5,
        ),
    )
    return whole
