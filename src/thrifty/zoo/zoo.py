"""A zoo as people use it: a population of networks in a folder, read-only.

>>> import thrifty
>>> zoo = thrifty.Zoo("zoo/")                                       # doctest: +SKIP
>>> zoo.where("act == 'tanh' and lr > 1e-4").weights("conv1.weight")  # doctest: +SKIP

What is read is what was done when the folder was opened; another process may go on writing.
Opening reads the index, and nothing of the shards: those that are missing or damaged are named
when they are needed, and :meth:`Zoo.sound` leaves out their models.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from thrifty.errors import UserError
from thrifty.population.stack import Stack
from thrifty.zoo import asking, building, checking
from thrifty.zoo.folder import Folder
from thrifty.zoo.index import FIRST, read_index
from thrifty.zoo.opened import Opened, Pieces
from thrifty.zoo.reading import Array, Shard
from thrifty.zoo.roster import LAST, Roster, Rows, said
from thrifty.zoo.table import Table

METRICS = (
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "test_loss",
    "test_accuracy",
    "diverged",
    "sparsity",
    "layers",
    "agreement",
    "kappa",
    "error_agreement",
    "parent",
    "parent_accuracy",
)
"""Columns that are measured; the others, but for those that say where a model lies, decide it."""


class Zoo:
    """The models of a zoo, or some of them.

    Args:
        folder: that ``thrifty zoo train``, ``twins`` or ``import`` wrote.

    Raises:
        UserError: the folder is no zoo, or its mark is damaged.
    """

    def __init__(self, folder: str | Path):
        self.folder = Folder(folder)
        self.about: dict[str, Any] = self.folder.about()
        table, self.unread = read_index(folder)
        self._opened = Opened(self.folder)
        self._set(table)

    def _set(self, table: Table) -> None:
        self.index = table
        self._roster = Roster(table)
        self._pieces: dict[int, Pieces] = {}

    def _some(self, members: Rows) -> "Zoo":
        """A zoo of some of the models, which shares what is open."""
        made = Zoo.__new__(Zoo)
        made.folder, made.about, made.unread = self.folder, self.about, self.unread
        made._opened = self._opened
        chosen = np.zeros(len(self), np.bool_)
        chosen[members] = True
        made._set(self.index.take(chosen[self._roster.members]))
        return made

    def some(self, places: Sequence[int]) -> "Zoo":
        """A zoo of the models at these places, in their order here."""
        return self._some(np.asarray(places, np.int64))

    def __len__(self) -> int:
        return self._roster.count

    def __repr__(self) -> str:
        kind = "twins" if self.kind == "twins" else "models"
        return f"<Zoo {self.folder.root}: {len(self):,} {kind}, {len(self.epochs)} epochs>"

    def __getitem__(self, place: int) -> "Member":
        """The model at a place, counted from 0; of a whole zoo of models that is its id."""
        if not -len(self) <= place < len(self):
            raise IndexError(f"{self.folder.root} has {len(self):,} models, and none at {place}")
        return Member(self, place % len(self))

    def __iter__(self) -> Iterator["Member"]:
        return (Member(self, place) for place in range(len(self)))

    @property
    def kind(self) -> str:
        """``models`` or ``twins``."""
        return str(self.about["kind"])

    @property
    def epochs(self) -> tuple[int, ...]:
        """Every epoch of which some model has a checkpoint."""
        return self._roster.epochs

    def at(self, epoch: int = LAST) -> Table:
        """The rows of the index at an epoch, one a model; without those that have none.

        Args:
            epoch: -1 is the last checkpoint of each model.

        Raises:
            UserError: no model has a checkpoint of that epoch.
        """
        rows = self._roster.rows(epoch)
        return self.index.take(rows[rows >= 0])

    def where(self, expression: str, epoch: int = LAST) -> "Zoo":
        """The models of which ``expression`` holds, with all their checkpoints.

        Args:
            expression: comparisons of columns of the index with numbers and texts, joined by
                ``and``, ``or``, ``not``; see :mod:`thrifty.zoo.asking`.
            epoch: of the rows that are asked; models without a checkpoint of it are left out.

        Raises:
            UserError: it cannot be read, or names an unknown column.
        """
        rows = self._roster.rows(epoch)
        members = np.flatnonzero(rows >= 0)
        holds = asking.rows_where(self.index.take(rows[members]), expression)
        return self._some(members[holds])

    def weights(self, name: str, epoch: int = LAST) -> Array:
        """(models, *shape) of one tensor of every model, in order.

        Where one shard holds all, a read-only view of the file, of which nothing is copied; else
        an array of its own.  Sparse twins give zeros where a weight is cut.

        Raises:
            UserError: there is no such tensor, some model has no checkpoint of that epoch, the
                models are of several shapes, or a shard cannot be read.
        """
        return self._where(epoch).tensor(name)

    def pieces(self, name: str, epoch: int = LAST) -> Iterator[Array]:
        """The same, shard by shard, of which nothing is copied where models lie in order."""
        return (found for _, found in building.read_all(self._where(epoch), name))

    def names(self, epoch: int = LAST) -> tuple[str, ...]:
        """Tensors of a model; of several architectures those of the first.

        Raises:
            UserError: the zoo has no models, or the first shard cannot be read.
        """
        return next(iter(self._where(epoch))).shard.names

    def stack(self, epoch: int = LAST) -> Stack:
        """The models as one stack, ready to be trained, pruned or scored together.

        Raises:
            UserError: they are of several architectures (the message names them), or there are
                none.
        """
        rows = self._roster.rows(epoch)
        return building.stack(self._where(epoch), self.index.take(rows), self.about)

    def check(self) -> list[str]:
        """What is wrong with the folder, a sentence each; empty if all is well.

        Every shard is opened and every sparse tensor counted.
        """
        return checking.problems(self)

    def sound(self) -> "Zoo":
        """The models all of whose shards can be read and agree with the index."""
        bad = checking.unsound(self)
        rows = zip(self.index["stack"].tolist(), self.index["epoch"].tolist(), strict=True)
        hit = np.array([key in bad for key in rows], np.bool_)
        members = np.setdiff1d(np.arange(len(self)), self._roster.members[hit])
        return self._some(members)

    def shard(self, stack: str, epoch: int) -> Shard:
        """The shard of a segment.

        Raises:
            UserError: it is missing or damaged.
        """
        return self._opened.get(stack, epoch)

    @property
    def doubled(self) -> int:
        """Rows of the index that repeat a model at an epoch, and are left out."""
        return self._roster.doubled

    def _where(self, epoch: int) -> Pieces:
        if epoch not in self._pieces:
            rows = self._roster.rows(epoch)
            if not len(rows):
                raise UserError(
                    f"{self.folder.root}: there are no models here; train some, or ask where for "
                    f"others"
                )
            absent = np.flatnonzero(rows < 0)
            if len(absent):
                first = self[int(absent[0])]
                raise UserError(
                    f"{len(absent):,} of {len(self):,} models have no checkpoint of epoch {epoch} "
                    f"(model {first.id} has {said(first.epochs)}); choose those that have: "
                    f"zoo.where('True', epoch={epoch})"
                )
            self._pieces[epoch] = Pieces(self._opened, self.index, rows)
        return self._pieces[epoch]


class Member:
    """One model of a zoo."""

    def __init__(self, zoo: Zoo, place: int):
        self._zoo, self._place = zoo, place

    def __repr__(self) -> str:
        return f"<model {self.id} of {self._zoo.folder.root}>"

    @property
    def id(self) -> int:
        """Its number in the zoo that it was trained in; of a twin that of its parent."""
        return int(self._zoo.index["model"][self._row(LAST)])

    @property
    def epochs(self) -> tuple[int, ...]:
        """Its checkpoints."""
        return self._zoo._roster.epochs_of(self._place)

    def row(self, epoch: int = LAST) -> dict[str, Any]:
        """Its row of the index at an epoch.

        Raises:
            UserError: it has no checkpoint of that epoch.
        """
        at = self._row(epoch)
        index = self._zoo.index
        return {name: index[name][at : at + 1].tolist()[0] for name in index.columns}

    @property
    def hyper(self) -> dict[str, Any]:
        """What it was trained with: columns of the index that are not measured."""
        return {k: v for k, v in self.row().items() if k not in (*FIRST, *METRICS)}

    @property
    def accuracy(self) -> float:
        """On the test set at the last checkpoint, 0 to 1; NaN if it was not measured."""
        index = self._zoo.index
        if "test_accuracy" not in index:
            return float("nan")
        return float(index["test_accuracy"][self._row(LAST)])

    def tensors(self, epoch: int = LAST) -> dict[str, Array]:
        """Every tensor by name: read-only views of the file, or arrays of sparse tensors.

        Raises:
            UserError: it has no checkpoint of that epoch, or its shard cannot be read.
        """
        shard, row = self._found(epoch)
        return shard.model(row)

    def masks(self, epoch: int = LAST) -> dict[str, Array]:
        """Bool, by name, True where a weight is kept; of sparse tensors only."""
        shard, row = self._found(epoch)
        found = {name: shard.mask(name, slice(row, row + 1)) for name in shard.sparse}
        return {name: mask[0, ...] for name, mask in found.items() if mask is not None}

    def module(self, epoch: int = LAST, model: str | None = None) -> nn.Module:
        """The network, in evaluation mode, with tensors of its own.

        Args:
            epoch: -1 is the last checkpoint.
            model: what to build it from, as :func:`thrifty.resolve` takes it; by default what the
                shard says, which may be built-in and published networks only, for a file must not
                choose code to run.

        Raises:
            UserError: there is no such checkpoint, its shard is damaged, a weight is not finite,
                or the network cannot be built.
        """
        shard, row = self._found(epoch)
        dropout = self.row(epoch).get("dropout")
        return building.module(shard, row, self.mark, dropout, model)

    def shard(self, epoch: int = LAST) -> Shard:
        """The shard that it lies in."""
        return self._found(epoch)[0]

    @property
    def mark(self) -> dict[str, Any]:
        """What the mark of its zoo says."""
        return self._zoo.about

    def _row(self, epoch: int) -> int:
        row = int(self._zoo._roster.rows(epoch)[self._place])
        if row < 0:
            raise UserError(
                f"model {self.id} has no checkpoint of epoch {epoch}; {said(self.epochs)}"
            )
        return row

    def _found(self, epoch: int) -> tuple[Shard, int]:
        at, index = self._row(epoch), self._zoo.index
        shard = self._zoo.shard(index["stack"][at], int(index["epoch"][at]))
        row = int(index["row"][at])
        if row >= shard.about.count:
            raise UserError(
                f"{shard.path} has {shard.about.count} models, and the index has one in its row "
                f"{row}; one of them is of another zoo: copy the zoo again"
            )
        return shard, row
