"""Layers: the share under each threshold, weight by weight, from the input to the output."""

from typing import Any

from thrifty.census.census import Census
from thrifty.census.words import percent, threshold
from thrifty.report.census_charts import CENSUS_REPORTS
from thrifty.report.extra import altair
from thrifty.report.look import WIDTH, finished, grid, panel_title

MOST_NETWORKS, MOST_LAYERS = 6, 400


@CENSUS_REPORTS.entry("layers")
def layers_chart(census: Census) -> Any:
    """Share under each threshold of every weight tensor, in the order of the source.

    Drawn for up to six networks; biases and normalisations are in the table.

    Raises:
        MissingExtra: altair is not installed.
    """
    if len(census.networks) > MOST_NETWORKS:
        return None
    alt = altair()
    panels = [_panel(census, network) for network in census.networks]
    panels = [panel for panel in panels if panel is not None]
    if not panels:
        return None
    title = alt.TitleParams(
        "Layer by layer", subtitle=["Colour: percent of the layer's weights under the threshold."]
    )
    return finished(grid(panels, 1).properties(title=title))


def _panel(census: Census, network: Any) -> Any:
    alt = altair()
    tensors = [t for t in network.tensors if t.role == "weight" and t.counts.count][:MOST_LAYERS]
    rows = [
        {
            "layer": number,
            "tensor": tensor.name,
            "t": threshold(t),
            "share": 100 * tensor.counts.share(part),
            "under t": percent(part, tensor.counts.count),
            "weights": f"{tensor.counts.count:,}",
        }
        for number, tensor in enumerate(tensors, 1)
        for t, part in zip(census.under, tensor.counts.under, strict=True)
    ]
    if not rows:
        return None
    order = [threshold(t) for t in sorted(census.under, reverse=True)]
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_rect()
        .encode(
            x=alt.X("layer:O", title="layer", axis=alt.Axis(labelOverlap="greedy", labelAngle=0)),
            y=alt.Y("t:N", title="under t", sort=order),
            color=alt.Color(
                "share:Q", title="%", scale=alt.Scale(domain=[0, 100], scheme="viridis")
            ),
            tooltip=["layer:O", "tensor:N", "t:N", "under t:N", "weights:N"],
        )
        .properties(
            width=WIDTH - 160,
            height=max(60, 20 * len(census.under)),
            title=panel_title(network.label),
        )
    )
