"""How much of what a highway block writes is its own: a measure that no scale of H can fool.

A block writes out = s + T (H - s).  A channel whose T is small may matter all the same, for H can
be large: networks under a penalty of T learn just that, halving T and doubling H.  The share

    share_c = sqrt(var(d_c) / (var(d_c) + var(s_c) + SPARE mean_c(var(d_c) + var(s_c))))

of d = T (H - s) is 0 for a channel that only carries and nears 1 for one that the block makes
anew; multiplying H while dividing T, or multiplying the stream, changes little.  Constants are
left out, for the batch normalisation behind the block takes them away.  The last term lets
channels that nothing carries, as where a stage begins, fade: all they have is a change.
"""

import math
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from thrifty.errors import UserError

Shape = Literal["mean", "log"]
SHAPES = ("mean", "log")

NEAR = 0.03
"""Mean of T near which the penalty of shape ``log`` pulls half as hard as at 0."""
SPARE = 0.1
"""Share of the mean variance of a block's channels that is added to that of each."""
_TINY = 1e-8  # keeps the gradient of the root finite


def priced(transform: Tensor, shape: Shape) -> Tensor:
    """What T or the change of channels, (channels,), costs in the mean: 0 all shut, 1 all open."""
    if shape == "log":
        transform = torch.log1p(transform / NEAR) / math.log1p(1 / NEAR)
    return transform.mean()


def shares(block: nn.Module, x: Tensor, out: Tensor) -> Tensor:
    """(channels that the block writes,) what they change in one pass, with a gradient.

    Args:
        block: a highway block with a method ``carried``, s of an input.
        x: its input, (batch, inputs, *size).
        out: what it made of that.
    """
    change, carried = _parts(block, x, out)
    dims = (0, *range(2, out.dim()))
    return _share(change.var(dims, correction=0), carried.var(dims, correction=0))


def says_what_it_carries(block: nn.Module, name: str) -> None:
    """Raises UserError: a highway block has no method ``carried``."""
    if not callable(getattr(block, "carried", None)):
        raise UserError(
            f"of=change compares what {name} writes with what it carries, and "
            f"{type(block).__name__} has no method carried(x) that returns the latter; add one, "
            f"or use of=transform"
        )


class Spread:
    """Sums over batches, for the share over all of them."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: Tensor | None = None

    def saw(self, block: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        """The hook of a block: sums and squares of what it changes and what it carries."""
        found = [each.transpose(0, 1).flatten(1).double() for each in _parts(block, args[0], out)]
        sums = torch.stack([s for each in found for s in (each.sum(1), each.square().sum(1))])
        self.sums = sums.cpu() if self.sums is None else self.sums + sums.cpu()
        self.count += found[0].shape[1]

    def read(self, like: Tensor) -> Tensor:
        """The share of every channel; zeros as ``like`` if the block wrote nothing."""
        if self.sums is None or not self.count:
            return torch.zeros_like(like)
        first, second, third, fourth = self.sums / self.count
        change, carried = second - first.square(), fourth - third.square()
        return _share(change.clamp(min=0), carried.clamp(min=0))


def _share(change: Tensor, carried: Tensor) -> Tensor:
    both = change + carried
    return ((change + _TINY) / (both + SPARE * both.mean() + _TINY)).sqrt().clamp(max=1)


def _parts(block: nn.Module, x: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """What a block adds to what it carries, and that, of the channels it writes."""
    s = cast("Any", block).carried(x)
    kept = cast("Tensor", block.kept)
    if len(kept) < s.shape[1]:
        s, out = s.index_select(1, kept), out.index_select(1, kept)
    return (out - s).float(), s.float()
