"""The table of a zoo and its twins: as cells to read, as CSV and JSON, and as a paper prints it."""

import csv
import io
import math
from collections.abc import Mapping
from typing import Any

from thrifty.report.parts import finite
from thrifty.report.zoo_marks import original_spread, spread_text
from thrifty.zoo.comparing import Comparison
from thrifty.zoo.levels import Level, standing
from thrifty.zoo.statistics import gap, quartiles

Row = dict[str, Any]


def level_rows(study: Comparison, *, every_epoch: bool = False) -> list[Row]:
    """A row of numbers a level, the originals first; shares 0 to 1, ``None`` where not known.

    Args:
        every_epoch: the levels on the way as well, of methods that choose their sparsity.
    """
    levels = study.levels if every_epoch else study.finals
    ordered = [lv for m in study.methods for lv in study.path(m) if any(lv is x for x in levels)]
    return [_originals(study), *(_level(level) for level in ordered)]


def csv_text(rows: list[Row]) -> str:
    """Rows as CSV with the names of all columns; empty cells where a figure is not known."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: "" if row.get(name) is None else row[name] for name in names})
    return text.getvalue()


def accuracy_cells(study: Comparison) -> list[dict[str, str]]:
    """The cells of what sparsity costs: percent, medians with quartiles; the originals first."""
    first = {
        "method": "originals",
        "level": "",
        "models": f"{len(study.last['model']):,}",
        "sparsity %": "0",
        "accuracy %": spread_text(original_spread(study), 2),
        "lost": "",
        "before retraining %": "",
        "collapsed %": "",
        "diverged": "",
        "gap": _signed(quartiles(_original_gap(study)).median),
    }
    return [first, *(_accuracy(level) for level in study.finals)]


def agreement_cells(study: Comparison) -> list[dict[str, str]]:
    """The cells of how alike twins and originals are."""
    return [_agreement(level) for level in study.finals]


def latex(study: Comparison) -> str:
    """The table as LaTeX with booktabs, as a paper could print it.

    Accuracy and agreement as median with quartiles below and above, in percent.
    """
    head = (
        "Method & Sparsity & Accuracy & Lost & Agreement & $\\kappa$ & Pearson & Spearman & "
        "Collapsed & Gap \\\\"
    )
    spread = original_spread(study)
    lines = [
        "% Needs the package booktabs.  Medians over the population, quartiles below and above;",
        "% sparsity, accuracy, agreement and collapsed in percent, lost and gap in points.",
        "\\begin{tabular}{lrrrrrrrrr}",
        "\\toprule",
        head,
        "\\midrule",
        _tex_line("originals", "0", _tex(spread.median, spread.q1, spread.q3), *["--"] * 7),
    ]
    for method in study.methods:
        lines.append("\\midrule")
        for level in study.path(method):
            if level.last:
                lines.append(_tex_level(level))
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _originals(study: Comparison) -> Row:
    spread = original_spread(study)
    row = {
        "method": "originals",
        "asked": None,
        "epoch": int(study.last["epoch"].max()),
        "models": len(study.last["model"]),
        "sparsity": 0.0,
        "accuracy": spread.median,
        "accuracy_q1": spread.q1,
        "accuracy_q3": spread.q3,
        "accuracy_low": spread.low,
        "accuracy_high": spread.high,
        "accuracy_mean": spread.mean,
        "accuracy_std": spread.std,
        "gap": quartiles(_original_gap(study)).median,
        "diverged": len(study.last["model"]) - spread.count,
    }
    return finite(row)


def _level(level: Level) -> Row:
    spread = quartiles(level.accuracy)
    row: Row = {"method": level.method, "asked": level.asked, "epoch": level.epoch}
    row |= level.figures | {"accuracy_low": spread.low, "accuracy_high": spread.high}
    for name, values in level.layers.items():
        layer = quartiles(values)
        row |= {f"layer {name}": layer.mean, f"layer {name} std": layer.std}
    return finite(row)


def _original_gap(study: Comparison) -> Any:
    return gap(standing(study.last, "train_accuracy"), standing(study.last, "test_accuracy"))


def _accuracy(level: Level) -> dict[str, str]:
    found: Mapping[str, float] = level.figures
    return {
        "method": level.method,
        "level": level.name,
        "models": f"{len(level.models):,}",
        "sparsity %": spread_text(quartiles(level.sparsity)),
        "accuracy %": spread_text(quartiles(level.accuracy), 2),
        "lost": _signed(found["drop"]),
        "before retraining %": _plain(100 * level.before, 2),
        "collapsed %": _plain(100 * found["collapsed"], 1),
        "diverged": f"{found['diverged']:,.0f}" if found["diverged"] else "",
        "gap": _signed(found["gap"]),
    }


def _agreement(level: Level) -> dict[str, str]:
    found: Mapping[str, float] = level.figures
    low, high = found["agreement_least"], found["agreement_most"]
    known = math.isfinite(found["agreement"]) and math.isfinite(low)
    return {
        "method": level.method,
        "level": level.name,
        "agreement %": _blank(spread_text(quartiles(level.agreement))),
        "possible %": f"{100 * low:.1f} to {100 * high:.1f}" if known else "",
        "in range": _plain(found["within_range"], 2),
        "kappa": _plain(found["kappa"], 3),
        "same error %": _plain(100 * found["error_agreement"], 1),
        "Pearson": _plain(found["pearson"], 2),
        "Spearman": _plain(found["spearman"], 2),
        "Kendall": _plain(found["kendall"], 2),
    }


def _tex_level(level: Level) -> str:
    f = level.figures
    return _tex_line(
        _escaped(level.method),
        _tex(f["sparsity"], f["sparsity_q1"], f["sparsity_q3"]),
        _tex(f["accuracy"], f["accuracy_q1"], f["accuracy_q3"]),
        _plain(100 * f["drop"], 1, "--"),
        _tex(f["agreement"], f["agreement_q1"], f["agreement_q3"]),
        _plain(f["kappa"], 3, "--"),
        _plain(f["pearson"], 2, "--"),
        _plain(f["spearman"], 2, "--"),
        _plain(100 * f["collapsed"], 1, "--"),
        _plain(100 * f["gap"], 1, "--"),
    )


def _tex_line(*cells: str) -> str:
    return " & ".join(cells) + " \\\\"


def _tex(median: float, q1: float, q3: float) -> str:
    if not math.isfinite(median):
        return "--"
    low, middle, high = (f"{100 * value:.1f}" for value in (q1, median, q3))
    return f"${middle}$" if low == high else f"${middle}_{{{low}}}^{{{high}}}$"


def _escaped(text: str) -> str:
    for sign in "\\{}$&#%_^~":
        text = text.replace(sign, " " if sign in "\\^~{}" else f"\\{sign}")
    return text


def _plain(value: float, digits: int, none: str = "") -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else none


def _signed(value: float) -> str:
    return f"{100 * value:+.2f}" if math.isfinite(value) else ""


def _blank(text: str) -> str:
    return "" if text == "-" else text
