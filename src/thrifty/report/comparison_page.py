"""The report of a comparison of two networks: a chart and a table, layer by layer."""

import math
import platform
from pathlib import Path
from typing import Any

from thrifty import __version__
from thrifty.census.comparing import Comparison
from thrifty.report.extra import altair
from thrifty.report.look import WIDTH, finished, grid, panel_title
from thrifty.report.parts import COLORS
from thrifty.report.render import Drawn, write_pictures
from thrifty.report.sheet import figure, lacking, section, table, write_sheet

TERMS = {
    "density": "The share of the weights that are not zero.",
    "overlap": "Jaccard: of the weights that are not zero in A or B, the share that is so in both.",
    "cosine": "Of the angle between A and B as vectors: 1 is one direction, 0 is none in common.",
    "distance": "The L2 norm of A - B; beside it, as a multiple of the norm of A.",
    "signs changed": "Of the weights that are not zero in both, the share whose sign differs.",
}
PANELS = (
    ("density_a", "density of A"),
    ("density_b", "density of B"),
    ("jaccard", "overlap of what is not zero (Jaccard)"),
    ("cosine", "cosine"),
    ("relative", "distance, as a multiple of the norm of A"),
    ("signs", "share of signs changed"),
)


def comparison_chart(comparison: Comparison) -> Any:
    """Density, overlap, cosine, distance and signs of each layer, a panel each.

    Raises:
        MissingExtra: altair is not installed.
    """
    alt = altair()
    rows = [
        {"layer": number, "tensor": pair.name}
        | {key: value if math.isfinite(value) else None for key, value in _figures(pair).items()}
        for number, pair in enumerate(comparison.pairs, 1)
        if pair.count
    ]
    panels = [_panel(rows, key, name) for key, name in PANELS] if rows else []
    about = [f"A: {comparison.label_a}. B: {comparison.label_b}."]
    title = alt.TitleParams("Layer by layer", subtitle=about)
    return finished(grid(panels, 2).properties(title=title)) if panels else None


def _figures(pair: Any) -> dict[str, float]:
    return {key: getattr(pair, key) for key, _ in PANELS}


def _panel(rows: list[dict[str, Any]], key: str, name: str) -> Any:
    alt = altair()
    low = min([0.0, *(row[key] for row in rows if row[key] is not None)])
    high = max([1.0, *(row[key] for row in rows if row[key] is not None)])
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_bar(color=COLORS[0])
        .encode(
            x=alt.X("layer:O", title=None, axis=alt.Axis(labelOverlap="greedy", labelAngle=0)),
            y=alt.Y(f"{key}:Q", title=None, scale=alt.Scale(domain=[low, high])),
            tooltip=["layer:O", "tensor:N", f"{key}:Q"],
        )
        .properties(width=WIDTH // 2 - 40, height=130, title=panel_title(name))
    )


def write_comparison(comparison: Comparison, path: Path) -> list[Path]:
    """Write the page of a comparison, and its chart as SVG and PNG beside it.

    Returns:
        The files that were written.
    """
    chart = None if lacking() else Drawn(comparison_chart(comparison))
    only = [f"Only in {k}: {', '.join(v)}." for k, v in comparison.only.items() if v]
    said = [f"A is {comparison.label_a}, B is {comparison.label_b}."]
    write_sheet(
        path,
        title=f"{comparison.label_a} and {comparison.label_b}",
        sections=[
            section(
                "Comparison",
                said + only,
                [figure(chart, "Layer by layer")] if chart is not None else [],
                [table("Tensors", comparison.table(), "Select a heading to sort by it.")],
            )
        ],
        conditions={"thrifty": __version__, "python": platform.python_version()},
        terms=TERMS,
    )
    return [path, *(write_pictures({path.stem: chart}, path.parent) if chart is not None else [])]
