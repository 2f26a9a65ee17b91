"""The report of a zoo and of its sparse twins: a page, its charts as pictures, and its table."""

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from numpy.typing import NDArray

from thrifty import __version__
from thrifty.errors import UserError
from thrifty.files import write_text
from thrifty.registry import suggest
from thrifty.report.extra import altair, vl_convert
from thrifty.report.render import Drawn, write_pictures
from thrifty.report.sheet import Part, figure, lacking, section, table, write_sheet
from thrifty.report.write import FORMATS, Format
from thrifty.report.zoo_charts import ZOO_REPORTS
from thrifty.report.zoo_charts.layers import short
from thrifty.report.zoo_marks import method_colors
from thrifty.report.zoo_table import accuracy_cells, agreement_cells, csv_text, latex, level_rows
from thrifty.report.zoo_weights import write_weights_report
from thrifty.report.zoo_words import twin_sentences, zoo_sentences
from thrifty.zoo.comparing import Comparison, compare, together
from thrifty.zoo.predictions import Stored
from thrifty.zoo.statistics import quartiles

if TYPE_CHECKING:
    from thrifty.zoo.zoo import Zoo

MOST_RECIPE = 1 << 16
"""Bytes of the longest recipe that is shown."""

TWINS = (
    "twins",
    "twins-epochs",
    "twins-layers",
    "twins-agreement",
    "twins-scatter",
    "twins-robustness",
)
"""Charts of twins in the order of the page; others of that name follow, then those of the zoo."""
ZOO = ("zoo", "zoo-learning", "zoo-hyper")

TABLE_NOTE = (
    "Medians over the population, quartiles in brackets. Lost: points against the model's own "
    "original, + is worse. Select a heading to sort by it."
)

ZOO_TERMS = {
    "median, quartiles": "Half of the models lie under the median, a quarter under the first "
    "quartile. Models that diverged are left out, and counted.",
    "whiskers": "They reach to the last model within 1.5 times the distance of the quartiles.",
    "generalisation gap": "Accuracy on the inputs trained on, less that on test inputs.",
}
TWIN_TERMS = {
    "original, twin": "A model of the zoo, and the sparse network made of it.",
    "before retraining": "The median accuracy right after the cut, before what is left is trained.",
    "sparsity": "The share of a twin's prunable weights that are zero, counted.",
    "agreement": "The share of test inputs given the same class by twin and original, right or "
    "wrong.",
    "possible": "The agreement that two accuracies a and b allow, whatever was learned: from "
    "a + b - 1 (or 0) to 1 - |a - b|. Medians over the population.",
    "kappa": "Cohen's kappa: agreement beyond that of guessers who answer as often with each "
    "class; 1 is full agreement, 0 none beyond guessing.",
    "same error": "Of the inputs that twin and original both get wrong, the share that they give "
    "the same class.",
    "Pearson, Spearman, Kendall": "Correlation over the population of the accuracies of original "
    "and twin: of the values, of their ranks, and of the order of pairs (tau-b).",
    "collapsed": "Twins that lost more than 10 points, are at most 1.5 times as accurate as "
    "guessing, or diverged.",
    "overtakes": "From that sparsity on a method's median accuracy is above the other's, up to the "
    "most that both reach; straight lines between measured sparsities.",
}


def write_zoo_report(
    original: "Zoo",
    twins: Sequence["Zoo"],
    out: Path,
    *,
    formats: Sequence[Format] = FORMATS,
    labels: NDArray[Any] | None = None,
) -> list[Path]:
    """Write the report of a zoo, and of its twins where there are any, into a folder.

    Only indices and stored predictions are read, and no weights, so that a zoo that is still
    being trained can be reported; of models whose accuracy was never measured, the weights.

    Args:
        original: the zoo.
        twins: its sparse twins, in any number of folders; methods that several of them have are
            told apart by the names of the folders.
        out: the folder; made if it is not there.
        formats: which of html, svg and png to write; the table is always written.
        labels: (test inputs,) right classes, for the agreement of errors.

    Returns:
        The files that were written.

    Raises:
        UserError: the zoos are of the wrong kind or do not belong together, or are empty.
        MissingExtra: pictures alone are asked for and altair or vl-convert is not installed.
    """
    for zoo, kind in ((original, "models"), *((one, "twins") for one in twins)):
        if zoo.kind != kind:
            raise UserError(
                f"{zoo.folder.root} is a zoo of {zoo.kind}, and a zoo of {kind} is wanted there; "
                f"write: thrifty zoo report ZOO TWINS"
            )
        if not len(zoo) and zoo.unread:
            told = "; ".join(zoo.unread[:3])
            raise UserError(f"no model of {zoo.folder.root} can be read: {told}")
    for one in twins:
        _of_that_zoo(original, one)
    first = original.index.to_dict()
    if not twins and len(original) and "test_accuracy" not in first:
        return write_weights_report(original, Path(out), formats)
    zoos = (original, *twins)
    stored = [Stored(z.folder, z.index.to_dict()) for z in zoos]
    name = original.folder.root.resolve().name
    study = compare(first, None, classes=classes_of(original), name=name)
    found = {
        _named(one, twins): compare(
            first,
            one.index.to_dict(),
            classes=classes_of(original),
            predictions=(stored[0], own),
            labels=labels,
        )
        for one, own in zip(twins, stored[1:], strict=True)
    }
    study = together(study, found)
    notes = published(original)
    notes += [f"Not read: {problem}." for z in zoos for problem in z.unread]
    notes += [f"Not read: {problem}." for one in stored for problem in one.problems]
    return write_study(
        study, out, conditions=_conditions(original, twins), notes=notes, formats=formats
    )


