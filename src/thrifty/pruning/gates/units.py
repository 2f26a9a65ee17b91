"""Scores of channels, layer by layer, and of the units that are removed as one: there and back."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from thrifty.channels.groups import Groups, Member
from thrifty.errors import UserError


def by_unit(groups: Groups, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scores of the units of every group that may be cut: group name -> (units,).

    The score of a unit is the mean over all channels that belong to it and have one, so that
    scales stay comparable between a group of one layer and one of many.

    Args:
        scores: of :meth:`thrifty.pruning.gates.Gate.scores`.

    Returns:
        Only the groups of which some channel has a score; a unit without any is worth infinity.
    """
    found = {}
    for group in groups.free:
        total, count = torch.zeros(group.units), torch.zeros(group.units)
        for member in group.members:
            if member.role not in ("out", "scale", "each") or member.tensor not in scores:
                continue
            values = scores[member.tensor].detach().float().cpu()
            values = values.flatten() if member.dim < 0 else values
            if len(values) % len(member.unit):
                continue  # another dimension of the tensor than that of its channels
            values = values.view(-1, len(member.unit)).mean(0)
            mine = (member.unit >= 0) & ~values.isinf()
            total.index_add_(0, member.unit[mine], values[mine])
            count.index_add_(0, member.unit[mine], torch.ones(int(mine.sum())))
        if bool(count.any()):
            found[group.name] = torch.where(count > 0, total / count.clamp(min=1), torch.inf)
    return found


def by_weight(groups: Groups, units: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scores of the layers that make the channels: name of a weight -> (out,).

    Args:
        units: group name -> (units,), as :func:`by_unit` gives.

    Returns:
        Only weights of those groups; a channel that may not be cut is worth infinity.
    """
    found: dict[str, Tensor] = {}
    for group in groups.free:
        for member in group.of("out") if group.name in units else ():
            rows = found.setdefault(member.tensor, torch.full(member.unit.shape, torch.inf))
            mine = member.unit >= 0
            rows[mine] = units[group.name].to(rows)[member.unit[mine]]
    return found


def by_slice(model: nn.Module, member: Member, scores: Mapping[str, Tensor]) -> Tensor:
    """Scores of the channels that a tensor makes, for its slices: (size of the dimension,).

    A grouped transposed convolution has rows for the channels it reads, so that the scores of
    the channels it makes are told by group: every row has the mean of its group.

    Raises:
        UserError: there are not as many scores as channels.
    """
    found, size = scores[member.tensor], len(member.unit)
    if member.dim < 0:
        found = found.flatten()
    if len(found) == size:
        return found
    parts = getattr(model.get_submodule(member.layer), "groups", 1)
    if not isinstance(parts, int) or parts < 2 or len(found) % parts or size % parts:
        raise UserError(
            f"{member.tensor} has {len(found)} given scores, and {size} slices to score; give one "
            f"a channel that the layer makes"
        )
    return found.detach().float().view(parts, -1).mean(1).repeat_interleave(size // parts)
