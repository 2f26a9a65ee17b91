"""Do two figures of a population rise and fall together: correlation of values and of ranks."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thrifty.errors import UserError

Floats = NDArray[np.float64]

LEAF = 64
"""Inversions of so few numbers are counted by comparing all of them."""


def pearson(a: ArrayLike, b: ArrayLike) -> float:
    """The linear correlation of two figures over a population, -1 to 1; its square is R^2.

    Args:
        a: (n,); pairs in which a value is not finite are left out.
        b: (n,).

    Returns:
        NaN for fewer than two pairs, or where a figure is constant.

    Raises:
        UserError: the lengths differ.
    """
    return _correlation(*pairs(a, b))


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """The correlation of ranks, -1 to 1: 1 if any growing curve goes through all points.

    Equal values share the mean of their ranks.  Arguments, NaN and errors as :func:`pearson`.
    """
    first, second = pairs(a, b)
    return _correlation(_ranks(first), _ranks(second))


def kendall(a: ArrayLike, b: ArrayLike) -> float:
    """Kendall's tau-b: pairs of models in the same order less those in the opposite one.

    Ties are taken out of the pairs that could be in order.  n log n, so that zoos of thousands
    take milliseconds.  Arguments, NaN and errors as :func:`pearson`.

    References:
        Knight, A Computer Method for Calculating Kendall's Tau with Ungrouped Data, 1966.
    """
    first, second = pairs(a, b)
    if first.size < 2:
        return math.nan
    order = np.lexsort((second, first))
    x, y = first[order], second[order]
    total = x.size * (x.size - 1) // 2
    tied_x, tied_y = _tied(x), _tied(np.sort(y))
    tied_both = _tied(x, y)
    discordant = _inversions(y)
    concordant = total - tied_x - tied_y + tied_both - discordant
    room = math.sqrt(total - tied_x) * math.sqrt(total - tied_y)
    return _clipped((concordant - discordant) / room) if room else math.nan


def pairs(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    """The pairs in which both values are finite.

    Raises:
        UserError: the lengths differ.
    """
    first, second = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    if first.size != second.size:
        raise UserError(
            f"{first.size:,} values are paired with {second.size:,}; give one of each a model"
        )
    both = np.isfinite(first) & np.isfinite(second)
    return first[both], second[both]


def _correlation(a: Floats, b: Floats) -> float:
    if a.size < 2 or a.min() == a.max() or b.min() == b.max():
        return math.nan
    x, y = a - a.mean(), b - b.mean()
    # Scaled first: squares of very small or very large numbers leave the range of doubles.
    x, y = x / np.abs(x).max(), y / np.abs(y).max()
    return _clipped(float((x @ y) / (np.linalg.norm(x) * np.linalg.norm(y))))


def _clipped(found: float) -> float:
    """A correlation without what rounding adds beyond 1."""
    return max(-1.0, min(1.0, found))


def _ranks(values: Floats) -> Floats:
    """Ranks from 1 on, the mean rank for equal values."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[where.ravel()], np.float64)


def _tied(*ordered: Floats) -> int:
    """Pairs of models that are equal in all of the figures, which stand in order."""
    new = np.zeros(ordered[0].size, bool)
    for values in ordered:
        new[1:] |= values[1:] != values[:-1]
    counts = np.bincount(np.cumsum(new))
    return int((counts * (counts - 1) // 2).sum())


def _inversions(values: Floats) -> int:
    """Pairs in which the earlier value is the larger."""
    if values.size <= LEAF:
        return int(np.triu(values[:, None] > values[None, :], 1).sum())
    half = values.size // 2
    left, right = values[:half], values[half:]
    crossing = half - np.searchsorted(np.sort(left), right, side="right")
    return _inversions(left) + _inversions(right) + int(crossing.sum())
