"""Shares: how many weights lie under each threshold, network by network."""

from typing import Any

from thrifty.census.census import MANY, Census
from thrifty.census.words import percent, threshold
from thrifty.report.census_charts import CENSUS_REPORTS
from thrifty.report.extra import altair
from thrifty.report.look import WIDTH, finished, grid, panel_title


@CENSUS_REPORTS.entry("shares")
def shares_chart(census: Census) -> Any:
    """Share of weights under each threshold, a group of bars a network, a panel a convention.

    For a population, the spread over its networks: a tick a network, and the median.

    Raises:
        MissingExtra: altair is not installed.
    """
    return _chart(census, relative=False)


@CENSUS_REPORTS.entry("relative")
def relative_chart(census: Census) -> Any:
    """Share of weights under each multiple of their layer's standard deviation.

    Scale-free: multiplying a layer by a number changes nothing here.

    Raises:
        MissingExtra: altair is not installed.
    """
    return _chart(census, relative=True) if census.relative else None


def _chart(census: Census, relative: bool) -> Any:
    alt = altair()
    many = len(census.networks) > MANY
    draw = _spread if many else _bars
    panels = [
        draw(_rows(census, convention, relative), census, relative).properties(
            title=panel_title(f"counted: {convention}")
        )
        for convention in census.conventions
    ]
    title = "Share of weights under a multiple of their layer's standard deviation"
    if not relative:
        title = "Share of weights under each threshold"
    if many:
        title += f", {len(census.networks)} networks"
    folded = " Batch normalisation folded into the weights." if census.folded else ""
    about = "|w| < t, strictly." + folded
    return finished(grid(panels, 1).properties(title=alt.TitleParams(title, subtitle=[about])))


def _rows(census: Census, convention: Any, relative: bool) -> list[dict[str, Any]]:
    rows = []
    for number, network in enumerate(census.networks):
        counts = census.counted(network, convention)
        parts = counts.relative if relative else counts.under
        for t, part in zip(census.under, parts, strict=True):
            rows.append(
                {
                    "network": network.label,
                    "number": number,
                    "t": threshold(t),
                    "share": 100 * counts.share(part) if counts.count else None,
                    "counted": f"{counts.count:,}",
                    "under t": percent(part, counts.count),
                }
            )
    return rows


def _scale(census: Census) -> Any:
    """The higher the threshold, the lighter."""
    alt = altair()
    names = [threshold(t) for t in sorted(census.under, reverse=True)]
    return alt.Scale(domain=names, range=shades(len(names)))


def shades(count: int) -> list[str]:
    """``count`` colours from light to dark blue."""
    ends = (0xA9, 0xCC, 0xE3), (0x0B, 0x30, 0x54)
    steps = [i / max(1, count - 1) for i in range(count)]
    mixed = [[round(a + (b - a) * s) for a, b in zip(*ends, strict=True)] for s in steps]
    return ["#" + "".join(f"{part:02x}" for part in one) for one in mixed]


def _bars(rows: list[dict[str, Any]], census: Census, relative: bool) -> Any:
    alt = altair()
    order = [threshold(t) for t in sorted(census.under, reverse=True)]
    unit = " std" if relative else ""
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y(
            "network:N",
            title=None,
            sort=[n.label for n in census.networks],
            axis=alt.Axis(labelLimit=220),
        ),
        yOffset=alt.YOffset("t:N", sort=order),
    )
    bars = base.mark_bar().encode(
        x=alt.X(
            "share:Q", title="percent of weights", scale=alt.Scale(domain=[0, 100], nice=False)
        ),
        color=alt.Color("t:N", title=f"under t{unit}", scale=_scale(census), sort=order),
        tooltip=["network:N", "t:N", "under t:N", "counted:N"],
    )
    text = base.mark_text(align="left", dx=4, fontSize=9, color="#555555").encode(
        x="share:Q", text="under t:N"
    )
    height = max(60, len(census.networks) * (len(census.under) * 13 + 10))
    return alt.layer(bars, text).properties(width=WIDTH - 200, height=height)


def _spread(rows: list[dict[str, Any]], census: Census, relative: bool) -> Any:
    alt = altair()
    unit = " std" if relative else ""
    order = [threshold(t) for t in sorted(census.under, reverse=True)]
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y("t:N", title=f"under t{unit}", sort=order),
        color=alt.Color("t:N", scale=_scale(census), sort=order, legend=None),
    )
    x = alt.X("share:Q", title="percent of weights", scale=alt.Scale(domain=[0, 100], nice=False))
    ticks = base.mark_tick(opacity=0.5, thickness=1.5).encode(
        x=x, tooltip=["network:N", "t:N", "under t:N", "counted:N"]
    )
    median = base.mark_point(size=70, filled=True, opacity=1, stroke="white").encode(
        x=alt.X("median(share):Q", title="percent of weights")
    )
    height = max(80, 34 * len(census.under))
    return alt.layer(ticks, median).properties(width=WIDTH - 120, height=height)
