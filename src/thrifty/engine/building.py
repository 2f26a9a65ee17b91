"""Operations of a program as the compiled engine takes them.

The engine knows images of channels x height x width, and features as images of one pixel.  An
operation that it has no kind for, or whose values have other shapes, is left to whoever runs the
rest (:func:`native` says which).  Numbers of steps are those of ``native/engine/kernels.h``.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from thrifty.engine.chains import MOVES, Chains, Moved
from thrifty.engine.choosing import Choices, sources
from thrifty.engine.folding import Array, Tensors, folded, scale_and_shift
from thrifty.engine.kinds import STEPS_AT_ONCE
from thrifty.engine.program import Op, Shape
from thrifty.engine.shapes import kernel_shape

MOST_SIDE = 4096
"""Of kernels, strides, paddings and dilations."""
MOST_NUMBERS = 1 << 27
"""Of a value, for one image."""

_STEPS = (
    *("relu", "clamp", "silu", "hardswish", "sigmoid", "hardsigmoid", "tanh", "gelu", "gelu_tanh"),
    *("leaky_relu", "elu", "scale", "shift", "add", "mul", "blend"),
)

Step = tuple[int, float, float, int, int]
"""Which, two numbers, two values."""

Net = Any
"""The compiled network, ``thrifty.native._engine.Net``."""


def image(shape: Shape) -> tuple[int, int, int] | None:
    """A value's shape as channels, height, width; None for what is neither image nor features."""
    if len(shape) == 3:
        return (shape[0], shape[1], shape[2])
    return (shape[0], 1, 1) if len(shape) == 1 else None


def native(op: Op, values: Mapping[str, Shape]) -> bool:
    """Whether the compiled engine runs ``op``."""
    shapes = [values[name] for name in (*op.inputs, op.output)]
    if any(image(s) is None or math.prod(s) > MOST_NUMBERS for s in shapes):
        return False
    numbers = [
        n for key in ("stride", "padding", "dilation", "kernel") for n in op.attrs.get(key, ())
    ]
    if any(n > MOST_SIDE for n in numbers) or (op.kind not in _ADD and op.kind not in MOVES):
        return False
    if op.kind in ("softmax", "linear"):
        return len(shapes[0]) == 1
    return not (op.kind == "concat" and op.attrs["axis"] != 0)


