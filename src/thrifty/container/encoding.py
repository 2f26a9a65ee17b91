"""Positions and values of a tensor as bytes; :mod:`thrifty.native.unpack` is the way back.

A zero is an element all of whose bits are zero, so -0.0 is a value and comes back as it was.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from thrifty.native.unpack import ESCAPE

Bits = NDArray[Any]


def unsigned(array: NDArray[Any]) -> Bits:
    """The elements of a contiguous array as unsigned integers of the same bytes, flat.

    Example:
        >>> unsigned(np.float32([[1.0, -0.0]])).tolist()
        [1065353216, 2147483648]
    """
    return array.reshape(-1).view(np.dtype(f"<u{array.dtype.itemsize}"))


def bitmask(there: NDArray[np.bool_]) -> bytes:
    """A bit an element, the first in the lowest bit of the first byte."""
    return np.packbits(there, bitorder="little").tobytes()


def gaps(there: NDArray[np.bool_]) -> bytes:
    """How many elements without a value come before each one with a value, a byte each.

    Example:
        >>> there = np.zeros(300, bool)
        >>> there[[1, 299]] = True
        >>> list(gaps(there))
        [1, 255, 42]
    """
    before = np.diff(np.flatnonzero(there), prepend=-1) - 1
    escapes, rest = np.divmod(before, ESCAPE)
    if not escapes.any():
        return rest.astype(np.uint8).tobytes()
    ends = np.cumsum(escapes + 1)
    codes = np.full(int(ends[-1]), ESCAPE, np.uint8)
    codes[ends - 1] = rest
    return codes.tobytes()


def planes(values: Bits, rotate: bool) -> list[bytes]:
    """Byte b of every value, the least significant first.

    Args:
        values: unsigned integers.
        rotate: turn each left by one bit first, which puts the sign last and all bits of an
            exponent of 8 into one byte.

    Example:
        >>> planes(np.uint16([0x8123]), rotate=True)
        [b'G', b'\\x02']
    """
    if rotate:
        bits = 8 * values.dtype.itemsize
        values = values << values.dtype.type(1) | values >> values.dtype.type(bits - 1)
    table = np.ascontiguousarray(values).view(np.uint8).reshape(-1, values.dtype.itemsize)
    return [table[:, b].tobytes() for b in range(values.dtype.itemsize)]
