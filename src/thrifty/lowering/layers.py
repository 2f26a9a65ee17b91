"""Rules for layers with weights and for pooling: convolutions, products with a matrix, windows."""

from collections.abc import Sequence
from typing import Any

import torch

from thrifty.engine.kinds import out_side
from thrifty.lowering.building import Builder, Call, Held, Known
from thrifty.lowering.rules import rule


def _two(x: Any, default: Sequence[int] = ()) -> list[int]:
    """One number, or one or two, as (vertical, horizontal); of one dimension the last."""
    values = list(x) if isinstance(x, list | tuple) else [x]
    values = values or list(default)
    return values * 2 if len(values) == 1 else values


def _line(x: Any, other: int) -> list[int]:
    """A number of one dimension as two, the vertical one being ``other``."""
    return [other, *(x if isinstance(x, list | tuple) else [x])]


def _weights(call: Call, rank: int) -> bool:
    weight, bias = call["weight"], call["bias"]
    return (
        isinstance(weight, Known)
        and weight.tensor.dim() == rank
        and weight.tensor.dtype == torch.float32
        and (bias is None or isinstance(bias, Known))
        and call["input"].plain
    )


def _padding(call: Call, kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """[top, left, bottom, right] of a convolution's padding, which may be a word."""
    given = call["padding"]
    if given == "valid":
        return [0, 0, 0, 0]
    if given == "same":
        whole = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        before = [x // 2 for x in whole]
        return [*before, *(w - b for w, b in zip(whole, before, strict=True))]
    return _two(given) * 2


@rule("conv2d.default", "conv2d.padding")
def _conv2d(builder: Builder, call: Call) -> Held | None:
    if not _weights(call, 4):
        return None
    dilation = _two(call["dilation"])
    return builder.held(
        call,
        "conv",
        [call["input"]],
        {"weight": call["weight"], "bias": call["bias"]},
        stride=_two(call["stride"]),
        padding=_padding(call, call["weight"].tensor.shape[2:], dilation),
        dilation=dilation,
        groups=call["groups"],
    )


@rule("conv1d.default", "conv1d.padding")
def _conv1d(builder: Builder, call: Call) -> Held | None:
    """A signal is an image of one row."""
    if not _weights(call, 3):
        return None
    channels, length = call["input"].shape
    row = builder.reshaped(call, call["input"].name, (channels, 1, length))
    dilation = _line(call["dilation"], 1)
    kernel = (1, call["weight"].tensor.shape[2])
    given = call["padding"]
    padding = _padding(call, kernel, dilation) if isinstance(given, str) else _line(given, 0) * 2
    out = builder.emit(
        call,
        "conv",
        [row],
        (call.shape[0], 1, call.shape[1]),
        {"weight": call["weight"], "bias": call["bias"]},
        stride=_line(call["stride"], 1),
        padding=padding,
        dilation=dilation,
        groups=call["groups"],
    )
    return Held(builder.reshaped(call, out, call.shape), call.spot)


@rule("linear.default")
def _linear(builder: Builder, call: Call) -> Held | None:
    return _times(builder, call, call["input"], call["weight"], call["bias"])


def _times(builder: Builder, call: Call, x: Any, weight: Any, bias: Any) -> Held | None:
    """x times the transposed weight of (outputs, inputs), plus bias."""
    good = (
        isinstance(x, Held)
        and isinstance(weight, Known)
        and weight.tensor.dim() == 2
        and weight.tensor.dtype == torch.float32
        and (bias is None or isinstance(bias, Known))
        and x.spot.stored_axis(-1) is not None
        and len(x.spot.shape) >= 2
    )
    if not good:
        return None
    if bias is not None and bias.tensor.shape != weight.tensor.shape[:1]:
        whole = bias.tensor.reshape(-1).expand(weight.tensor.shape[0])
        bias = Known(whole.contiguous())
    return builder.held(call, "linear", [x], {"weight": weight, "bias": bias})


@rule("mm.default", "matmul.default")
def _matmul(builder: Builder, call: Call) -> Held | None:
    other = call.args.get("mat2", call.args.get("other"))
    if not isinstance(other, Known) or other.tensor.dim() != 2:
        return None
    return _times(builder, call, call["self"], builder.transposed(other), None)


@rule("addmm.default")
def _addmm(builder: Builder, call: Call) -> Held | None:
    bias, other = call["self"], call["mat2"]
    if call["alpha"] != 1 or call["beta"] != 1 or not isinstance(other, Known):
        return None
    if not isinstance(bias, Known) or bias.tensor.numel() not in (1, bias.tensor.shape[-1]):
        return None
    return _times(builder, call, call["mat1"], builder.transposed(other), bias)


@rule("max_pool2d.default", "max_pool2d_with_indices.default")
def _max_pool2d(builder: Builder, call: Call) -> Any:
    x = call["self"]
    spot = call.spots[0]
    if not x.plain or len(x.shape) != 3 or spot is None:
        return None
    kernel = _two(call["kernel_size"])
    stride, padding = _two(call["stride"], kernel), _two(call["padding"])
    dilation = _two(call["dilation"])
    extra = _extra(x.shape[1:], spot.stored[1:], kernel, stride, padding, dilation)
    name = builder.emit(
        call,
        "max_pool",
        [x.name],
        spot.stored,
        kernel=kernel,
        stride=stride,
        padding=[*padding, *(p + e for p, e in zip(padding, extra, strict=True))],
        dilation=dilation,
    )
    held = Held(name, spot)
    return [held, None] if call.several else held


def _extra(
    image: Sequence[int],
    out: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """How much further windows reach at the bottom and at the right, rounding up."""
    result = []
    for side, count, k, s, p, d in zip(image, out, kernel, stride, padding, dilation, strict=True):
        more = (count - 1) * s + d * (k - 1) + 1 - side - 2 * p
        result.append(max(0, more) if out_side(side, k, s, p, p, d) < count else 0)
    return result


@rule("avg_pool2d.default")
def _avg_pool2d(builder: Builder, call: Call) -> Held | None:
    x = call["self"]
    if not x.plain or len(x.shape) != 3:
        return None
    kernel = _two(call["kernel_size"])
    stride, padding = _two(call["stride"], kernel), _two(call["padding"])
    extra = _extra(x.shape[1:], call.shape[1:], kernel, stride, padding, (1, 1))
    counted = bool(call["count_include_pad"]) and any(padding)
    if counted and any(extra) and not call["divisor_override"]:
        return None  # torch counts its padding and not what rounding up adds
    return builder.held(
        call,
        "avg_pool",
        [x],
        kernel=kernel,
        stride=stride,
        padding=[*padding, *(p + e for p, e in zip(padding, extra, strict=True))],
        count_include_pad=counted,
        divisor=call["divisor_override"],
    )


@rule("adaptive_avg_pool2d.default", "_adaptive_avg_pool2d.default")
def _adaptive(builder: Builder, call: Call) -> Held | None:
    """Windows of one size only: where the sides of the result divide those of the image."""
    x = call["self"]
    if not x.plain or len(x.shape) != 3:
        return None
    image, out = x.shape[1:], call.shape[1:]
    if image == out:
        return Held(x.name, call.spot)
    if tuple(out) == (1, 1):
        return builder.held(call, "global_pool", [x], how="avg")
    if image[0] % out[0] or image[1] % out[1]:
        return None
    kernel = [image[0] // out[0], image[1] // out[1]]
    return builder.held(
        call,
        "avg_pool",
        [x],
        kernel=kernel,
        stride=list(kernel),
        padding=[0, 0, 0, 0],
        count_include_pad=False,
        divisor=None,
    )


@rule("adaptive_max_pool2d.default")
def _adaptive_max(builder: Builder, call: Call) -> Any:
    x, spot = call["self"], call.spots[0]
    if not x.plain or len(x.shape) != 3 or spot is None or spot.stored[1:] != (1, 1):
        return None
    name = builder.emit(call, "global_pool", [x.name], spot.stored, how="max")
    return [Held(name, spot), None]


@rule("adaptive_avg_pool1d.default", "mean.dim", "amax.default")
def _global(builder: Builder, call: Call) -> Held | None:
    """A mean or maximum over all positions of an image, or of a signal."""
    x = call["self"]
    if not x.plain or len(x.shape) not in (2, 3) or call.args.get("dtype") is not None:
        return None
    if call.target == "aten.adaptive_avg_pool1d.default":
        if call.shape[1:] != (1,):
            return None
    else:
        rank = len(x.shape) + 1
        given = call["dim"] if isinstance(call["dim"], list | tuple) else [call["dim"]]
        if sorted(d % rank for d in given) != list(range(2, rank)):
            return None
    channels = x.shape[0]
    image = x.shape if len(x.shape) == 3 else (channels, 1, x.shape[1])
    how = "max" if "amax" in call.target else "avg"
    source = builder.reshaped(call, x.name, image)
    out = (channels,) if call.shape == (channels,) else (channels, 1, 1)
    name = builder.emit(call, "global_pool", [source], out, how=how)
    return Held(builder.reshaped(call, name, call.shape), call.spot)
