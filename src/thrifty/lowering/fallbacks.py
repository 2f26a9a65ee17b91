"""Operators without a kind of their own: the operator's name and its arguments as JSON."""

import math
from typing import Any

import torch

from thrifty.engine.fallbacks import ALLOWED
from thrifty.errors import UserError
from thrifty.lowering.building import Batch, Builder, Call, Held, Known
from thrifty.lowering.sizes import Spot

SAME_AS = {
    "aten.view.default": "aten.reshape.default",
    "aten._unsafe_view.default": "aten.reshape.default",
}
"""Operators of views, which care for strides that a program does not know."""

IMPLIED = ("layout", "device", "pin_memory", "memory_format", "requires_grad", "non_blocking")
"""Arguments that change no number."""

_DTYPES = {torch.float32: "float32", torch.int64: "int64", torch.bool: "bool"}


def fallback(builder: Builder, call: Call) -> Any:
    """Add the operator of ``call`` as it is, once for each of its results.

    Raises:
        UserError: it is not of the list, or its results mix the images of a batch.
    """
    target = SAME_AS.get(call.target, call.target)
    if target not in ALLOWED:
        raise UserError(
            f"{call.where}: no kind of a program and no pure operator of its list; give the engine "
            f"a network without it"
        )
    results = [_result(builder, call, target, i) for i in range(len(call.spots))]
    return results if call.several else results[0]


def _result(builder: Builder, call: Call, target: str, item: int) -> Held | None:
    spot, dtype = call.spots[item], call.dtypes[item]
    if spot is None:
        if call.several:
            return None  # not used, or whoever uses it will say so
        raise UserError(f"{call.where}: its result mixes the images of a batch")
    if dtype not in _DTYPES:
        raise UserError(f"{call.where}: it computes with {dtype}; a program has float32 values")
    writer = _Writer(builder)
    args = [writer.json(x, call) for x in call.given[0]]
    kwargs = {k: writer.json(x, call) for k, x in call.given[1].items() if k not in IMPLIED}
    attrs: dict[str, Any] = {"target": target, "args": args, "kwargs": kwargs, **_layout(spot)}
    if call.several:
        attrs["item"] = item
    inputs = writer.inputs or builder.inputs[:1]  # for the size of the batch
    output = builder.emit(call, "fallback", inputs, spot.stored, writer.tensors, **attrs)
    return Held(output, spot, dtype)


def _layout(spot: Spot) -> dict[str, int]:
    layout = {"axis": spot.axis} if spot.axis else {}
    if spot.times > 1:
        layout["times"] = spot.times
    return layout


class _Writer:
    """Arguments to JSON; inputs and tensors are numbered as they come."""

    def __init__(self, builder: Builder):
        self.builder = builder
        self.inputs: list[str] = []
        self.tensors: dict[str, Known | None] = {}

    def json(self, x: Any, call: Call) -> Any:
        if isinstance(x, Held):
            return self._input(x)
        if isinstance(x, Known):
            role = f"tensor{len(self.tensors)}"
            self.tensors[role] = x
            return {"tensor": role}
        if isinstance(x, Batch):
            return {"batch": x.times}
        if isinstance(x, float) and not math.isfinite(x):
            return {"float": "nan" if math.isnan(x) else "inf" if x > 0 else "-inf"}
        if isinstance(x, list | tuple):
            return [self.json(y, call) for y in x]
        if isinstance(x, torch.dtype) and x in _DTYPES:
            return {"dtype": _DTYPES[x]}
        if x is None or isinstance(x, bool | int | float | str):
            return x
        raise UserError(f"{call.where}: the argument {str(x)[:80]} cannot be written in a program")

    def _input(self, x: Held) -> dict[str, Any]:
        if x.name not in self.inputs:
            self.inputs.append(x.name)
        reference: dict[str, Any] = {"input": self.inputs.index(x.name), **_layout(x.spot)}
        if x.dtype != torch.float32:
            reference["dtype"] = _DTYPES[x.dtype]
        return reference
