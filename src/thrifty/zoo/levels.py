"""The twins of one method at one sparsity, as arrays, and what is said of them."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thrifty.zoo.statistics import (
    Floats,
    Spread,
    agreement,
    agreement_range,
    cohen_kappa,
    collapsed,
    collapsed_share,
    error_agreement,
    gap,
    kendall,
    pearson,
    quartiles,
    spearman,
    within_range,
)

Ints = NDArray[np.int64]
Columns = Mapping[str, NDArray[Any]]
Predictions = Callable[[Ints], "NDArray[Any] | None"]
"""Numbers of rows -> (rows, inputs) predicted classes, or ``None`` where some are not stored."""

AT_ONCE = 1024
"""Models whose predictions are in memory at one time."""


@dataclass(frozen=True)
class Level:
    """The twins of one method at one sparsity, or of one epoch; arrays have a value a twin."""

    method: str
    asked: float
    """The sparsity asked for; NaN where the method chose it."""
    epoch: int
    last: bool
    """Whether these twins are finished; else they are on the way to those of a later epoch."""
    models: Ints
    """The original of each twin."""
    original: Floats
    """Test accuracy of the original."""
    accuracy: Floats
    train_accuracy: Floats
    sparsity: Floats
    agreement: Floats
    kappa: Floats
    error_agreement: Floats
    classes: int | None
    before: float = math.nan
    """Median accuracy right after the cut, before any retraining; NaN if it was not measured."""
    layers: Mapping[str, Floats] = field(default_factory=dict)
    """Sparsity of each layer, in network order."""

    @property
    def name(self) -> str:
        """``80 %``, or ``epoch 25``."""
        return f"{100 * self.asked:.5g} %" if self.chosen else f"epoch {self.epoch}"

    @property
    def chosen(self) -> bool:
        """Whether the sparsity was asked for."""
        return math.isfinite(self.asked)

    @property
    def drop(self) -> Floats:
        """Accuracy lost against the original, as a share."""
        return self.original - self.accuracy

    @property
    def gap(self) -> Floats:
        """Training less test accuracy."""
        return gap(self.train_accuracy, self.accuracy)

    @property
    def range(self) -> tuple[Floats, Floats]:
        """The least and the most agreement that the two accuracies allow."""
        return agreement_range(self.original, self.accuracy, self.classes)

    @property
    def within(self) -> Floats:
        """Where the agreement lies in that range, 0 to 1."""
        return within_range(self.agreement, *self.range)

    @cached_property
    def collapsed(self) -> NDArray[np.bool_]:
        """Which twins collapsed; see :func:`thrifty.zoo.statistics.collapsed`."""
        return collapsed(self.original, self.accuracy, self.classes)

    @cached_property
    def figures(self) -> dict[str, float]:
        """What a table says of the level: medians with quartiles, and correlations."""
        low, high = self.range
        found: dict[str, float] = {"models": len(self.models)}
        for name, values in {
            "sparsity": self.sparsity,
            "accuracy": self.accuracy,
            "drop": self.drop,
            "gap": self.gap,
            "agreement": self.agreement,
            "kappa": self.kappa,
        }.items():
            found |= _three(name, quartiles(values))
        return found | {
            "accuracy_before_retraining": self.before,
            "accuracy_mean": quartiles(self.accuracy).mean,
            "accuracy_std": quartiles(self.accuracy).std,
            "agreement_least": quartiles(low).median,
            "agreement_most": quartiles(high).median,
            "within_range": quartiles(self.within).median,
            "error_agreement": quartiles(self.error_agreement).median,
            "pearson": pearson(self.original, self.accuracy),
            "spearman": spearman(self.original, self.accuracy),
            "kendall": kendall(self.original, self.accuracy),
            "collapsed": collapsed_share(self.original, self.accuracy, self.classes),
            "diverged": int((~np.isfinite(self.accuracy)).sum()),
        }


def level_of(
    original: Columns, parents: Ints, twins: Columns, at: Ints, last: bool, classes: int | None
) -> Level:
    """The level of some twins.

    Args:
        original: columns of the zoo.
        parents: the rows of the twins' originals there.
        twins: columns of the twins.
        at: their rows, of one method and one sparsity, at one epoch.
        last: whether they are finished.
        classes: of the data set, if known.
    """
    rows = taken(twins, at)
    return Level(
        method=str(rows["method"][0]),
        asked=float(column(rows, "asked")[0]),
        epoch=int(rows["epoch"][0]),
        last=last,
        models=np.asarray(original["model"][parents], np.int64),
        original=standing(taken(original, parents), "test_accuracy"),
        accuracy=standing(rows, "test_accuracy"),
        train_accuracy=standing(rows, "train_accuracy"),
        sparsity=column(rows, "sparsity"),
        agreement=column(rows, "agreement"),
        kappa=column(rows, "kappa"),
        error_agreement=column(rows, "error_agreement"),
        classes=classes,
        layers=layer_sparsities(rows["layers"].tolist()) if "layers" in rows else {},
    )


def agreed(
    level: Level,
    parents: Ints,
    at: Ints,
    predictions: tuple[Predictions, Predictions] | None,
    labels: NDArray[Any] | None,
) -> Level:
    """``level`` with what stored predictions say of its agreement, where the index does not.

    Predictions are read for :data:`AT_ONCE` models at a time.
    """
    wanted = {"agreement": level.agreement}
    if level.classes:
        wanted["kappa"] = level.kappa
    if labels is not None:
        wanted["error_agreement"] = level.error_agreement
    if predictions is None or all(np.isfinite(known).all() for known in wanted.values()):
        return level
    made = {name: known.copy() for name, known in wanted.items()}
    for start in range(0, at.size, AT_ONCE):
        some = slice(start, start + AT_ONCE)
        a, b = predictions[0](parents[some]), predictions[1](at[some])
        if a is None or b is None:
            continue
        found = {"agreement": agreement(a, b)}
        if level.classes:
            found["kappa"] = cohen_kappa(a, b, level.classes)
        if labels is not None:
            found["error_agreement"] = error_agreement(a, b, labels)
        for name, values in found.items():
            known = wanted[name][some]
            made[name][some] = np.where(np.isfinite(known), known, values)
    return replace(
        level,
        agreement=made["agreement"],
        kappa=made.get("kappa", level.kappa),
        error_agreement=made.get("error_agreement", level.error_agreement),
    )


def taken(columns: Columns, rows: Ints) -> Columns:
    """Some rows of a table."""
    return {name: values[rows] for name, values in columns.items()}


def column(columns: Columns, name: str) -> Floats:
    """A column of numbers; NaN throughout where there is no such column."""
    if name not in columns:
        return np.full(len(columns["model"]), math.nan)
    return np.asarray([math.nan if v is None else v for v in columns[name]], np.float64)


def standing(columns: Columns, name: str) -> Floats:
    """A column, NaN for models that diverged: what they answer is no accuracy."""
    values = column(columns, name)
    if "diverged" in columns:
        values = np.where(np.asarray(columns["diverged"]).astype(bool), math.nan, values)
    return values


def layer_sparsities(texts: Sequence[Any]) -> dict[str, Floats]:
    """Sparsity a layer from the column ``layers``.

    Args:
        texts: a row each, JSON: layer -> weights kept and weights there are, as
            ``[kept, all]`` or ``{"kept": ..., "all": ...}``.

    Returns:
        Layer -> (rows,), in network order; NaN for rows that lack the layer or cannot be read.
    """
    found: dict[str, Floats] = {}
    for number, text in enumerate(texts):
        for layer, (kept, size) in _counts(text).items():
            values = found.setdefault(layer, np.full(len(texts), math.nan))
            values[number] = 1 - kept / size if size > 0 else math.nan
    return found


def _counts(text: Any) -> dict[str, tuple[float, float]]:
    try:
        read = json.loads(text) if isinstance(text, str | bytes) else text
        pairs = {
            str(layer): (counts["kept"], counts["all"]) if isinstance(counts, dict) else counts
            for layer, counts in read.items()
        }
        return {layer: (float(kept), float(size)) for layer, (kept, size) in pairs.items()}
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return {}


def _three(name: str, spread: Spread) -> dict[str, float]:
    return {name: spread.median, f"{name}_q1": spread.q1, f"{name}_q3": spread.q3}
