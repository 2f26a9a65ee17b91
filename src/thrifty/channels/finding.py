"""Find the groups of a network, and try them before anyone relies on them.

What a trace shows is tried: about a third of the units of every group are removed from a copy,
and its outputs compared with the network in which they are zero.  A group that fails, because
the code of a module has its size written in, stays whole with that reason.
"""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from thrifty.channels.groups import Group, Groups, Member, grouped
from thrifty.channels.removal import CUT, check_numbers, farthest, removed, silenced, views
from thrifty.channels.trace import settle, tensors_in, traced
from thrifty.errors import UserError
from thrifty.nets.resizing import Narrowable
from thrifty.registry import suggest


def groups(
    model: nn.Module,
    example: Any,
    keep: Sequence[str] = (),
    *,
    check: bool = True,
) -> Groups:
    """Which channels of ``model`` live and die together, which must stay, and why.

    Args:
        model: any module; it is run once in eval mode, if that leaves parameters unread once more
            as in training, and not changed.
        example: an input as the model takes it, batch dimension included, or a tuple of inputs.
            Two inputs a batch are better than one, for code that drops dimensions of size 1.
        keep: patterns of layers that stay whole, such as ``["conv1", "layer4.*"]``.
        check: try every group, which takes a few forward passes.

    Raises:
        UserError: the model does not take the example, or its way depends on the data.
    """
    inputs = inputs_of(model, example)
    trace = traced(model, inputs)
    settle(trace)
    found = _followed(model, grouped(trace))
    found = _kept_whole(found, keep)
    if check:
        check_real(model)
    return tried(model, found, inputs) if check else found


def _followed(model: nn.Module, found: Groups) -> Groups:
    """``found`` with the buffers that go along with a tensor and that no operation shows."""
    leader = {}
    for path, module in model.named_modules():
        if isinstance(module, Narrowable):
            for leaf, (name, dim) in module.follows.items():
                leader[f"{path}.{name}".lstrip("."), dim] = f"{path}.{leaf}".lstrip(".")

    def with_followers(group: Group) -> Group:
        there = {(m.tensor, m.dim) for m in group.members}
        led = [
            m
            for m in group.members
            if (m.tensor, m.dim) in leader and (leader[m.tensor, m.dim], 0) not in there
        ]
        more = (Member(leader[m.tensor, m.dim], 0, m.unit, "stat") for m in led)
        return group._replace(members=(*group.members, *more))

    if not leader:
        return found
    return replace(found, groups=tuple(with_followers(g) for g in found.groups))


def tried(model: nn.Module, found: Groups, example: tuple[Any, ...]) -> Groups:
    """``found`` with every group that cannot be removed as it should marked whole."""
    whole: dict[str, str] = {}
    before = views(model, found, example)
    check_numbers(model, before)

    def left(some: Sequence[Group]) -> list[Group]:
        return [g for g in some if g.name not in whole]

    def search(some: list[Group], why: str | None) -> None:
        if why is None or not some:
            return
        if len(some) == 1:
            whole[some[0].name] = why
            return
        half = len(some) // 2
        for part in (some[:half], some[half:]):
            search(part, failure(model, found, part, example, before))

    why = failure(model, found, list(found.free), example, before)
    if why is not None:
        for same in _alike(model, found).values():
            reasons = [failure(model, found, [g], example, before) for g in (same[0], same[-1])]
            if len(same) > 3 and all(reasons):
                whole.update({g.name: str(reasons[0]) for g in same})
    while why is not None and left(found.free):
        rest = left(found.free)
        why = failure(model, found, rest, example, before)
        search(rest, why)
        if why is not None and left(rest) == rest:  # they only fail together
            whole.update({g.name: why for g in rest})
    return replace(
        found,
        groups=tuple(
            g._replace(whole=whole[g.name]) if g.name in whole else g for g in found.groups
        ),
    )


