"""Numbers that may depend on the size of the batch, and where the batch is in a shape."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thrifty.errors import UserError
from thrifty.lowering.exporting import SIZES


@dataclass(frozen=True)
class Batch:
    """``times`` times the size of the batch."""

    times: int


Size = int | Batch


def size_of(one: Any, two: Any) -> Size:
    """The size that is ``one`` and ``two`` in batches of SIZES; symbols are evaluated.

    Raises:
        UserError: it is neither constant nor proportional to the batch.
    """
    small, large = _at(one, SIZES[0]), _at(two, SIZES[1])
    if small == large:
        return small
    if small * SIZES[1] == large * SIZES[0] and small % SIZES[0] == 0:
        return Batch(small // SIZES[0])
    raise UserError(
        f"a size is {small} for {SIZES[0]} images and {large} for {SIZES[1]}, which is neither "
        f"fixed nor proportional"
    )


def _at(x: Any, size: int) -> int:
    if not isinstance(x, torch.SymInt):
        return int(x)
    expression = x.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, size)))


@dataclass(frozen=True)
class Spot:
    """Where the batch lies in a tensor of the network.

    Args:
        shape: all sides, the batch among them.
        axis: the place of the batch.
        times: with how many other positions it is merged in that place, 1 if none.
    """

    shape: tuple[Size, ...]
    axis: int
    times: int

    @property
    def stored(self) -> tuple[int, ...]:
        """The shape of the program's value, which has the batch first and says nothing of it."""
        others = tuple(s for s in self.shape if isinstance(s, int))
        return others if self.times == 1 else (self.times, *others)

    @property
    def plain(self) -> bool:
        """Whether the batch is first and alone, as the program has it."""
        return self.axis == 0 and self.times == 1

    def stored_axis(self, axis: int) -> int | None:
        """The place of an axis of the tensor among those of the value; None for the batch."""
        axis = axis % len(self.shape)
        if axis == self.axis:
            return None
        return axis - (axis > self.axis) + (self.times > 1)


def spot_of(one: Tensor, two: Tensor) -> Spot | None:
    """Where the batch is, given the tensor in batches of SIZES; None if nowhere.

    Raises:
        UserError: it is in more than one place.
    """
    shape = tuple(size_of(a, b) for a, b in zip(one.shape, two.shape, strict=True))
    places = [i for i, side in enumerate(shape) if isinstance(side, Batch)]
    if not places:
        return None
    if len(places) > 1:
        raise UserError("the size of the batch is in two dimensions of one tensor")
    side = shape[places[0]]
    return Spot(shape, places[0], side.times if isinstance(side, Batch) else 1)
