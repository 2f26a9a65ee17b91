"""Counts over stored numbers, at the speed of memory: shares, zeros, sums, ranks.

The compiled extension counts where it was built, numpy elsewhere; the results are the same bit
for bit, on every target and for any number of threads.  ``|w| < t`` compares the real numbers
that are stored with the float64 threshold, strictly, so a float32 0.7, which is 0.69999999, is
under 0.7.  NaN is under nothing.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thrifty.errors import UserError
from thrifty.native import fallback, formats
from thrifty.native.formats import DTYPES, FLOATS, SMALL, decode
from thrifty.native.targets import TARGETS, available, compiled, target, use

__all__ = [
    "TARGETS",
    "Place",
    "Tally",
    "available",
    "count_below",
    "decode",
    "kth",
    "octaves",
    "place",
    "tally",
    "target",
    "use",
]

MOST = 32
"""Thresholds that a call takes at most."""


class Tally(NamedTuple):
    """What one pass over numbers counts.

    Args:
        count: how many numbers there are.
        under: how many are smaller in magnitude than each threshold.
        zeros: how many are zero, -0.0 among them.
        negative_zeros: how many are -0.0.
        infinite: how many are infinite, of either sign.
        nan: how many are NaN.
        largest: the largest finite magnitude, 0.0 if there is none.
        total: sum of the finite numbers, in float64, in the order that ``fallback`` defines;
            of 8-bit kinds the sum rounded once.
        squares: sum of the squares of the finite numbers, likewise.
    """

    count: int  # type: ignore[assignment]  # not the method of tuples
    under: tuple[int, ...]
    zeros: int
    negative_zeros: int
    infinite: int
    nan: int
    largest: float
    total: float
    squares: float


class Place(NamedTuple):
    """The number of some rank, how many are smaller and how many are equal, itself among them."""

    value: float
    smaller: int
    equal: int


def tally(
    bits: NDArray[Any],
    dtype: str,
    thresholds: Sequence[float],
    *,
    sums: bool = True,
    threads: int = 1,
) -> Tally:
    """Count and sum ``bits``, one pass, constant memory.

    Args:
        bits: one-dimensional, of the numpy type that ``dtype`` is stored in; any alignment.
        dtype: such as ``"BF16"``.
        thresholds: at most 32, each 0 or greater.
        sums: ``total`` and ``squares`` are NaN without, and the rest takes half the time.
        threads: used at most; the result does not depend on it.

    Raises:
        UserError: ``bits`` is not of that dtype, or a threshold is negative or NaN.

    Example:
        >>> tally(np.float32([0.5, -0.0, 2.0]), "F32", [0.5, 1.0]).under
        (1, 2)
    """
    bits, limits = _checked(bits, dtype, thresholds, threads)
    if dtype in SMALL:
        found = _tally_patterns(_patterns(bits, threads), formats.table(dtype), thresholds)
        return found if sums else found._replace(total=math.nan, squares=math.nan)
    kernels = compiled() if dtype in FLOATS else None
    counts, zeros, negative, infinite, nan, largest, total, squares = (
        fallback.tally(bits, dtype, limits, sums)
        if kernels is None
        else kernels.tally(target(), dtype, _bytes(bits), limits, sums, threads)
    )
    top = formats.value(dtype, largest) if dtype in FLOATS else float(largest)
    if not sums:
        total = squares = math.nan
    return Tally(bits.size, tuple(counts), zeros, negative, infinite, nan, top, total, squares)


def count_below(
    bits: NDArray[Any], dtype: str, thresholds: Sequence[float], *, threads: int = 1
) -> tuple[int, ...]:
    """How many numbers are smaller in magnitude than each threshold; see :func:`tally`."""
    bits, limits = _checked(bits, dtype, thresholds, threads)
    if dtype in SMALL:
        magnitudes = np.abs(formats.table(dtype))
        counts = _patterns(bits, threads)
        return tuple(int(counts[magnitudes < t].sum()) for t in thresholds)
    kernels = compiled() if dtype in FLOATS else None
    if kernels is None:
        return tuple(fallback.below(bits, dtype, limits))
    return tuple(kernels.below(target(), dtype, _bytes(bits), limits, threads))


def octaves(bits: NDArray[Any], dtype: str, *, threads: int = 1) -> NDArray[np.int64]:
    """A histogram of magnitudes by the upper 12 bits of a float32 without its sign.

    Bin b holds magnitudes from ``np.uint32(b << 19).view(np.float32)`` on, 16 bins to an octave;
    bin 4080 holds the infinite, bin 4095 NaN.  What float32 cannot hold is rounded towards zero.

    Returns:
        int64 of shape (4096,).

    Raises:
        UserError: ``bits`` is not of that dtype.
    """
    bits, _ = _checked(bits, dtype, (), threads)
    if dtype in SMALL:
        made = np.zeros(formats.OCTAVES, np.int64)
        np.add.at(made, _small_octaves(dtype), _patterns(bits, threads))
        return made
    kernels = compiled() if dtype in FLOATS else None
    if kernels is None:
        return fallback.octaves(bits, dtype)
    return np.array(kernels.octaves(target(), dtype, _bytes(bits), threads), np.int64)


def kth(
    arrays: Sequence[NDArray[np.float32]], k: int, *, magnitude: bool = True, threads: int = 1
) -> tuple[float, int]:
    """The k-th smallest of several arrays as if they were one, and how many are smaller.

    Args:
        arrays: float32, one-dimensional.
        k: from 1 to the number of values.
        magnitude: rank by ``|w|`` and give ``|w|``; else by value, -0.0 like 0.0.
        threads: used at most.

    Raises:
        UserError: a value is NaN, an array is not float32, or ``k`` is out of range.

    Example:
        >>> kth([np.float32([3, -1]), np.float32([-2, 1])], 3)
        (2.0, 2)
    """
    found = place(arrays, k, magnitude=magnitude, threads=threads)
    return found.value, found.smaller


def place(
    arrays: Sequence[NDArray[np.float32]], k: int, *, magnitude: bool = True, threads: int = 1
) -> Place:
    """Like :func:`kth`, and how many values are equal to the one found."""
    total = sum(a.size for a in arrays)
    for number, array in enumerate(arrays):
        if array.dtype != np.float32 or array.ndim != 1:
            raise UserError(
                f"array {number} is {array.dtype} of {array.ndim} dimensions; ranks are of "
                f"one-dimensional float32 arrays"
            )
    if not 1 <= k <= total:
        raise UserError(f"there is no value of rank {k} among {total}; k is 1 to {total}")
    _check_threads(threads)
    arrays = [np.ascontiguousarray(a) for a in arrays]
    kernels = compiled()
    found = (
        fallback.place(arrays, k, magnitude)
        if kernels is None
        else kernels.place(target(), [_bytes(a) for a in arrays], k, magnitude, threads)
    )
    if found is None:
        _refuse_nan(arrays)
        raise UserError("an array changed while it was read; a NaN in it has gone")
    return Place(*found)


def _refuse_nan(arrays: Sequence[NDArray[np.float32]]) -> None:
    for number, array in enumerate(arrays):
        index = fallback.first_nan(array)
        if index is not None:
            raise UserError(
                f"value {index} of array {number} is NaN; a NaN cannot be ranked: check where "
                f"the values come from"
            )


def _checked(
    bits: NDArray[Any], dtype: str, thresholds: Sequence[float], threads: int
) -> tuple[NDArray[Any], list[int]]:
    """``bits`` as one contiguous array, and the thresholds as integers."""
    if dtype not in DTYPES:
        raise UserError(f"no dtype is called {dtype!r}; there is {', '.join(DTYPES)}")
    if bits.dtype != DTYPES[dtype] or bits.ndim != 1:
        raise UserError(
            f"the numbers are {bits.dtype} of {bits.ndim} dimensions; {dtype} is given as "
            f"{DTYPES[dtype]} of one dimension"
        )
    if len(thresholds) > MOST:
        raise UserError(f"{len(thresholds)} thresholds are given; a call takes {MOST} at most")
    for threshold in thresholds:
        if not threshold >= 0:
            raise UserError(f"a threshold is {threshold}; magnitudes are compared with 0 or more")
    _check_threads(threads)
    if dtype in SMALL:
        return np.ascontiguousarray(bits), []
    limits = [_limit(dtype, float(t)) for t in thresholds]
    return np.ascontiguousarray(bits), limits


_limit = functools.lru_cache(maxsize=1024)(fallback.magnitude_limit)


def _check_threads(threads: int) -> None:
    if threads < 1:
        raise UserError(f"threads is {threads}; it is 1 or more")


def _patterns(bits: NDArray[Any], threads: int) -> NDArray[np.int64]:
    kernels = compiled()
    if kernels is None:
        return fallback.patterns(bits)
    return np.array(kernels.patterns(target(), _bytes(bits), threads), np.int64)


def _bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """The memory of a contiguous array, whatever its alignment, writable or not."""
    return array.view(np.uint8)


def _tally_patterns(
    counts: NDArray[np.int64], values: NDArray[np.float64], thresholds: Sequence[float]
) -> Tally:
    """The tally of an 8-bit kind from how often each of its patterns occurs."""
    magnitudes = np.abs(values)
    zero, finite = magnitudes == 0, np.isfinite(values)
    there = np.flatnonzero(finite & (counts > 0)).tolist()
    return Tally(
        count=int(counts.sum()),
        under=tuple(int(counts[magnitudes < t].sum()) for t in thresholds),
        zeros=int(counts[zero].sum()),
        negative_zeros=int(counts[zero & np.signbit(values)].sum()),
        infinite=int(counts[np.isinf(values)].sum()),
        nan=int(counts[np.isnan(values)].sum()),
        largest=max((float(magnitudes[p]) for p in there), default=0.0),
        total=math.fsum(int(counts[p]) * float(values[p]) for p in there),
        squares=math.fsum(int(counts[p]) * float(values[p]) ** 2 for p in there),
    )


@functools.cache
def _small_octaves(dtype: str) -> NDArray[np.int64]:
    """The octave of each of the 256 patterns of an 8-bit kind."""
    singles = np.abs(formats.table(dtype)).astype(np.float32).view(np.uint32)
    bins: NDArray[np.int64] = (singles >> np.uint32(formats.SHIFT)).astype(np.int64)
    bins[np.isnan(formats.table(dtype))] = formats.NAN_OCTAVE
    return bins
