"""How sensitive the layers of a network are, in sentences: from the rows alone."""

from thrifty.census.words import percent
from thrifty.lab.naming import titled
from thrifty.lab.sensitive import Sensitive, Sensitivity, Tried

MOST = 3
"""Layers named in a sentence."""


def headline(study: Sensitivity) -> list[str]:
    """The findings of a study, the most important first, then its notes."""
    found = [_intact(study), _resolution(study), _worst(study), _bearing(study), _together(study)]
    return [sentence for sentence in found if sentence] + list(study.notes)


def mean_drop(study: Sensitivity, row: Sensitive) -> float:
    """Accuracy that a layer costs, the mean over the sparsities tried."""
    return sum(study.drop(t) for t in row.tried) / max(1, len(row.tried))


def ranked(study: Sensitivity) -> list[Sensitive]:
    """The layers, the most sensitive first; of equal ones in the order of the network."""
    return sorted(study.rows, key=lambda row: -mean_drop(study, row))


def which(study: Sensitivity) -> str:
    """The inputs measured on: ``2,000 training inputs``."""
    return f"{study.inputs:,} {'test' if study.test else 'training'} inputs"


def _intact(study: Sensitivity) -> str:
    fresh = ", its batch norm statistics taken anew" if study.recalibrate else ""
    return (
        f"The intact {titled(study.model, study.data)} is right on {100 * study.accuracy:.2f} % of "
        f"{which(study)}{fresh}."
    )


def _resolution(study: Sensitivity) -> str:
    if study.inputs * study.max_drop >= 1:
        return ""
    return (
        f"One input is {100 / study.inputs:.3g} points of accuracy, so a drop of "
        f"{points(study.max_drop)} cannot be told here."
    )


def _worst(study: Sensitivity) -> str:
    """The layers that cost most, where any costs more than is allowed."""
    hurt = [(row, tried) for row in ranked(study) for tried in [_first_hurt(study, row)] if tried]
    parts = [f"{r.layer} ({100 * study.drop(t):+.1f} at {t.sparsity:g})" for r, t in hurt[:MOST]]
    return f"Most sensitive, with points lost: {', '.join(parts)}." if parts else ""


def _first_hurt(study: Sensitivity, row: Sensitive) -> Tried | None:
    """The first sparsity at which a layer loses more than is allowed."""
    return next((t for t in row.tried if study.drop(t) > study.max_drop + 1e-12), None)


def _bearing(study: Sensitivity) -> str:
    """How many layers bear the most that was tried, and how many nothing."""
    limits = [study.limit(row) for row in study.rows]
    most, count = study.sparsities[-1], len(limits)
    full, none = limits.count(most), limits.count(0.0)
    nothing = f", and {none} not even {study.sparsities[0]:g}" if none else ""
    text = f"At a cost of at most {points(study.max_drop)}, {_number(full, count)} a sparsity of "
    return f"{text}{most:g} by itself{nothing}."


def _together(study: Sensitivity) -> str:
    """What all of them cost at once."""
    all_, layers = study.together, study.layers()
    if all_ is None:
        return "No layer bears any of the sparsities tried; try smaller ones, or a larger drop."
    gone = percent(all_.removed, study.prunable)
    drop = 100 * study.drop(all_)
    return (
        f"With {_all(len(layers))} cut as far as each bears it, all at once, {gone} of the weights "
        f"are {'zero' if study.removes == 'weights' else 'gone'} and accuracy is "
        f"{100 * all_.accuracy:.2f} %, {drop:+.2f} points lost before any retraining; "
        f"layers.yaml is the recipe that retrains it."
    )


def points(drop: float) -> str:
    """A share of accuracy as points: ``1 point``, ``0.5 points``."""
    number = f"{100 * drop:g}"
    return f"{number} point" if number == "1" else f"{number} points"


def _number(count: int, of: int) -> str:
    if count == of:
        return f"each of {of} layers bears" if of > 1 else "the one layer bears"
    return f"{count or 'none'} of {of} layers {'bear' if count > 1 else 'bears'}"


def _all(count: int) -> str:
    return f"{count} layers" if count > 1 else "one layer"
