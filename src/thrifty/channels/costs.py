"""What a network takes when some units are gone, without building it.

A dense tensor with some indices of each dimension gone has the product of what is left, and a
weight element multiplies as often as before, so parameters and multiply-adds have a closed form.
"""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from thrifty.channels.groups import Groups, Kept
from thrifty.channels.removal import lost
from thrifty.nets import count_macs


class Cost(NamedTuple):
    """What a network takes."""

    params: int
    macs: int
    """Multiply-adds of convolutions and matrix products for one input."""
    bytes: int
    """Of all parameters and buffers, dense."""


class Costs:
    """The costs of a network and of what is left of it."""

    def __init__(self, model: nn.Module, groups: Groups, shape: tuple[int, ...] | None = None):
        """``shape`` of one input: counts products without weights too, which stay as they are."""
        self._groups = groups
        parameters = dict(model.named_parameters())
        tensors: dict[str, Tensor] = parameters | dict(model.named_buffers())
        self._shapes = {name: tuple(x.shape) for name, x in tensors.items()}
        self._size = {name: x.element_size() for name, x in tensors.items()}
        self._learned = set(parameters)
        self._fixed = 0
        if shape is not None:
            self._fixed = count_macs(model, shape) - self.of({}).macs

    def of(self, kept: Kept) -> Cost:
        """The costs with only those units kept."""
        left = {name: list(shape) for name, shape in self._shapes.items()}
        for (name, dim), gone in lost(self._groups, kept).items():
            left[name][dim] -= int(gone.sum())
        counts = {name: _product(shape) for name, shape in left.items()}
        macs = sum(counts[name] * times for name, times in self._groups.uses.items())
        return Cost(
            sum(counts[name] for name in self._learned),
            round(macs) + self._fixed,
            sum(count * self._size[name] for name, count in counts.items()),
        )

    def each(self) -> dict[str, Cost]:
        """Group -> what its first unit costs, all else whole."""
        whole = self.of({})
        costs = {}
        for group in self._groups:
            keep = group.members[0].unit.new_ones(group.units).bool()
            keep[0] = False
            less = self.of({group.name: keep})
            costs[group.name] = Cost(*(a - b for a, b in zip(whole, less, strict=True)))
        return costs


def _product(shape: list[int]) -> int:
    out = 1
    for size in shape:
        out *= size
    return out


def weights_left(model: nn.Module, groups: Groups, kept: Mapping[str, Tensor]) -> dict[str, int]:
    """Elements left of every parameter."""
    left = {name: list(p.shape) for name, p in model.named_parameters()}
    for (name, dim), gone in lost(groups, kept).items():
        if name in left:
            left[name][dim] -= int(gone.sum())
    return {name: _product(shape) for name, shape in left.items()}
