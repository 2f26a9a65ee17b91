"""What a network takes when some units are gone, without building it.

A dense tensor with some indices of each dimension gone has the product of what is left, and a
weight element multiplies as often as before, so parameters and multiply-adds have a closed form.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from thrifty.channels.groups import Group, Groups, Kept
from thrifty.nets import count_macs


class Cost(NamedTuple):
    """What a network takes."""

    params: int
    macs: int
    """Multiply-adds of convolutions and matrix products for one input."""
    bytes: int
    """Of all parameters and buffers, dense."""


class Sizes:
    """The sizes of the tensors of a network when some units are gone."""

    def __init__(self, model: nn.Module, groups: Groups):
        tensors = dict(model.named_parameters()) | dict(model.named_buffers())
        self._shapes = {name: tuple(x.shape) for name, x in tensors.items()}
        self._groups = groups
        self._indices = {group.name: _indices(group) for group in groups}

    def left(self, kept: Kept) -> dict[str, int]:
        """Elements of every parameter and buffer with only those units kept."""
        shapes = {name: list(shape) for name, shape in self._shapes.items()}
        for name, keep in kept.items():
            count = int((~keep).sum())
            for tensor, dim, indices in self._indices[name] if count else ():
                if isinstance(indices, int):
                    shapes[tensor][dim] -= indices * count
                else:
                    shapes[tensor][dim] -= int(indices[~keep].sum())
        return {name: math.prod(shape) for name, shape in shapes.items()}


def _indices(group: Group) -> list[tuple[str, int, int | Tensor]]:
    """(tensor, dimension, indices a unit has there), a number where all units have as many."""
    found: list[tuple[str, int, int | Tensor]] = []
    for member in group.members:
        if member.dim < 0:  # no tensor gets smaller
            continue
        each = torch.bincount(member.unit[member.unit >= 0], minlength=group.units)
        same = bool((each == each[0]).all())
        found.append((member.tensor, member.dim, int(each[0]) if same else each))
    return found


class Costs:
    """The costs of a network and of what is left of it."""

    def __init__(self, model: nn.Module, groups: Groups, shape: tuple[int, ...] | None = None):
        """``shape`` of one input: counts whatever else multiplies there, which stays as it is."""
        self._groups, self._sizes = groups, Sizes(model, groups)
        parameters = dict(model.named_parameters())
        tensors: dict[str, Tensor] = parameters | dict(model.named_buffers())
        self._bytes = {name: x.element_size() for name, x in tensors.items()}
        self._learned = set(parameters)
        self._fixed = 0
        if shape is not None:
            self._fixed = count_macs(model, shape) - self.of({}).macs

    def of(self, kept: Kept) -> Cost:
        """The costs with only those units kept."""
        counts = self._sizes.left(kept)
        macs = sum(counts[name] * times for name, times in self._groups.uses.items())
        macs += sum(product.left(kept) for product in self._groups.products)
        return Cost(
            sum(counts[name] for name in self._learned),
            round(macs) + self._fixed,
            sum(count * self._bytes[name] for name, count in counts.items()),
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

    def to_rows(self) -> list[dict[str, Any]]:
        """A row a group, with what one unit costs; nothing for groups that stay whole."""
        each, rows = self.each(), self._groups.to_rows()
        none = dict.fromkeys(Cost._fields)
        return [row | (none if row["whole"] else each[row["group"]]._asdict()) for row in rows]
