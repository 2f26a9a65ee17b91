"""Sparse twins beside their originals: the rows of two zoos, sorted into levels of sparsity.

A level is what is compared: the twins of one method at one sparsity asked for, after their last
epoch; or, for a method that chooses its sparsity itself, at one epoch.  All of a level is arrays
of one value a twin, so that every figure of :mod:`thrifty.zoo.statistics` can be had from it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thrifty.errors import UserError
from thrifty.zoo.levels import (
    Columns,
    Ints,
    Level,
    Predictions,
    agreed,
    column,
    level_of,
    standing,
    taken,
)
from thrifty.zoo.statistics import overtaking, quartiles

NEEDED = ("model", "epoch", "test_accuracy")
TWIN_NEEDED = (*NEEDED, "method", "sparsity")


@dataclass(frozen=True)
class Comparison:
    """A zoo and the levels of its twins; without twins there are no levels."""

    original: Columns
    classes: int | None
    levels: tuple[Level, ...] = ()
    name: str = "zoo"

    @property
    def methods(self) -> list[str]:
        """The methods of the twins, in first-seen order."""
        return list(dict.fromkeys(level.method for level in self.levels))

    def path(self, method: str) -> list[Level]:
        """The levels of a method in the order of their sparsity asked for, or of their epochs."""
        found = [level for level in self.levels if level.method == method]
        return sorted(found, key=lambda level: (level.asked if level.chosen else 0, level.epoch))

    @property
    def finals(self) -> list[Level]:
        """The levels that are finished, method by method."""
        return [level for m in self.methods for level in self.path(m) if level.last]

    @cached_property
    def last(self) -> Columns:
        """The rows of the originals' last epoch."""
        return taken(self.original, last_rows(self.original))

    def overtaking(self, first: str, second: str) -> float | None:
        """Where the medians of one method pass those of another; see :func:`overtaking`."""
        return overtaking(self.medians(first), self.medians(second))

    def medians(self, method: str) -> tuple[list[float], list[float]]:
        """Median sparsity and median accuracy, level by level."""
        path = self.path(method)
        return (
            [quartiles(level.sparsity).median for level in path],
            [quartiles(level.accuracy).median for level in path],
        )


def compare(
    original: Columns,
    twins: Columns | None,
    *,
    classes: int | None,
    predictions: tuple[Predictions, Predictions] | None = None,
    labels: NDArray[Any] | None = None,
    name: str = "zoo",
) -> Comparison:
    """Sort the rows of a zoo and of its twins into levels.

    Args:
        original: columns of the zoo's index, arrays of one length: ``model``, ``epoch``,
            ``test_accuracy`` and whatever else it has.
        twins: columns of the twins' index, with ``method``, ``asked``, ``sparsity`` too, and the
            original's number as ``parent``, or as ``model`` where there is no such column.
        classes: of the data set; where they are not known there is no kappa, and no chance.
        predictions: of the originals and of the twins; without them kappa is NaN, unless it is a
            column.
        labels: (inputs,) right classes; without them there is no agreement of errors, unless it
            is a column.
        name: what the zoo is called.

    Raises:
        UserError: a column is missing, there is no model, or the twins are of another zoo.
    """
    _check(original, NEEDED, "zoo")
    if classes is not None and classes < 2:
        raise UserError(f"classes is {classes}; models that classify have 2 classes or more")
    alone = Comparison(original=original, classes=classes, name=name)
    if twins is None:
        return alone
    _check(twins, TWIN_NEEDED, "zoo of twins")
    first = last_rows(original)
    place = {
        int(model): int(row) for model, row in zip(original["model"][first], first, strict=True)
    }
    parents = np.asarray(twins.get("parent", twins["model"])).astype(np.int64)
    rows = np.array([place.get(int(parent), -1) for parent in parents], np.int64)
    stands = np.isfinite(standing(original, "test_accuracy"))
    if (rows < 0).any():
        stray = int(parents[rows < 0][0])
        raise UserError(
            f"{int((rows < 0).sum()):,} of {len(rows):,} twins are of models that the zoo does not "
            f"have, such as model {stray}; give the zoo that the twins were made from"
        )
    levels = []
    for found, last, cut in _levels(twins):
        at = found[stands[rows[found]]]  # nothing is lost against an original that diverged
        at = at[np.unique(rows[at], return_index=True)[1]]  # of a twin told twice, the first
        if at.size:
            made = level_of(original, rows[at], twins, at, last, classes)
            if cut.size:
                before = quartiles(standing(taken(twins, cut), "test_accuracy")).median
                made = replace(made, before=before)
            levels.append(made if not last else agreed(made, rows[at], at, predictions, labels))
    return replace(alone, levels=tuple(levels))


