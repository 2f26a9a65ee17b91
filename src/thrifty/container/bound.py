"""The order-0 bound: the bytes that no code of one number at a time goes below.

Positions take the entropy of a coin, values a sign bit, the entropy of their exponents, and all
bits of their fraction, which look drawn by lot.  A file may go below it where numbers repeat or
fractions are not drawn evenly.
"""

import math

import numpy as np
from numpy.typing import NDArray

from thrifty.container.encoding import Bits
from thrifty.container.header import Entry
from thrifty.native.formats import FLOATS


def bound_bits(values: Bits, dtype: str, count: int) -> float:
    """Bits of ``count`` elements of which ``values`` are not zero.

    Args:
        values: unsigned integers, the bits of what is not zero; one-dimensional.
        dtype: what they are bits of.
        count: elements, at least ``values.size``.

    Example:
        >>> bound_bits(np.float32([1, -1, 1, 1]).view(np.uint32), "F32", 8)
        104.0
    """
    return count * coin(values.size / count if count else 0.0) + value_bits(values, dtype)


def value_bits(values: Bits, dtype: str) -> float:
    """Bits of the values alone: sign, entropy of the exponents, fraction; of integers entropy."""
    if dtype not in FLOATS:
        return values.size * entropy(values)
    layout = FLOATS[dtype]
    exponents = (values & layout.unsigned.type(layout.magnitude)) >> layout.unsigned.type(
        layout.fraction
    )
    return values.size * (1 + entropy(exponents) + layout.fraction)


def entropy(symbols: Bits) -> float:
    """Bits a symbol, from how often each occurs.

    Example:
        >>> entropy(np.uint8([1, 2, 1, 2]))
        1.0
    """
    _, counts = np.unique(symbols, return_counts=True)
    shares: NDArray[np.float64] = counts / max(1, symbols.size)
    return abs(float(-(shares * np.log2(shares)).sum()))


def coin(share: float) -> float:
    """Bits of a yes or no of which ``share`` are yes."""
    return -sum(p * math.log2(p) for p in (share, 1 - share) if p > 0)


def scale_bits(entry: Entry) -> int:
    """Bits of the scales of a tensor, which are drawn by lot."""
    return 32 * entry.shape[0] if entry.scaled else 0
