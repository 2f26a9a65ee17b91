"""Rules for what is done to each element: activations, sums and products, batch normalisation."""

from collections.abc import Callable
from typing import Any

import torch

from thrifty.errors import UserError
from thrifty.lowering.building import Builder, Call, Held, Known
from thrifty.lowering.rules import rule

Step = dict[str, Any]
LARGEST = 3.4e38


def mapped(builder: Builder, call: Call, x: Held, *steps: Step) -> Held:
    """``x`` with these steps applied."""
    return builder.held(call, "map", [x], then=list(steps))


def _is(value: Any, expected: float) -> bool:
    return isinstance(value, int | float) and float(value) == expected


def _simple(target: str, make: Callable[[Call], Step | None]) -> None:
    @rule(target)
    def apply(builder: Builder, call: Call) -> Held | None:
        step = make(call)
        return None if step is None else mapped(builder, call, call["self"], step)


def _clamp(low: Any, high: Any) -> Step | None:
    if isinstance(low, Held | Known) or isinstance(high, Held | Known):
        return None
    if high is None and low is not None and low == 0:
        return {"do": "relu"}
    if low is None or high is None or not max(abs(low), abs(high)) <= LARGEST or low > high:
        return None
    return {"do": "clamp", "low": float(low), "high": float(high)}


def _elu(call: Call) -> Step | None:
    if not _is(call["scale"], 1) or not _is(call["input_scale"], 1):
        return None
    return {"do": "elu", "alpha": float(call["alpha"])}


def _gelu(call: Call) -> Step:
    return {"do": "gelu" if call["approximate"] == "none" else "gelu_tanh"}


for _name in ("relu", "silu", "hardswish", "sigmoid", "hardsigmoid", "tanh"):
    _simple(f"{_name}.default", lambda call, do=_name: {"do": do})  # type: ignore[misc]
_simple("relu6.default", lambda call: _clamp(0, 6))
_simple("hardtanh.default", lambda call: _clamp(call["min_val"], call["max_val"]))
_simple("clamp.default", lambda call: _clamp(call["min"], call["max"]))
_simple("clamp_min.default", lambda call: _clamp(call["min"], None))
_simple("gelu.default", _gelu)
_simple("elu.default", _elu)
_simple(
    "leaky_relu.default", lambda call: {"do": "leaky_relu", "slope": float(call["negative_slope"])}
)
_simple("neg.default", lambda call: {"do": "scale", "by": -1.0})


@rule("selu.default")
def _selu(builder: Builder, call: Call) -> Held:
    alpha, scale = 1.6732632423543772, 1.0507009873554805
    steps = ({"do": "elu", "alpha": alpha}, {"do": "scale", "by": scale})
    return mapped(builder, call, call["self"], *steps)


@rule("prelu.default")
def _prelu(builder: Builder, call: Call) -> Held | None:
    slope = call["weight"].number if isinstance(call["weight"], Known) else None
    if slope is None:
        return None
    return mapped(builder, call, call["self"], {"do": "leaky_relu", "slope": slope})


@rule("pow.Tensor_Scalar", "square.default")
def _square(builder: Builder, call: Call) -> Held | None:
    if not _is(call.args.get("exponent", 2), 2):
        return None
    return builder.held(call, "mul", [call["self"], call["self"]])


def _number(x: Any) -> float | None:
    number: Any = x.number if isinstance(x, Known) else x
    good = isinstance(number, int | float) and abs(number) <= LARGEST
    return float(number) if good else None


def _scaled(builder: Builder, call: Call, x: Held, by: float) -> Held:
    if by == 1:
        return x
    name = builder.emit(call, "map", [x.name], x.shape, then=[{"do": "scale", "by": by}])
    return Held(name, x.spot)


def _per_channel(call: Call, x: Held, known: Known) -> Known | None:
    """The tensor as one number a channel of the value, if it broadcasts so and no wider."""
    if known.tensor.dtype != torch.float32 or not x.spot.plain or call.shape != x.shape:
        return None
    shape = tuple(known.tensor.shape)
    full = (1,) * (len(x.shape) + 1 - len(shape)) + shape
    if not x.shape or any(side != 1 for i, side in enumerate(full) if i != 1):
        return None
    if full[1] == x.shape[0]:
        return known
    return Known(known.tensor.reshape(-1).expand(x.shape[0]).contiguous()) if full[1] == 1 else None


def _order(x: Any, y: Any) -> tuple[Any, Any]:
    return (x, y) if isinstance(x, Held) else (y, x)


