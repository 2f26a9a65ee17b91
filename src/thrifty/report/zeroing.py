"""The report of a study of zeroing: ``report.html``, and each chart as SVG and PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from thrifty.errors import UserError
from thrifty.lab.naming import titled
from thrifty.lab.zeroed import Zeroing
from thrifty.registry import suggest
from thrifty.report.extra import altair, vl_convert
from thrifty.report.render import Drawn, write_pictures
from thrifty.report.sheet import figure, lacking, section, table, write_sheet
from thrifty.report.write import FORMATS, Format
from thrifty.report.zeroing_charts import ZEROING_CHARTS

MOST_LAYERS = 1000
"""Rows of the table of layers on the page; all of them are in --json."""

TERMS = {
    "under t": "|w| < t, strictly, compared as real numbers. All such weights become 0.",
    "std": "The standard deviation of the tensor that a weight is in.",
    "weights": "The prunable weights: tensors of two or more axes of convolutions, linear, "
    "attention and recurrent layers. No biases, no normalisation, no embeddings.",
    "zero": "Counted after zeroing; weights that were zero before are among them.",
    "as it is": "Only the weights were changed.",
    "recalibrated (recal.)": "The running means and variances of batch normalisation were taken "
    "anew from training inputs; nothing was trained. The intact network was given new ones too.",
    "drop": "Points of accuracy lost against the intact network treated alike (both as they are, "
    "or both recalibrated), +- one standard error. That of an accuracy is larger: here "
    "both networks saw the same inputs.",
    "agreement": "The share of test inputs given the same class as by the intact network as it "
    "came, right or wrong.",
    "95 % interval": "Of an accuracy, for the number of test inputs (Wilson).",
    "guessing": "1 / classes.",
}


def write_zeroing(study: Zeroing, folder: Path, formats: Sequence[Format] = FORMATS) -> list[Path]:
    """Write ``report.html`` and ``zeroing.svg``, ``zeroing-layers.png``, ... .

    Each file is whole or absent.  Without the extra ``report`` only the page is written, without
    charts, and it says how to get them.

    Args:
        study: of :func:`thrifty.lab.zeroing.zero`.
        folder: made if it is not there.
        formats: which of html, svg and png to write.

    Returns:
        The files that were written.

    Raises:
        UserError: a format is unknown.
        MissingExtra: pictures alone are asked for and altair or vl-convert is not installed.
    """
    for wanted in formats:
        if wanted not in FORMATS:
            raise UserError(f"no report format is called {wanted!r}; {suggest(wanted, FORMATS)}")
    if "html" not in formats:
        altair(), vl_convert()
    drawing = {} if lacking() else ZEROING_CHARTS
    charts = {name: Drawn(draw(study)) for name, draw in drawing.items()}
    folder, found = Path(folder), []
    if "html" in formats:
        found.append(folder / "report.html")
        _write_page(study, found[0], charts)
    return found + write_pictures(charts, folder, formats)


def _write_page(study: Zeroing, path: Path, charts: Mapping[str, Drawn]) -> None:
    figures = [
        figure(chart, (ZEROING_CHARTS[name].__doc__ or name).splitlines()[0])
        for name, chart in charts.items()
    ]
    layers = [
        {column.replace("< ", "<\u00a0"): cell for column, cell in row.items()}
        for row in study.layer_table()
    ]
    cut = "" if len(layers) <= MOST_LAYERS else f" The first {MOST_LAYERS:,} of {len(layers):,}."
    tables = [
        table(
            "Thresholds",
            study.table(),
            "\u00b1 one standard error. Select a heading to sort by it.",
        ),
        table("Layers", layers[:MOST_LAYERS], f"Percent of each layer that is zero.{cut}"),
    ]
    write_sheet(
        path,
        title=f"Zeroing small weights: {titled(study.model, study.data)}",
        sections=[section("Zeroing", study.headline(), figures, tables)],
        conditions=study.conditions,
        terms={term: text.replace("+-", "\u00b1") for term, text in TERMS.items()},
    )
