"""Shrink a network: from masks, zeros or chosen units to a smaller dense network."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from thrifty.channels.finding import check_real, inputs_of
from thrifty.channels.finding import groups as find_groups
from thrifty.channels.folding import foldable
from thrifty.channels.groups import Group, Groups, Kept
from thrifty.channels.removal import Surgery, checked, operate, without_torch_prune
from thrifty.errors import UserError


def shrink(
    model: nn.Module,
    masks: Mapping[str, Tensor] | None = None,
    example: Any = None,
    *,
    kept: Kept | None = None,
    keep: Sequence[str] = (),
    round: int = 1,
    check: bool = True,
) -> nn.Module:
    """A smaller dense network that gives the outputs of ``model`` under ``masks``.

    A channel goes if every filter that makes it is zero, or the scale of the norm behind it, or
    every column that reads it.  What it still sent through its norm and activation is a constant
    and is folded into the layers that read it; at borders that are padded with zeros a difference
    is left, which :func:`surgery` measures.  A channel that sends something else stays.

    Args:
        model: any module; it is not changed.  One that ``torch.nn.utils.prune`` masked is read
            as it is.
        masks: parameter name -> bool, True is kept; without them the zeros of the weights count.
        example: an input as the network takes it, with its batch dimension, or a tuple of them.
        kept: instead of masks: group name -> bool, a value a unit, as of :func:`thrifty.groups`.
        keep: patterns of layers that stay whole.
        round: channels of a layer stay a multiple of this, by keeping some that could go;
            8 or 16 fill the vectors of a CPU, and 1, the default, removes all that is dead.
        check: compare the outputs on ``example``.

    Raises:
        UserError: masks do not fit, the network cannot be followed, or the outputs differ.
    """
    return surgery(model, masks, example, kept=kept, keep=keep, round=round, check=check).model


def surgery(
    model: nn.Module,
    masks: Mapping[str, Tensor] | None = None,
    example: Any = None,
    *,
    kept: Kept | None = None,
    groups: Groups | None = None,
    keep: Sequence[str] = (),
    round: int = 1,
    check: bool = True,
) -> Surgery:
    """As :func:`shrink`, and how near the outputs are; ``groups`` saves finding them again.

    Raises:
        UserError: as of :func:`shrink`.
    """
    if example is None:
        raise UserError(
            "shrink needs an example input, with its batch dimension, such as "
            "example=torch.randn(2, 3, 32, 32)"
        )
    if masks is not None and kept is not None:
        raise UserError("masks and kept are two ways to say the same; give one of them")
    model = without_torch_prune(model)
    if masks:
        model = _masked(model, masks)
    inputs = inputs_of(model, example)
    found = groups if groups is not None else find_groups(model, inputs, keep, check=check)
    by_zeros = kept is None
    if by_zeros or check:
        check_real(model)
    if kept is None:
        chosen = foldable(model, found, alive(model, found), inputs)
    else:
        chosen = checked(found, kept)
    chosen = {name: rounded(found[name], keep_units, round) for name, keep_units in chosen.items()}
    return operate(model, found, chosen, inputs, masked=model if by_zeros else None, check=check)


def alive(model: nn.Module, groups: Groups) -> Kept:
    """The units of free groups that are made and read: the others have zeros only."""
    tensors = {name: p.detach() for name, p in model.named_parameters()}
    nonzero: dict[tuple[str, int], Tensor] = {}
    out = {}
    for group in groups.free:
        made = _any(group, "out", tensors, nonzero, groups.norm_after)
        read = _any(group, "in", tensors, nonzero, {})
        keep = made & read if group.of("in") else made
        if not bool(keep.any()):
            keep[0] = True
        if not bool(keep.all()):
            out[group.name] = keep
    return out


def _any(
    group: Group,
    role: str,
    tensors: Mapping[str, Tensor],
    nonzero: dict[tuple[str, int], Tensor],
    norm_after: Mapping[str, str | None],
) -> Tensor:
    """(units,) whether any slice of that role has a number that is not zero.

    A slice whose output only goes into a norm with a scale of zero makes nothing either.
    """
    out = torch.zeros(group.units + 1, dtype=torch.bool)
    for member in group.of(role):
        key = member.tensor, member.dim
        if key not in nonzero:
            x = tensors[member.tensor].movedim(member.dim, 0)
            nonzero[key] = (x.reshape(len(x), -1) != 0).any(1).cpu()
            scale = tensors.get(
                f"{(norm_after.get(member.tensor) or '').rpartition('.')[0]}.weight"
            )
            if scale is not None and scale.shape == nonzero[key].shape:
                nonzero[key] &= (scale != 0).cpu()
        out[member.unit[nonzero[key]]] = True
    return out[:-1]


def odd_widths(multiple: int) -> str | None:
    """What ``round`` of ``multiple`` costs, in a line; None if it fills vectors.

    Measured: five 3x3 convolutions of 31 channels took 1.44 times as long as of 32, of 63 1.24
    times as of 64, and of 23 0.87 times as of 24 (onnxruntime, one thread of an AMD EPYC, best
    of 40; torch: 1.11, 1.07, 1.00).
    """
    if multiple % 8 == 0:
        return None
    return (
        f"round {multiple} leaves odd widths, which can run slower than the multiple of 8 or 16 "
        f"above them (31 channels took 1.4 times as long as 32 in onnxruntime); round 8 or 16 "
        f"avoids that"
    )


def rounded(group: Group, keep: Tensor, multiple: int) -> Tensor:
    """``keep`` with the first units that go kept, until the channels are a multiple.

    Channels of a unit are counted, so that a group of a grouped convolution counts whole.
    """
    if multiple <= 1:
        return keep
    channels = max(1, group.width // group.units)
    step = max(1, -(-multiple // channels))
    wanted = min(group.units, -(-int(keep.sum()) // step) * step)
    more = (~keep).nonzero()[:, 0][: wanted - int(keep.sum())]
    out = keep.clone()
    out[more] = True
    return out


def _masked(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    import copy

    own = dict(model.named_parameters(remove_duplicate=False))
    wrong = [
        f"{name} {list(mask.shape)}"
        + (f" on {list(own[name].shape)}" if name in own else " names no parameter")
        for name, mask in masks.items()
        if name not in own or own[name].shape != mask.shape
    ]
    if wrong:
        raise UserError(f"these masks do not fit {type(model).__name__}: {'; '.join(wrong[:8])}")
    model = copy.deepcopy(model)
    own = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, mask in masks.items():
            own[name].masked_fill_(~mask.to(own[name].device, torch.bool), 0.0)
    return model
