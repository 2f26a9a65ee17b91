"""Sizes: how many parameters the networks have, and how many bytes."""

from typing import Any

from thrifty.census.census import MANY, Census
from thrifty.census.words import amount
from thrifty.report.census_charts import CENSUS_REPORTS
from thrifty.report.extra import altair
from thrifty.report.look import WIDTH, finished
from thrifty.report.parts import COLORS


@CENSUS_REPORTS.entry("sizes")
def sizes_chart(census: Census) -> Any:
    """Number of parameters of each network, with its bytes; of a population their distribution.

    Raises:
        MissingExtra: altair is not installed.
    """
    alt = altair()
    convention = census.conventions[-1]
    rows = []
    for network in census.networks:
        counts = census.counted(network, convention)
        size = amount(counts.nbytes) + " in memory"
        if network.file_bytes is not None:
            size += f", {amount(network.file_bytes)} on disk"
        rows.append(
            {
                "network": network.label,
                "count": counts.count,
                "bytes": counts.nbytes,
                "text": f"{_short(counts.count)}, {size}",
            }
        )
    title = alt.TitleParams(f"Size: number of {convention}", subtitle=[_about(census, len(rows))])
    draw = _histogram if len(rows) > MANY else _bars
    return finished(draw(rows, census).properties(title=title))


def _about(census: Census, networks: int) -> str:
    return f"{networks} networks." if networks > MANY else "Bytes as stored, and of the file."


def _bars(rows: list[dict[str, Any]], census: Census) -> Any:
    alt = altair()
    most = max(row["count"] for row in rows)
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y(
            "network:N",
            title=None,
            sort=[n.label for n in census.networks],
            axis=alt.Axis(labelLimit=220),
        ),
        x=alt.X(
            "count:Q",
            title=census.conventions[-1],
            axis=alt.Axis(format="~s"),
            scale=alt.Scale(domain=[0, 1.6 * most], nice=False),
        ),
    )
    bars = base.mark_bar(color=COLORS[0]).encode(tooltip=["network:N", "count:Q", "bytes:Q"])
    text = base.mark_text(align="left", dx=5, fontSize=10, color="#444444").encode(text="text:N")
    height = max(50, 30 * len(rows))
    return alt.layer(bars, text).properties(width=WIDTH - 200, height=height)


def _histogram(rows: list[dict[str, Any]], census: Census) -> Any:
    alt = altair()
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_bar(color=COLORS[0])
        .encode(
            x=alt.X("count:Q", bin=alt.Bin(maxbins=30), title=census.conventions[-1]),
            y=alt.Y("count():Q", title="networks"),
        )
        .properties(width=WIDTH - 120, height=160)
    )


def _short(count: int) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return str(count)
