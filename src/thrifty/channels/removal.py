"""Channels that are really gone: slice the tensors, fold the constants, prove it is the same.

Proven is that a network without channels computes what the network computes in which they are
cut off: made by zeros and read by zeros.  Constants that they sent are folded afterwards.
"""

import copy
import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thrifty.channels.folding import dead_of, fold, lost, precise
from thrifty.channels.groups import Groups, Kept
from thrifty.channels.modes import evaluating, in_training
from thrifty.channels.trace import run, tensors_in
from thrifty.errors import UserError
from thrifty.nets.resizing import reheaded, resize
from thrifty.nets.shrunk import cut, takes

CUT = ("out", "in", "scale", "shift", "each")
"""The roles of tensors at which a channel is cut off from the network."""

TOLERANCE = 1e-4
"""Largest difference of outputs that is rounding, as a share of the largest output, at least 1."""


@dataclass(frozen=True)
class Surgery:
    """A network with channels removed, and how far it is from the one where they are zero."""

    model: nn.Module
    difference: float
    """Largest difference of outputs with removed channels cut off; rounding of float32."""
    border: float
    """Largest difference from the masked network, constants folded; from zero-padded borders."""
    attributes: dict[str, dict[str, int]]
    """Module -> numbers that had to change, such as heads."""
    kept: Kept
    """The units that were kept, of groups that lost some."""


def operate(
    model: nn.Module,
    groups: Groups,
    kept: Kept,
    example: tuple[Any, ...],
    *,
    masked: nn.Module | None = None,
    check: bool = True,
) -> Surgery:
    """A copy of ``model`` without the units that ``kept`` gives up.

    Args:
        kept: group name -> bool (units,).
        example: inputs, on which the outputs are compared.
        masked: the network to be equal to, constants and all; by default ``model`` with the
            filters and norm scales of the removed units at zero and their shifts left.
        check: compare outputs.

    Raises:
        UserError: a group that has to stay whole, or loses all; the outputs differ.
    """
    kept = checked(groups, kept)
    small, attributes = removed(model, groups, kept)
    takes(small, example)
    difference = border = 0.0
    if check:
        before = views(model, groups, example)
        check_numbers(model, before)
        plain = views(silenced(model, groups, kept, CUT), groups, example)
        without = views(small, groups, example)
        far = farthest(before, plain, without)
        gaps = [gap(a, b) / max(1.0, _largest(a)) for a, b in zip(plain, without, strict=True)]
        difference = max(gaps)
        if far is not None:
            raise UserError(
                f"the network without {_said(kept)} gives other outputs than with them at zero, by "
                f"{difference:.2g}; its code knows their number or order; keep them whole "
                f"(keep=...)"
            )
    if masked is None:
        masked = silenced(model, groups, kept, ("out", "scale"))
    folded = fold(small, masked, groups, kept, example)
    if check and folded:
        border = distance(masked, small, example)
    return Surgery(small, difference, border, attributes, kept)


def checked(groups: Groups, kept: Kept) -> dict[str, Tensor]:
    """``kept`` without groups that lose nothing.

    Raises:
        UserError: an unknown group, a wrong size, a group that is whole or would lose all.
    """
    out = {}
    for name, keep in kept.items():
        group = groups[name]
        if not isinstance(keep, Tensor):
            raise UserError(
                f"kept[{name!r}] is {type(keep).__name__}; it is a tensor of torch.bool"
            )
        if tuple(keep.shape) != (group.units,) or keep.dtype != torch.bool:
            raise UserError(
                f"kept[{name!r}] is {keep.dtype} {tuple(keep.shape)}; it is torch.bool of "
                f"({group.units},), a value a unit"
            )
        if bool(keep.all()):
            continue
        if group.whole is not None:
            raise UserError(f"{name} stays whole: {group.whole}; leave it out of kept")
        if not bool(keep.any()):
            raise UserError(
                f"{name} would lose all of its {group.units} units, and a layer without channels "
                f"is none; keep one at least"
            )
        out[name] = keep.cpu()
    return out


@torch.no_grad()
def removed(
    model: nn.Module, groups: Groups, kept: Kept
) -> tuple[nn.Module, dict[str, dict[str, int]]]:
    """A copy with the slices gone and nothing folded; and the numbers changed by module."""
    small = copy.deepcopy(model)
    tensors = dict(small.named_parameters()) | dict(small.named_buffers())
    smaller: dict[str, Tensor] = {}
    for (name, dim), gone in lost(groups, kept).items():
        tensor = smaller.get(name, tensors[name].detach())
        index = (~gone).nonzero()[:, 0].to(tensor.device)
        smaller[name] = tensor.index_select(dim, index)
    for name, tensor in smaller.items():
        smaller[name] = _laid_out(tensor, tensors[name])
    resize(small, smaller)
    attributes: dict[str, dict[str, int]] = {}
    modules = dict(small.named_modules())
    for heads in groups.heads:
        if heads.group in kept and heads.module in modules:
            now = int(kept[heads.group][heads.unit].sum())
            changed = reheaded(modules[heads.module], len(heads.unit), now, heads.size)
            if changed:
                attributes.setdefault(heads.module, {}).update(changed)
    if smaller:
        cut(small, attributes, smaller)
    return small, attributes


