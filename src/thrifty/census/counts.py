"""What is counted of a tensor in one pass, and how the counts of several add up.

Everything a report shows is made of these: shares under thresholds, zeros, what is not finite,
mean and spread, and a histogram of |w| with sixteen bins an octave, of which the curve of energy
and the histogram over decades are drawn.  All of it has the same size whatever the tensor's.
"""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thrifty import native
from thrifty.sources import Stored

CHUNK = 1 << 23
"""Bytes counted at a time."""
TWICE = 1 << 20
"""The same where curves are wanted: bytes that stay in cache from one sweep to the next."""

BINS = 4096
SUBNORMAL = 1 << 19
"""Bins of the histogram begin at the float32 whose bits are the bin's number times SUBNORMAL;
those from 16 times 255 on hold what is not finite."""


@dataclass(frozen=True)
class Counts:
    """Numbers counted over one tensor or several.

    Args:
        count: elements.
        nbytes: bytes as stored, uncompressed.
        under: elements with |w| < t, for each threshold t.
        zeros: elements equal to 0, of which ``negative_zeros`` are -0.0.
        infinite: elements that are infinite.
        nan: elements that are no number.
        largest: the largest finite |w|.
        total: sum of the finite elements.
        squares: sum of their squares.
        relative: elements with |w| < t * std of their tensor, for each t; empty if not asked.
        octaves: (4096,) elements by the leading 12 bits of |w| as float32; ``None`` if no
            curves were asked for.
    """

    count: int
    nbytes: int
    under: tuple[int, ...]
    zeros: int
    negative_zeros: int
    infinite: int
    nan: int
    largest: float
    total: float
    squares: float
    octaves: NDArray[np.int64] | None = None
    relative: tuple[int, ...] = ()

    def __add__(self, other: "Counts") -> "Counts":
        if not self.count or not other.count:
            return self if self.count else other
        return Counts(
            self.count + other.count,
            self.nbytes + other.nbytes,
            _added(self.under, other.under),
            self.zeros + other.zeros,
            self.negative_zeros + other.negative_zeros,
            self.infinite + other.infinite,
            self.nan + other.nan,
            max(self.largest, other.largest),
            self.total + other.total,
            self.squares + other.squares,
            _summed(self.octaves, other.octaves),
            _added(self.relative, other.relative),
        )

    @property
    def shares(self) -> tuple[float, ...]:
        """Share under each threshold; NaN of nothing."""
        return tuple(self.share(n) for n in self.under)

    @property
    def sparsity(self) -> float:
        """Share of exact zeros."""
        return self.share(self.zeros)

    @property
    def mean(self) -> float:
        """Mean of the finite elements; NaN of none, and where their sum is beyond float64."""
        finite = self.count - self.infinite - self.nan
        return self.total / finite if finite and math.isfinite(self.total) else math.nan

    @property
    def std(self) -> float:
        """Standard deviation of the finite elements, of a whole population.

        NaN of none, where no spread was asked for, and where the squares are beyond float64.
        """
        finite = self.count - self.infinite - self.nan
        if not finite or not math.isfinite(self.squares):
            return math.nan
        return math.sqrt(max(0.0, self.squares / finite - self.mean**2))

    def share(self, part: int) -> float:
        """``part`` of all elements; NaN of nothing."""
        return part / self.count if self.count else math.nan


def count(
    stored: Stored,
    thresholds: Sequence[float],
    *,
    relative: bool = False,
    spread: bool = True,
    curves: bool = True,
    pool: Executor | None = None,
) -> Counts:
    """Count a tensor in one pass, or in two where thresholds follow from its spread.

    Args:
        stored: the tensor; ``quantised`` is not looked at.
        thresholds: of |w|, strict, at most 32.
        relative: count under ``t * std`` of the tensor as well.
        spread: add up the elements and their squares, which doubles the time; without, and not
            ``relative``, ``total`` and ``squares`` are NaN.
        curves: fill the histogram, which takes longer than all the rest.
        pool: where chunks are counted, several at a time; here if ``None``.
    """
    spread = spread or relative
    one = partial(
        _counted, dtype=stored.dtype, thresholds=tuple(thresholds), spread=spread, curves=curves
    )
    total = empty(len(thresholds), relative)
    for part in _mapped(one, _chunks(stored, TWICE if curves else CHUNK), pool):
        total = total + part
    if not relative or not total.count:
        return total
    scaled = tuple(t * total.std for t in thresholds)
    if math.isnan(total.std):
        return _with(total, tuple(0 for _ in thresholds))
    below = tuple(0 for _ in thresholds)
    again = partial(native.count_below, dtype=stored.dtype, thresholds=scaled)
    for counts in _mapped(again, _chunks(stored, CHUNK), pool):
        below = _added(below, counts)
    return _with(total, below)


def empty(thresholds: int = 0, relative: bool = False) -> Counts:
    """The counts of nothing."""
    none = (0,) * thresholds
    return Counts(0, 0, none, 0, 0, 0, 0, 0.0, 0.0, 0.0, None, none if relative else ())


def together(parts: Sequence[Counts]) -> Counts:
    """The counts of several tensors as if they were one."""
    found = parts[0] if parts else empty()
    for part in parts[1:]:
        found = found + part
    return found


def _counted(
    bits: NDArray[Any], dtype: str, thresholds: tuple[float, ...], spread: bool, curves: bool
) -> Counts:
    tally = native.tally(bits, dtype, thresholds, sums=spread)
    return Counts(
        tally.count,
        bits.nbytes,
        tally.under,
        tally.zeros,
        tally.negative_zeros,
        tally.infinite,
        tally.nan,
        tally.largest,
        tally.total,
        tally.squares,
        native.octaves(bits, dtype) if curves else None,
    )


def _chunks(stored: Stored, nbytes: int) -> Iterator[list[NDArray[Any]]]:
    """The chunks of every piece."""
    for piece in stored.read():
        step = max(1, nbytes // piece.itemsize)
        yield [piece[start : start + step] for start in range(0, len(piece), step)]


def _mapped(
    function: Any, pieces: Iterator[list[NDArray[Any]]], pool: Executor | None
) -> Iterator[Any]:
    """``function`` of each chunk, in order.

    All chunks of a piece are done before the next is asked for, when its reader lets go of it.
    """
    for chunks in pieces:
        yield from pool.map(function, chunks) if pool else map(function, chunks)


def _added(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(x + y for x, y in zip(a, b, strict=True))


def _summed(a: NDArray[np.int64] | None, b: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
    return None if a is None or b is None else a + b


def _with(counts: Counts, relative: tuple[int, ...]) -> Counts:
    return replace(counts, relative=relative)
