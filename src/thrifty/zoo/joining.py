"""A zoo in few large shards: the same models, of which a layer is one view of a file.

A zoo is trained in stacks of a few dozen models, each a file at each checkpoint, so that a layer
of ten thousand models is copied from 160 files.  Joined, models of one network (and, of twins, of
one method and sparsity) lie in one file at each checkpoint, and ``Zoo.weights`` copies nothing.

A joined zoo is there to be read, and to make twins of; it is not trained on, for the zoo that it
was joined from is.  Work goes segment by segment, and a join that was killed goes on where it was.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from thrifty.errors import UserError
from thrifty.zoo.building import masks_of, one_model, own, told_apart
from thrifty.zoo.courses import write_classes
from thrifty.zoo.folder import Folder
from thrifty.zoo.index import FIRST, rebuild, write_rows
from thrifty.zoo.opened import Opened, Pieces
from thrifty.zoo.predictions import Stored
from thrifty.zoo.reading import Shard
from thrifty.zoo.shards import MOST_MODELS, write_shard, write_sparse_shard
from thrifty.zoo.table import Table
from thrifty.zoo.zoo import Zoo

MOST_BYTES = 1 << 28
"""Bytes of the weights of a shard: larger models are fewer in one."""
LEVEL = ("method", "asked")
"""Columns of twins in which those of one shard are alike."""


class Segment(NamedTuple):
    """Models that are to lie in one shard."""

    stack: str
    epoch: int
    table: Table
    """Their rows of the index of the zoo that is joined."""


def join(zoo: Zoo, out: Path | str, most: int = MOST_MODELS) -> Zoo:
    """Write all models of a zoo, at all their checkpoints, into as few shards as may be.

    Args:
        zoo: all or some of a zoo of models or twins.
        out: a new folder, or that of a join of the same models that was killed.
        most: models of a shard.

    Raises:
        UserError: there are no models, a shard cannot be read, or ``out`` holds something else.
    """
    if not 1 <= most <= MOST_MODELS:
        raise UserError(f"shards of {most} models are asked for; one has 1 to {MOST_MODELS:,}")
    if not len(zoo):
        raise UserError(f"{zoo.folder.root}: there are no models to join")
    folder, opened = Folder(out), Opened(zoo.folder)
    if zoo.folder.root.resolve() == folder.root.resolve():
        raise UserError(f"{out} is the zoo that is to be joined; give --out another folder")
    mark = {k: v for k, v in zoo.about.items() if k != "format"}
    with folder.lock():
        folder.prepare(mark | {"joined": [len(zoo), len(zoo.index), most]})
        if zoo.folder.recipe.is_file() and not folder.recipe.exists():
            shutil.copyfile(zoo.folder.recipe, folder.recipe)
        for segment in segments(zoo, opened, most):
            if not folder.done(segment.stack, segment.epoch):
                _write(zoo.folder, opened, folder, segment)
        rebuild(folder.root)
    return Zoo(folder.root)


def segments(zoo: Zoo, opened: Opened, most: int) -> Iterator[Segment]:
    """What each shard of the joined zoo is to hold; the same for the same zoo."""
    numbers: dict[object, int] = {}
    for epoch in zoo.epochs:
        table = zoo.at(epoch)
        for kind, places in _kinds(table, opened, epoch).items():
            size = _bytes(opened.get(table["stack"][places[0]], epoch))
            each = max(1, min(most, MOST_BYTES // max(size, 1)))
            for part, at in enumerate(range(0, len(places), each)):
                number = numbers.setdefault((kind, part), len(numbers))
                some = np.array(places[at : at + each], np.int64)
                yield Segment(f"joined{number:04d}", epoch, table.take(some))


def _kinds(table: Table, opened: Opened, epoch: int) -> dict[object, list[int]]:
    """Places of the models that may lie in one shard, by what they have in common."""
    names = table["stack"].tolist()
    forms = {name: _form(opened.get(name, epoch)) for name in dict.fromkeys(names)}
    levels = [table[name].tolist() for name in LEVEL if name in table]
    found: dict[object, list[int]] = {}
    for place, name in enumerate(names):
        level = tuple(str(column[place]) for column in levels)
        found.setdefault((forms[name], level), []).append(place)
    return found


def _form(shard: Shard) -> object:
    """Network and tensors."""
    about = shard.about
    network = str(told_apart(shard)) if about.model else ""
    shapes = tuple((name, shard.shape(name)) for name in sorted(shard.names))
    return (network, about.shape, about.classes, shapes, tuple(sorted(shard.sparse)))


def _bytes(shard: Shard) -> int:
    """Of one model, had it no zeros."""
    return sum(4 * int(np.prod(shard.shape(name), dtype=np.int64)) for name in shard.names)


def _write(of: Folder, opened: Opened, to: Folder, segment: Segment) -> None:
    """The files of one segment, its rows last."""
    table, every = segment.table, np.arange(len(segment.table), dtype=np.int64)
    pieces = Pieces(opened, table, every)
    shards = [piece.shard for piece in pieces]
    first = shards[0]
    tensors = {name: torch.from_numpy(own(pieces.tensor(name))) for name in first.names}
    about = {
        "stack": segment.stack,
        "epoch": segment.epoch,
        "first": int(table["model"][0]),
        "model": one_model(shards) if first.about.model else "",
        "shape": first.about.shape,
        "classes": first.about.classes,
    }
    path = to.shard(segment.stack, segment.epoch)
    if first.sparse:
        write_sparse_shard(path, tensors, masks_of(pieces, tensors), about)
    else:
        write_shard(path, tensors, about)
    classes = Stored(of, table.to_dict())(every)
    if classes is not None:
        small = np.uint8 if classes.max(initial=0) < 256 else np.uint16
        write_classes(to.predictions(segment.stack, segment.epoch), classes.astype(small))
    columns = {name: table[name] for name in table.columns if name not in FIRST}
    write_rows(to.root, segment.stack, segment.epoch, {"model": table["model"]} | columns)
