"""The counts of a census in numpy: the same results as the compiled kernels, bit for bit.

Everything is done a chunk at a time, so memory is constant.  Sums are defined by their order,
which native/census.h follows too:

- A block is 2048 elements, a chunk 128 blocks, both counted from the first element.
- In a block, 16 partial sums; element i is added to partial sum i mod 16, in order of i.
- Partial sums are added 8 apart, then 4, 2 and 1; that is the block's sum.
- The sums of the blocks of a chunk are added in order, then those of the chunks.

All in float64, starting from 0.0; NaN and infinities count as 0.0.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thrifty.native import formats
from thrifty.native.formats import DTYPES, FLOATS, INFINITE_OCTAVE, NAN_OCTAVE, OCTAVES, SHIFT

Bits = NDArray[Any]
Doubles = NDArray[np.float64]

BLOCK, LANES, CHUNK = 1 << 11, 16, 1 << 18


def below(bits: Bits, dtype: str, limits: Sequence[int]) -> list[int]:
    """How many magnitudes lie under each limit."""
    counts = [0] * len(limits)
    for chunk in _chunks(bits):
        magnitudes = _magnitudes(chunk, dtype)
        for number, limit in enumerate(limits):
            counts[number] += _under(magnitudes, limit)
    return counts


def tally(
    bits: Bits, dtype: str, limits: Sequence[int], sums: bool
) -> tuple[list[int], int, int, int, int, int, float, float]:
    """Counts under each limit, zeros, negative zeros, infinities, NaN; largest; both sums.

    Both sums are 0 if they are not asked for.
    """
    counts = [0] * len(limits)
    zeros = negative = infinite = nan = largest = 0
    total = squares = 0.0
    infinity = FLOATS[dtype].infinity if dtype in FLOATS else None
    for chunk in _chunks(bits):
        magnitudes = _magnitudes(chunk, dtype)
        for number, limit in enumerate(limits):
            counts[number] += _under(magnitudes, limit)
        zero = magnitudes.size - int(np.count_nonzero(magnitudes))
        zeros += zero
        if infinity is not None:
            if zero:
                sign = chunk.view(FLOATS[dtype].unsigned) > FLOATS[dtype].magnitude
                negative += int(np.count_nonzero(sign & (magnitudes == 0)))
            if int(magnitudes.max()) >= infinity:
                infinite += int(np.count_nonzero(magnitudes == infinity))
                nan += int(np.count_nonzero(magnitudes > infinity))
                finite = magnitudes < infinity
                chunk = np.where(finite, chunk, chunk.dtype.type(0))
                magnitudes = np.where(finite, magnitudes, magnitudes.dtype.type(0))
        largest = max(largest, int(magnitudes.max()))
        if sums:
            with np.errstate(over="ignore", invalid="ignore"):
                values = _numbers(chunk, dtype)
                total += _sum(values)
                squares += _sum(values * values)
    return counts, zeros, negative, infinite, nan, largest, total, squares


def patterns(bits: Bits) -> NDArray[np.int64]:
    """How often each of the 256 patterns of an 8-bit kind occurs."""
    counts = np.zeros(256, np.int64)
    for chunk in _chunks(bits.view(np.uint8)):
        counts += np.bincount(chunk, minlength=256)
    return counts


def octaves(bits: Bits, dtype: str) -> NDArray[np.int64]:
    """A histogram of magnitudes over the upper bits of float32; conversion rounds towards 0."""
    counts = np.zeros(OCTAVES, np.int64)
    for chunk in _chunks(bits):
        singles = _truncated(chunk, dtype).view(np.uint32) & np.uint32(0x7FFFFFFF)
        bins = singles >> np.uint32(SHIFT)
        bins[singles > np.uint32(INFINITE_OCTAVE << SHIFT)] = NAN_OCTAVE
        counts += np.bincount(bins, minlength=OCTAVES)
    return counts


def place(
    arrays: Sequence[NDArray[np.float32]], k: int, magnitude: bool
) -> tuple[float, int, int] | None:
    """The k-th smallest, how many are smaller and how many equal; ``None`` if one is NaN."""
    smaller, prefix = 0, 0
    for shift in (16, 0):
        counts = np.zeros(1 << 16, np.int64)
        for array in arrays:
            for chunk in _chunks(array):
                if shift and np.isnan(chunk.max()):
                    return None
                keys = _keys(chunk, magnitude)
                if not shift:
                    keys = keys[keys >> np.uint32(16) == prefix]
                counts += np.bincount(
                    keys >> np.uint32(shift) & np.uint32(0xFFFF), minlength=1 << 16
                )
        reached = smaller + np.cumsum(counts)
        found = int(np.searchsorted(reached, k))
        smaller = int(reached[found] - counts[found])
        prefix = prefix << 16 | found
    return from_key(prefix, magnitude), smaller, int(counts[found])


def from_key(key: int, magnitude: bool) -> float:
    """The float32 that :func:`place` ranks by the integer ``key``."""
    if not magnitude:
        key = key ^ 0x80000000 if key >> 31 else key ^ 0xFFFFFFFF
    return float(np.array(key, np.uint32).view(np.float32))


def first_nan(array: NDArray[np.float32]) -> int | None:
    """Index of the first NaN."""
    start = 0
    for chunk in _chunks(array):
        if np.isnan(chunk.max()):
            return start + int(np.isnan(chunk).argmax())
        start += chunk.size
    return None


def _keys(chunk: NDArray[np.float32], magnitude: bool) -> NDArray[np.uint32]:
    """Integers that order like the numbers, -0.0 like 0.0."""
    keys: NDArray[np.uint32] = (chunk + np.float32(0.0)).view(np.uint32)
    if magnitude:
        keys &= np.uint32(0x7FFFFFFF)
    else:
        keys ^= np.where(keys >> np.uint32(31), np.uint32(0xFFFFFFFF), np.uint32(0x80000000))
    return keys


def _chunks(array: Bits) -> Iterator[Bits]:
    for start in range(0, array.size, CHUNK):
        yield array[start : start + CHUNK]


def _magnitudes(chunk: Bits, dtype: str) -> Bits:
    """Unsigned integers that order like |w|: the bits of a float, the value of an integer."""
    if dtype in FLOATS:
        layout = FLOATS[dtype]
        mask = np.array(layout.magnitude, layout.unsigned)
        magnitudes: Bits = np.bitwise_and(chunk.view(layout.unsigned), mask)
        return magnitudes
    if DTYPES[dtype].kind == "i":
        return np.absolute(chunk.astype(np.int64)).view(np.uint64)  # of the least, 2**63 too
    return chunk.astype(np.uint64)


def _under(magnitudes: Bits, limit: int) -> int:
    if limit > int(np.iinfo(magnitudes.dtype).max):
        return magnitudes.size
    return int(np.count_nonzero(magnitudes < magnitudes.dtype.type(limit)))


def _numbers(chunk: Bits, dtype: str) -> Doubles:
    return formats.decode(chunk, dtype).astype(np.float64, copy=False)


def _truncated(chunk: Bits, dtype: str) -> NDArray[np.float32]:
    """As float32, rounded towards zero; what is finite stays so."""
    if dtype in ("BF16", "F16", "F32"):
        return formats.decode(chunk, dtype)
    if dtype not in FLOATS:
        chunk = _magnitudes(chunk, dtype)
        chunk = np.where(chunk >> np.uint64(53), chunk & ~np.uint64(0x7FF), chunk)
        chunk = chunk.astype(np.float64)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        near: NDArray[np.float32] = chunk.astype(np.float32)
    grown = np.isfinite(chunk) & (np.abs(near) > np.abs(chunk))
    near[grown] = np.nextafter(near[grown], np.float32(0))
    return near


def _sum(values: Doubles) -> float:
    """The sum of a chunk, in the order that this module defines."""
    whole = -(-values.size // BLOCK)
    steps = BLOCK // LANES if whole > 1 else -(-values.size // LANES)
    laid = np.zeros(whole * steps * LANES)
    laid[: values.size] = values
    laid = np.ascontiguousarray(laid.reshape(whole, steps, LANES).transpose(1, 0, 2))
    lanes = np.zeros((whole, LANES))
    for step in laid:
        lanes += step
    for apart in (8, 4, 2, 1):
        lanes = lanes[:, :apart] + lanes[:, apart:]
    total = 0.0
    for block in lanes[:, 0].tolist():
        total += block
    return total


def magnitude_limit(dtype: str, threshold: float) -> int:
    """The least of :func:`_magnitudes` that is not under ``threshold``."""
    if dtype in FLOATS:
        return formats.limit(dtype, threshold)
    return 1 << 64 if threshold >= 2.0**64 else -int(-threshold // 1)
