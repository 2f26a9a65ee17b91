"""What removed channels still send, measured where it is read and put into the layers behind.

A channel whose filters are zero sends a constant: the shift of its norm through the activation.
It is added to the bias of the layer that reads it, or taken from the running mean of the norm
behind that.  At borders padded with zeros the constant was not there, so that a difference is
left.  A channel that sends no constant, because a layer that is called twice reads two of them,
or positions add something to it, cannot be removed without changing what is computed; their mean
is folded where there is a place for it, and no bias is added for it.
"""

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from thrifty.channels.groups import Groups, Kept, Member
from thrifty.channels.modes import evaluating, in_training
from thrifty.channels.trace import run

STEADY = 1e-4
"""Largest difference of two values that are one constant, as a share of it, at least of 1."""

BORDER = 0.75
"""Share of the positions that padding before may have changed."""

_HALF = (torch.float16, torch.bfloat16)


class Received(NamedTuple):
    """What the columns of a layer that go were given."""

    constants: Tensor
    """(n,)"""
    steady: Tensor
    """(n,) bool, whether it was one constant."""


def lost(groups: Groups, kept: Kept) -> dict[tuple[str, int], Tensor]:
    """(tensor, dimension) -> bool (size,), True where it goes."""
    gone: dict[tuple[str, int], Tensor] = {}
    for name, keep in kept.items():
        for member in groups[name].members:
            dead = dead_of(member, keep)
            key = member.tensor, member.dim
            gone[key] = gone[key] | dead if key in gone else dead
    return gone


def dead_of(member: Member, keep: Tensor) -> Tensor:
    """(size,) bool, the indices of a member that go with the units that are not kept."""
    return (member.unit >= 0) & ~keep[member.unit.clamp_min(0)]


def precise(model: nn.Module, example: tuple[Any, ...]) -> tuple[nn.Module, tuple[Any, ...]]:
    """Copies in float32 of a network of 16 bits and its inputs; others as they are."""
    if not any(p.dtype in _HALF for p in model.parameters()):
        return model, example
    inputs = (x.float() if isinstance(x, Tensor) and x.dtype in _HALF else x for x in example)
    return copy.deepcopy(model).float(), tuple(inputs)


@torch.no_grad()
def fold(
    small: nn.Module, masked: nn.Module, groups: Groups, kept: Kept, example: tuple[Any, ...]
) -> bool:
    """In place: the constants that removed units send in ``masked``, into ``small``.

    Returns:
        Whether there was any.
    """
    gone = lost(groups, kept)
    modules, theirs = dict(small.named_modules()), dict(masked.named_modules())
    buffers = dict(small.named_buffers())
    means = list(groups.norm_after.values())
    found = False
    for (name, dim), (constants, steady) in received(masked, groups, kept, example).items():
        path, mean = name.rpartition(".")[0], groups.norm_after.get(name)
        into_mean = mean in buffers and means.count(mean) == 1
        if not into_mean and modules[path].bias is None:  # a bias costs, so only for constants
            constants = constants * steady.to(constants.device)
        if not bool(constants.any()):
            continue
        found = True
        delta = _added(theirs[path], gone[name, dim], constants)
        rows = gone.get((name, 1 - dim))
        delta = delta[~rows.to(delta.device)] if rows is not None else delta
        module = modules[path]
        if into_mean and mean is not None:
            buffers[mean] -= delta
        elif module.bias is not None:
            module.bias.add_(delta)
        else:
            weight = module.weight
            assert isinstance(weight, Tensor)
            bias = nn.Parameter(delta.to(weight.dtype), requires_grad=weight.requires_grad)
            module.register_parameter("bias", bias)
    return found


