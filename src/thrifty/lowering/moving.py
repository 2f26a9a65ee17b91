"""Rules for what moves elements and computes nothing: shapes, order, parts, joining, padding."""

import math
from collections.abc import Sequence
from typing import Any

from thrifty.lowering.building import Batch, Builder, Call, Held
from thrifty.lowering.rules import rule
from thrifty.lowering.sizes import Spot


@rule(
    "view.default",
    "_unsafe_view.default",
    "reshape.default",
    "squeeze.default",
    "squeeze.dim",
    "squeeze.dims",
    "unsqueeze.default",
    "flatten.using_ints",
    "unflatten.int",
    "expand.default",
    "alias.default",
    "clone.default",
    "detach.default",
    "contiguous.default",
    "lift_fresh_copy.default",
    "alias_copy.default",
    moves=True,
)
def _reshape(builder: Builder, call: Call) -> Held | None:
    x = call["self"]
    spot = call.spot
    if math.prod(x.shape) != math.prod(spot.stored) or not _same_order(x.spot, spot):
        return None
    return Held(builder.reshaped(call, x.name, spot.stored), spot, x.dtype)


def _same_order(one: Spot, two: Spot) -> bool:
    """Whether the values of both lie in memory in the same order."""
    if one.axis == two.axis == 0:
        return True
    before = [math.prod(_numbers(s.shape[: s.axis])) for s in (one, two)]
    return before[0] == before[1] and one.times == two.times


def _numbers(sides: Sequence[Any]) -> list[int]:
    return [s for s in sides if not isinstance(s, Batch)]


@rule("_to_copy.default", moves=True)
def _to_copy(builder: Builder, call: Call) -> Held | None:
    x = call["self"]
    return Held(x.name, call.spot, x.dtype) if call.dtypes[0] == x.dtype else None


@rule("permute.default", "transpose.int", "t.default", "movedim.intlist", moves=True)
def _permute(builder: Builder, call: Call) -> Held | None:
    """Nothing to do if only the batch, or sides of 1, go to another place."""
    x = call["self"]
    order = _order(call, len(x.spot.shape))
    if order is None or x.spot.times != call.spot.times:
        return None
    moved = [i for i in order if i != x.spot.axis and x.spot.shape[i] != 1]
    if moved != sorted(moved):
        return None
    return Held(builder.reshaped(call, x.name, call.shape), call.spot, x.dtype)


def _order(call: Call, rank: int) -> list[int] | None:
    if call.target == "aten.permute.default":
        return [d % rank for d in call["dims"]]
    order = list(range(rank))
    if call.target == "aten.movedim.intlist":
        return None
    one, two = (call["dim0"] % rank, call["dim1"] % rank) if "dim0" in call.args else (0, rank - 1)
    order[one], order[two] = order[two], order[one]
    return order


@rule("slice.Tensor", moves=True)
def _slice(builder: Builder, call: Call) -> Held | None:
    x, step = call["self"], call["step"]
    axis = x.spot.stored_axis(call["dim"])
    if axis is None:
        return x if x.spot == call.spots[0] else None
    if isinstance(step, Batch) or not isinstance(call["start"], int | None):
        return None
    side, count = x.shape[axis], call.shape[axis]
    start = call["start"] or 0
    start = max(0, start + side if start < 0 else start)
    to_the_end = (side - start - 1) // step + 1 == count
    stop = side if to_the_end else start + (count - 1) * step + 1
    if step > 1 and (len(x.shape) != 3 or axis == 0 or not x.plain):
        return None
    part = _part(builder, call, x, axis, start, stop)
    if step > 1:
        part = _strided(builder, call, part, axis, step)
    return Held(part, call.spot, x.dtype)


def _part(builder: Builder, call: Call, x: Held, axis: int, start: int, stop: int) -> str:
    """Positions ``start`` to ``stop`` of one axis of a value; the value itself if that is all."""
    if start == 0 and stop == x.shape[axis]:
        return x.name
    shape = (*x.shape[:axis], stop - start, *x.shape[axis + 1 :])
    return builder.emit(call, "slice", [x.name], shape, axis=axis, start=start, stop=stop)


def _strided(builder: Builder, call: Call, name: str, axis: int, step: int) -> str:
    """Every ``step``-th row or column: the maximum over windows of one element."""
    stride = [1, 1]
    stride[axis - 1] = step
    return builder.emit(
        call,
        "max_pool",
        [name],
        call.shape,
        kernel=[1, 1],
        stride=stride,
        padding=[0, 0, 0, 0],
        dilation=[1, 1],
    )


@rule("copy.default")
def _copy(builder: Builder, call: Call) -> Held | None:
    source = call["src"]
    return source if isinstance(source, Held) and source.spot == call.spot else None


