"""What the bits of a stored number mean, for every dtype that can be counted.

The floats of 16, 32 and 64 bits are a sign and a magnitude whose bits, read as an integer, order
like the numbers; so ``|w| < t`` is a comparison of integers with ``limit(dtype, t)``.  The 8-bit
kinds have 256 values, which are a table.
"""

import functools
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

DTYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F8_E4M3": np.dtype("u1"),
    "F8_E5M2": np.dtype("u1"),
    "F8_E4M3FNUZ": np.dtype("u1"),
    "F8_E5M2FNUZ": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "I16": np.dtype("<i2"),
    "U16": np.dtype("<u2"),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
    "BOOL": np.dtype("?"),
}
"""The dtypes that can be counted, and how their elements lie in memory."""


class Layout(NamedTuple):
    """A sign bit, then the magnitude: an exponent with a bias, and bits of a fraction."""

    unsigned: np.dtype[Any]
    fraction: int
    bias: int

    @property
    def magnitude(self) -> int:
        """All bits but the sign."""
        return (1 << 8 * self.unsigned.itemsize - 1) - 1

    @property
    def infinity(self) -> int:
        """The magnitude of infinity; those above are NaN."""
        return (2 * self.bias + 1) << self.fraction


FLOATS: Mapping[str, Layout] = {
    "F64": Layout(np.dtype("<u8"), 52, 1023),
    "F32": Layout(np.dtype("<u4"), 23, 127),
    "F16": Layout(np.dtype("<u2"), 10, 15),
    "BF16": Layout(np.dtype("<u2"), 7, 127),
}
"""The floats whose magnitudes are compared as integers."""

OCTAVES = 4096
"""Bins of a histogram over float32: 8 bits of the exponent, 4 of the fraction."""

SHIFT, INFINITE_OCTAVE, NAN_OCTAVE = 19, 4080, 4095


def limit(dtype: str, threshold: float) -> int:
    """The least magnitude, as an integer, whose value is at least ``threshold``, which is >= 0.

    Example:
        >>> hex(limit("BF16", 1.0)), limit("F32", 0.0), hex(limit("F16", 65521.0))
        ('0x3f80', 0, '0x7c00')
    """
    layout = FLOATS[dtype]
    if threshold == 0 or threshold == math.inf:
        return layout.infinity if threshold else 0
    exponent = max(math.frexp(threshold)[1] - 1, 1 - layout.bias)
    units = Fraction(threshold) * Fraction(2) ** (layout.fraction - exponent)  # exact, no rounding
    pattern = (exponent + layout.bias - 1 << layout.fraction) + math.ceil(units)
    return min(pattern, layout.infinity)


def value(dtype: str, magnitude: int) -> float:
    """The number that the bits of a magnitude stand for."""
    if dtype == "BF16":
        return value("F32", magnitude << 16)
    return float(np.array(magnitude, FLOATS[dtype].unsigned).view(DTYPES[dtype]))


@functools.cache
def table(dtype: str) -> NDArray[np.float64]:
    """The numbers that the 256 patterns of an 8-bit kind stand for; NaN where none."""
    patterns = np.arange(256, dtype=np.uint8)
    if dtype in ("I8", "U8"):
        made = patterns.view(DTYPES[dtype]).astype(np.float64)
    else:
        made = np.array([_small(dtype, int(p)) for p in patterns])
    made.flags.writeable = False
    return made


def decode(bits: NDArray[Any], dtype: str) -> NDArray[Any]:
    """The numbers that are stored: float32 for floats of 32 bits and fewer, float64 for the rest.

    Args:
        bits: of any shape, of the numpy type that ``dtype`` is stored in.
        dtype: such as ``"BF16"``.

    Example:
        >>> decode(np.array([0x3F80, 0xC000], "<u2"), "BF16").tolist()
        [1.0, -2.0]
    """
    if dtype == "BF16":
        wide: NDArray[Any] = bits.astype(np.uint32) << np.uint32(16)
        return wide.view(np.float32)
    if dtype in _FRACTION:
        return np.take(table(dtype).astype(np.float32), bits)
    return bits.astype(np.float32 if dtype in ("F32", "F16") else np.float64)


SMALL = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I8", "U8")
"""The dtypes of 8 bits, which are counted by value."""

_FRACTION = {"F8_E4M3": (3, 7), "F8_E5M2": (2, 15), "F8_E4M3FNUZ": (3, 8), "F8_E5M2FNUZ": (2, 16)}


def _small(dtype: str, pattern: int) -> float:
    """OCP 8-bit floats, and those without a negative zero (FNUZ), where its pattern is NaN."""
    bits, bias = _FRACTION[dtype]
    sign = -1.0 if pattern & 0x80 else 1.0
    exponent, fraction = (pattern & 0x7F) >> bits, pattern & ((1 << bits) - 1)
    if dtype.endswith("FNUZ"):
        if pattern == 0x80:
            return math.nan
    elif dtype == "F8_E5M2" and exponent == 31:
        return math.nan if fraction else sign * math.inf
    elif dtype == "F8_E4M3" and pattern & 0x7F == 0x7F:
        return math.nan
    if exponent == 0:
        return sign * math.ldexp(fraction, 1 - bias - bits)
    return sign * math.ldexp((1 << bits) + fraction, exponent - bias - bits)