def _of_that_zoo(original: "Zoo", twins: "Zoo") -> None:
    """Refuse twins whose mark says that their originals are of another recipe.

    Raises:
        UserError: they are; models of both zoos may have the same numbers.
    """
    told = twins.about.get("parent")
    parent = told if isinstance(told, dict) else {}
    made_by = parent.get("recipe")
    if made_by is not None and made_by != original.about.get("recipe"):
        raise UserError(
            f"{twins.folder.root} holds twins of another zoo than {original.folder.root}: their "
            f"originals are of the recipe {made_by} (then in {parent.get('path')}), and this zoo "
            f"is of {original.about.get('recipe')}; give the zoo that the twins were made from"
        )


def published(zoo: "Zoo") -> list[str]:
    """What a paper says of such a zoo, if its recipe tells; a sentence or none."""
    try:
        recipe = yaml.safe_load(_recipe(zoo))
    except (yaml.YAMLError, RecursionError, ValueError):
        return []
    told = recipe.get("published") if isinstance(recipe, dict) else None
    accuracy = told.get("accuracy") if isinstance(told, dict) else None
    if not isinstance(told, dict) or not isinstance(accuracy, float):
        return []
    models, source = told.get("models"), told.get("source")
    many = f" of {models:,} models" if isinstance(models, int) else ""
    where = f" ({source})" if isinstance(source, str) and source else ""
    return [f"Published{where}: a test accuracy of {100 * accuracy:.1f}\u00a0%{many}."]


def classes_of(zoo: "Zoo") -> int | None:
    """How many classes the networks of a zoo answer with; ``None`` if that is not said."""
    networks = zoo.about.get("networks")
    said = {n.get("classes") for n in networks if isinstance(n, dict)} if networks else set()
    numbers = {n for n in said if isinstance(n, int) and not isinstance(n, bool) and n > 1}
    return numbers.pop() if len(numbers) == 1 else None


def _named(zoo: "Zoo", zoos: Sequence["Zoo"]) -> str:
    """The name of a folder; all of its path where several of ``zoos`` have that name."""
    name, path = zoo.folder.root.resolve().name, str(zoo.folder.root)
    alike = sum(other.folder.root.resolve().name == name for other in zoos)
    return path if alike > 1 else name


def _conditions(original: "Zoo", twins: Sequence["Zoo"]) -> dict[str, object]:
    """Where the zoos lie and what made them."""
    found: dict[str, object] = {"zoo": str(original.folder.root)}
    networks = [n for n in original.about.get("networks") or () if isinstance(n, dict)]
    found["networks"] = [str(n.get("spec")) for n in networks] or None
    found["data"] = original.about.get("data")
    found["twins"] = ", ".join(str(one.folder.root) for one in twins) or None
    texts = [_recipe(zoo) for zoo in (original, *twins)]
    found["recipe"] = "\n".join(text for text in texts if text)
    return {name: value for name, value in found.items() if value}


def _recipe(zoo: "Zoo") -> str:
    """The recipe of a zoo; empty where there is none, or one that nobody wrote by hand."""
    path = zoo.folder.recipe
    if not path.is_file() or path.stat().st_size > MOST_RECIPE:
        return ""
    return f"# {path}\n{path.read_text('utf-8', errors='replace')}"