@rule("slice_scatter.default")
def _slice_scatter(builder: Builder, call: Call) -> Held | None:
    """What is written into a part: the positions before, the part, those after."""
    x, part = call["self"], call["src"]
    if isinstance(part, Held) and part.spot == x.spot and call["step"] == 1:
        return part  # all of it, as where the batch is written [:]
    axis = x.spot.stored_axis(call["dim"])
    same = isinstance(part, Held) and (part.spot.axis, part.spot.times) == (
        x.spot.axis,
        x.spot.times,
    )
    if axis is None or not same or call["step"] != 1 or not isinstance(call["start"], int | None):
        return None
    side, start = x.shape[axis], call["start"] or 0
    start = min(side, max(0, start + side if start < 0 else start))
    stop = start + part.shape[axis]
    names = [_part(builder, call, x, axis, 0, start)] if start else []
    names.append(part.name)
    if stop < side:
        names.append(_part(builder, call, x, axis, stop, side))
    if len(names) == 1:
        return Held(part.name, call.spot)
    return Held(builder.emit(call, "concat", names, call.shape, axis=axis), call.spot)


@rule("select.int", moves=True)
def _select(builder: Builder, call: Call) -> Held | None:
    x = call["self"]
    axis = x.spot.stored_axis(call["dim"])
    if axis is None or not isinstance(call["index"], int) or x.spot.times != call.spot.times:
        return None
    index = call["index"] % x.shape[axis]
    part = _part(builder, call, x, axis, index, index + 1)
    return Held(builder.reshaped(call, part, call.shape), call.spot, x.dtype)


@rule("split_with_sizes.default", "split.Tensor", "chunk.default", "unbind.int", moves=True)
def _split(builder: Builder, call: Call) -> list[Held] | None:
    x = call["self"]
    axis = x.spot.stored_axis(call["dim"])
    if axis is None:
        return None
    parts, start = [], 0
    unbound = call.target == "aten.unbind.int"
    for spot in call.spots:
        if spot is None or spot.times != x.spot.times:
            return None
        count = 1 if unbound else spot.stored[axis]
        part = _part(builder, call, x, axis, start, start + count)
        parts.append(Held(builder.reshaped(call, part, spot.stored), spot, x.dtype))
        start += count
    return parts


@rule("cat.default", moves=True)
def _cat(builder: Builder, call: Call) -> Held | None:
    parts = call["tensors"]
    if not all(isinstance(x, Held) for x in parts):
        return None
    if len({(x.spot.axis, x.spot.times, len(x.spot.shape), x.dtype) for x in parts}) > 1:
        return None
    axis = parts[0].spot.stored_axis(call["dim"])
    if axis is None:
        return None
    held = parts[0] if len(parts) == 1 else builder.held(call, "concat", parts, axis=axis)
    return Held(held.name, call.spot, parts[0].dtype)


@rule("constant_pad_nd.default")
def _pad(builder: Builder, call: Call) -> Held | None:
    """Padding of height and width; of one other axis by looking at it as the height."""
    x, given = call["self"], call["pad"]
    if not x.plain or any(isinstance(p, Batch) or p < 0 for p in given):
        return None
    value = call["value"]
    if not (value == -math.inf or abs(value) <= 3.4e38):
        return None
    before = [0] * len(x.shape)
    after = list(before)
    for i in range(len(given) // 2):
        if i >= len(x.shape):
            return None if any(given[2 * i : 2 * i + 2]) else x
        before[-1 - i], after[-1 - i] = given[2 * i], given[2 * i + 1]
    padded = [i for i, both in enumerate(zip(before, after, strict=True)) if any(both)]
    attrs: dict[str, Any] = {"value": "-inf" if value == -math.inf else float(value)}
    if not padded:
        return Held(x.name, call.spot)
    if len(x.shape) == 3 and padded[0] > 0:
        padding = [before[1], before[2], after[1], after[2]]
        return builder.held(call, "pad", [x], padding=padding, **attrs)
    if len(padded) > 1:
        return None
    axis = padded[0]
    rows = (math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :]))
    seen = builder.reshaped(call, x.name, rows)
    wider = (rows[0], call.shape[axis], rows[2])
    padding = [before[axis], 0, after[axis], 0]
    name = builder.emit(call, "pad", [seen], wider, padding=padding, **attrs)
    return Held(builder.reshaped(call, name, call.shape), call.spot)


@rule("softmax.int", "_softmax.default")
def _softmax(builder: Builder, call: Call) -> Held | None:
    x = call["self"]
    axis = x.spot.stored_axis(call["dim"]) if x.spot.shape else None
    if axis is None or call.args.get("dtype") is not None or call.args.get("half_to_float"):
        return None
    return builder.held(call, "softmax", [x], axis=axis)


@rule("pixel_shuffle.default")
def _pixel_shuffle(builder: Builder, call: Call) -> Held | None:
    x = call["self"]
    if not x.plain or len(x.shape) != 3:
        return None
    return builder.held(call, "pixel_shuffle", [x], factor=call["upscale_factor"])


@rule("channel_shuffle.default")
def _channel_shuffle(builder: Builder, call: Call) -> Held | None:
    x = call["self"]
    if not x.plain or len(x.shape) != 3:
        return None
    return builder.held(call, "channel_shuffle", [x], groups=call["groups"])
