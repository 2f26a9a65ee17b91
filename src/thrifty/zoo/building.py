"""Networks and stacks from shards: which network, and its tensors.

A zoo may come from anywhere, so a network is built as from any weight file: only built-in and
published ones, first without memory, then filled and checked.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thrifty.errors import UserError
from thrifty.nets import resolve
from thrifty.nets.architecture import Architecture
from thrifty.nets.build import build
from thrifty.nets.fit import fill
from thrifty.nets.stored import architecture_in, rebuilt
from thrifty.population.stack import COLUMNS, Stack, filled
from thrifty.registry import Spec, parse_spec
from thrifty.zoo.opened import Piece, Pieces, kept, read
from thrifty.zoo.reading import About, Array, Shard
from thrifty.zoo.table import Table

OWN = ("dropout", "init")
"""Options of a network in which the models of a stack may differ: its tensors are the same."""


def module(
    shard: Shard, row: int, about: Mapping[str, Any], dropout: object, model: str | None
) -> nn.Module:
    """One model of a shard as a network in evaluation mode.

    Args:
        about: what the mark of the zoo says.
        dropout: the model's own share, where the index says it.
        model: what to build it from, in place of what the shard says.
    """
    tensors = {name: torch.from_numpy(x.copy()) for name, x in shard.model(row).items()}
    if model is None and not shard.about.model:
        raise UserError(
            f"{shard.path} does not say what network its models are; give it, such as "
            f"module(model='package.module:factory'), or take tensors()"
        )
    if model is None:
        made = rebuilt(tensors, header(shard.about, about), shard.path)
    else:
        shape, classes = _form(shard.about, about)
        made = resolve(model, classes=classes, shape=shape)
        fill(made, tensors, str(shard.path))
    if isinstance(dropout, int | float) and 0 <= dropout < 1:
        for each in made.modules():
            if isinstance(each, nn.Dropout):
                each.p = float(dropout)
    return made.eval()


def header(of: About, about: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of a weight file that names the network of a shard."""
    shape, classes = _form(of, about)
    said = {
        "format": 1,
        "model": of.model or None,
        "classes": classes,
        "shape": None if shape is None else list(shape),
    }
    return {"thrifty": json.dumps(said, sort_keys=True)}


def stack(pieces: Pieces, table: Table, about: Mapping[str, Any]) -> Stack:
    """Models of one architecture as a stack, masks of sparse twins included.

    Args:
        pieces: where they lie.
        table: a row a model.
        about: what the mark of the zoo says.
    """
    shards = [piece.shard for piece in pieces]
    model = one_model(shards)
    if not model:
        raise UserError(
            f"{shards[0].path} does not say what network its models are, and a stack needs one; "
            f"take their tensors with zoo.weights"
        )
    said = architecture_in(header(shards[0].about, about), shards[0].path)
    if said.shape is None or said.classes is None:
        raise UserError(
            f"{shards[0].path} and zoo.json do not say the shape of an input and the classes of "
            f"{model!r}, which a stack needs"
        )
    names = shards[0].names
    tensors = {name: torch.from_numpy(own(pieces.tensor(name))) for name in names}
    tensors = _whole(said, tensors, shards[0].path)
    given = {name: np.nan_to_num(table[name]) for name in COLUMNS if name in table}
    return Stack(
        model,
        said.shape,
        said.classes,
        tensors,
        filled(len(table), given),
        masks=masks_of(pieces, tensors),
    )


def _whole(said: Architecture, tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """``tensors`` if they are those of the network; counters of batches, if there are none, are 0.

    Raises:
        UserError: they are not.
    """
    try:
        with torch.device("meta"):
            outline = build(said.model, said.classes, said.shape).state_dict()
    except Exception as error:  # whatever odd options lead to
        raise UserError(f"{path}: its network {said.model!r} cannot be built: {error}") from None
    count = len(next(iter(tensors.values())))
    for name, x in outline.items():
        if name not in tensors and name.endswith("num_batches_tracked"):
            tensors[name] = torch.zeros((count, *x.shape), dtype=x.dtype)
    wrong = [n for n in outline if n not in tensors or tensors[n].shape[1:] != outline[n].shape]
    wrong += [n for n in tensors if n not in outline]
    if wrong:
        raise UserError(
            f"{path} does not fit its network {said.model!r}: {', '.join(wrong[:8])} are missing, "
            f"of another shape or not in the network; take its tensors with zoo.weights"
        )
    return tensors


def read_all(pieces: Pieces, name: str) -> Iterator[tuple[Piece, Array]]:
    """A tensor, shard by shard."""
    return ((piece, read(piece, name)) for piece in pieces)


def masks_of(pieces: Pieces, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks of each tensor that is sparse in some shard; where it is dense all is kept."""
    found: dict[str, Tensor] = {}
    for piece in pieces:
        for name in piece.shard.sparse:
            mask = kept(piece, name)
            if mask is None:
                continue
            whole = found.setdefault(name, torch.ones(tensors[name].shape, dtype=torch.bool))
            whole.numpy()[piece.places] = mask
    return found


def own(x: Array) -> Array:
    """``x``, copied unless it may be written to and lies as torch wants it."""
    return x if x.flags.writeable and x.flags.c_contiguous else np.array(x)


def one_model(shards: list[Shard]) -> str:
    """What all are built from, whatever their initialisation, with dropout where any has it."""
    specs = {shard.about.model: told_apart(shard) for shard in shards}
    if len({str(spec) for spec in specs.values()}) > 1:
        named = ", ".join(sorted({repr(str(spec)) for spec in specs.values()})[:8])
        raise UserError(
            f"a stack has one architecture, and these models are of {named}; choose those of one "
            f"with zoo.where, or train them as stacks of their own"
        )

    def share(model: str) -> float:
        value = parse_spec(model).options.get("dropout", 0)
        return float(value) if isinstance(value, int | float) else 0.0

    return max(sorted(specs), key=share)


def told_apart(shard: Shard) -> Spec:
    """What the models of a shard are built from, without the options in which they may differ."""
    try:
        spec = parse_spec(shard.about.model)
    except UserError as error:
        raise UserError(f"{shard.path}: {error}") from None
    options = {k: v for k, v in sorted(spec.options.items()) if k not in OWN}
    return Spec(spec.name, options)


def _form(of: About, about: Mapping[str, Any]) -> tuple[tuple[int, ...] | None, int | None]:
    """Shape of an input and classes: of the shard, else of its network in the mark."""
    shape, classes = of.shape, of.classes
    networks = about.get("networks")
    known = [n for n in networks if isinstance(n, dict)] if isinstance(networks, list) else []
    fitting = [n for n in known if n.get("spec") == of.model] or (known if len(known) == 1 else [])
    if fitting and shape is None:
        sides = fitting[0].get("shape")
        fine = isinstance(sides, list | tuple) and all(type(s) is int for s in sides)
        shape = tuple(sides) if fine else None  # type: ignore[arg-type]
    if fitting and classes is None:
        number = fitting[0].get("classes")
        classes = number if type(number) is int else None
    return shape, classes
