"""What the weights of Keras layers are called and what they are for.

In the files of Keras 2 variables have names.  In those of Keras 3 they are numbered in the order
in which a layer makes them, which its class and its configuration decide; where neither is known,
their shapes have to tell.

The output channels of a kernel lie on its last axis, except those of a transposed convolution,
``(..., out, in)``, and of a depthwise one, ``(..., in, multiplier)``: its axis of input channels
is given, which with a multiplier of 1 is that of the outputs.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

Shape = tuple[int, ...]

ROLES: Mapping[str, str] = {
    **dict.fromkeys(("kernel", "embeddings", "recurrent_kernel"), "weight"),
    **dict.fromkeys(("depthwise_kernel", "pointwise_kernel", "W", "U"), "weight"),
    **dict.fromkeys(("bias", "b", "recurrent_bias"), "bias"),
    **dict.fromkeys(("gamma", "scale"), "scale"),
    **dict.fromkeys(("beta",), "shift"),
    **dict.fromkeys(("moving_mean", "moving_variance", "running_mean"), "statistic"),
    **dict.fromkeys(("running_std", "mean", "variance", "count"), "statistic"),
    **dict.fromkeys(("seed_generator_state", "kernel_scale", "embeddings_scale"), "other"),
    **dict.fromkeys(("alpha", "seed", "iteration", "iterations"), "other"),
}
"""By the last part of the name."""

_DENSE = ("kernel", "bias", "kernel_scale")
_CELL = ("kernel", "recurrent_kernel", "bias")
VARIABLES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"separable_conv\dd", ("depthwise_kernel", "pointwise_kernel", "bias")),
    (r"dense|einsum_dense", _DENSE),
    (r"(depthwise_)?conv\dd(_transpose)?", ("kernel", "bias")),
    (r"(reversible_)?embedding", ("embeddings", "embeddings_scale")),
    (r"batch_normalization", ("gamma", "beta", "moving_mean", "moving_variance")),
    (r"(layer|group)_normalization", ("gamma", "beta")),
    (r"rms_normalization", ("scale",)),
    (r"(conv_)?lstm\d?d?(_cell)?|gru(_cell)?|simple_rnn(_cell)?", _CELL),
    (r"p_re_lu", ("alpha",)),
    (r"normalization", ("mean", "variance", "count")),
    (r"seed_generator", ("seed_generator_state",)),
)
"""Classes, and the variables of each in order."""


def role_of(variable: str) -> str | None:
    """The role of a variable by its name; None if the name says nothing.

    Example:
        >>> role_of("kernel"), role_of("conv1_W"), role_of("queries")
        ('weight', 'weight', None)
    """
    if variable in ROLES:
        return ROLES[variable]
    ends = [known for known in ROLES if variable.endswith(f"_{known}")]
    return ROLES[max(ends, key=len)] if ends else None


def variables(
    kind: str, shapes: Sequence[Shape], settings: Mapping[str, Any], whole: bool = False
) -> list[str] | None:
    """The names of the numbered variables of a layer; None if its class does not tell.

    Args:
        kind: its class as groups are named after it, such as ``"conv2d"``.
        shapes: of its variables, in order.
        settings: its configuration, empty if there is none.
        whole: whether the first is of integers, so that its scale is among the others.
    """
    names = next((list(names) for known, names in VARIABLES if re.fullmatch(known, kind)), None)
    if names is None:
        return None
    if "gamma" in names:
        names = _normalisation(names, len(shapes), settings)
    elif "bias" in names and (settings.get("use_bias") is False or (whole and len(shapes) == 2)):
        names.remove("bias")
    if len(shapes) > len(names) or not all(map(_fits, names, shapes)):
        return None
    return names[: len(shapes)]


def _normalisation(names: list[str], count: int, settings: Mapping[str, Any]) -> list[str]:
    """Without what is configured away; with no configuration, both or neither are there."""
    kept = [
        name
        for name in names
        if (name != "gamma" or settings.get("scale") is not False)
        and (name != "beta" or (settings.get("center") is not False and not _rms(settings)))
    ]
    if not settings and count < len(names):  # of scale and shift one or both are missing
        missing = len(names) - count
        return (["0"] + names[2:])[missing - 1 :] if missing <= 2 <= len(names) else names
    return kept


def _rms(settings: Mapping[str, Any]) -> bool:
    return settings.get("rms_scaling") is True


def _fits(name: str, shape: Shape) -> bool:
    """Kernels have two axes or more, vectors of normalisations one (groups may have more)."""
    if name in ("kernel", "recurrent_kernel", "depthwise_kernel", "pointwise_kernel", "embeddings"):
        return len(shape) >= 2
    return True


def guessed(shapes: Sequence[Shape]) -> list[tuple[str, str | None]]:
    """(name, role) of numbered variables of an unknown layer, as far as shapes tell.

    Example:
        >>> guessed([(3, 3, 8, 4), (4,)])
        [('0', 'weight'), ('1', 'bias')]
    """
    if len(shapes) == 4 and len(set(shapes)) == 1 and len(shapes[0]) == 1:
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        return [(name, ROLES[name]) for name in names]
    found: list[tuple[str, str | None]] = []
    for i, shape in enumerate(shapes):
        before = shapes[i - 1] if i else ()
        if len(shape) >= 2:
            found.append((str(i), "weight"))
        elif len(shape) == 1 and len(before) >= 2 and before[-1] == shape[0]:
            found.append((str(i), "bias"))
        else:
            found.append((str(i), None))
    return found


def out_axis(kind: str, variable: str) -> int:
    """Where the output channels of a weight lie, counted from the end."""
    if variable == "depthwise_kernel" or kind.startswith("depthwise_conv"):
        return -2
    return -2 if kind.endswith("_transpose") and variable.endswith("kernel") else -1


def stem(name: str) -> str:
    """A layer's name without its number.

    Example:
        >>> stem("batch_normalization_12"), stem("conv2d")
        ('batch_normalization', 'conv2d')
    """
    return re.sub(r"_\d+$", "", name)