def _laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    """With channels last where ``like`` has."""
    if tensor.dim() == 4 and not like.is_contiguous():
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor.contiguous()


@torch.no_grad()
def silenced(model: nn.Module, groups: Groups, kept: Kept, roles: tuple[str, ...]) -> nn.Module:
    """A copy in which the slices of removed units with those roles are zero."""
    quiet = copy.deepcopy(model)
    tensors = dict(quiet.named_parameters()) | dict(quiet.named_buffers())
    for name, keep in kept.items():
        for member in groups[name].members:
            if member.role in roles:
                tensor = tensors[member.tensor]
                dead = dead_of(member, keep).nonzero()[:, 0].to(tensor.device)
                tensor.index_fill_(member.dim, dead, 0.0)
    return quiet


@torch.no_grad()
def outputs(model: nn.Module, example: tuple[Any, ...]) -> list[Tensor]:
    """What a network gives in eval mode, in float64, computed in 32 bits at least."""
    model, example = precise(model, example)
    with evaluating(model):
        return _given(model, example)


@torch.no_grad()
def views(model: nn.Module, groups: Groups, example: tuple[Any, ...]) -> list[list[Tensor]]:
    """What a network gives in eval mode and, if it runs more there, as in training."""
    found = [outputs(model, example)]
    if groups.training_only:
        model, example = precise(model, example)
        with in_training(model) as twin:
            found.append(_given(twin, example))
    return found


def _given(model: nn.Module, example: tuple[Any, ...]) -> list[Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes that are written in and not used
        return [x.double() for x in tensors_in([run(model, example)])]


def check_numbers(model: nn.Module, outs: list[list[Tensor]]) -> None:
    """Refuse a network whose outputs cannot be compared.

    Raises:
        UserError: they are NaN.
    """
    if any(bool(x.isnan().any()) for view in outs for x in view):
        raise UserError(
            f"{type(model).__name__} gives NaN on the example, so that nothing can be compared; "
            f"give an example and weights that give numbers, or check=False"
        )


def distance(ours: nn.Module, theirs: nn.Module, example: tuple[Any, ...]) -> float:
    """Largest difference of outputs in eval mode, as a share of the largest (at least 1)."""
    mine = outputs(ours, example)
    return gap(mine, outputs(theirs, example)) / max(1.0, _largest(mine))


def gap(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Largest difference; infinite if the shapes are others."""
    if [x.shape for x in ours] != [x.shape for x in theirs]:
        return math.inf
    pairs = zip(ours, theirs, strict=True)
    gaps = [torch.where(a == b, 0.0, (a - b).abs()).max() for a, b in pairs if a.numel()]
    return float(torch.stack(gaps).max()) if gaps else 0.0


def _largest(outs: list[Tensor]) -> float:
    sizes = [float(x.abs().nan_to_num(0, 0, 0).max()) for x in outs if x.numel()]
    return max(sizes, default=0.0)


def apart(before: list[Tensor], quiet: list[Tensor], small: list[Tensor]) -> float | None:
    """How far the outputs without units are from those with them at zero; None if it is rounding.

    Rounding is little beside the outputs, and beside what the units do to them: a network that
    says nearly the same whatever it sees must not pass because of that.
    """
    far, size = gap(quiet, small), _largest(quiet)
    share = far / max(1.0, size)
    rounding = far <= max(1e-5 * size, 0.01 * gap(before, quiet))
    return None if share <= TOLERANCE and rounding else share


def farthest(
    before: list[list[Tensor]], quiet: list[list[Tensor]], small: list[list[Tensor]]
) -> float | None:
    """As :func:`apart`, of each of the :func:`views`."""
    found = [apart(*outs) for outs in zip(before, quiet, small, strict=True)]
    return max((far for far in found if far is not None), default=None)


def _said(kept: Kept) -> str:
    names = [f"{int((~keep).sum())} units of {name}" for name, keep in kept.items()]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def without_torch_prune(model: nn.Module) -> nn.Module:
    """``model``, or a copy with the masks of ``torch.nn.utils.prune`` made part of its weights."""
    from torch.nn.utils import prune

    if not prune.is_pruned(model):
        return model
    held: list[tuple[nn.Module, str, Tensor]] = []
    for module in model.modules():  # what a hook computed cannot be copied
        for name in [n for n in module._parameters if n.endswith("_orig")]:
            leaf = name.removesuffix("_orig")
            if leaf in vars(module):
                held.append((module, leaf, vars(module).pop(leaf)))
    try:
        plain = copy.deepcopy(model)
    finally:
        for module, leaf, tensor in held:
            setattr(module, leaf, tensor)
    for module in list(plain.modules()):
        for name in [n for n in module._parameters if n.endswith("_orig")]:
            leaf = name.removesuffix("_orig")
            weight = module._parameters[name]
            assert weight is not None
            setattr(module, leaf, weight.detach() * module.get_buffer(f"{leaf}_mask"))
            prune.remove(module, leaf)  # type: ignore[no-untyped-call]
    return plain
