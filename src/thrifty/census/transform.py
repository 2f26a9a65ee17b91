"""Tensors of a source turned into others while they are read: dequantised, folded, as values.

Nothing is read here but small vectors; a transformed tensor reads its source piece by piece.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thrifty.errors import UserError
from thrifty.native import decode
from thrifty.sources import Stored

STEP = 1 << 17
"""Elements transformed at a time."""

Vector = NDArray[np.float64]


def values(stored: Stored) -> Vector:
    """All numbers of a small tensor as float64, in its shape, dequantised."""
    stored = dequantised(stored)
    return decode(stored.whole().reshape(-1), stored.dtype).astype(np.float64).reshape(stored.shape)


def dequantised(stored: Stored) -> Stored:
    """The numbers that the integers stand for, as float32; another tensor as it is."""
    how = stored.quantised
    if how is None:
        return stored
    return _affine(stored, how.axis, how.scale, how.zero)


def raw(stored: Stored) -> Stored:
    """The integers as they are stored."""
    return replace(stored, quantised=None)


def scaled(stored: Stored, axis: int, factor: Vector) -> Stored:
    """``stored`` times a factor for each channel along ``axis``, rounded to float32."""
    return _affine(dequantised(stored), axis, factor, np.zeros(()))


def of_values(name: str, array: Vector, role: str) -> Stored:
    """A tensor of numbers that are in memory, as float32."""
    flat = array.astype(np.float32).reshape(-1)
    return Stored(name, array.shape, "F32", lambda: iter([flat]), role=role)


def _affine(stored: Stored, axis: int | None, scale: Vector, zero: Vector) -> Stored:
    place = 0 if axis is None else axis % max(1, len(stored.shape))
    channels = stored.shape[place] if axis is not None and stored.shape else 1
    for vector in (scale, zero):
        if vector.size not in (1, channels):
            raise UserError(
                f"{stored.name} has {channels} channels along axis {axis} and {vector.size} "
                f"scales; one scale, or one a channel, is needed; count it raw"
            )
    inner = int(np.prod(stored.shape[place + 1 :], dtype=np.int64))
    scales, zeros = (np.broadcast_to(v.reshape(-1), (channels,)) for v in (scale, zero))

    def read() -> Iterator[NDArray[Any]]:
        start = 0
        for piece in stored.read():
            for at in range(0, len(piece), STEP):
                bits = piece[at : at + STEP]
                channel = (np.arange(start, start + len(bits)) // inner) % channels
                numbers = decode(bits, stored.dtype).astype(np.float64)
                with np.errstate(over="ignore", invalid="ignore"):
                    yield ((numbers - zeros[channel]) * scales[channel]).astype(np.float32)
                start += len(bits)

    return replace(stored, dtype="F32", read=read, quantised=None)
