"""Decades: how the sizes of weights are spread, from the smallest to the largest."""

from typing import Any

from thrifty.census.census import MANY, Census
from thrifty.census.curves import decades
from thrifty.census.words import percent, threshold
from thrifty.report.census_charts import CENSUS_REPORTS
from thrifty.report.census_charts.energy import network_color
from thrifty.report.extra import altair
from thrifty.report.look import WIDTH, finished
from thrifty.report.parts import COLORS

LEAST = 1e-7
"""Smaller values are not drawn: they are few, and would take half of the axis."""


@CENSUS_REPORTS.entry("decades")
def decades_chart(census: Census) -> Any:
    """Histogram of log10 |w|: percent of weights a decade, with the thresholds marked.

    Raises:
        MissingExtra: altair is not installed.
    """
    alt = altair()
    convention = census.conventions[0]
    rows, zeros = [], []
    for network in census.networks:
        counts = census.counted(network, convention)
        low, high, density = decades(counts)
        rows += [
            {"network": network.label, "w": float((a * b) ** 0.5), "density": 100 * d}
            for a, b, d in zip(low, high, density, strict=True)
            if a >= LEAST
        ]
        if counts.zeros:
            zeros.append(f"{network.label} {percent(counts.zeros, counts.count)}")
    if not rows:
        return None
    many = len(census.networks) > MANY
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X(
            "w:Q",
            title="|w|",
            scale=alt.Scale(type="log", nice=False),
            axis=alt.Axis(format="~e", tickCount=8),
        ),
        y=alt.Y("density:Q", title=f"percent of {convention} a decade"),
        detail="network:N",
    )
    if many:
        lines = base.mark_line(strokeWidth=1, opacity=0.35, color=COLORS[0])
    else:
        lines = base.mark_line(strokeWidth=2).encode(color=network_color(census))
    ends = min(r["w"] for r in rows), max(r["w"] for r in rows)
    marks = [{"w": t, "text": threshold(t)} for t in census.under if ends[0] <= t <= ends[1]]
    rules = alt.Chart(alt.Data(values=marks)).mark_rule(color="#aaaaaa", strokeDash=[3, 3])
    subtitle = ["Dashed: the thresholds."]
    if zeros and len(zeros) <= MANY:
        subtitle.append("Not drawn, for they have no logarithm: zeros of " + ", ".join(zeros) + ".")
    title = alt.TitleParams("Sizes of weights", subtitle=subtitle)
    chart = alt.layer(rules.encode(x="w:Q"), lines)
    width = WIDTH - (120 if many else 220)
    return finished(chart.properties(width=width, height=280, title=title))
