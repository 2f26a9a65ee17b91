"""Energy: the share of the sum of squares that the largest weights hold."""

from typing import Any

import numpy as np

from thrifty.census.census import MANY, Census
from thrifty.census.curves import energy
from thrifty.report.census_charts import CENSUS_REPORTS
from thrifty.report.extra import altair
from thrifty.report.look import WIDTH, finished
from thrifty.report.parts import COLORS

POINTS = 80


@CENSUS_REPORTS.entry("energy")
def energy_chart(census: Census) -> Any:
    """Energy kept (sum of w^2) against the share of weights kept, the largest first.

    Raises:
        MissingExtra: altair is not installed.
    """
    alt = altair()
    convention = census.conventions[0]
    rows = []
    for number, network in enumerate(census.networks):
        kept, held = energy(census.counted(network, convention))
        if not kept.size:
            continue
        at = np.unique(np.searchsorted(kept, np.linspace(0, 1, POINTS) ** 2, side="left"))
        rows += [
            {"network": network.label, "number": number, "kept": 100 * x, "energy": 100 * y}
            for x, y in zip(
                kept[at.clip(max=kept.size - 1)], held[at.clip(max=kept.size - 1)], strict=True
            )
        ]
    if not rows:
        return None
    many = len(census.networks) > MANY
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X(
            "kept:Q",
            title=f"percent of {convention} kept, the largest first",
            scale=alt.Scale(domain=[0, 100], nice=False),
        ),
        y=alt.Y(
            "energy:Q",
            title="percent of the energy kept",
            scale=alt.Scale(domain=[0, 100], nice=False),
        ),
        detail="network:N",
    )
    if many:
        lines = base.mark_line(strokeWidth=1, opacity=0.35, color=COLORS[0])
    else:
        lines = base.mark_line(strokeWidth=2).encode(color=network_color(census))
    even = alt.Chart(alt.Data(values=[{"kept": 0, "energy": 0}, {"kept": 100, "energy": 100}]))
    diagonal = even.mark_line(strokeDash=[4, 4], color="#888888", strokeWidth=1).encode(
        x="kept:Q", y="energy:Q"
    )
    title = alt.TitleParams(
        "Energy kept against share kept",
        subtitle=["Energy: the sum of squares. Dashed: weights that are all of one size."],
    )
    width = WIDTH - (120 if many else 220)
    return finished(alt.layer(diagonal, lines).properties(width=width, height=320, title=title))


def network_color(census: Census) -> Any:
    """The colour of each network, the same in every chart."""
    alt = altair()
    names = [n.label for n in census.networks]
    if len(names) > len(COLORS):
        scale = alt.Scale(domain=names, scheme="category20")
    else:
        scale = alt.Scale(domain=names, range=list(COLORS[: len(names)]))
    return alt.Color("network:N", title=None, scale=scale, legend=alt.Legend(labelLimit=300))
