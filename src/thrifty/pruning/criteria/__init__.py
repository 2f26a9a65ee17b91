"""How much a weight is worth: one file a criterion, found by the registry.

A criterion is a pure function of one :class:`~thrifty.pruning.layers.Layer` to scores of the
shape of its weight, higher being more worth keeping.  It states which evidence it reads.
"""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from thrifty.pruning.layers import Layer
from thrifty.registry import Registry


class Criterion(Protocol):
    """A function of a layer, with the names of the evidence it needs."""

    needs: tuple[str, ...]

    def __call__(self, layer: Layer) -> Tensor:
        """Scores, the shape of ``layer.weight``."""
        ...


CRITERIA: Registry[Criterion] = Registry(
    "criterion", "thrifty.pruning.criteria", "thrifty.criteria"
)


def criterion(
    name: str, needs: tuple[str, ...] = ()
) -> Callable[[Callable[[Layer], Tensor]], Criterion]:
    """Register a function as the criterion ``name``, which reads the evidence ``needs``."""

    def register(fn: Callable[[Layer], Tensor]) -> Criterion:
        fn.needs = needs  # type: ignore[attr-defined]
        return CRITERIA.add(name, fn)  # type: ignore[arg-type]

    return register
