"""The shape that each kind of operation gives, and the shapes of tensors it needs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from thrifty.engine.kinds import FROM_INPUTS, out_side
from thrifty.errors import UserError

Shape = tuple[int, ...]
"""Of a value, without the batch."""

_IMAGE = 3


def check_output(
    kind: str, attrs: Mapping[str, Any], ins: Sequence[Shape], out: Shape, where: str
) -> None:
    """Check the shape of the result against those of the inputs, as far as weights do not matter.

    Args:
        kind: the kind of the operation.
        attrs: its attributes, already checked by themselves.
        ins: shapes of all its inputs.
        out: the shape that the program states for its output.
        where: names the operation in messages.

    Raises:
        UserError: the shapes do not belong together.
    """
    if kind != "concat" and kind != "fallback":
        _check_step_inputs(attrs, ins, out, where)
    rule = _RULES.get(kind)
    expected = rule(attrs, ins, out, where) if rule else out
    if tuple(out) != tuple(expected):
        raise UserError(f"{where}: its output is {_said(out)}, and it gives {_said(expected)}")


def check_roles(
    kind: str,
    attrs: Mapping[str, Any],
    ins: Sequence[Shape],
    out: Shape,
    roles: Mapping[str, Shape],
    where: str,
) -> None:
    """Check the shapes of an operation's tensors, and a convolution's output by its kernel.

    Raises:
        UserError: a tensor does not fit; the message names its role.
    """
    if kind == "conv":
        _check_conv(attrs, ins[0], out, roles, where)
    elif kind == "linear":
        if roles["weight"] != (out[-1], ins[0][-1]):
            raise UserError(
                f"{where}: its weight is {_said(roles['weight'])}, and values of {_said(ins[0])} "
                f"and {_said(out)} need {_said((out[-1], ins[0][-1]))}"
            )
        _check_vectors(roles, out[-1], where, ("weight",))
    elif kind == "affine":
        for role, shape in roles.items():
            if math.prod(shape) != out[0]:
                raise UserError(
                    f"{where}: its {role} is {_said(shape)}, and {out[0]} channels need as many"
                )


def _check_conv(
    attrs: Mapping[str, Any], image: Shape, out: Shape, roles: Mapping[str, Shape], where: str
) -> None:
    weight = kernel_shape(roles["weight"])
    groups = attrs["groups"]
    if weight is None or weight[:2] != (out[0], image[0] // groups) or 0 in weight:
        raise UserError(
            f"{where}: its weight is {_said(roles['weight'])}, and from {image[0]} to {out[0]} "
            f"channels in {groups} groups needs ({out[0]}, {image[0] // groups}, kh, kw)"
        )
    expected = (out[0], *_window(attrs, image, weight[2:], attrs["dilation"]))
    if out != expected:
        raise UserError(f"{where}: its output is {_said(out)}, and it gives {_said(expected)}")
    _check_vectors(roles, out[0], where, ("weight",))


def kernel_shape(weight: Shape) -> Shape | None:
    """(outputs, inputs, height, width) of a convolution's weight; None if it is no such.

    A weight of 3 dimensions has the height 1, one of 2 (of a linear layer) is of one pixel.
    """
    if len(weight) == 3:
        return (*weight[:2], 1, weight[2])
    if len(weight) == 2:
        return (*weight, 1, 1)
    return tuple(weight) if len(weight) == 4 else None


def _check_vectors(roles: Mapping[str, Shape], size: int, where: str, but: tuple[str, ...]) -> None:
    for role, shape in roles.items():
        if role not in but and tuple(shape) != (size,):
            raise UserError(f"{where}: its {role} is {_said(shape)}, and it needs ({size},)")


def _said(shape: Sequence[int]) -> str:
    return str(tuple(shape))[:120]


def _check_step_inputs(
    attrs: Mapping[str, Any], ins: Sequence[Shape], out: Shape, where: str
) -> None:
    for step in attrs.get("then", ()):
        for key in FROM_INPUTS:
            if key in step and ins[step[key]] != out:
                raise UserError(
                    f"{where}: the step {step['do']!r} reads input {step[key]} of "
                    f"{_said(ins[step[key]])}, and needs the shape of the output, {_said(out)}"
                )


def _image(shape: Shape, where: str) -> Shape:
    if len(shape) != _IMAGE:
        raise UserError(
            f"{where}: its input is {_said(shape)}, and it takes (channels, height, width)"
        )
    return shape


def _window(
    attrs: Mapping[str, Any], image: Shape, kernel: Sequence[int], dilation: Sequence[int]
) -> Shape:
    top, left, bottom, right = attrs["padding"]
    stride = attrs["stride"]
    return (
        out_side(image[1], kernel[0], stride[0], top, bottom, dilation[0]),
        out_side(image[2], kernel[1], stride[1], left, right, dilation[1]),
    )


def _conv(attrs: Mapping[str, Any], ins: Sequence[Shape], out: Shape, where: str) -> Shape:
    channels, groups = _image(ins[0], where)[0], attrs["groups"]
    if channels % groups or _image(out, where)[0] % groups:
        raise UserError(
            f"{where}: {groups} groups divide {channels} or {out[0]} channels unequally"
        )
    return out  # its height and width need the kernel


def _linear(attrs: Mapping[str, Any], ins: Sequence[Shape], out: Shape, where: str) -> Shape:
    if not ins[0] or not out:
        raise UserError(f"{where}: it takes values of (..., features)")
    return (*ins[0][:-1], out[-1])


def _pool(attrs: Mapping[str, Any], ins: Sequence[Shape], out: Shape, where: str) -> Shape:
    image = _image(ins[0], where)
    kernel, dilation = attrs["kernel"], attrs.get("dilation", (1, 1))
    window = _window(attrs, image, kernel, dilation)
    _check_no_empty_window(attrs, image, window, kernel, dilation, where)
    return (image[0], *window)


def _check_no_empty_window(
    attrs: Mapping[str, Any],
    image: Shape,
    window: Shape,
    kernel: Sequence[int],
    dilation: Sequence[int],
    where: str,
) -> None:
    """A window that lies wholly in the padding has no maximum and no mean."""
    for side, count, k, stride, before, step in zip(
        image[1:], window, kernel, attrs["stride"], attrs["padding"], dilation, strict=False
    ):
        first_end = (k - 1) * step - before
        last_start = (count - 1) * stride - before
        straddling = step > side and k > 1  # the image may lie between two taps
        if count < 1 or first_end < 0 or last_start >= side or straddling:
            raise UserError(
                f"{where}: a window of {k} lies wholly beyond the side of {side}; the kernel, "
                f"padding and stride do not belong together"
            )


def _global_pool(attrs: Mapping[str, Any], ins: Sequence[Shape], out: Shape, where: str) -> Shape:
    channels = _image(ins[0], where)[0]
    return (channels,) if len(out) == 1 else (channels, 1, 1)


def _binary(attrs: Mapping[str, Any], ins: Sequence[Shape], out: Shape, where: str) -> Shape:
    first, second = ins[0], ins[1]
    if second != first:
        image = len(first) == len(second) == _IMAGE and second[1:] == (1, 1)
        if not image or second[0] not in (1, first[0]):
            raise UserError(
                f"{where}: its inputs are {_said(first)} and {_said(second)}; the second has the "
                f"shape of the first, or is (channels, 1, 1) or (1, 1, 1) beside an image"
            )
    return first


def _same(attrs: Mapping[str, Any], ins: Sequence[Shape], out: Shape, where: str) -> Shape:
    return ins[0]


def _affine(attrs: Mapping[str, Any], ins: Sequence[Shape], out: Shape, where: str) -> Shape:
    if not ins[0]:
        raise UserError(f"{where}: its input has no channels")
    return ins[0]


def _axis(attrs: Mapping[str, Any], shape: Shape, where: str) -> int:
    axis: int = attrs["axis"]
    if axis >= len(shape):
        raise UserError(f"{where}: axis {axis} is not among the {len(shape)} of its input")
    return axis


def _concat(attrs: Mapping[str, Any], ins: Sequence[Shape], out: Shape, where: str) -> Shape:
    if not ins:
        raise UserError(f"{where}: it has no inputs")
    axis = _axis(attrs, ins[0], where)
    for shape in ins:
        same = len(shape) == len(ins[0]) and all(
            a == b for i, (a, b) in enumerate(zip(shape, ins[0], strict=True)) if i != axis
        )
        if not same:
            raise UserError(
                f"{where}: its inputs are {_said(ins[0])} and {_said(shape)}, which differ beside "
                f"axis {axis}"
            )
    joined = sum(shape[axis] for shape in ins)
    return (*ins[0][:axis], joined, *ins[0][axis + 1 :])


def _slice(attrs: Mapping[str, Any], ins: Sequence[Shape], out: Shape, where: str) -> Shape:
    axis, start, stop = _axis(attrs, ins[0], where), attrs["start"], attrs["stop"]
    if not start < stop <= ins[0][axis]:
        raise UserError(
            f"{where}: it takes {start} to {stop} of axis {axis}, which has {ins[0][axis]}"
        )
    return (*ins[0][:axis], stop - start, *ins[0][axis + 1 :])


def _reshape(attrs: Mapping[str, Any], ins: Sequence[Shape], out: Shape, where: str) -> Shape:
    if math.prod(ins[0]) != math.prod(out):
        raise UserError(f"{where}: {_said(ins[0])} cannot be reshaped to {_said(out)}")
    return out


def _softmax(attrs: Mapping[str, Any], ins: Sequence[Shape], out: Shape, where: str) -> Shape:
    _axis(attrs, ins[0], where)
    return ins[0]


def _pixel_shuffle(attrs: Mapping[str, Any], ins: Sequence[Shape], out: Shape, where: str) -> Shape:
    (channels, height, width), factor = _image(ins[0], where), attrs["factor"]
    if channels % factor**2:
        raise UserError(f"{where}: {channels} channels are no multiple of {factor} squared")
    return (channels // factor**2, height * factor, width * factor)


def _channel_shuffle(
    attrs: Mapping[str, Any], ins: Sequence[Shape], out: Shape, where: str
) -> Shape:
    if _image(ins[0], where)[0] % attrs["groups"]:
        raise UserError(f"{where}: {attrs['groups']} groups divide {ins[0][0]} channels unequally")
    return ins[0]


def _pad(attrs: Mapping[str, Any], ins: Sequence[Shape], out: Shape, where: str) -> Shape:
    channels, height, width = _image(ins[0], where)
    top, left, bottom, right = attrs["padding"]
    return (channels, height + top + bottom, width + left + right)


_RULES = {
    "conv": _conv,
    "linear": _linear,
    "max_pool": _pool,
    "avg_pool": _pool,
    "global_pool": _global_pool,
    "add": _binary,
    "sub": _binary,
    "mul": _binary,
    "map": _same,
    "affine": _affine,
    "concat": _concat,
    "slice": _slice,
    "reshape": _reshape,
    "softmax": _softmax,
    "pixel_shuffle": _pixel_shuffle,
    "channel_shuffle": _channel_shuffle,
    "pad": _pad,
}