class Builder:
    """Adds operations to a compiled network; ``index`` numbers the values of its segment."""

    def __init__(self, net: Net, values: Mapping[str, Shape], index: Mapping[str, int]):
        self.net, self.values, self.index = net, values, index
        self.numbers: list[int] = []
        """Of each operation of the compiled network, the one of the segment that it belongs to."""
        self.density: dict[str, float] = {}
        """By output: the share of an operation's weights that are not zero."""

    def add(self, ops: Sequence[Op], tensors: Tensors, given: Collection[str]) -> None:
        """Add the operations of a segment, which gives the values ``given`` to others.

        Raises:
            ValueError: the engine refuses one.
        """
        chains, choices = Chains(ops, given), Choices(ops, tensors, given)
        for number, op in enumerate(ops):
            before = len(self.numbers)
            if choices.waits(op):
                continue
            if (found := choices.chosen(op, self.values)) is not None:
                self.copied(op, *found)
            elif op.kind not in MOVES or not chains.moves(op):
                _ADD[op.kind](self, op, tensors)
            elif (done := chains.joined(op, self.values)) is not None:
                self._move(op, done)
            self.numbers[before:] = [number] * (len(self.numbers) - before)

    def copied(self, op: Op, names: Sequence[str], pairs: Array) -> None:
        """Channels of ``names``, each told by (value, channel)."""
        inputs = [self.index[name] for name in names]
        self.emit("channels", op, inputs, self.out(op), places=pairs.reshape(-1))

    def _move(self, op: Op, moved: Moved) -> None:
        source, target = self.shape(moved.source), self.shape(op.output)
        whole = moved.channels(source, target)
        inputs = [self.index[moved.source]]
        if whole is not None:
            pairs = np.stack([np.zeros_like(whole), whole], 1).reshape(-1)
            self.emit("channels", op, inputs, self.out(op), places=pairs)
        else:
            self.emit(
                "rearrange",
                op,
                inputs,
                self.out(op),
                places=moved.places.reshape(-1),
                rest=moved.rest,
            )

    def emit(
        self,
        kind: str,
        op: Op,
        inputs: Sequence[int] | None = None,
        output: int | None = None,
        steps: Sequence[Step] | None = None,
        **given: Any,
    ) -> None:
        """One operation of the compiled network, under the name of ``op``; its first input, its
        output and its epilogue if others are not given."""
        inputs = self.inputs(op) if inputs is None else inputs
        output = self.out(op) if output is None else output
        steps = self.steps(op) if steps is None else list(steps)
        said: dict[str, Any] = {
            "kernel": [1, 1],
            "stride": [1, 1],
            "padding": [0, 0, 0, 0],
            "dilation": [1, 1],
            "groups": 1,
            "largest": False,
            "count_padding": True,
            "divisor": 0.0,
            "weight": None,
            "scale": None,
            "shift": None,
            "places": None,
            "rest": 0.0,
        }
        said.update(given)
        for key, dtype in (("weight", "f4"), ("scale", "f4"), ("shift", "f4"), ("places", "i4")):
            if said[key] is not None:
                said[key] = np.ascontiguousarray(said[key], dtype)
        name = op.name or op.output
        self.net.add(kind, name, list(inputs), output, steps[:STEPS_AT_ONCE], **said)
        self.numbers.append(-1)
        for start in range(STEPS_AT_ONCE, len(steps), STEPS_AT_ONCE):
            # A value may be written again: what reads it later reads the newer one.
            self.net.add(
                "pointwise",
                name,
                [output],
                output,
                steps[start : start + STEPS_AT_ONCE],
                **{**said, "weight": None, "scale": None, "shift": None, "places": None},
            )
            self.numbers.append(-1)

    def weights(self, op: Op, tensors: Tensors) -> tuple[Array, Array]:
        """Weight and bias, normalisation folded in; how many are not zero is noted."""
        weight, bias = folded(op, tensors)
        self.density[op.output] = float(np.count_nonzero(weight)) / max(1, weight.size)
        return weight, bias

    def inputs(self, op: Op, count: int = 1) -> list[int]:
        """Numbers of the first ``count`` inputs."""
        return [self.index[name] for name in op.inputs[:count]]

    def out(self, op: Op) -> int:
        """The number of the output."""
        return self.index[op.output]

    def shape(self, name: str) -> tuple[int, int, int]:
        """A value as an image."""
        found = image(self.values[name])
        assert found is not None
        return found

    def steps(self, op: Op) -> list[Step]:
        """The epilogue: step, two numbers, two values."""
        return [self._step(op, step) for step in op.then]

    def _step(self, op: Op, step: Mapping[str, Any]) -> Step:
        do = step["do"]
        a = b = 0.0
        if do in ("add", "add_scaled"):
            do, a = "add", float(step.get("by", 1.0))
        elif do == "clamp":
            a, b = float(step["low"]), float(step["high"])
        elif do in ("leaky_relu", "elu", "scale", "shift"):
            a = float(step[{"leaky_relu": "slope", "elu": "alpha"}.get(do, "by")])
        x = step["input"] if do in ("add", "mul") else step["x"] if do == "blend" else None
        h = step["h"] if do == "blend" else None
        first, second = (-1 if i is None else self.index[op.inputs[i]] for i in (x, h))
        return (_STEPS.index(do), a, b, first, second)


def _conv(build: Builder, op: Op, tensors: Tensors) -> None:
    weight, bias = build.weights(op, tensors)
    shape = kernel_shape(weight.shape)
    assert shape is not None  # the program's check_tensors has seen to it
    weight = weight.reshape(shape)
    _, height, width = build.shape(op.inputs[0])
    out = build.shape(op.output)
    groups = op.attrs["groups"]
    if height == width == out[1] == out[2] == groups == 1:
        weight = _of_one_pixel(weight, op)
        build.emit(
            "linear",
            op,
            weight=weight,
            shift=bias,
        )
        return
    build.emit(
        "conv",
        op,
        weight=weight,
        shift=bias,
        kernel=weight.shape[2:],
        stride=op.attrs["stride"],
        padding=op.attrs["padding"],
        dilation=op.attrs["dilation"],
        groups=groups,
    )