def together(alone: Comparison, studies: Mapping[str, Comparison]) -> Comparison:
    """One comparison of the twins of several, such as a method a folder.

    Args:
        alone: the zoo without its twins.
        studies: by name, of the same zoo.  A method that several of them have is told apart by
            those names: ``variational (short)`` and ``variational (long)``.
    """
    having = Counter(method for study in studies.values() for method in study.methods)
    levels = [
        replace(level, method=f"{level.method} ({name})") if having[level.method] > 1 else level
        for name, study in studies.items()
        for level in study.levels
    ]
    return replace(alone, levels=tuple(levels))


def last_rows(columns: Columns) -> Ints:
    """The row of each model's last epoch, in the order of the models."""
    order = np.lexsort((columns["epoch"], columns["model"]))
    models = columns["model"][order]
    ends = np.append(models[1:] != models[:-1], True) if models.size else np.zeros(0, bool)
    return np.asarray(order[ends], np.int64)


def _check(columns: Columns, needed: Sequence[str], what: str) -> None:
    if not columns or not len(next(iter(columns.values()))):
        raise UserError(f"the {what} has no model yet; report it when a segment is done")
    missing = [name for name in needed if name not in columns]
    if missing:
        raise UserError(
            f"the index of the {what} has no column {missing[0]!r}; a report needs "
            f"{', '.join(needed)}; it has {', '.join(columns) or 'none'}"
        )


def _levels(twins: Columns) -> list[tuple[Ints, bool, Ints]]:
    """The rows of each level, whether its twins are finished, and the rows right after the cut."""
    asked = column(twins, "asked")
    epochs = np.asarray(twins["epoch"])
    methods = np.asarray(twins["method"]).astype(str)
    found = []
    for method in dict.fromkeys(methods.tolist()):
        own = np.flatnonzero(methods == method)
        for level in np.unique(asked[own][np.isfinite(asked[own])]):
            at = own[asked[own] == level]
            # One epoch, not the last of each twin: half-trained ones would stand beside others.
            end = epochs[at].max()
            found.append((at[epochs[at] == end], True, at[epochs[at] == 0] if end else at[:0]))
        free = own[~np.isfinite(asked[own])]
        for epoch in np.unique(epochs[free]):
            found.append((free[epochs[free] == epoch], epoch == epochs[free].max(), free[:0]))
    return [(at.astype(np.int64), bool(last), cut.astype(np.int64)) for at, last, cut in found]


def nearest(study: Comparison, most_apart: float = 0.1) -> list[Level]:
    """A finished level of each method, all of about one sparsity, to compare methods by.

    Where a method chose its sparsity, the levels nearest to that; else those of the largest
    sparsity that was asked of all.  A method with none within ``most_apart`` is left out.
    """
    finals = [level for level in study.finals if quartiles(level.sparsity).count]
    free = [level for level in finals if not level.chosen]
    if free:
        wanted = quartiles(free[0].sparsity).median
    else:
        common = [{level.asked for level in finals if level.method == m} for m in study.methods]
        shared = set.intersection(*common) if common else set()
        if not shared:
            return []
        wanted = max(shared)
    found = []
    for method in study.methods:
        own = [level for level in finals if level.method == method]
        if own:
            level = min(own, key=lambda one: abs(quartiles(one.sparsity).median - wanted))
            if abs(quartiles(level.sparsity).median - wanted) <= most_apart:
                found.append(level)
    return found
