"""A fallback run in torch: one operator of the list, its arguments checked before it computes.

A file may ask for anything that the list allows.  The operator is therefore first run on shapes
alone, without memory, once for each size of batch; only if it gives the value that the program
states is it run on numbers.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thrifty.engine.fallbacks import ALLOWED
from thrifty.engine.program import MOST_ELEMENTS, Op
from thrifty.errors import UserError

MOST_BATCHES = 64
"""Sizes of batch that are remembered as checked."""


def run_fallback(
    op: Op, arrays: Sequence[np.ndarray], tensors: Mapping[str, np.ndarray] | None = None
) -> np.ndarray:
    """The result of one fallback on arrays, float32 with the batch first.

    Args:
        op: an operation of the kind fallback.
        arrays: its inputs, float32, the batch first.
        tensors: role to array, for the roles in ``op.tensors``.

    Raises:
        UserError: torch refuses the arguments; the message says how.
    """
    held = {role: tensor_of(x) for role, x in (tensors or {}).items()}
    result: np.ndarray = Fallback(op, held)([tensor_of(x) for x in arrays]).contiguous().numpy()
    return result


def tensor_of(array: np.ndarray) -> Tensor:
    """The array as a tensor; copied only if it may not be written to, which torch minds."""
    array = np.ascontiguousarray(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


class Fallback:
    """One fallback, ready to be run.

    Args:
        op: an operation of the kind fallback.
        tensors: role to tensor.
        shape: of its value without the batch, if known.

    Raises:
        UserError: its operator is not of the list, or a tensor is missing.
    """

    def __init__(self, op: Op, tensors: Mapping[str, Tensor], shape: Sequence[int] | None = None):
        target = op.attrs["target"]
        if target not in ALLOWED:
            raise UserError(f"{op.name or op.output}: the operator {target!r} is none of the list")
        _, packet, overload = target.split(".")
        # Not ``op`` itself: what is prepared for an operation must not keep it alive.
        self.attrs, self.tensors = op.attrs, dict(tensors)
        self.operator = getattr(getattr(torch.ops.aten, packet), overload)
        self.shape = None if shape is None else tuple(shape)
        self.factory = any(x.name == "device" for x in self.operator._schema.arguments)
        self.where = f"{op.name or op.output!r}, operator {target}"
        if missing := set(op.tensors) - set(tensors):
            raise UserError(f"{self.where}: the tensor of the role {min(missing)!r} is missing")
        self._checked: dict[tuple[tuple[int, ...], ...], tuple[int, ...]] = {}

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """The result, with the batch first, float32.

        Raises:
            UserError: torch refuses the arguments, or would give far more than a value may have.
        """
        key = tuple(tuple(x.shape) for x in inputs)
        if key not in self._checked:
            if len(self._checked) >= MOST_BATCHES:
                self._checked.clear()
            self._checked[key] = self._rehearsed(inputs)
        with torch.no_grad():
            return self._stored(self._run(inputs, self.tensors)).to(inputs[0].dtype)

    def _rehearsed(self, inputs: Sequence[Tensor]) -> tuple[int, ...]:
        """The shape of the result, found without memory for it."""
        shapes = [x.to("meta") for x in inputs]
        tensors = {role: x.to("meta") for role, x in self.tensors.items()}
        with torch.no_grad():
            result = self._run(shapes, tensors)
        given, batch = tuple(result.shape), len(inputs[0])
        most = MOST_ELEMENTS * max(1, batch)
        if result.numel() > most or max(given, default=0) > most:
            raise UserError(
                f"{self.where}: it would give {given}, over {MOST_ELEMENTS:,} elements an image"
            )
        if self.shape is not None and result.numel() != batch * math.prod(self.shape):
            raise UserError(
                f"{self.where}: it gives {given}, and the program says "
                f"(batch, {', '.join(map(str, self.shape))})"
            )
        return given

    def _run(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        attrs = self.attrs
        device = inputs[0].device
        try:
            args = [_argument(x, inputs, tensors) for x in attrs["args"]]
            kwargs = {k: _argument(x, inputs, tensors) for k, x in attrs["kwargs"].items()}
            if self.factory:  # or it would take memory where only shapes are asked for
                kwargs["device"] = device
            result = self.operator(*args, **kwargs)
            if "item" in attrs:
                result = result[attrs["item"]]
        except Exception as error:  # of torch, which raises what it meets
            lines = str(error).strip().splitlines()
            raise UserError(
                f"{self.where}: torch refuses its arguments: {lines[0][:300] if lines else error!r}"
            ) from None
        if not isinstance(result, Tensor):
            raise UserError(f"{self.where}: it gives {type(result).__name__}, and no tensor")
        return result

    def _stored(self, result: Tensor) -> Tensor:
        """With the batch first and apart, as the program has it."""
        axis, times = self.attrs.get("axis", 0), self.attrs.get("times", 1)
        try:
            moved = result.movedim(axis, 0)
            if times > 1:
                moved = moved.reshape(len(moved) // times, times, *moved.shape[1:])
        except (RuntimeError, IndexError) as error:
            raise UserError(f"{self.where}: its result is {tuple(result.shape)}: {error}") from None
        return moved


_DTYPES = {"float32": torch.float32, "int64": torch.int64, "bool": torch.bool}


def _argument(x: Any, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(x, list | tuple):
        return [_argument(y, inputs, tensors) for y in x]
    if not isinstance(x, Mapping):
        return x
    if "input" in x:
        return _seen(inputs[x["input"]], x)
    if "tensor" in x:
        return tensors[x["tensor"]]
    if "batch" in x:
        return x["batch"] * len(inputs[0])
    if "dtype" in x:
        return _DTYPES[x["dtype"]]
    return float(x["float"])


def _seen(value: Tensor, x: Mapping[str, Any]) -> Tensor:
    """A value as the operator sees it."""
    if "times" in x:
        value = value.reshape(len(value) * x["times"], *value.shape[2:])
    if x.get("axis"):
        value = value.movedim(0, x["axis"])
    return value.to(_DTYPES[x["dtype"]]) if "dtype" in x else value
