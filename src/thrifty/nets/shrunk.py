"""Networks with channels removed: what their tensors do not tell, and whether files of them hold.

The sizes of the layers are those of the tensors in a file.  What is left to say is little: the
numbers of heads that modules keep, buffers that a state dict leaves out, and an input that the
network takes, with which a file is tried before anybody relies on it.  A module remembers this
beside its :class:`~thrifty.nets.Architecture`.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thrifty.errors import UserError
from thrifty.nets.architecture import Architecture
from thrifty.nets.resizing import HEADS, WIDTHS, resize, settle

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool),
        *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    )
}

_KEY = "_thrifty_shrunk"
_MOST = 1 << 20

Inputs = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Shrunk:
    """What a network with channels removed needs beside its tensors."""

    attributes: tuple[tuple[str, str, int], ...] = ()
    """(module, attribute, number) for numbers that code keeps: the heads of every module whose
    tensors are smaller, and widths that went with them."""
    buffers: tuple[str, ...] = ()
    """Buffers that have other sizes and that a state dict leaves out."""
    inputs: Inputs = ()
    """(dtype, shape) of the arguments of a call, batch included; empty if they are not known."""


def shrunk_of(model: nn.Module) -> Shrunk | None:
    """What was said of ``model`` when channels were removed, None if none were."""
    found = vars(model).get(_KEY)
    return found if isinstance(found, Shrunk) else None


def remember_shrunk(model: nn.Module, said: Shrunk) -> None:
    """In place: add ``said`` to what was said before; copies and pickles keep it."""
    old = shrunk_of(model) or Shrunk()
    numbers = {(m, a): n for m, a, n in (*old.attributes, *said.attributes)}
    vars(model)[_KEY] = Shrunk(
        tuple(sorted((m, a, n) for (m, a), n in numbers.items())),
        tuple(sorted({*old.buffers, *said.buffers})),
        said.inputs or old.inputs,
    )


def cut(
    model: nn.Module, attributes: Mapping[str, Mapping[str, int]], tensors: Iterable[str]
) -> None:
    """In place: remember that ``tensors`` of ``model`` lost channels, and what went with them."""
    stored, every = model.state_dict(keep_vars=True), everything(model)
    smaller = {id(every[name]) for name in tensors}
    names = [name for name, x in every.items() if id(x) in smaller]  # the tied ones as well
    numbers = [(m, a, n) for m, changed in attributes.items() for a, n in changed.items()]
    buffers = tuple(name for name in names if name not in stored)
    remember_shrunk(model, Shrunk((*headed(model, names), *numbers), buffers))


def headed(model: nn.Module, names: Iterable[str]) -> Iterator[tuple[str, str, int]]:
    """(module, attribute, number) of every module that counts heads and holds these tensors."""
    paths = {parent for name in names for parent in _parents(name)}
    for path, module in model.named_modules():
        for attribute in HEADS:
            number = vars(module).get(attribute)
            if path in paths and isinstance(number, int) and not isinstance(number, bool):
                yield path, attribute, number


def _parents(name: str) -> Iterator[str]:
    while name:
        name = name.rpartition(".")[0]
        yield name


def takes(model: nn.Module, example: tuple[Any, ...]) -> None:
    """In place: remember what one call of a network with channels removed looks like."""
    if shrunk_of(model) is not None and all(isinstance(x, Tensor) for x in example):
        inputs = tuple((str(x.dtype).removeprefix("torch."), tuple(x.shape)) for x in example)
        remember_shrunk(model, Shrunk(inputs=inputs))


def entry_of(said: Shrunk) -> dict[str, Any]:
    """The entry ``shrunk`` of a header."""
    attributes: dict[str, dict[str, int]] = {}
    for module, attribute, number in said.attributes:
        attributes.setdefault(module, {})[attribute] = number
    inputs = [[dtype, list(shape)] for dtype, shape in said.inputs]
    return {"attributes": attributes, "buffers": list(said.buffers), "inputs": inputs}


def shrunk_in(header: Mapping[str, Any] | None, path: str | Path) -> Shrunk | None:
    """What a header says of removed channels, None if it has all that the network had.

    Raises:
        UserError: that is not what it may say.
    """
    if header is None or header.get("format") == 1:
        return None
    entry = header.get("shrunk")
    try:
        return _parsed(entry)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        said = json.dumps(entry)[:200]
        raise UserError(
            f"{path}: the header has shrunk={said}, which does not describe a network with "
            f"channels removed ({str(error)[:100]}); the file is damaged; copy it again"
        ) from None


def _parsed(entry: Any) -> Shrunk:
    numbers = tuple(
        (str(module), str(attribute), _count(number))
        for module, changed in entry["attributes"].items()
        for attribute, number in changed.items()
    )
    unknown = {attribute for _, attribute, _ in numbers} - {*HEADS, *WIDTHS}
    if unknown:
        raise ValueError(f"{min(unknown)!r} is no number that goes with channels")
    inputs = tuple(
        (dtype, tuple(_count(n) for n in shape)) for dtype, shape in entry.get("inputs", ())
    )
    for dtype, shape in inputs:
        if dtype not in DTYPES or math.prod(shape) > _MOST**2:
            raise ValueError(f"no input is {dtype!r} {shape}")
    buffers = entry.get("buffers", [])
    if not isinstance(buffers, list) or not all(isinstance(name, str) for name in buffers):
        raise ValueError("buffers are no list of names")
    return Shrunk(numbers, tuple(buffers), inputs)


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _MOST:
        raise ValueError(f"{value!r} is no count")
    return value


def calls_of(said: Shrunk, known: Architecture | None) -> tuple[Inputs, ...]:
    """What the network takes, by what is said of it and by how it was made; none if unknown."""
    found = [said.inputs] if said.inputs else []
    if known is not None and known.shape is not None:
        found.append((("float32", (1, *known.shape)),))
    return tuple(found)


def extras(model: nn.Module, said: Shrunk) -> dict[str, Tensor]:
    """Tensors that a file of ``model`` with channels removed may have beyond its state dict.

    Biases that were absent, which removal added for the constants that channels sent, each the
    largest that it may be; and the buffers that ``said`` names.
    """
    found: dict[str, Tensor] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        weight = getattr(module, "weight", None)
        if (
            isinstance(module, nn.modules.conv._ConvNd | nn.Linear)
            and isinstance(weight, Tensor)
            and module._parameters.get("bias", weight) is None
        ):
            outs = module.out_features if isinstance(module, nn.Linear) else module.out_channels
            found[f"{prefix}bias"] = torch.empty(outs, dtype=weight.dtype, device="meta")
    buffers = dict(model.named_buffers())
    found.update({name: buffers[name] for name in said.buffers if name in buffers})
    return found


def put(model: nn.Module, tensors: Mapping[str, Tensor], said: Shrunk | None) -> None:
    """In place: ``tensors`` into ``model``; ``said`` of those that have not its sizes."""
    own = {n: x for n, x in model.state_dict(keep_vars=True).items() if isinstance(x, Tensor)}
    device = next((x.device for x in own.values()), torch.device("cpu"))
    same = [n for n, x in tensors.items() if n in own and own[n].shape == x.shape]
    with torch.no_grad():
        for name in same:
            own[name].copy_(tensors[name])
    if said is None:
        settle(model)
    else:
        resized(model, {n: x.to(device) for n, x in tensors.items() if n not in same}, said)


def resized(model: nn.Module, tensors: Mapping[str, Tensor], said: Shrunk) -> None:
    """In place: tensors of other sizes, and new ones, into ``model``; those of its own sizes stay.

    Parameters that keep their size stay the same objects: recurrent layers hold them twice.
    """
    own = everything(model)
    changed = {n: x for n, x in tensors.items() if n not in own or own[n].shape != x.shape}
    whole = torch.contiguous_format
    resize(model, {n: x.detach().clone(memory_format=whole) for n, x in changed.items()})
    modules = dict(model.named_modules())
    for path, attribute, number in said.attributes:
        setattr(modules[path], attribute, number)
    remember_shrunk(model, said)


def everything(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by all of their names, those that are not saved as well."""
    parameters = model.named_parameters(remove_duplicate=False)
    return {**dict(parameters), **dict(model.named_buffers(remove_duplicate=False))}