def _of_one_pixel(weight: Array, op: Op) -> Array:
    """The (outputs, inputs) matrix of a convolution that meets one pixel and padding."""
    top, left = op.attrs["padding"][:2]
    (dy, dx), (rows, columns) = op.attrs["dilation"], weight.shape[2:]
    y, x = divmod(top, dy), divmod(left, dx)
    if y[1] or x[1] or y[0] >= rows or x[0] >= columns:
        return np.zeros(weight.shape[:2], np.float32)
    return weight[:, :, y[0], x[0]]


def _linear(build: Builder, op: Op, tensors: Tensors) -> None:
    weight, bias = build.weights(op, tensors)
    build.emit(
        "linear",
        op,
        weight=weight,
        shift=bias,
    )


def _affine(build: Builder, op: Op, tensors: Tensors) -> None:
    scale, shift = scale_and_shift(op, tensors, build.shape(op.inputs[0])[0])
    build.emit(
        "pointwise",
        op,
        scale=scale,
        shift=shift,
    )


def _map(build: Builder, op: Op, tensors: Tensors) -> None:
    build.emit("pointwise", op)


def _binary(build: Builder, op: Op, tensors: Tensors) -> None:
    first, second = build.inputs(op, 2)
    alike = build.values[op.inputs[0]] == build.values[op.inputs[1]]
    out, steps = build.out(op), build.steps(op)
    if op.kind == "sub":
        minus = np.full(build.shape(op.inputs[1])[0], -1.0)
        if alike:
            before = (_STEPS.index("add"), 1.0, 0.0, first, -1)
            build.emit("pointwise", op, [second], out, steps=[before, *steps], scale=minus)
            return
        # a - b = -(-a + b): the smaller value cannot be scaled alone.
        flip = (_STEPS.index("scale"), -1.0, 0.0, -1, -1)
        build.emit(
            "pointwise",
            op,
            [first],
            out,
            steps=(),
            scale=np.full(build.shape(op.inputs[0])[0], -1.0),
        )
        build.emit("channel_scale", op, [out, second], out, steps=[flip, *steps], largest=True)
        return
    if alike:
        before = (_STEPS.index(op.kind), 1.0, 0.0, second, -1)
        build.emit("pointwise", op, [first], out, steps=[before, *steps])
    else:
        build.emit("channel_scale", op, [first, second], out, steps=steps, largest=op.kind == "add")


def _pool(build: Builder, op: Op, tensors: Tensors) -> None:
    build.emit(
        op.kind,
        op,
        build.inputs(op),
        build.out(op),
        kernel=op.attrs["kernel"],
        stride=op.attrs["stride"],
        padding=op.attrs["padding"],
        dilation=op.attrs.get("dilation", (1, 1)),
        count_padding=op.attrs.get("count_include_pad", True),
        divisor=float(op.attrs.get("divisor") or 0),
    )


def _global_pool(build: Builder, op: Op, tensors: Tensors) -> None:
    largest = op.attrs["how"] == "max"
    build.emit("global_pool", op, build.inputs(op), build.out(op), largest=largest)


def _softmax(build: Builder, op: Op, tensors: Tensors) -> None:
    build.emit("softmax", op, build.inputs(op), build.out(op))


def _concat(build: Builder, op: Op, tensors: Tensors) -> None:
    build.copied(op, *sources(op, op.output, build.values))


_ADD: dict[str, Callable[[Builder, Op, Tensors], None]] = {
    "conv": _conv,
    "linear": _linear,
    "affine": _affine,
    "map": _map,
    "add": _binary,
    "sub": _binary,
    "mul": _binary,
    "max_pool": _pool,
    "avg_pool": _pool,
    "global_pool": _global_pool,
    "softmax": _softmax,
    "concat": _concat,
}