def failure(
    model: nn.Module,
    found: Groups,
    some: list[Group],
    example: tuple[Any, ...],
    before: list[list[Tensor]],
) -> str | None:
    """Why these groups cannot lose a third of their units; None if they can.

    ``before`` is what the whole network gives.
    """
    kept = {g.name: _third(g) for g in some}
    if not some:
        return None
    try:
        small, _ = removed(model, found, kept)
        without = views(small, found, example)
        quiet = silenced(model, found, kept, CUT)
        far = farthest(before, views(quiet, found, example), without)
    except Exception as error:  # whatever the code of the model raises
        said = str(error.__cause__ or error).splitlines() or [type(error).__name__]
        return f"the code of the network does not take another size: {said[0][:160]}"
    if far is None:
        return None
    return f"the code of the network knows their number or order (outputs differ by {far:.2g})"


def _third(group: Group) -> Tensor:
    """About two thirds kept, in no regular pattern."""
    generator = torch.Generator().manual_seed(group.units)
    keep = torch.rand(group.units, generator=generator) > 1 / 3
    keep[0], keep[-1] = True, False
    return keep


def _alike(model: nn.Module, found: Groups) -> dict[Any, list[Group]]:
    """The free groups by the kinds of layers they have: code fails them alike."""
    kinds: dict[Any, list[Group]] = {}
    for group in found.free:
        layers = {(type(model.get_submodule(m.layer)).__name__, m.role) for m in group.members}
        kinds.setdefault(frozenset(layers), []).append(group)
    return kinds


def _kept_whole(found: Groups, keep: Sequence[str]) -> Groups:
    if not keep:
        return found
    names = {m.layer for g in found.groups for m in g.members}
    chosen = _matching(keep, sorted(names))
    return replace(
        found,
        groups=tuple(
            g._replace(whole="keep= says so")
            if g.whole is None and any(m.layer in chosen for m in g.members if m.role == "out")
            else g
            for g in found.groups
        ),
    )


def _matching(patterns: Sequence[str], names: Sequence[str]) -> set[str]:
    chosen: set[str] = set()
    for pattern in patterns:
        hits = set(fnmatch.filter(names, pattern.removesuffix(".weight")))
        if not hits:
            raise UserError(f"keep: {pattern!r} matches no layer; {suggest(pattern, names)}")
        chosen |= hits
    return chosen


def inputs_of(model: nn.Module, example: Any) -> tuple[Any, ...]:
    """The example as a tuple of arguments, on the device and of the float type of the model."""
    lazy = [n for n, p in model.named_parameters() if isinstance(p, nn.UninitializedParameter)]
    if lazy:
        raise UserError(f"{lazy[0]} has no size yet; run the network once on an input first")
    inputs = example if isinstance(example, tuple) else (example,)
    if not tensors_in(inputs):
        raise UserError(
            f"the example is {type(example).__name__}; give a tensor as the network takes it, with "
            f"its batch dimension, such as torch.randn(2, 3, 32, 32), or a tuple of arguments"
        )
    parameter = next(model.parameters(), None)
    if parameter is None:
        return inputs

    def fitting(x: Any) -> Any:
        if isinstance(x, Mapping):
            return {key: fitting(value) for key, value in x.items()}
        if type(x) in (list, tuple):
            return type(x)(fitting(value) for value in x)
        if not isinstance(x, Tensor):
            return x
        dtype = parameter.dtype if x.is_floating_point() else x.dtype
        return x.to(parameter.device, dtype)

    return tuple(fitting(x) for x in inputs)


def check_real(model: nn.Module) -> None:
    """Refuse tensors without numbers, whose outputs cannot be compared.

    Raises:
        UserError: they are on the device meta.
    """
    empty = [name for name, x in (*model.named_parameters(), *model.named_buffers()) if x.is_meta]
    if empty:
        raise UserError(
            f"{empty[0]} of {type(model).__name__} is on the device meta: it has a shape and no "
            f"numbers; build the network on a real device, or give check=False to find groups "
            f"without trying them"
        )
