"""Integers and 8-bit floats whose scale lies beside them in the same file.

The convention is that of compressed-tensors, which vLLM and others read: ``X.weight`` goes with
``X.weight_scale`` and perhaps ``X.weight_zero_point``.  One scale for the tensor and one a
channel are understood; of blocks and groups the numbers are left as they are stored, with a note.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from thrifty.sources.stored import Quantised, Stored

SCALE, ZERO = "_scale", "_zero_point"
_FLOATS = ("F64", "F32", "F16", "BF16")
_WHOLE = ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64")
_MOST_SCALES = 1 << 22
"""A tensor of more channels is no weight of a layer."""


def with_scales(tensors: Sequence[Stored]) -> tuple[tuple[Stored, ...], tuple[str, ...]]:
    """``tensors`` with :attr:`~thrifty.sources.Stored.quantised` filled, and notes.

    Scales and zero points that were used are given the role ``"other"``: they are no weights.
    """
    by_name = {x.name: x for x in tensors}
    found: dict[str, Quantised] = {}
    used: set[str] = set()
    odd = []
    for x in tensors:
        scale = by_name.get(x.name + SCALE)
        if scale is None or not _may_be_scaled(x):
            continue
        zero = by_name.get(x.name + ZERO)
        quantised = _quantised(x, scale, zero)
        if quantised is None:
            odd.append(x.name)
            continue
        found[x.name] = quantised
        used |= {scale.name} | ({zero.name} if zero else set())
    result = tuple(
        replace(x, quantised=found[x.name])
        if x.name in found
        else (replace(x, role="other") if x.name in used else x)
        for x in tensors
    )
    return result, _notes(odd)


def _may_be_scaled(x: Stored) -> bool:
    return x.dtype in _WHOLE or x.dtype.startswith("F8_")


def _quantised(x: Stored, scale: Stored, zero: Stored | None) -> Quantised | None:
    """None if the scales are neither one nor one a channel, or are no numbers."""
    axis = _axis(x, scale)
    if axis == "odd" or scale.dtype not in _FLOATS:
        return None
    if zero is not None and (zero.count != scale.count or zero.dtype not in (*_FLOATS, *_WHOLE)):
        return None
    scales = _numbers(scale)
    zeros = _numbers(zero) if zero is not None else np.zeros_like(scales)
    if not (np.isfinite(scales).all() and np.isfinite(zeros).all()):
        return None
    if axis is None:
        return Quantised(scales.reshape(()), zeros.reshape(()))
    return Quantised(scales, zeros, axis=0)


def _axis(x: Stored, scale: Stored) -> int | str | None:
    if scale.shape in ((), (1,)):
        return None
    channels = x.shape[0] if x.shape else 0
    one_each = scale.shape == (channels, *(1,) * (len(scale.shape) - 1))
    if one_each and len(scale.shape) <= len(x.shape) and 0 < channels <= _MOST_SCALES:
        return 0
    return "odd"


def _numbers(x: Stored) -> NDArray[np.float64]:
    stored = x.whole().reshape(-1)
    if x.dtype == "BF16":
        stored = (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float64)


def _notes(odd: Sequence[str]) -> tuple[str, ...]:
    if not odd:
        return ()
    more = f" and {len(odd) - 1:,} more" if len(odd) > 1 else ""
    return (
        f"{odd[0]}{more}: the scales beside it are neither one nor one a channel; its numbers are "
        f"taken as they are stored",
    )
