"""Regularisation that grows on the channels a network needs least, over whole groups.

Every unit of a group (all slices that are removed together) is pulled to zero in proportion to its
weights, the more the smaller it is in its group: as plain weight decay for the largest, 16
times as much for the smallest.  No variables are added; the weights themselves are the gate.
"""

import torch
from torch import Tensor, nn

from thrifty.channels.groups import Group, Groups, Member
from thrifty.errors import UserError
from thrifty.pruning.gates import GATES, Gate
from thrifty.pruning.gates.shrinkage import add_gradient, number
from thrifty.pruning.gates.units import by_weight

_ROLES = ("out", "in", "scale", "each")
"""Weights; as published, shifts and statistics are left alone."""


@GATES.entry("group_growth")
class GroupGrowth(Gate):
    """L2 on the slices of each unit, growing as the unit shrinks (group norm, DepGraph).

    Adds ``strength * 2^(growth * (I_max - I_k) / (I_max - I_min)) * slice`` to the gradient of
    every slice of unit k, where I_k is the norm of all of them and the extremes are those of
    the group.  It takes the place of weight decay, which these weights get no more.

    Args:
        groups: channels of the network; those that stay whole are left alone.
        strength: of the largest unit, 0 or more.
        growth: the smallest unit gets 2 to this power as much.

    References:
        Fang et al., DepGraph: Towards Any Structural Pruning, 2023,
        https://arxiv.org/abs/2301.12900 (equation 4, with alpha = 4)
    """

    def __init__(self, groups: Groups, *, strength: float = 5e-4, growth: float = 4.0):
        self.groups = groups
        self.strength = number("strength", strength, least=0.0)
        self.growth = number("growth", growth, least=0.0)

    def attach(self, model: nn.Module) -> None:
        """Nothing is put in.

        Raises:
            UserError: no group may be cut, or the groups are those of another network.
        """
        if not self.groups.free:
            raise UserError(
                f"no group of channels of {type(model).__name__} may be cut, so there is nothing "
                f"to regularise"
            )
        tensors = _tensors(model)
        for group in self.groups.free:
            for m in group.members:
                if m.role in _ROLES and _size(tensors.get(m.tensor), m.dim) != len(m.unit):
                    raise UserError(
                        f"group {group.name} has {len(m.unit)} channels in dimension {m.dim} of "
                        f"{m.tensor}, and {type(model).__name__} has not; find the groups of this "
                        f"network"
                    )

    def variables(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Every weight with a slice in a group that may be cut."""
        tensors = _tensors(model)
        found = {m.tensor: tensors[m.tensor] for g in self.groups.free for m in _weights(g)}
        return {n: p for n, p in found.items() if isinstance(p, nn.Parameter) and p.requires_grad}

    @torch.no_grad()
    def after_backward(self, model: nn.Module) -> None:
        """In place: add the gradient of the weighted L2 norms."""
        if not self.strength:
            return
        tensors = self.variables(model)
        for group in self.groups.free:
            pull = self._pull(norms(group, tensors))
            for member in _weights(group):
                parameter = tensors.get(member.tensor)
                if parameter is not None:
                    add_gradient(parameter, parameter * _along(pull, member, parameter))

    def scores(self, model: nn.Module) -> dict[str, Tensor]:
        """Name of a weight that makes channels -> norm of each unit, (channels,).

        The mean over its slices of their squared norms, divided by the mean over the group.
        A channel that may not be cut is worth infinity.
        """
        tensors, worth = _tensors(model), dict[str, Tensor]()
        for group in self.groups.free:
            square = norms(group, tensors).square()
            mean = square.mean().clamp(min=torch.finfo(square.dtype).tiny)
            worth[group.name] = square / mean
        return by_weight(self.groups, worth)

    def fold(self, model: nn.Module) -> None:
        """Nothing was put in."""

    def _pull(self, norm: Tensor) -> Tensor:
        """The coefficient of each unit, by its norm; all alike if all norms are."""
        spread = norm.max() - norm.min()
        share = (norm.max() - norm) / spread if float(spread) > 0 else torch.zeros_like(norm)
        return self.strength * torch.exp2(self.growth * share)


def norms(group: Group, tensors: dict[str, nn.Parameter] | dict[str, Tensor]) -> Tensor:
    """Root of the mean over its slices of the squared L2 norm of each unit: (units,)."""
    total = count = torch.zeros(group.units)
    for member in _weights(group):
        tensor = tensors.get(member.tensor)
        if tensor is None:
            continue
        mine = (member.unit >= 0).to(tensor.device)
        unit = member.unit.to(tensor.device)[mine]
        others = [d for d in range(tensor.dim()) if d != member.dim]
        square = tensor.detach().float().square()
        square = (square.sum(others) if others else square)[mine]
        zeros = torch.zeros(group.units, device=tensor.device)
        total = total.to(tensor.device) + zeros.index_add(0, unit, square)
        count = count.to(tensor.device) + zeros.index_fill(0, unit, 1.0)
    return (total / count.clamp(min=1)).sqrt()


def _weights(group: Group) -> tuple[Member, ...]:
    return tuple(m for m in group.members if m.role in _ROLES)


def _along(pull: Tensor, member: Member, like: Tensor) -> Tensor:
    """``pull`` of the unit of each index, zero for those of none, to multiply ``like`` by."""
    unit = member.unit.to(pull.device)
    values = torch.where(unit >= 0, pull[unit.clamp(min=0)], torch.zeros((), device=pull.device))
    shape = [1] * like.dim()
    shape[member.dim] = -1
    return values.to(like).view(shape)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    buffers = dict(model.named_buffers(remove_duplicate=False))
    return {**buffers, **dict(model.named_parameters(remove_duplicate=False))}


def _size(tensor: Tensor | None, dim: int) -> int:
    return tensor.shape[dim] if tensor is not None and dim < tensor.dim() else -1
