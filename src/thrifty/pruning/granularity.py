"""What is removed as one piece: a weight, a filter, an input channel, a kernel.

The score of a unit is the mean score of its weights, so units of different sizes compare.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from thrifty.errors import UserError
from thrifty.registry import suggest


@dataclass(frozen=True)
class Granularity:
    """How the weights of a tensor (out, in, *kernel) form units."""

    about: str
    spans: Callable[[int], list[int]]
    """Number of dimensions of the tensor -> the dimensions that one unit spans."""

    def pool(self, scores: Tensor) -> Tensor:
        """Mean score of each unit; the spanned dimensions are kept with size 1."""
        spanned = self.spans(scores.dim())
        return scores.mean(spanned, keepdim=True) if spanned else scores

    def expand(self, kept: Tensor, like: Tensor) -> Tensor:
        """A mask of units as a mask of weights."""
        return kept.expand_as(like).contiguous()


GRANULARITIES = {
    "weight": Granularity("every weight by itself", lambda dims: []),
    "filter": Granularity("all weights of one output", lambda dims: [*range(1, dims)]),
    "channel": Granularity("all weights of one input", lambda dims: [0, *range(2, dims)]),
    "kernel": Granularity("all weights of one output and input", lambda dims: [*range(2, dims)]),
}


def granularity(name: str) -> Granularity:
    """The granularity called ``name``.

    Raises:
        UserError: there is none; the message offers the closest names.
    """
    if name not in GRANULARITIES:
        raise UserError(f"no granularity is called {name!r}; {suggest(name, GRANULARITIES)}")
    return GRANULARITIES[name]
