"""Values in fewer bits: bfloat16, float16, or whole numbers with a scale for each output channel.

Rounding is to the nearest, ties to even.  ``bf16`` values travel as the upper half of a float32.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from thrifty.errors import UserError
from thrifty.native.formats import decode

LARGEST = 127
"""Magnitude of the whole numbers of int8; -128 is not used."""


def narrowed(
    array: NDArray[Any], dtype: str, values: str
) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
    """``array`` with its numbers stored as ``values``, and the scales of int8.

    Args:
        array: of the float ``dtype``; the first axis is that of the output channels.
        dtype: such as ``"F32"``; bfloat16 comes as uint16.
        values: ``"F32"``, ``"BF16"``, ``"F16"`` or ``"I8"``.

    Returns:
        The numbers in the shape of ``array``, and float32 scales of shape (channels,) for I8.

    Raises:
        UserError: a number is too large for ``values``, or not finite and they are int8.
    """
    numbers = decode(array, dtype)
    if values == "I8":
        return _whole(numbers)
    with np.errstate(over="ignore"):
        single = numbers.astype(np.float32)
        narrow: NDArray[Any] = single
        if values == "BF16":
            narrow = _bfloat(single)
        elif values == "F16":
            narrow = numbers.astype(np.float16)
    back = decode(narrow, values)
    lost = np.isfinite(numbers) & ~np.isfinite(back)
    if lost.any():
        raise UserError(
            f"it has {float(np.abs(numbers[lost]).max()):g}, which {values} cannot hold; use bf16 "
            f"or f32"
        )
    return narrow, None


def widened(
    stored: NDArray[Any], dtype: str, values: str, scales: NDArray[np.float32] | None
) -> NDArray[Any]:
    """Numbers of the float ``dtype`` from those stored.

    Args:
        stored: as :func:`narrowed` gives them, any shape.
        dtype: of the network.
        values: what they are stored as.
        scales: of int8, of a shape that broadcasts with ``stored``.
    """
    with np.errstate(over="ignore"):
        numbers = decode(stored, values) if scales is None else stored.astype(np.float32) * scales
        if dtype == "BF16":
            return _bfloat(numbers.astype(np.float32, copy=False))
        kinds = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
        return numbers.astype(kinds[dtype], copy=False)


def _bfloat(single: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = single.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    quiet = bits >> np.uint32(16) | np.uint32(0x40)  # a NaN stays one
    found: NDArray[np.uint16] = np.where(np.isnan(single), quiet, rounded).astype(np.uint16)
    return found


def _whole(numbers: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    rows = numbers.reshape(numbers.shape[0], -1) if numbers.size else numbers
    if not np.isfinite(rows).all():
        raise UserError("it has numbers that are NaN or infinite, and int8 has none; use f32")
    if not numbers.size:
        return numbers.astype(np.int8), np.zeros(numbers.shape[0], np.float32)
    with np.errstate(over="ignore", under="ignore"):
        scales = (np.abs(rows).max(axis=1) / LARGEST).astype(np.float32)
    if not np.isfinite(scales).all():
        raise UserError(f"it has {float(np.abs(rows).max()):g}, too large for a scale; use f32")
    safe = np.where(scales > 0, scales, np.float32(1))
    whole = np.clip(np.rint(rows / safe[:, None]), -LARGEST, LARGEST).astype(np.int8)
    return whole.reshape(numbers.shape), scales
