"""Rules for channels that constant indices choose, or write into.

A program has no kind for either.  A convolution of 1x1 or linear layer whose weights are one 1 a
row copies channels, exactly, into any order; it is what such indices become.  The engine sees
that nothing is multiplied and moves them.  Writing is choosing among the channels there were and
those that are written, one behind the other.
"""

from typing import Any

import torch
from torch import Tensor

from thrifty.lowering.building import Builder, Call, Held, Known
from thrifty.lowering.rules import rule


@rule("index_select.default")
def _index_select(builder: Builder, call: Call) -> Held | None:
    return _chosen(builder, call, call["dim"], call["index"])


@rule("index.Tensor")
def _index(builder: Builder, call: Call) -> Held | None:
    """x[:, index], and nothing else in the brackets."""
    found = _only(call["indices"])
    return None if found is None else _chosen(builder, call, *found)


@rule("index_copy.default")
def _index_copy(builder: Builder, call: Call) -> Held | None:
    return _written(builder, call, call["dim"], call["index"], call["source"])


@rule("index_put.default", "_unsafe_index_put.default")
def _index_put(builder: Builder, call: Call) -> Held | None:
    """x[:, index] = values."""
    found = _only(call["indices"])
    if found is None or call["accumulate"]:
        return None
    return _written(builder, call, *found, call["values"])


def _only(indices: Any) -> tuple[int, Any] | None:
    """The dimension and index of the only one in brackets."""
    there = [(dim, x) for dim, x in enumerate(indices) if x is not None]
    return there[0] if len(there) == 1 else None


def _chosen(builder: Builder, call: Call, dim: int, index: Any) -> Held | None:
    x = call["self"]
    rows = _rows(x, dim, index)
    if rows is None or len(rows) != call.shape[0]:
        return None
    return _selected(builder, call, x.name, x.shape[0], rows)


def _written(builder: Builder, call: Call, dim: int, index: Any, values: Any) -> Held | None:
    x = call["self"]
    rows = _rows(x, dim, index)
    if rows is None or not isinstance(values, Held) or not values.plain:
        return None
    if values.shape != (len(rows), *x.shape[1:]) or len(set(rows.tolist())) < len(rows):
        return None  # of one that is written twice, who knows which is last
    sources = torch.arange(x.shape[0])
    sources[rows] = x.shape[0] + torch.arange(len(rows))
    both = (x.shape[0] + len(rows), *x.shape[1:])
    name = builder.emit(call, "concat", [x.name, values.name], both, axis=0)
    return _selected(builder, call, name, both[0], sources)


def _rows(x: Any, dim: int, index: Any) -> Tensor | None:
    """The channels that ``index`` names, if they are those of an image or features."""
    if not isinstance(x, Held) or not isinstance(index, Known) or not x.plain:
        return None
    rows, shape = index.tensor, x.shape
    whole = rows.dim() == 1 and not rows.is_floating_point() and rows.dtype != torch.bool
    if not whole or len(shape) not in (1, 3) or x.spot.stored_axis(dim) != 0:
        return None
    rows = torch.where(rows < 0, rows + shape[0], rows).long()
    return rows if bool(((rows >= 0) & (rows < shape[0])).all()) and len(rows) else None


def _selected(builder: Builder, call: Call, name: str, count: int, rows: Tensor) -> Held:
    """The channels ``rows`` out of ``count``, in that order."""
    weight = torch.zeros(len(rows), count)
    weight[torch.arange(len(rows)), rows] = 1.0
    if len(call.shape) == 1:
        out = builder.emit(call, "linear", [name], call.shape, {"weight": Known(weight)})
    else:
        one = Known(weight[:, :, None, None])
        grid: dict[str, Any] = {"stride": [1, 1], "padding": [0] * 4, "dilation": [1, 1]}
        out = builder.emit(call, "conv", [name], call.shape, {"weight": one}, groups=1, **grid)
    return Held(out, call.spot)
