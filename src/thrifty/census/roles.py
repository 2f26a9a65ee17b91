"""What a tensor is for, told by its name where the source does not say, and which are counted.

The share of small weights depends on which tensors count: batch normalisation's variances are
no weights and are large, biases are few and may be large.  So there are three conventions, each
of which is named wherever a share is shown.
"""

import re
from collections.abc import Collection
from typing import Literal

from thrifty.sources import Stored

Convention = Literal["weights", "parameters", "all"]

CONVENTIONS: dict[Convention, str] = {
    "weights": "tensors of two axes or more: convolutions, linear layers, embeddings",
    "parameters": "weights, biases, and the scales and shifts of normalisations",
    "all": "every tensor that is stored, running statistics and counters too",
}

_STATISTIC = re.compile(
    r"(?:^|[._/])(running_mean|running_var|moving_mean|moving_var|moving_variance|"
    r"num_batches_tracked|seed_generator_state)$"
)
_BIAS = re.compile(r"(?:^|[._/])(bias|beta|b|shift|bias_ih_\w+|bias_hh_\w+)$")
_SCALE = re.compile(r"(?:^|[._/])(weight|gamma|scale|g)$")
_NORM = re.compile(r"norm|(?:^|[._/\d])(bn|ln|gn|ln_\w+)\d*(?:$|[._/])", re.IGNORECASE)


def role_of(stored: Stored, names: Collection[str]) -> str:
    """The role of a tensor: what its source says, or what its name and shape suggest.

    Args:
        stored: the tensor.
        names: of all tensors beside it; a bias beside running statistics is a shift.

    Example:
        >>> bn = Stored("bn1.weight", (64,), "F32", read=lambda: iter(()))
        >>> role_of(bn, ["bn1.weight", "bn1.running_mean"])
        'scale'
    """
    if stored.role is not None:
        return stored.role
    name = stored.name.partition(":")[0]
    if _STATISTIC.search(name):
        return "statistic"
    if not is_number(stored):
        return "weight" if len(stored.shape) > 1 and stored.dtype in ("I8", "U8") else "other"
    if len(stored.shape) > 1:
        return "weight"
    if _BIAS.search(name):
        return "shift" if _is_norm(name, names) else "bias"
    return "scale" if _SCALE.search(name) else "other"


def counts_in(stored: Stored, role: str, convention: Convention) -> bool:
    """Whether a tensor of that role counts."""
    if convention == "weights":
        return role == "weight"
    if convention == "parameters":
        return role != "statistic" and (role != "other" or is_number(stored))
    return True


def is_number(stored: Stored) -> bool:
    """Whether its elements are real numbers: floats, or integers that stand for them."""
    return stored.dtype[0] in "FB" and stored.dtype != "BOOL" or stored.quantised is not None


def _is_norm(name: str, names: Collection[str]) -> bool:
    base = re.sub(r"(bias|beta)$", "", name)
    beside = any(f"{base}{last}" in names for last in ("running_mean", "moving_mean", "gamma"))
    return beside or _NORM.search(base) is not None
