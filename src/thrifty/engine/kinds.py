"""The kinds of operations, the attributes and tensors each takes, and the steps that may follow.

Attributes are exactly those listed, for a misspelt one would be left out without a word.  ``then``
is the epilogue: a list of steps applied to the result in order, while it is still in registers.
Step inputs are indices into the operation's inputs, of the shape of its result.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from thrifty.errors import UserError
from thrifty.registry import suggest

MOST_SIDE, MOST_STEPS, MOST_INT = 1 << 20, 64, 1 << 28
STEPS_AT_ONCE = 16
"""Of an operation, that the compiled engine does in one pass (plan.h, kMostSteps)."""
LARGEST = 3.4028235e38
"""Of float32; what is written with more digits is rounded to it."""

Check = Callable[[object], str]
"""Says what is wrong with a value, or nothing."""


@dataclass(frozen=True)
class Kind:
    """What an operation of one kind takes.

    Args:
        inputs: how many values, without those of the epilogue; 0 means one or more.
        attrs: name to check; all must be there, except ``then``.
        required: roles of tensors that must be there.
        optional: groups of roles, each there as a whole or not at all.
        steps: whether ``then`` is allowed.
    """

    inputs: int
    attrs: Mapping[str, Check]
    required: tuple[str, ...] = ()
    optional: tuple[tuple[str, ...], ...] = ()
    steps: bool = False


def whole(low: int, high: int = MOST_INT) -> Check:
    """A whole number from ``low`` to ``high``."""

    def check(x: object) -> str:
        good = isinstance(x, int) and not isinstance(x, bool) and low <= x <= high
        return "" if good else f"needs a whole number from {low} to {high}"

    return check


def wholes(count: int, low: int, high: int = MOST_SIDE) -> Check:
    """A list of ``count`` whole numbers from ``low`` to ``high``."""
    one = whole(low, high)

    def check(x: object) -> str:
        good = isinstance(x, list | tuple) and len(x) == count and not any(one(y) for y in x)
        return "" if good else f"needs a list of {count} whole numbers from {low} to {high}"

    return check


def number(x: object) -> str:
    """A finite number that float32 holds."""
    good = isinstance(x, int | float) and not isinstance(x, bool) and abs(x) <= LARGEST
    return "" if good else "needs a finite number"


def non_negative(x: object) -> str:
    """A finite number, 0 or more."""
    return number(x) or ("" if isinstance(x, int | float) and x >= 0 else "needs 0 or more")


def flag(x: object) -> str:
    """True or false."""
    return "" if isinstance(x, bool) else "needs true or false"


def one_of(*names: str) -> Check:
    """One of these strings."""

    def check(x: object) -> str:
        return "" if isinstance(x, str) and x in names else f"needs one of {', '.join(names)}"

    return check


def _padding_value(x: object) -> str:
    """A number, or "-inf"; JSON has no infinity."""
    return "" if x == "-inf" else number(x)


def _divisor(x: object) -> str:
    return "" if x is None else whole(1)(x)


def _any(x: object) -> str:
    return ""  # checked apart, by thrifty.engine.fallbacks


STEPS: Mapping[str, Mapping[str, Check]] = {
    "relu": {},
    "clamp": {"low": number, "high": number},
    "silu": {},
    "hardswish": {},
    "sigmoid": {},
    "hardsigmoid": {},
    "tanh": {},
    "gelu": {},
    "gelu_tanh": {},
    "leaky_relu": {"slope": number},
    "elu": {"alpha": number},
    "scale": {"by": number},
    "shift": {"by": number},
    "add": {"input": whole(1)},
    "add_scaled": {"input": whole(1), "by": number},
    "mul": {"input": whole(1)},
    "blend": {"h": whole(1), "x": whole(1)},
}
"""What may be in ``then``.  With y the result so far, add_scaled is y + by * input, and blend is
h * y + (1 - y) * x."""

FROM_INPUTS = ("input", "h", "x")
"""Fields of steps that are indices into the inputs of the operation."""

_BN = ("bn_mean", "bn_var")
_BN_AFFINE = ("bn_weight", "bn_bias")
_GRID = {"stride": wholes(2, 1), "padding": wholes(4, 0), "dilation": wholes(2, 1)}

KINDS: Mapping[str, Kind] = {
    "conv": Kind(
        1, {**_GRID, "groups": whole(1)}, ("weight",), (("bias",), _BN, _BN_AFFINE), steps=True
    ),
    "linear": Kind(1, {}, ("weight",), (("bias",), _BN, _BN_AFFINE), steps=True),
    "max_pool": Kind(1, {"kernel": wholes(2, 1), **_GRID}),
    "avg_pool": Kind(
        1,
        {
            "kernel": wholes(2, 1),
            "stride": wholes(2, 1),
            "padding": wholes(4, 0),
            "count_include_pad": flag,
            "divisor": _divisor,
        },
    ),
    "global_pool": Kind(1, {"how": one_of("avg", "max")}),
    "add": Kind(2, {}, steps=True),
    "sub": Kind(2, {}, steps=True),
    "mul": Kind(2, {}, steps=True),
    "map": Kind(1, {}, steps=True),
    "affine": Kind(1, {}, (), (("scale",), ("shift",), _BN, _BN_AFFINE), steps=True),
    "concat": Kind(0, {"axis": whole(0, 7)}),
    "slice": Kind(1, {"axis": whole(0, 7), "start": whole(0), "stop": whole(1)}),
    "reshape": Kind(1, {}),
    "softmax": Kind(1, {"axis": whole(0, 7)}),
    "pixel_shuffle": Kind(1, {"factor": whole(1, MOST_SIDE)}),
    "channel_shuffle": Kind(1, {"groups": whole(1)}),
    "pad": Kind(1, {"padding": wholes(4, 0), "value": _padding_value}),
    "fallback": Kind(0, {"target": _any, "args": _any, "kwargs": _any}),
}
"""All kinds.  ``padding`` is [top, left, bottom, right]; [2] are vertical, horizontal.

