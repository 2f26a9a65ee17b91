"""How the integers of an ONNX model stand for numbers, told by the nodes that read them.

DequantizeLinear and the QLinear operations have scale and zero point as inputs.  The integer
operations of dynamic quantisation have a zero point only; their scale is the constant factor that
the result is multiplied by.  One scale for the tensor and one a channel are understood.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thrifty.sources.onnx_roles import MOST_USES, Key, Use, Uses
from thrifty.sources.stored import Quantised, Stored

MOST_SCALES = 1 << 22
INTEGERS = ("I8", "U8", "I16", "U16", "I32", "U32")
_FLOATS = ("F64", "F32", "F16", "BF16")
_PACKED = ("MatMulNBits", "MatMulBnb4", "GatherBlockQuantized", "QMoE")
"""Operations whose weights are several to a byte."""


class _Places(NamedTuple):
    """Inputs of an operation: the scales, whose product counts, the zero point, and the axis."""

    scales: tuple[int, ...]
    zero: int | None
    axis: int


_QLINEAR: Mapping[tuple[str, int], _Places] = {
    ("QLinearConv", 3): _Places((4,), 5, 0),
    ("QLinearConv", 8): _Places((1, 4), None, 0),
    ("QLinearMatMul", 3): _Places((4,), 5, -1),
    ("QLinearMatMul", 0): _Places((1,), 2, -2),
    ("DynamicQuantizeMatMul", 1): _Places((2,), 3, -1),
    ("MatMulIntegerToFloat", 1): _Places((3,), 5, -1),
}
_INTEGER: Mapping[tuple[str, int], _Places] = {
    ("ConvInteger", 1): _Places((), 3, 0),
    ("MatMulInteger", 1): _Places((), 3, -1),
}


def quantised(
    uses: Uses, tensors: Mapping[Key, Stored], key: Key
) -> tuple[Quantised | None, str | None]:
    """How the integers of the tensor ``key`` stand for numbers, or why that is not known.

    Both are None where nothing says that they do.
    """
    stored = tensors[key]
    why = None
    if stored.dtype not in INTEGERS and not stored.dtype.startswith("F8_"):
        return None, None
    for use in uses.readers.get(key, [])[:MOST_USES]:
        if use.node.op in _PACKED:
            return None, "several numbers lie in a byte, or a scale belongs to a block"
        found = _of_use(uses, tensors, stored, use)
        if isinstance(found, Quantised):
            return found, None
        why = why or found
    return None, why


def _of_use(
    uses: Uses, tensors: Mapping[Key, Stored], stored: Stored, use: Use
) -> Quantised | str | None:
    node, place = use.node, use.place

    def known(i: int | None) -> Stored | None:
        name = node.inputs[i] if i is not None and i < len(node.inputs) else ""
        return tensors.get(uses.key(use.graph, name)) if name else None

    if node.op == "DequantizeLinear" and place == 0:
        if node.number("block_size", 0):
            return "a scale belongs to a block of its numbers"
        axis = int(node.number("axis", 1))
        return _made(stored, [known(1)], known(2), _given(use, 2), axis)
    places = _QLINEAR.get((node.op, place))
    if places is not None:
        zero = places.zero
        given = zero is not None and _given(use, zero)
        return _made(stored, [known(i) for i in places.scales], known(zero), given, places.axis)
    places = _INTEGER.get((node.op, place))
    if places is not None:
        factor = next(_factors(uses, tensors, use), None)
        zero = places.zero
        given = zero is not None and _given(use, zero)
        return _made(stored, [factor], known(zero), given, places.axis)
    return None


def _given(use: Use, place: int) -> bool:
    return place < len(use.node.inputs) and use.node.inputs[place] != ""


def _factors(uses: Uses, tensors: Mapping[Key, Stored], use: Use) -> Iterator[Stored]:
    """Constants that the result is multiplied by, behind a cast: at once, or with another scale."""
    for cast in _behind(uses, use):
        for times in _behind(uses, cast) if cast.node.op == "Cast" else (cast,):
            if times.node.op != "Mul":
                continue
            other = [n for i, n in enumerate(times.node.inputs[:2]) if i != times.place]
            for key in (uses.key(times.graph, name) for name in other):
                made = uses.makers.get(key)
                inner = [key]
                if made is not None and made[0].op == "Mul":
                    inner += [uses.key(made[1], name) for name in made[0].inputs[:2]]
                yield from (tensors[k] for k in inner if k in tensors)


def _behind(uses: Uses, use: Use) -> list[Use]:
    outputs = use.node.outputs
    return uses.readers.get((use.graph, outputs[0]), [])[:MOST_USES] if outputs else []


def _made(
    stored: Stored, scales: list[Stored | None], zero: Stored | None, zero_given: bool, axis: int
) -> Quantised | str:
    vectors = [_numbers(x) for x in scales]
    offset = _numbers(zero) if zero_given else np.zeros(())
    if offset is None or any(v is None for v in vectors):
        return "its scale is not among the constants of the model"
    factor = np.ones(())
    for v in vectors:
        if v is not None:
            v = v.reshape(()) if v.size == 1 else v
            if v.ndim == factor.ndim == 1 and v.shape != factor.shape:
                return "its scales are of different sizes"
            factor = factor * v
    offset = offset.reshape(()) if offset.size == 1 else offset
    if not (np.isfinite(factor).all() and np.isfinite(offset).all()):
        return "its scale is no number"
    if factor.ndim == offset.ndim == 0:
        return Quantised(factor, offset)
    axes = len(stored.shape)
    if not -axes <= axis < axes:
        return "its scales belong to an axis that it has not"
    channels = (stored.shape[axis],)
    if any(v.ndim and v.shape != channels for v in (factor, offset)):
        return "its scales are neither one nor one a channel"
    return Quantised(
        np.broadcast_to(factor, channels).copy(), np.broadcast_to(offset, channels).copy(), axis
    )


def _numbers(x: Stored | None) -> NDArray[np.float64] | None:
    """The numbers of a small constant, one axis or none; None if it is no such thing."""
    if x is None or x.count > MOST_SCALES or (x.dtype not in _FLOATS and x.dtype not in INTEGERS):
        if x is not None and x.dtype.startswith("F8_") and x.count <= MOST_SCALES:
            return None if x.whole().any() else np.zeros(x.count)
        return None
    bits = x.whole()
    if x.dtype == "BF16":
        bits = (bits.astype(np.uint32) << 16).view(np.float32)
    found = bits.astype(np.float64)
    return (
        found if found.ndim < 2 else found.reshape(-1) if max(found.shape) == found.size else None
    )
