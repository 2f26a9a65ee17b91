"""The shards that a zoo has open: as many as there may be files open, the longest unused let go."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thrifty.errors import UserError
from thrifty.zoo.folder import Folder
from thrifty.zoo.reading import Array, Shard
from thrifty.zoo.table import Table

MOST_OPEN = 256
Index = slice | NDArray[np.int64]


class Piece(NamedTuple):
    """Models of a selection that lie in one shard."""

    shard: Shard
    places: Index
    """In the selection."""
    rows: Index
    """In the shard."""


class Opened:
    """Shards of a zoo by stack and epoch."""

    def __init__(self, folder: Folder):
        self._folder = folder
        self._shards: OrderedDict[tuple[str, int], Shard] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, stack: str, epoch: int) -> Shard:
        """The shard of a segment, opened if it is not.

        Raises:
            UserError: it is missing or damaged, or of another segment than its name says.
        """
        key = (stack, epoch)
        with self._lock:
            shard = self._shards.get(key)
            if shard is not None:
                self._shards.move_to_end(key)
                return shard
            shard = self._open(stack, epoch)
            self._shards[key] = shard
            if len(self._shards) > MOST_OPEN:
                self._shards.popitem(last=False)
            return shard

    def _open(self, stack: str, epoch: int) -> Shard:
        path = self._folder.shard(stack, epoch)
        if not path.exists():
            raise UserError(
                f"{path} is missing, and the index has models in it; copy it again, or go on "
                f"without them: zoo.sound()"
            )
        shard = Shard(path)
        said = (shard.about.stack, shard.about.epoch)
        if said != (stack, epoch):
            raise UserError(
                f"{path} says that it is stack {said[0]!r} at epoch {said[1]}, and the index says "
                f"stack {stack!r} at epoch {epoch}; one of them was renamed: copy the zoo again"
            )
        return shard


class Pieces:
    """Where the models of a selection lie: worked out once, then read many times.

    Args:
        table: the index.
        rows: numbers of rows of ``table``, one a model.
    """

    def __init__(self, opened: Opened, table: Table, rows: NDArray[np.int64]):
        self._opened, self.count = opened, len(rows)
        stacks, epochs = table["stack"][rows].tolist(), table["epoch"][rows].tolist()
        own = table["row"][rows]
        places: dict[tuple[str, int], list[int]] = {}
        for place, key in enumerate(zip(stacks, epochs, strict=True)):
            places.setdefault(key, []).append(place)
        self._parts = []
        for key, each in places.items():
            where = np.array(each, np.int64)
            self._parts.append((key, _index(where), _index(own[where]), int(own[where].max())))

    def __iter__(self) -> Iterator[Piece]:
        for (stack, epoch), places, rows, most in self._parts:
            shard = self._opened.get(stack, epoch)
            if most >= shard.about.count:
                raise UserError(
                    f"{shard.path} has {shard.about.count} models, and the index has one in its "
                    f"row {most}; one of them is of another zoo: copy the zoo again"
                )
            yield Piece(shard, places, rows)

    def tensor(self, name: str) -> Array:
        """(models, *shape): a view of the file where one shard holds all in order, else a copy.

        Raises:
            UserError: a shard cannot be read, or the tensor is not of one shape in all.
        """
        pieces = list(self)
        if len(pieces) == 1 and isinstance(pieces[0].rows, slice):
            return pieces[0].shard.tensor(name, pieces[0].rows)
        first = pieces[0].shard.shape(name)
        for piece in pieces:
            if piece.shard.shape(name) != first:
                said = " and ".join(
                    f"{p.shard.shape(name)} in {p.shard.path.name} "
                    f"({p.shard.about.model or 'a network without a name'})"
                    for p in (pieces[0], piece)
                )
                raise UserError(
                    f"{name} is {said}; choose models of one architecture with zoo.where"
                )
        found: Array | None = None
        for piece in pieces:
            part = read(piece, name)
            if found is None:
                found = np.empty((self.count, *first), part.dtype)
            found[piece.places] = part
        assert found is not None
        return found


def read(piece: Piece, name: str) -> Array:
    """(models of the piece, *shape)."""
    if isinstance(piece.rows, slice):
        return piece.shard.tensor(name, piece.rows)
    whole: Array = piece.shard.tensor(name)[piece.rows]
    return whole


def kept(piece: Piece, name: str) -> NDArray[np.bool_] | None:
    """(models of the piece, *shape) which weights are kept; ``None`` where all are."""
    if isinstance(piece.rows, slice):
        return piece.shard.mask(name, piece.rows)
    whole = piece.shard.mask(name)
    return None if whole is None else whole[piece.rows]


def _index(numbers: NDArray[np.int64]) -> Index:
    """A slice if they follow one another, for it copies nothing."""
    begin, end = int(numbers[0]), int(numbers[-1]) + 1
    if end - begin == len(numbers) and (np.diff(numbers) == 1).all():
        return slice(begin, end)
    return numbers
