"""Tensors from positions and planes of bytes, as native/unpack.h defines them.

The compiled extension does it where it was built, numpy elsewhere, with equal results.  What does
not hold is a ``UserError`` that says the rule; the caller knows the file and the tensor.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thrifty.errors import UserError
from thrifty.native.targets import compiled

Bytes = NDArray[np.uint8]

ESCAPE = 255
ENCODINGS = ("raw", "bitmask", "gap8")
"""How positions are told: of every element, a bit an element, or a gap a value."""

SIZES = (1, 2, 4, 8)
"""Bytes of a value."""


def dense(
    encoding: str, positions: Bytes, planes: Sequence[Bytes], rotated: bool, count: int
) -> NDArray[Any]:
    """All elements of a tensor, the ones without a value zero.

    Args:
        encoding: of :data:`ENCODINGS`.
        positions: one-dimensional, as the encoding has them; empty for ``raw``.
        planes: byte b of every value, the least significant first; 1, 2, 4 or 8 of one length.
        rotated: values were turned left by one bit and are turned back.
        count: elements.

    Returns:
        Unsigned integers of as many bytes as there are planes, of shape (count,).

    Raises:
        UserError: the bytes do not hold; no memory was taken for the elements.

    Example:
        >>> gaps, values = np.uint8([1, 0]), [np.uint8([7, 9])]
        >>> dense("gap8", gaps, values, False, 5).tolist()
        [0, 7, 9, 0, 0]
    """
    kind = _kind(encoding, planes)
    values = planes[0].size
    if counted(encoding, positions, count) != values:
        raise UserError("there are more or fewer values than positions")
    out = np.zeros(count, kind)
    kernels = compiled()
    if kernels is not None:
        kernels.unpack_dense(encoding, positions, list(planes), rotated, out.view(np.uint8))
        return out
    joined = _joined(planes, rotated, kind)
    if encoding == "raw":
        return joined
    out[_indices(encoding, positions, count)] = joined
    return out


def indices(encoding: str, positions: Bytes, count: int) -> NDArray[np.int64]:
    """The index of every element that has a value, ascending.

    Raises:
        UserError: the bytes do not hold.

    Example:
        >>> indices("bitmask", np.uint8([0b1001]), 5).tolist()
        [0, 3]
    """
    values = counted(encoding, positions, count)
    kernels = compiled()
    if kernels is None:
        return _indices(encoding, positions, count)
    out = np.empty(values, np.int64)
    kernels.unpack_indices(encoding, positions, count, out)
    return out


def counted(encoding: str, positions: Bytes, count: int) -> int:
    """How many of ``count`` elements have a value.

    Raises:
        UserError: there are more or fewer bits than elements, or gaps reach beyond them.
    """
    kernels = compiled()
    if kernels is not None:
        try:
            return int(kernels.unpack_count(encoding, positions, count))
        except ValueError as error:
            raise UserError(str(error)) from None
    if encoding == "bitmask":
        return _counted_mask(positions, count)
    if encoding == "gap8":
        return _counted_gaps(positions, count)
    if positions.size:
        raise UserError("raw has no positions")
    return count


def _kind(encoding: str, planes: Sequence[Bytes]) -> np.dtype[Any]:
    if encoding not in ENCODINGS:
        raise UserError(f"no encoding is called {encoding!r}; there is {', '.join(ENCODINGS)}")
    if len(planes) not in SIZES or len({plane.size for plane in planes}) != 1:
        raise UserError("a value has 1, 2, 4 or 8 planes of one length")
    return np.dtype(f"<u{len(planes)}")


def _counted_mask(mask: Bytes, count: int) -> int:
    if mask.size != -(-count // 8):
        raise UserError("the bitmask is not of one bit an element")
    if count % 8 and int(mask[-1]) >> (count % 8):
        raise UserError("the bitmask has bits beyond the shape")
    return int(_ONES[mask].sum(dtype=np.int64)) if mask.size else 0


def _counted_gaps(gaps: Bytes, count: int) -> int:
    if gaps.size and gaps[-1] == ESCAPE:
        raise UserError("the gaps end in an escape")
    values = gaps.size - int(np.count_nonzero(gaps == ESCAPE))
    if int(gaps.sum(dtype=np.int64)) + values > count:
        raise UserError("the gaps reach beyond the shape")
    return values


_ONES = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


def _indices(encoding: str, positions: Bytes, count: int) -> NDArray[np.int64]:
    if encoding == "raw":
        return np.arange(count, dtype=np.int64)
    if encoding == "bitmask":
        bits = np.unpackbits(positions, count=count, bitorder="little")
        return np.flatnonzero(bits).astype(np.int64, copy=False)
    there = positions != ESCAPE
    ends: NDArray[np.int64] = np.cumsum(positions + there.astype(np.int64))
    places: NDArray[np.int64] = ends[there] - 1
    return places


def _joined(planes: Sequence[Bytes], rotated: bool, kind: np.dtype[Any]) -> NDArray[Any]:
    together = np.empty((planes[0].size, len(planes)), np.uint8)
    for number, plane in enumerate(planes):
        together[:, number] = plane
    values: NDArray[Any] = together.reshape(-1).view(kind)
    if not rotated:
        return values
    bits = 8 * kind.itemsize
    turned: NDArray[Any] = values >> kind.type(1) | values << kind.type(bits - 1)
    return turned
