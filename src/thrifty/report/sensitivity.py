"""The report of a study of sensitivity: ``report.html``, and each chart as SVG and PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from thrifty.errors import UserError
from thrifty.lab.naming import titled
from thrifty.lab.sensitive import Sensitivity
from thrifty.registry import suggest
from thrifty.report.extra import altair, vl_convert
from thrifty.report.render import Drawn, write_pictures
from thrifty.report.sensitivity_charts import SENSITIVITY_CHARTS
from thrifty.report.sheet import figure, lacking, section, table, write_sheet
from thrifty.report.write import FORMATS, Format

TERMS = {
    "layer": "A prunable tensor, where weights become zero. Where channels are removed, a group "
    "of layers whose channels live and die together, named by the first of them; (+3) are the "
    "others that make the same channels.",
    "sparsity": "The share of the layer's weights that become zero, or of its channels that go. "
    "Channels are rounded to multiples, so less may be gone than was asked for.",
    "weights": "The prunable weights of a layer; of a group of channels those of the layers that "
    "read them too.",
    "accuracy": "Of the network with that layer alone cut, in percent. All other layers are "
    "whole, and nothing is retrained.",
    "lost": "Points of accuracy lost against the intact network on the same inputs, "
    "\u00b1 one standard error.",
    "bears": "The highest sparsity tried up to which the layer never loses more than that by "
    "itself; - if none.",
    "gone": "Channels are really removed from the network, and from the layers that read them; "
    "the constants they sent are folded into what is left.",
}


def write_sensitivity(
    study: Sensitivity, folder: Path, formats: Sequence[Format] = FORMATS
) -> list[Path]:
    """Write ``report.html`` and ``sensitivity.svg``, ``sensitivity-lines.png``, ... .

    Each file is whole or absent.  Without the extra ``report`` only the page is written, without
    charts, and it says how to get them.

    Args:
        study: of :func:`thrifty.sensitivity`.
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
    folder, found = Path(folder), []
    charts = _drawn(study)
    if "html" in formats:
        found.append(folder / "report.html")
        _write_page(study, found[0], charts)
    return found + write_pictures(charts, folder, formats)


def write_page(study: Sensitivity, path: Path) -> None:
    """Write the page of a study, whole or not at all."""
    _write_page(study, path, _drawn(study))


def _drawn(study: Sensitivity) -> dict[str, Drawn]:
    """The charts, where the packages that draw are installed."""
    if lacking():
        return {}
    return {name: Drawn(draw(study)) for name, draw in SENSITIVITY_CHARTS.items()}


def _write_page(study: Sensitivity, path: Path, charts: Mapping[str, Drawn]) -> None:
    figures = [
        figure(chart, (SENSITIVITY_CHARTS[name].__doc__ or name).splitlines()[0])
        for name, chart in charts.items()
    ]
    tables = [
        table("Layers", study.table(), "Accuracy in percent. Select a heading to sort by it."),
        table("What each layer bears", _bears(study), "The layers of layers.yaml."),
    ]
    if study.whole:
        rows = [{"layer": name, "why": why} for name, why in study.whole.items()]
        tables.append(table("Not tried", rows))
    write_sheet(
        path,
        title=f"Sensitivity of {titled(study.model, study.data)} to {study.method}",
        sections=[section("Sensitivity", study.headline(), figures, tables)],
        conditions=study.conditions,
        terms=TERMS,
    )


def _bears(study: Sensitivity) -> list[dict[str, str]]:
    """What goes of each layer at the sparsity that it bears."""
    what = "weights zero" if study.removes == "weights" else "weights gone"
    found = []
    for row in study.rows:
        tried = next((t for t in row.tried if t.sparsity == study.limit(row)), None)
        found.append(
            {
                "layer": row.layer,
                "sparsity": f"{tried.sparsity:g}" if tried else "-",
                "accuracy %": f"{100 * tried.accuracy:.2f}" if tried else "",
                "lost": f"{100 * study.drop(tried):+.2f} +- {100 * study.drop_error(tried):.2f}"
                if tried
                else "",
                what: f"{tried.removed:,}" if tried else "",
                "makes the channels": ", ".join(row.makes),
            }
        )
    return found