@torch.no_grad()
def foldable(
    masked: nn.Module, groups: Groups, kept: Kept, example: tuple[Any, ...]
) -> dict[str, Tensor]:
    """``kept`` with those units put back that send something else than a constant."""
    out = {name: keep.clone() for name, keep in kept.items()}
    if all(bool(keep.all()) for keep in out.values()):
        return out
    known = received(masked, groups, kept, example)
    gone = lost(groups, kept)
    tensors = dict(masked.named_parameters()) | dict(masked.named_buffers())
    for name, keep in out.items():
        for member in groups[name].of("in"):
            key = member.tensor, member.dim
            dead = gone[key]
            columns = (
                tensors[member.tensor]
                .detach()
                .movedim(member.dim, 0)[dead.to(tensors[member.tensor].device)]
            )
            reads = (columns.reshape(len(columns), -1) != 0).any(1).cpu()
            steady = known[key].steady if key in known else torch.zeros_like(reads)
            keep[member.unit[dead][reads & ~steady]] = True
    return out


def received(
    masked: nn.Module, groups: Groups, kept: Kept, example: tuple[Any, ...]
) -> dict[tuple[str, int], Received]:
    """(weight, dimension) -> what its columns that go are given, for layers that say it."""
    model, inputs = precise(masked, example)
    readers = _readers(groups, kept)
    with evaluating(model):
        found = _heard(model, readers, inputs)
    late = {key: dead for key, dead in readers.items() if key not in found}
    if late and groups.training_only:
        with in_training(model) as twin:
            found |= _heard(twin, late, inputs)
    return found


def _heard(
    model: nn.Module, readers: dict[tuple[str, int], Tensor], inputs: tuple[Any, ...]
) -> dict[tuple[str, int], Received]:
    """What plain layers are given in one run, in the mode that ``model`` is in."""
    modules = dict(model.named_modules())
    calls: dict[tuple[str, int], list[Received]] = {}
    handles = []
    for (name, dim), dead in readers.items():
        module = modules.get(name.rpartition(".")[0])
        if _is_plain(module) and name.endswith("weight"):
            assert module is not None
            watch = _watch(calls.setdefault((name, dim), []), dead)
            handles.append(module.register_forward_pre_hook(watch, with_kwargs=True))
    try:
        run(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {key: _together(found) for key, found in calls.items() if found}


def _readers(groups: Groups, kept: Kept) -> dict[tuple[str, int], Tensor]:
    gone = lost(groups, kept)
    keys = {(m.tensor, m.dim): None for name in kept for m in groups[name].of("in")}
    return {key: gone[key] for key in keys if bool(gone[key].any())}


def _is_plain(module: nn.Module | None) -> bool:
    """Whether every output of a layer reads every input."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.groups == 1
    return isinstance(module, nn.Linear)


def _watch(calls: list[Received], dead: Tensor) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = (*args, *kwargs.values())[0]
        assert isinstance(module.weight, Tensor)
        dim = x.dim() - module.weight.dim() + 1
        values = x.index_select(dim, dead.nonzero()[:, 0].to(x.device)).movedim(dim, 0)
        values = values.reshape(len(values), -1)
        constants = values.median(1).values
        off = (values - constants[:, None]).abs() > STEADY * constants.abs().clamp_min(1)[:, None]
        calls.append(Received(constants, (off.float().mean(1) <= BORDER).cpu()))

    return hook


def _together(calls: list[Received]) -> Received:
    """What several calls of one layer received: one constant, if they all did."""
    constants = torch.stack([c.constants for c in calls])
    mean = constants.mean(0)
    off = (constants - mean).abs() > STEADY * mean.abs().clamp_min(1)
    steady = torch.stack([c.steady for c in calls]).all(0) & ~off.any(0).cpu()
    return Received(mean, steady)


def _added(module: nn.Module, dead: Tensor, constants: Tensor) -> Tensor:
    """(out,) what the constants add to every output of a layer, borders aside."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    if getattr(module, "transposed", False):
        weight = weight.movedim(0, 1)
    columns = weight[:, dead.to(weight.device)].to(constants.dtype)
    return columns.reshape(*columns.shape[:2], -1).sum(2) @ constants
