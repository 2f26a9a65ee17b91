"""The report of a census: ``look.html``, and each chart as SVG and PNG."""

import platform
from pathlib import Path
from typing import Any

from thrifty import __version__, native
from thrifty.census.census import Census
from thrifty.census.curves import needed
from thrifty.census.words import percent, threshold
from thrifty.report.census_charts import CENSUS_REPORTS
from thrifty.report.render import Drawn, write_pictures
from thrifty.report.sheet import figure, lacking, section, table, write_sheet

ORDER = ("sizes", "shares", "relative", "energy", "decades", "layers")
MOST_ROWS = 3000
"""Rows of the table of tensors on the page; all of them are in --json."""

TERMS = {
    "under t": "|w| < t, strictly, compared as real numbers; NaN is under nothing.",
    "weights": "Tensors of two axes or more: convolutions, linear layers, embeddings.",
    "parameters": "Weights, biases, and the scales and shifts of normalisations.",
    "all": "Every tensor that is stored, running statistics and counters too.",
    "zeros": "Elements that are exactly 0, -0.0 among them; counted, whatever a file claims.",
    "std": "The standard deviation of the tensor that a weight is in: a scale-free threshold.",
    "energy": "The sum of squares of the weights.",
    "dtype": "As stored. A star: integers, counted as the numbers they stand for.",
    "folded": "Batch normalisation multiplied into the weights before it, as an engine runs it: "
    "before a normalisation, the size of a weight means nothing by itself.",
}


def write_census(census: Census, path: Path, *, pictures: bool = True) -> list[Path]:
    """Write the page of a census, and the charts beside it.

    Args:
        census: of :func:`thrifty.look`.
        path: the HTML file; pictures are beside it, named after it.
        pictures: write each chart as SVG and PNG as well.

    Returns:
        The files that were written.
    """
    names = [] if lacking() else sorted(CENSUS_REPORTS.names(), key=_rank)
    found = {name: CENSUS_REPORTS.get(name)(census) for name in names}
    charts = {name: Drawn(chart) for name, chart in found.items() if chart is not None}
    figures = [figure(chart, CENSUS_REPORTS.summary(name)) for name, chart in charts.items()]
    layers = census.layer_table()
    note = "" if len(layers) <= MOST_ROWS else f"The first {MOST_ROWS:,} of {len(layers):,}."
    write_sheet(
        path,
        title=title(census),
        sections=[
            section(
                "Census",
                sentences(census),
                figures,
                [
                    table("Networks", census.table(), "Select a heading to sort by it."),
                    table("Tensors", layers[:MOST_ROWS], note),
                ],
            )
        ],
        conditions=conditions(census),
        terms=TERMS,
    )
    files = {f"{path.stem}-{name}": chart for name, chart in charts.items()}
    return [path] + (write_pictures(files, path.parent) if pictures else [])


def title(census: Census) -> str:
    """The heading of a page."""
    labels = [n.label for n in census.networks]
    if len(labels) > 4:
        return f"The weights of {len(labels)} networks"
    return "The weights of " + ", ".join(labels)


def sentences(census: Census) -> list[str]:
    """What was found, in sentences: one for each network, or for the population."""
    convention = census.conventions[0]
    said = []
    for network in census.networks[:6]:
        counts = census.counted(network, convention)
        if not counts.count:
            continue
        shares = ", ".join(
            f"{percent(n, counts.count)} under {threshold(t)}"
            for t, n in zip(census.under, counts.under, strict=True)
        )
        half = needed(counts, 0.9)
        hold = (
            f"; {100 * half:.1f} % of them hold nine tenths of the energy" if half == half else ""
        )
        zeros = f"; {percent(counts.zeros, counts.count)} are exactly zero" if counts.zeros else ""
        said.append(
            f"{network.label}: of {counts.count:,} {convention}, {shares}{zeros}{hold}; the "
            f"largest is {counts.largest:.4g}."
        )
    if census.networks[6:]:
        said.append(f"And {len(census.networks) - 6} more networks, in the table below.")
    said += [f"{n.label}: {note}." for n in census.networks[:20] for note in n.notes]
    said += [f"Not read: {label}: {why}" for label, why in census.failed]
    return said


def conditions(census: Census) -> dict[str, Any]:
    """What the figures hold for."""
    return {
        "convention": census.says(),
        "thrifty": __version__,
        "kernels": native.target(),
        "python": platform.python_version(),
    }


def _rank(name: str) -> tuple[int, str]:
    return (ORDER.index(name) if name in ORDER else len(ORDER)), name