def write_study(
    study: Comparison,
    folder: Path,
    *,
    title: str = "",
    conditions: Mapping[str, object] | None = None,
    notes: Sequence[str] = (),
    formats: Sequence[Format] = FORMATS,
) -> list[Path]:
    """Write ``report.html``, a picture a chart, and ``table.csv``, ``.json`` and ``.tex``.

    Each file is whole or absent.  Without the extra ``report`` there are no charts, and the page
    says how to get them.

    Args:
        study: of :func:`thrifty.zoo.comparing.compare`.
        folder: made if it is not there.
        title: the heading of the page.
        conditions: what the figures hold for; under ``recipe`` the recipe.
        notes: sentences on what could not be read.
        formats: which of html, svg and png to write; the table is always written.

    Returns:
        The files that were written.

    Raises:
        UserError: a format is unknown.
        MissingExtra: pictures alone are asked for and altair or vl-convert is not installed.
    """
    for wanted in formats:
        if wanted not in FORMATS:
            raise UserError(f"no report format is called {wanted!r}; {suggest(wanted, FORMATS)}")
    if formats and "html" not in formats:
        altair(), vl_convert()
    folder = Path(folder)
    charts = charts_of(study) if formats and not lacking() else {}
    found = []
    if "html" in formats:
        found.append(folder / "report.html")
        parts = _sections(study, charts, notes)
        said = {"thrifty": __version__, "python": platform.python_version()}
        terms = (TWIN_TERMS if study.levels else {}) | ZOO_TERMS
        write_sheet(
            found[0],
            title=title or _title(study),
            sections=parts,
            conditions={**(conditions or {}), **said},
            terms=terms,
        )
    return found + write_pictures(charts, folder, formats) + _write_tables(study, folder)


def charts_of(study: Comparison) -> dict[str, Drawn]:
    """The charts that have something to show, in the order of the page.

    Raises:
        MissingExtra: altair is not installed.
    """
    names = sorted(ZOO_REPORTS.names(), key=_rank)
    charts = {name: ZOO_REPORTS.get(name)(study) for name in names}
    return {name: Drawn(chart) for name, chart in charts.items() if chart is not None}


def _sections(study: Comparison, charts: Mapping[str, Drawn], notes: Sequence[str]) -> list[Part]:
    figures = {name: figure(chart, ZOO_REPORTS.summary(name)) for name, chart in charts.items()}
    own = [part for name, part in figures.items() if not name.startswith("twins")]
    parts = [section("The zoo", [*_set(zoo_sentences(study)), *notes], own)]
    if study.levels:
        twins = [part for name, part in figures.items() if name.startswith("twins")]
        parts.insert(0, section("The twins", _set(twin_sentences(study)), twins, _tables(study)))
    return parts


def _set(sentences: Sequence[str]) -> list[str]:
    """Sentences whose numbers stay on the line of their percent signs."""
    return [sentence.replace(" %", "\u00a0%") for sentence in sentences]


def _tables(study: Comparison) -> list[Part]:
    colors = [method_colors(study)[level.method] for level in study.finals]
    first = accuracy_cells(study)
    return [
        table("Accuracy", first, TABLE_NOTE, lambda row: {"color": ["", *colors][row]}),
        table(
            "Agreement and correlation",
            agreement_cells(study),
            AGREEMENT_NOTE,
            lambda row: {"color": colors[row]},
        ),
        table(
            "Sparsity of each layer",
            _layer_rows(study),
            LAYER_NOTE,
            lambda row: {"color": _layer_colors(study)[row]},
        ),
    ]


AGREEMENT_NOTE = (
    "Of twins with their own originals, medians over the population. In range: 0 is the least "
    "agreement that the accuracies allow, 1 the most."
)
LAYER_NOTE = "Percent of a layer's weights that are zero, mean +- one standard deviation.".replace(
    "+-", "\u00b1"
)


def _layer_rows(study: Comparison) -> list[dict[str, str]]:
    names = list(dict.fromkeys(name for level in study.finals for name in level.layers))
    return [
        {"method": level.method, "level": level.name}
        | {short(name): _layer_cell(level.layers.get(name, [])) for name in names}
        for level in study.finals
        if level.layers
    ]


def _layer_colors(study: Comparison) -> list[str]:
    colors = method_colors(study)
    return [colors[level.method] for level in study.finals if level.layers]


def _layer_cell(values: Any) -> str:
    spread = quartiles(values)
    return f"{100 * spread.mean:.1f} +- {100 * spread.std:.1f}" if spread.count else ""


def _write_tables(study: Comparison, folder: Path) -> list[Path]:
    """Everything in numbers: CSV and JSON with every epoch, and the table of a paper."""
    rows = level_rows(study, every_epoch=True)
    found = [folder / "table.csv", folder / "table.json"]
    write_text(found[0], csv_text(rows))
    pairs = [(a, b) for a in study.methods for b in study.methods if a != b]
    told = {
        "format": 1,
        "zoo": study.name,
        "levels": rows,
        "overtaking": [{"of": a, "by": b, "sparsity": study.overtaking(a, b)} for a, b in pairs],
    }
    write_text(found[1], json.dumps(told, indent=1, allow_nan=False) + "\n")
    if study.levels:
        found.append(folder / "table.tex")
        write_text(found[-1], latex(study))
    return found


def _title(study: Comparison) -> str:
    return f"Sparse twins of {study.name}" if study.levels else f"The zoo {study.name}"


def _rank(name: str) -> tuple[int, str]:
    order = (*TWINS, *ZOO)
    return (order.index(name) if name in order else len(order)), name
