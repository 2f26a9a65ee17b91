"""What is said of a population of networks and of their sparse twins, as functions on arrays.

Accuracies, agreements and sparsities are shares, 0 to 1.  A model without a value (NaN: it
diverged) is left out of means, quartiles and correlations, and counts as collapsed.  Where a
figure is not defined, such as the correlation of constants, it is NaN and no error.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thrifty.errors import UserError
from thrifty.zoo.correlations import Floats, kendall, pairs, pearson, spearman

__all__ = [
    "Floats",
    "Spread",
    "agreement",
    "agreement_range",
    "cohen_kappa",
    "collapsed",
    "collapsed_share",
    "curve",
    "error_agreement",
    "gap",
    "kendall",
    "near_chance",
    "overtaking",
    "pearson",
    "quartiles",
    "spearman",
    "within_range",
]

WHISKER = 1.5
"""Whiskers reach the last value within so many interquartile ranges of the box (Tukey)."""
LOST, NEAR_CHANCE = 0.10, 1.5
"""A collapsed twin lost more than this, or is at most so many times as good as guessing."""


@dataclass(frozen=True)
class Spread:
    """How some figure is spread over a population; all NaN where there is no finite value."""

    count: int
    mean: float
    std: float
    """Of a sample (n - 1); 0 for one value."""
    least: float
    low: float
    """The lower whisker: the least value that is within 1.5 interquartile ranges of the box."""
    q1: float
    median: float
    q3: float
    high: float
    most: float


def quartiles(values: ArrayLike) -> Spread:
    """Median, quartiles and whiskers of the finite values.

    Args:
        values: (n,); quartiles between two values are interpolated.

    Example:
        >>> found = quartiles([1, 2, 3, 4, 100])
        >>> found.median, found.q1, found.q3, found.high, found.most
        (3.0, 2.0, 4.0, 4.0, 100.0)
    """
    finite = _finite(values)
    if not finite.size:
        return Spread(0, *[math.nan] * 9)
    q1, median, q3 = (float(q) for q in np.quantile(finite, (0.25, 0.5, 0.75)))
    reach = WHISKER * (q3 - q1)
    # An interpolated quartile may lie beyond the last value within reach; a whisker never
    # points into its box.
    low = min(q1, float(finite[finite >= q1 - reach].min()))
    high = max(q3, float(finite[finite <= q3 + reach].max()))
    return Spread(
        count=finite.size,
        mean=float(finite.mean()),
        std=float(finite.std(ddof=1)) if finite.size > 1 else 0.0,
        least=float(finite.min()),
        low=low,
        q1=q1,
        median=median,
        q3=q3,
        high=high,
        most=float(finite.max()),
    )


def agreement(a: ArrayLike, b: ArrayLike) -> Floats:
    """The share of inputs given the same class, right or wrong.

    Args:
        a: (..., inputs) predicted classes.
        b: as ``a``, of the same inputs in the same order.

    Returns:
        (...).

    Raises:
        UserError: the shapes differ, or there is no input.

    Example:
        >>> float(agreement([0, 1, 2, 2], [0, 1, 1, 2]))
        0.75
    """
    first, second = _alike(a, b)
    return np.asarray((first == second).mean(axis=-1), np.float64)


def cohen_kappa(a: ArrayLike, b: ArrayLike, classes: int) -> Floats:
    """Agreement beyond that of two guessers with the same frequencies of answers.

    (p_o - p_e) / (1 - p_e), p_o the agreement and p_e the sum over classes of the product of the
    shares of inputs given that class.  1 is full agreement, 0 that of independent answers; NaN
    where both always answer with one and the same class, which leaves nothing to agree on.

    Args:
        a: (..., inputs) predicted classes, 0 to ``classes - 1``.
        b: as ``a``.
        classes: how many there are.

    Returns:
        (...).

    Raises:
        UserError: the shapes differ, there is no input, or a class is not under ``classes``.

    References:
        Cohen, A Coefficient of Agreement for Nominal Scales, 1960.
    """
    first, second = _alike(a, b)
    for given in (first, second):
        if given.min() < 0 or given.max() >= classes:
            raise UserError(
                f"a predicted class is {given.min() if given.min() < 0 else given.max()}; with "
                f"{classes} classes a prediction is 0 to {classes - 1}; give the number of classes "
                f"that the models answer with"
            )
    observed = (first == second).mean(axis=-1)
    # Class by class: a table of classes x classes a model would not fit for a whole population.
    expected = np.zeros(observed.shape)
    for c in range(classes):
        expected += (first == c).mean(axis=-1) * (second == c).mean(axis=-1)
    room = 1 - expected
    return _divided(observed - expected, np.where(room > 1e-12, room, 0.0))


def agreement_range(
    accuracy_a: ArrayLike, accuracy_b: ArrayLike, classes: int | None = None
) -> tuple[Floats, Floats]:
    """The least and the most that two networks of these accuracies can agree.

    max(0, a + b - 1) to 1 - |a - b|: two networks of 95 % agree on 90 % whatever they learned.
    Of two classes, networks that are both wrong agree, so that the least is |a + b - 1|.

    Returns:
        Two arrays, of the shape of the accuracies.

    Example:
        >>> low, high = agreement_range(0.95, 0.9)
        >>> round(float(low), 3), round(float(high), 3)
        (0.85, 0.95)
    """
    a, b = np.asarray(accuracy_a, np.float64), np.asarray(accuracy_b, np.float64)
    both = a + b - 1
    low = np.abs(both) if classes == 2 else np.maximum(0.0, both)
    return np.asarray(low), np.asarray(1 - np.abs(a - b))


def within_range(agreed: ArrayLike, low: ArrayLike, high: ArrayLike) -> Floats:
    """Where agreement lies in the range that the accuracies allow: 0 the least, 1 the most.

    NaN where the range is a single value.
    """
    least = np.asarray(low, np.float64)
    width = np.asarray(high, np.float64) - least
    above = np.asarray(agreed, np.float64) - least
    return _divided(above, np.where(width > 1e-12, width, 0.0))


def error_agreement(a: ArrayLike, b: ArrayLike, labels: ArrayLike) -> Floats:
    """The share of the same class among the inputs that both get wrong; NaN if there are none.

    The part of agreement that accuracy does not explain: independent errors over ``classes``
    classes would agree on 1 / (classes - 1).

    Args:
        a: (..., inputs) predicted classes.
        b: as ``a``.
        labels: (inputs,) the right classes.

    Raises:
        UserError: the shapes differ, or there is no input.
    """
    first, second = _alike(a, b)
    truth = np.asarray(labels)
    if truth.shape != first.shape[-1:]:
        raise UserError(
            f"labels have shape {truth.shape} and predictions {first.shape}; one label an input is "
            f"({first.shape[-1]},)"
        )
    wrong = (first != truth) & (second != truth)
    same = wrong & (first == second)
    return _divided(same.sum(axis=-1), wrong.sum(axis=-1))


def collapsed(original: ArrayLike, twin: ArrayLike, classes: int | None) -> NDArray[np.bool_]:
    """Which twins lost more than 10 points, or are at most 1.5 times as good as guessing.

    Args:
        original: (n,) accuracies before.
        twin: (n,) accuracies after; NaN, of one that diverged, has collapsed.
        classes: guessing is right once in so many times; ``None`` if that is not known.
    """
    before, after = np.asarray(original, np.float64), np.asarray(twin, np.float64)
    # 1e-9: a twin that lost exactly ten points has not lost more, whatever the rounding.
    lost = before - after > LOST + 1e-9
    guessing = after <= near_chance(classes)
    return np.asarray(lost | guessing | ~np.isfinite(after))


def near_chance(classes: int | None) -> float:
    """The accuracy that is hardly better than guessing; -1, which none is under, if not known."""
    return NEAR_CHANCE / classes if classes else -1.0


def collapsed_share(original: ArrayLike, twin: ArrayLike, classes: int | None) -> float:
    """The share of :func:`collapsed` twins; NaN of none."""
    found = collapsed(original, twin, classes)
    return float(found.mean()) if found.size else math.nan


def gap(train_accuracy: ArrayLike, test_accuracy: ArrayLike) -> Floats:
    """The generalisation gap: accuracy on what was trained on, less that on test inputs."""
    return np.asarray(
        np.asarray(train_accuracy, np.float64) - np.asarray(test_accuracy, np.float64)
    )


def overtaking(
    first: tuple[Sequence[float], Sequence[float]],
    second: tuple[Sequence[float], Sequence[float]],
) -> float | None:
    """The sparsity from which on the second method is better than the first, to the end.

    Between measured sparsities accuracy is interpolated in straight lines; nothing is said
    outside the sparsities that both methods reach.

    Args:
        first: sparsities and median accuracies of one method, in any order; of one sparsity
            measured twice the mean counts.
        second: those of the other.

    Returns:
        The lowest such sparsity, the least that both reach if the second is better throughout;
        ``None`` if the first is as good at the end, or if they have no sparsity in common.

    Example:
        >>> overtaking(([0.5, 0.9], [0.9, 0.5]), ([0.5, 0.9], [0.8, 0.8]))
        0.6
    """
    (x1, y1), (x2, y2) = curve(*first), curve(*second)
    if not x1.size or not x2.size:
        return None
    start, end = max(x1[0], x2[0]), min(x1[-1], x2[-1])
    if start > end:
        return None
    x = np.unique(np.concatenate([x1, x2, [start, end]]))
    x = x[(x >= start) & (x <= end)]
    ahead = np.interp(x, x2, y2) - np.interp(x, x1, y1)
    behind = np.flatnonzero(ahead <= 0)
    if not behind.size:
        return float(start)
    last = int(behind[-1])
    if last == x.size - 1:
        return None
    # Both are straight between neighbours, so their difference is, and it changes sign here.
    share = -ahead[last] / (ahead[last + 1] - ahead[last])
    return round(float(x[last] + share * (x[last + 1] - x[last])), 12)


def curve(sparsities: ArrayLike, accuracies: ArrayLike) -> tuple[Floats, Floats]:
    """Points by growing sparsity, for interpolation; equal sparsities become their mean."""
    x, y = pairs(sparsities, accuracies)
    places, where, counts = np.unique(x, return_inverse=True, return_counts=True)
    sums = np.bincount(where.ravel(), weights=y, minlength=places.size)
    return places, np.asarray(sums / np.maximum(counts, 1))


def _finite(values: ArrayLike) -> Floats:
    array = np.asarray(values, np.float64).ravel()
    return np.asarray(array[np.isfinite(array)])


def _alike(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    first, second = np.asarray(a), np.asarray(b)
    if first.shape != second.shape or not first.ndim:
        raise UserError(
            f"predictions have the shapes {first.shape} and {second.shape}; two networks are "
            f"compared on the same inputs, (..., inputs) of one shape"
        )
    if not first.shape[-1]:
        raise UserError("predictions of no input say nothing; give predictions of test inputs")
    return first, second


def _divided(above: ArrayLike, below: ArrayLike) -> Floats:
    """A quotient, NaN where the divisor is 0."""
    a, b = np.asarray(above, np.float64), np.asarray(below, np.float64)
    found = np.full(np.broadcast(a, b).shape, math.nan)
    np.divide(a, b, out=found, where=b != 0)
    return found