Pooling: paddings never win a maximum; ``divisor`` null is the size of the window, of which
``count_include_pad`` false counts only what lies in the image.  ``pad`` takes "-inf" as a value.
"""

_FALLBACK_OPTIONS: Mapping[str, Check] = {
    "axis": whole(0, 8),
    "times": whole(1),
    "item": whole(0, 64),
}


def check_attrs(
    kind: str, attrs: Mapping[str, Any], tensors: Mapping[str, str], count: int, where: str
) -> None:
    """Check attributes, roles, steps and the number of inputs of one operation.

    Args:
        kind: one of :data:`KINDS`.
        attrs: its attributes.
        tensors: role to name.
        count: how many inputs it has.
        where: names the operation in messages.

    Raises:
        UserError: one is missing, unknown, or not what it must be.
    """
    rules = KINDS[kind]
    checks = dict(rules.attrs)
    if kind == "fallback":
        checks.update({k: v for k, v in _FALLBACK_OPTIONS.items() if k in attrs})
    else:
        _check_tensor_roles(rules, tensors, where)
    if "bn_mean" in tensors and kind != "fallback":
        checks["eps"] = non_negative
    for name in attrs:
        if name not in checks and not (name == "then" and rules.steps):
            raise UserError(
                f"{where}: it has no attribute {str(name)[:40]!r}; "
                f"{suggest(str(name)[:40], checks)}"
            )
    for name, check in checks.items():
        if name not in attrs:
            raise UserError(f"{where}: the attribute {name!r} is missing")
        if wrong := check(attrs[name]):
            raise UserError(f"{where}: {name} is {str(attrs[name])[:80]}; it {wrong}")
    _check_steps(attrs.get("then", ()), rules.inputs, count, where)


def _check_tensor_roles(rules: Kind, tensors: Mapping[str, str], where: str) -> None:
    known = {*rules.required, *(role for group in rules.optional for role in group)}
    for role in tensors:
        if role not in known:
            raise UserError(f"{where}: it takes no tensor {role!r}; {suggest(role, known)}")
    for group in (rules.required, *rules.optional):
        there = [role for role in group if role in tensors]
        if there and len(there) < len(group) or (group is rules.required and group and not there):
            missing = next(role for role in group if role not in tensors)
            raise UserError(f"{where}: the tensor {missing!r} is missing")
    if "bn_weight" in tensors and "bn_mean" not in tensors:
        raise UserError(f"{where}: it has the tensor 'bn_weight' and no 'bn_mean'")


def _check_steps(steps: object, taken: int, count: int, where: str) -> None:
    if not isinstance(steps, list | tuple) or len(steps) > MOST_STEPS:
        raise UserError(f"{where}: 'then' is no list of up to {MOST_STEPS} steps")
    used = set(range(taken or count))
    for step in steps:
        _check_step(step, where)
        for key in FROM_INPUTS:
            if key in step:
                used.add(step[key])
    if used != set(range(count)):
        raise UserError(
            f"{where}: it has {count} inputs, and it and its steps use {len(used)}; every input is "
            f"used and no other"
        )


def _check_step(step: object, where: str) -> None:
    do = step.get("do") if isinstance(step, Mapping) else None
    if not isinstance(step, Mapping) or not isinstance(do, str) or do not in STEPS:
        raise UserError(f"{where}: 'then' has no step {str(step)[:80]}; {suggest(str(do), STEPS)}")
    checks = STEPS[do]
    if set(step) != {"do", *checks}:
        fields = ", ".join(("do", *checks))
        raise UserError(f"{where}: the step {do!r} has the fields {fields} and no others")
    for key, check in checks.items():
        if wrong := check(step[key]):
            raise UserError(f"{where}: {key} of the step {do!r} is {step[key]!r:.80}; it {wrong}")
    if do == "clamp" and not step["low"] <= step["high"]:
        raise UserError(f"{where}: clamp has low {step['low']} above high {step['high']}")


def out_side(side: int, kernel: int, stride: int, before: int, after: int, dilation: int) -> int:
    """Positions of a window along one side, 0 or less if it does not fit.

    Example:
        >>> out_side(32, 3, 2, 1, 1, 1)
        16
    """
    return math.floor((side + before + after - dilation * (kernel - 1) - 1) / stride) + 1
