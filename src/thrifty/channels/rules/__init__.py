"""What each operation does to channels: a rule an operation, in one table.

A rule is a function ``(tracer, operation) -> None`` that ties and fixes atoms and gives the
results their facets.  Operations that compute element by element need none: torch says which
they are.  Everything else without a rule keeps the channels that reach it whole.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from thrifty.channels.trace import Tracer


class Operation(NamedTuple):
    """One operation as torch ran it."""

    func: Any
    name: str
    """``convolution``, ``add``, ...; without the underscore of its in-place form."""
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any

    def argument(self, index: int, name: str, default: Any = None) -> Any:
        """An argument by position or name."""
        if index < len(self.args):
            return self.args[index]
        return self.kwargs.get(name, default)


Rule = Callable[["Tracer", Operation], None]

RULES: dict[str, Rule] = {}

UNTAGGED = {
    "hardswish",
    "log_sigmoid_forward",
    "_prelu_kernel",
    "rrelu_with_noise",
    "rrelu_with_noise_functional",
}
"""Operations that compute element by element and that torch does not mark so."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of those operations."""

    def register(fn: Rule) -> Rule:
        for name in names:
            RULES[name] = fn
        return fn

    return register


def follow(t: "Tracer", func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Apply the rule of an operation that has just run."""
    from thrifty.channels.rules import joins, moves, norms, pointwise, products, reductions
    from thrifty.channels.trace import tensors_in

    del joins, moves, norms, products, reductions  # they registered their rules
    given = tensors_in([args, kwargs])
    name = func.overloadpacket.__name__
    if not any(t.facets(x) for x in given) and name != "constant_pad_nd":
        return
    operation = Operation(func, name.rstrip("_") if name != "_" else name, args, kwargs, out)
    for tensor in given:
        if id(tensor) in t.made_by and "batch_norm" not in name:
            t.trace.norm_after[t.made_by[id(tensor)]] = None
    known = RULES.get(operation.name)
    if known is not None:
        known(t, operation)
    elif torch.Tag.pointwise in func.tags or operation.name in UNTAGGED:
        pointwise.elementwise(t, operation)
    else:
        unknown(t, operation, given)


def unknown(t: "Tracer", operation: Operation, given: list[Tensor]) -> None:
    """Keep whole whatever reaches an operation that has no rule."""
    kind = t.module_types.get(t.module, "")
    why = f"{operation.name} in {t.module or 'the network'} ({kind}) is not followed"
    for tensor in given:
        for ids in t.facets(tensor):
            t.ties.fix(ids, why)
