"""A program run in torch: what it means, and what stands in where no extension was compiled.

Every kind is written out with torch's own functions, in float32 and in the order of the program.
Answers of the engine are compared with these.
"""

import math
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from thrifty.engine.program import Op, Program
from thrifty.engine.shapes import kernel_shape
from thrifty.errors import UserError
from thrifty.lowering.running import Fallback, run_fallback, tensor_of

__all__ = ["interpret", "prepared", "run_fallback", "run_op"]

Tensors = Mapping[str, Tensor]
Run = Callable[[Sequence[Tensor]], Tensor]


def interpret(program: Program, tensors: Tensors, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
    """What ``program`` gives, in torch.

    Args:
        program: what to run.
        tensors: by name, those that the program names, in float32 (fallbacks: what they need).
        inputs: one for each input of the program, float32, the batch first.

    Returns:
        The output, or a tuple if the program has several.

    Raises:
        UserError: an input or a tensor does not fit the program.
    """
    return prepared(program, tensors)(*inputs)


def prepared(
    program: Program, tensors: Tensors, dtype: torch.dtype = torch.float32
) -> Callable[..., Tensor | tuple[Tensor, ...]]:
    """A function that runs ``program`` again and again, with what can be checked once checked.

    Args:
        program: what to run.
        tensors: by name, those that the program names.
        dtype: of the inputs, the tensors and all that is computed; float64 to compare exactly.

    Raises:
        UserError: a tensor is missing or does not fit its operation.
    """
    program.check_tensors({name: tuple(x.shape) for name, x in tensors.items()})
    steps = [(op, _runner(op, tensors, program.values[op.output])) for op in program.ops]
    last = Counter(program.outputs)
    for op in program.ops:
        last.update(op.inputs)

    def run(*inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        values = _given(program, inputs, dtype)
        left = Counter(last)
        with torch.no_grad():
            for op, step in steps:
                result = step([values[name] for name in op.inputs])
                shape = program.values[op.output]
                values[op.output] = _shaped(op, result, len(inputs[0]), shape)
                left.subtract(op.inputs)
                for name in set(op.inputs):
                    if not left[name]:
                        del values[name]
        outputs = tuple(values[name] for name in program.outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    return run


def _given(program: Program, inputs: Sequence[Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    if len(inputs) != len(program.inputs):
        raise UserError(f"the program takes {len(program.inputs)} inputs, and {len(inputs)} came")
    for name, x in zip(program.inputs, inputs, strict=True):
        shape = program.values[name]
        if x.dtype != dtype or tuple(x.shape[1:]) != shape or x.dim() != len(shape) + 1:
            raise UserError(
                f"the input {name!r} is {x.dtype} of {tuple(x.shape)}; the program takes "
                f"{str(dtype).removeprefix('torch.')} of (batch, {', '.join(map(str, shape))})"
            )
        if len(x) != len(inputs[0]):
            raise UserError(f"the inputs have batches of {len(inputs[0])} and {len(x)} images")
    return dict(zip(program.inputs, inputs, strict=True))


def _runner(op: Op, tensors: Tensors, shape: Sequence[int]) -> Run:
    held = {role: tensors[name] for role, name in op.tensors.items()}
    if op.kind == "fallback":
        return Fallback(op, held, shape)
    kind, attrs, then, run = op.kind, op.attrs, op.then, KINDS[op.kind]
    taken = {"add": 2, "sub": 2, "mul": 2}.get(op.kind, 1)

    def step(inputs: Sequence[Tensor]) -> Tensor:
        first = inputs if kind == "concat" else inputs[:taken]
        return _stepped(run(attrs, held, first), then, inputs)

    return step


def run_op(
    op: Op, arrays: Sequence[np.ndarray], tensors: Mapping[str, np.ndarray], shape: Sequence[int]
) -> np.ndarray:
    """One operation of any kind on arrays; what is prepared for it is kept as long as ``op``.

    Args:
        op: of a program that has been checked.
        arrays: its inputs, float32, the batch first.
        tensors: by name, at least those that ``op`` names.
        shape: of its value, without the batch.

    Returns:
        Float32, (batch, *shape).

    Raises:
        UserError: torch refuses the arguments of a fallback, or it gives another shape.
    """
    step = _ready(op, [tensors[name] for name in op.tensors.values()], shape)
    with torch.no_grad():
        result = step([tensor_of(x) for x in arrays])
    result = _shaped(op, result, len(arrays[0]), shape).contiguous()
    given: np.ndarray = result.numpy()
    return given


_READY: dict[int, tuple[weakref.ref[Op], Sequence[np.ndarray], Run]] = {}
"""By the id of an operation: itself, its tensors, what runs it."""


def _ready(op: Op, arrays: Sequence[np.ndarray], shape: Sequence[int]) -> Run:
    found = _READY.get(id(op))
    if found is not None and all(a is b for a, b in zip(found[1], arrays, strict=True)):
        return found[2]
    named = {name: tensor_of(x) for name, x in zip(op.tensors.values(), arrays, strict=True)}
    run, key = _runner(op, named, shape), id(op)
    _READY[key] = (weakref.ref(op, lambda _: _READY.pop(key, None)), arrays, run)
    return run


def _shaped(op: Op, result: Tensor, batch: int, shape: Sequence[int]) -> Tensor:
    if result.numel() != batch * math.prod(shape):
        raise UserError(
            f"{op.name or op.output!r} ({op.kind}) gives {tuple(result.shape)}, and the program "
            f"says (batch, {', '.join(map(str, shape))})"
        )
    return result.reshape(batch, *shape)


def _stepped(y: Tensor, steps: Sequence[Mapping[str, Any]], inputs: Sequence[Tensor]) -> Tensor:
    for step in steps:
        y = STEPS[step["do"]](y, step, inputs)
    return y


Step = Callable[[Tensor, Mapping[str, Any], Sequence[Tensor]], Tensor]

STEPS: Mapping[str, Step] = {
    "relu": lambda y, s, _: F.relu(y),
    "clamp": lambda y, s, _: y.clamp(s["low"], s["high"]),
    "silu": lambda y, s, _: F.silu(y),
    "hardswish": lambda y, s, _: F.hardswish(y),
    "sigmoid": lambda y, s, _: y.sigmoid(),
    "hardsigmoid": lambda y, s, _: F.hardsigmoid(y),
    "tanh": lambda y, s, _: y.tanh(),
    "gelu": lambda y, s, _: F.gelu(y),
    "gelu_tanh": lambda y, s, _: F.gelu(y, approximate="tanh"),
    "leaky_relu": lambda y, s, _: F.leaky_relu(y, s["slope"]),
    "elu": lambda y, s, _: F.elu(y, s["alpha"]),
    "scale": lambda y, s, _: y * s["by"],
    "shift": lambda y, s, _: y + s["by"],
    "add": lambda y, s, xs: y + xs[s["input"]],
    "add_scaled": lambda y, s, xs: y + s["by"] * xs[s["input"]],
    "mul": lambda y, s, xs: y * xs[s["input"]],
    "blend": lambda y, s, xs: xs[s["h"]] * y + (1 - y) * xs[s["x"]],
}

Attrs = Mapping[str, Any]
Kind = Callable[[Attrs, Tensors, Sequence[Tensor]], Tensor]


def _sided(padding: Sequence[int]) -> list[int]:
    """[top, left, bottom, right] as F.pad has it, the last axis first."""
    top, left, bottom, right = padding
    return [left, right, top, bottom]


def _normalised(y: Tensor, attrs: Attrs, roles: Tensors, axis: int) -> Tensor:
    if "bn_mean" not in roles:
        return y
    shape = [1] * y.dim()
    shape[axis] = -1
    factor = (roles["bn_var"] + attrs["eps"]).rsqrt()
    if "bn_weight" in roles:
        factor = factor * roles["bn_weight"]
    y = (y - roles["bn_mean"].reshape(shape)) * factor.reshape(shape)
    return y + roles["bn_bias"].reshape(shape) if "bn_bias" in roles else y


def _conv(attrs: Attrs, roles: Tensors, inputs: Sequence[Tensor]) -> Tensor:
    shape = kernel_shape(tuple(roles["weight"].shape))
    top, left, bottom, right = attrs["padding"]
    x, padding = inputs[0], [top, left]
    if (top, left) != (bottom, right):
        x, padding = F.pad(x, _sided(attrs["padding"])), [0, 0]
    y = F.conv2d(
        x,
        roles["weight"].reshape(shape or ()),
        roles.get("bias"),
        list(attrs["stride"]),
        padding,
        list(attrs["dilation"]),
        attrs["groups"],
    )
    return _normalised(y, attrs, roles, 1)


def _linear(attrs: Attrs, roles: Tensors, inputs: Sequence[Tensor]) -> Tensor:
    return _normalised(F.linear(inputs[0], roles["weight"], roles.get("bias")), attrs, roles, -1)


def _affine(attrs: Attrs, roles: Tensors, inputs: Sequence[Tensor]) -> Tensor:
    y = inputs[0]
    shape = [1, -1, *[1] * (y.dim() - 2)]
    flat = {role: x.reshape(-1) for role, x in roles.items()}
    if "scale" in flat:
        y = y * flat["scale"].reshape(shape)
    if "shift" in flat:
        y = y + flat["shift"].reshape(shape)
    return _normalised(y, attrs, flat, 1)


def _max_pool(attrs: Attrs, roles: Tensors, inputs: Sequence[Tensor]) -> Tensor:
    x = F.pad(inputs[0], _sided(attrs["padding"]), value=float("-inf"))
    return F.max_pool2d(x, attrs["kernel"], attrs["stride"], 0, attrs["dilation"])


def _avg_pool(attrs: Attrs, roles: Tensors, inputs: Sequence[Tensor]) -> Tensor:
    kernel, stride, sides = attrs["kernel"], attrs["stride"], _sided(attrs["padding"])
    x = F.pad(inputs[0], sides)
    if attrs["divisor"] is not None:
        return F.avg_pool2d(x, kernel, stride, divisor_override=attrs["divisor"])
    y = F.avg_pool2d(x, kernel, stride)
    if attrs["count_include_pad"] or not any(sides):
        return y
    inside = F.pad(inputs[0].new_ones(1, 1, *inputs[0].shape[2:]), sides)
    return y / F.avg_pool2d(inside, kernel, stride)


def _global_pool(attrs: Attrs, roles: Tensors, inputs: Sequence[Tensor]) -> Tensor:
    x = inputs[0]
    return x.mean((2, 3)) if attrs["how"] == "avg" else x.amax((2, 3))


def _slice(attrs: Attrs, roles: Tensors, inputs: Sequence[Tensor]) -> Tensor:
    start, stop = attrs["start"], attrs["stop"]
    return inputs[0].narrow(attrs["axis"] + 1, start, stop - start)


KINDS: Mapping[str, Kind] = {
    "conv": _conv,
    "linear": _linear,
    "affine": _affine,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "global_pool": _global_pool,
    "add": lambda a, r, xs: xs[0] + xs[1],
    "sub": lambda a, r, xs: xs[0] - xs[1],
    "mul": lambda a, r, xs: xs[0] * xs[1],
    "map": lambda a, r, xs: xs[0],
    "concat": lambda a, r, xs: torch.cat(list(xs), a["axis"] + 1),
    "slice": _slice,
    "reshape": lambda a, r, xs: xs[0].contiguous(),
    "softmax": lambda a, r, xs: xs[0].softmax(a["axis"] + 1),
    "pixel_shuffle": lambda a, r, xs: F.pixel_shuffle(xs[0], a["factor"]),
    "channel_shuffle": lambda a, r, xs: F.channel_shuffle(xs[0], a["groups"]),
    "pad": lambda a, r, xs: F.pad(xs[0], _sided(a["padding"]), value=float(a["value"])),
}
