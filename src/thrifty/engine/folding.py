"""Weights as the engine multiplies them: batch normalisation folded in, in float64."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thrifty.engine.program import Op
from thrifty.engine.shapes import kernel_shape

Array = NDArray[Any]
Tensors = Mapping[str, Array]


def scale_and_shift(op: Op, tensors: Tensors, channels: int) -> tuple[Array, Array]:
    """What an operation's normalisation, scale and shift do to each channel, float64 each.

    Args:
        op: of any kind; its roles ``scale``, ``shift`` and ``bn_*`` are read.
        tensors: by name.
        channels: of the result.

    Returns:
        Two arrays of shape (channels,): the channel is multiplied by the first, the second added.
    """
    with _quiet():
        return _scale_and_shift(op, tensors, channels)


def _quiet() -> np.errstate:
    """Numbers that are not finite spread as in torch, without a word."""
    return np.errstate(all="ignore")


def _scale_and_shift(op: Op, tensors: Tensors, channels: int) -> tuple[Array, Array]:
    scale, shift = np.ones(channels), np.zeros(channels)
    if "scale" in op.tensors:
        scale = scale * _wide(op, tensors, "scale")
    if "shift" in op.tensors:
        shift = shift + _wide(op, tensors, "shift")
    if "bn_mean" in op.tensors:
        factor = 1.0 / np.sqrt(_wide(op, tensors, "bn_var") + float(op.attrs["eps"]))
        if "bn_weight" in op.tensors:
            factor = factor * _wide(op, tensors, "bn_weight")
        shift = (shift - _wide(op, tensors, "bn_mean")) * factor
        scale = scale * factor
        if "bn_bias" in op.tensors:
            shift = shift + _wide(op, tensors, "bn_bias")
    return scale, shift


def folded(op: Op, tensors: Tensors) -> tuple[Array, Array]:
    """The weight and bias of a convolution or linear layer, float32, normalisation folded in.

    A zero weight stays zero.
    """
    weight = np.asarray(tensors[op.tensors["weight"]], np.float32)
    if op.kind == "conv":
        weight = weight.reshape(kernel_shape(weight.shape) or weight.shape)
    scale, shift = scale_and_shift(op, tensors, weight.shape[0])
    with _quiet():
        if "bias" in op.tensors:
            shift = shift + _wide(op, tensors, "bias") * scale
        if "bn_mean" in op.tensors:
            factors = scale.reshape(-1, *[1] * (weight.ndim - 1))
            weight = (weight.astype(np.float64) * factors).astype(np.float32)
        return np.ascontiguousarray(weight), shift.astype(np.float32)


def _wide(op: Op, tensors: Tensors, role: str) -> Array:
    return np.asarray(tensors[op.tensors[role]], np.float64).reshape(-1)
