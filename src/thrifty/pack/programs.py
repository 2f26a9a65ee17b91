"""The program that a packed network carries, so that the engine runs it without torch."""

import copy
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from thrifty.engine.program import OWN
from thrifty.errors import UserError
from thrifty.lowering import lower
from thrifty.nets.architecture import architecture_of


class Programmed(NamedTuple):
    """A program for a file, or why there is none.

    Args:
        program: JSON, None without.
        constants: tensors that it needs and the network does not have, by name.
        operations: how many it has.
        torch: how many of them only torch runs.
        why: what prevents it, empty if nothing does.
    """

    program: Mapping[str, Any] | None
    constants: dict[str, Tensor]
    operations: int
    torch: int
    why: str


def programmed(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    stored: Collection[str],
    example: Tensor | None = None,
) -> Programmed:
    """The program of ``model`` under ``masks``, naming the tensors ``stored`` in a file.

    Args:
        model: it is not touched.
        masks: by parameter name, True where a weight is kept.
        stored: names of the tensors that the file has; of tied ones it has the first.
        example: an input; needed where the network does not say what it takes.
    """
    known = architecture_of(model)
    if example is None and (known is None or known.shape is None):
        return _none(f"{type(model).__name__} does not say what an input is; give its shape")
    if example is None:
        assert known is not None and known.shape is not None
        example = torch.zeros(2, *known.shape)
    twin = copy.deepcopy(model).cpu().float().eval()
    parameters = dict(twin.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].masked_fill_(~mask.cpu(), 0)
    try:
        lowered = lower(twin, example.detach().cpu().float())
    except UserError as error:
        return _none(str(error))
    names, constants = _named(lowered.tensors, twin, stored)
    program = lowered.program.to_json()
    for op in program["ops"]:
        op["tensors"] = {role: names[name] for role, name in op["tensors"].items()}
    left = sum(op.kind == "fallback" for op in lowered.program.ops)
    return Programmed(program, constants, len(lowered.program.ops), left, "")


def _none(why: str) -> Programmed:
    return Programmed(None, {}, 0, 0, why)


def _named(
    needed: Mapping[str, Tensor], twin: nn.Module, stored: Collection[str]
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """What each tensor of the program is called in the file, and those that are added to it."""
    state = twin.state_dict(keep_vars=True)
    places = {_place(state[name]): name for name in stored if name in state}
    names, constants = {}, {}
    for name, x in needed.items():
        if name in stored:
            names[name] = name
        elif _place(x) in places:
            names[name] = places[_place(x)]
        else:
            own = name if name.startswith(OWN) else OWN + name
            names[name], constants[own] = own, x.detach()
    return names, constants


def _place(x: Tensor) -> tuple[Any, ...]:
    return (x.data_ptr(), tuple(x.shape), x.stride(), x.dtype)
