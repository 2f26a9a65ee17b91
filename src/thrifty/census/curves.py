"""Curves drawn from a histogram of |w|: energy kept against share kept, and density over decades.

The histogram has sixteen bins an octave.  Shares are exact where a bin begins.  The energy inside
a bin, the sum of squares, is taken as that of evenly spread values, at most 4.4 % from the truth
bin by bin, and all of it is scaled to the exact sum; on normal and Laplace weights the curve is
within 0.0005 of the exact one.
"""

import numpy as np
from numpy.typing import NDArray

from thrifty.census.counts import SUBNORMAL, Counts

Curve = NDArray[np.float64]
FINITE = 255 * 16
"""Bins of finite values."""


def edges() -> Curve:
    """(BINS of finite values + 1,) where the bins begin, and where the last ends."""
    bits = np.arange(FINITE + 1, dtype=np.uint32) * np.uint32(SUBNORMAL)
    values: Curve = bits.view(np.float32).astype(np.float64)
    values[-1] = 2.0**128
    return values


def energy(counts: Counts) -> tuple[Curve, Curve]:
    """(share of elements kept, share of sum w^2 kept) when the largest are kept, both 0 to 1.

    The points lie at bin edges, from nothing kept to everything; both empty if nothing finite
    was counted, all of it is zero, or no curves were asked for.
    """
    if counts.octaves is None:
        return np.empty(0), np.empty(0)
    finite = counts.octaves[:FINITE].astype(np.float64)
    low, high = edges()[:-1], edges()[1:]
    squares = finite * (low * low + low * high + high * high) / 3
    squares[0] = 0.0  # zeros and what float32 calls subnormal
    if not squares.any():
        return np.empty(0), np.empty(0)
    kept = np.concatenate([[0.0], np.cumsum(finite[::-1])]) / finite.sum()
    held = np.concatenate([[0.0], np.cumsum(squares[::-1])]) / squares.sum()
    change = np.flatnonzero(np.diff(kept, prepend=-1.0) > 0)
    return kept[change], held[change]


def needed(counts: Counts, share: float) -> float:
    """The share of elements that hold ``share`` of the energy, the largest first; NaN of none."""
    kept, held = energy(counts)
    if not kept.size:
        return float("nan")
    return float(np.interp(share, held, kept))


def decades(counts: Counts, bins: int = 4) -> tuple[Curve, Curve, Curve]:
    """(begin, end, share of elements per decade) of bins of |w| that hold something.

    Args:
        counts: of one tensor or several.
        bins: parts of an octave, 1, 2, 4, 8 or 16.  They are even in |w|, so they differ in
            width over decades, for which the density makes up.

    Zeros are in no bin: they have no logarithm.
    """
    if counts.octaves is None:
        return np.empty(0), np.empty(0), np.empty(0)
    together = 16 // bins
    finite = counts.octaves[:FINITE].copy()
    finite[0] = 0
    grouped = finite.reshape(-1, together).sum(1)
    low, high = edges()[:-1:together], edges()[together::together]
    there = np.flatnonzero(grouped)
    if not there.size:
        return np.empty(0), np.empty(0), np.empty(0)
    span = slice(max(1, there[0]), there[-1] + 1)
    width = np.log10(high[span]) - np.log10(low[span])
    return low[span], high[span], grouped[span] / counts.count / width
