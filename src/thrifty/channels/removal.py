"""Channels that are really gone: slice the tensors, fold the constants, prove it is the same.

What a removed channel still sent (the shift of its norm through the activation) is a constant,
measured where it is read, and added to the bias of the reader or taken from the running mean of
the norm behind it.  That is exact but at borders padded with zeros, where the constant was not.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thrifty.channels.groups import Groups, Kept, Member
from thrifty.channels.trace import run, tensors_in
from thrifty.errors import UserError
from thrifty.nets.resizing import reheaded, resize
from thrifty.nets.shrunk import cut, takes

TOLERANCE = 1e-4
"""Largest difference of outputs that is rounding, as a share of the largest output, at least 1."""


@dataclass(frozen=True)
class Surgery:
    """A network with channels removed, and how far it is from the one where they are zero."""

    model: nn.Module
    difference: float
    """Largest difference of outputs with removed channels at zero; rounding of float32."""
    border: float
    """Largest difference that is left after folding the constants; from zero-padded borders."""
    attributes: dict[str, dict[str, int]]
    """Module -> numbers that had to change, such as heads."""


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
        plain = silenced(model, groups, kept, ("out", "scale", "shift", "each"))
        difference = distance(plain, small, example)
        if not difference <= TOLERANCE:
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
    return Surgery(small, difference, border, attributes)


def checked(groups: Groups, kept: Kept) -> dict[str, Tensor]:
    """``kept`` without groups that lose nothing.

    Raises:
        UserError: an unknown group, a wrong size, a group that is whole or would lose all.
    """
    out = {}
    for name, keep in kept.items():
        group = groups[name]
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


def lost(groups: Groups, kept: Kept) -> dict[tuple[str, int], Tensor]:
    """(tensor, dimension) -> bool (size,), True where it goes."""
    gone: dict[tuple[str, int], Tensor] = {}
    for name, keep in kept.items():
        for member in groups[name].members:
            dead = _dead(member, keep)
            key = member.tensor, member.dim
            gone[key] = gone[key] | dead if key in gone else dead
    return gone


def _dead(member: Member, keep: Tensor) -> Tensor:
    return (member.unit >= 0) & ~keep[member.unit.clamp_min(0)]


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
                dead = _dead(member, keep).nonzero()[:, 0].to(tensor.device)
                tensor.index_fill_(member.dim, dead, 0.0)
    return quiet


@torch.no_grad()
def distance(ours: nn.Module, theirs: nn.Module, example: tuple[Any, ...]) -> float:
    """Largest difference of outputs in eval mode, as a share of the largest (at least 1)."""
    outs = []
    for model in (ours, theirs):
        training = {module: module.training for module in model.modules()}
        model.eval()
        try:
            outs.append([x.float() for x in tensors_in([run(model, example)])])
        finally:
            for module, mode in training.items():
                module.training = mode
    if [x.shape for x in outs[0]] != [x.shape for x in outs[1]]:
        return float("inf")
    worst = 0.0
    for a, b in zip(*outs, strict=True):
        if a.numel():
            gap = float((a - b).abs().max()) / max(1.0, float(a.abs().max()))
            worst = gap if gap != gap else max(worst, gap)
    return worst


@torch.no_grad()
def fold(
    small: nn.Module, masked: nn.Module, groups: Groups, kept: Kept, example: tuple[Any, ...]
) -> bool:
    """In place: the constants that removed units send in ``masked``, into ``small``.

    Returns:
        Whether there was any.
    """
    gone = lost(groups, kept)
    readers = {
        m.tensor: m for g in kept for m in groups[g].of("in") if bool(gone[m.tensor, m.dim].any())
    }
    sent = _sent(masked, readers, gone, example)
    modules = dict(small.named_modules())
    buffers = dict(small.named_buffers())
    theirs = dict(masked.named_modules())
    found = False
    for name, constants in sent.items():
        if not bool(constants.any()):
            continue
        found = True
        path = name.rpartition(".")[0]
        delta = _added(theirs[path], gone[name, readers[name].dim], constants)
        rows = gone.get((name, 1 if getattr(theirs[path], "transposed", False) else 0))
        delta = delta[~rows.to(delta.device)] if rows is not None else delta
        mean = groups.norm_after.get(name)
        if mean is not None and mean in buffers:
            buffers[mean] -= delta
        elif modules[path].bias is not None:
            modules[path].bias.add_(delta)
        else:
            modules[path].register_parameter("bias", nn.Parameter(delta))
    return found


def _sent(
    masked: nn.Module,
    readers: Mapping[str, Member],
    gone: Mapping[tuple[str, int], Tensor],
    example: tuple[Any, ...],
) -> dict[str, Tensor]:
    """Weight of a reader -> the constant (n,) that each column to be removed receives."""
    sent: dict[str, Tensor] = {}
    handles = []
    modules = dict(masked.named_modules())

    def watch(name: str, dead: Tensor) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0]
            dim = x.dim() - 1 if isinstance(module, nn.Linear) else 1
            values = x.index_select(dim, dead.nonzero()[:, 0].to(x.device)).movedim(dim, 0)
            constants = values.reshape(len(values), -1).median(1).values
            sent.setdefault(name, constants)

        return hook

    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    for name, member in readers.items():
        module = modules.get(name.rpartition(".")[0])
        if isinstance(module, kinds) and name.endswith("weight"):
            if isinstance(module, nn.modules.conv._ConvNd) and module.groups > 1:
                continue
            handles.append(
                module.register_forward_pre_hook(watch(name, gone[member.tensor, member.dim]))
            )
    training = {module: module.training for module in masked.modules()}
    masked.eval()
    try:
        run(masked, example)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode
    return sent


def _added(module: nn.Module, dead: Tensor, constants: Tensor) -> Tensor:
    """(out,) what the constants add to every output of a layer, borders aside."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    if getattr(module, "transposed", False):
        weight = weight.movedim(0, 1)
    columns = weight[:, dead.to(weight.device)]
    return columns.reshape(*columns.shape[:2], -1).sum(2) @ constants.to(columns.dtype)


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