def _pair(builder: Builder, call: Call, kind: str, x: Held, y: Held) -> Held | None:
    """Both values, the second possibly one number a channel."""
    if x.spot == y.spot:
        return builder.held(call, kind, [x, y])
    if not x.plain or not y.plain:
        return None
    if x.shape != call.shape and kind == "sub":
        return None
    if x.shape != call.shape:
        x, y = y, x
    image = len(x.shape) == 3 and len(y.shape) == 3 and y.shape[1:] == (1, 1)
    if x.shape == call.shape and image and y.shape[0] in (1, x.shape[0]):
        return builder.held(call, kind, [x, y])
    return None


@rule("add.Tensor", "add.Scalar", "sub.Tensor", "sub.Scalar", "rsub.Scalar", "rsub.Tensor")
def _sum(builder: Builder, call: Call) -> Held | None:
    x, y = call["self"], call["other"]
    if call.target.startswith("aten.rsub"):
        x, y = y, x
    alpha = _number(call.args.get("alpha", 1))
    if alpha is None:
        return None
    # rsub multiplies what it takes away, which is the second here as well
    sign = 1.0 if call.target.startswith("aten.add") else -1.0
    if isinstance(x, Held) and isinstance(y, Held):
        kind = "add" if sign > 0 else "sub"
        if alpha != 1 and x.spot != y.spot:
            return None
        return _pair(builder, call, kind, x, _scaled(builder, call, y, alpha))
    return _shifted(builder, call, x, y, sign * alpha)


def _shifted(builder: Builder, call: Call, x: Any, y: Any, factor: float) -> Held | None:
    """x + factor * y, of which one is known."""
    value, known = _order(x, y)
    scale = 1.0 if value is x else factor
    if value.spot != call.spot:
        return None
    number = _number(known)
    if number is not None:
        shift = number * (factor if value is x else 1.0)
        steps: list[Step] = [] if scale == 1 else [{"do": "scale", "by": scale}]
        return mapped(builder, call, value, *steps, {"do": "shift", "by": shift})
    if not isinstance(known, Known):
        return None
    shifts = _per_channel(call, value, known)
    if shifts is None:
        return None
    if value is x and factor != 1:
        shifts = Known(shifts.tensor * factor)
    return builder.held(call, "affine", [_scaled(builder, call, value, scale)], {"shift": shifts})


@rule("mul.Tensor", "mul.Scalar", "div.Tensor", "div.Scalar")
def _product(builder: Builder, call: Call) -> Held | None:
    x, y = call["self"], call["other"]
    divides = call.target.startswith("aten.div")
    if isinstance(x, Held) and isinstance(y, Held):
        return None if divides else _pair(builder, call, "mul", x, y)
    value, known = _order(x, y)
    if value.spot != call.spot or (divides and value is not x):
        return None
    number = _number(known)
    if number is not None and divides:
        number = 1 / number if abs(number) > 1 / LARGEST else None
    if number is not None:
        return mapped(builder, call, value, {"do": "scale", "by": number})
    scales = _per_channel(call, value, known) if isinstance(known, Known) else None
    if scales is None:
        return None
    if divides:
        scales = Known(1 / scales.tensor)
    return builder.held(call, "affine", [value], {"scale": scales})


@rule("lerp.Tensor")
def _lerp(builder: Builder, call: Call) -> Held | None:
    """x + t * (h - x): a highway's blend."""
    x, h, t = call["self"], call["end"], call["weight"]
    if not all(isinstance(v, Held) and v.spot == call.spot for v in (x, h, t)):
        return None
    return builder.held(call, "map", [t, h, x], then=[{"do": "blend", "h": 1, "x": 2}])


@rule(
    "_native_batch_norm_legit_no_training.default",
    "_native_batch_norm_legit_functional.default",
    "_native_batch_norm_legit.default",
    "_native_batch_norm_legit.no_stats",
    "batch_norm.default",
)
def _batch_norm(builder: Builder, call: Call) -> Any:
    x: Held = call["input"]
    mean, var = call.args.get("running_mean"), call.args.get("running_var")
    if call.args.get("training") or mean is None:
        raise UserError(
            f"{call.where}: it normalises by the statistics of the batch; give it running "
            f"statistics (track_running_stats), for a program treats each image by itself"
        )
    if not x.spot.plain or not x.shape:
        return None
    tensors = {
        "bn_weight": call["weight"],
        "bn_bias": call["bias"],
        "bn_mean": mean,
        "bn_var": var,
    }
    if not all(v is None or isinstance(v, Known) for v in tensors.values()):
        return None
    if (tensors["bn_weight"] is None) != (tensors["bn_bias"] is None):
        return None
    name = builder.emit(call, "affine", [x.name], x.shape, tensors, eps=float(call["eps"]))
    held = Held(name, x.spot)
    return [held, None, None] if call.several else held
