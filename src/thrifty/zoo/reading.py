"""Reading shards: a map of the file, its header parsed once, and views of it.

Nobody vouches for a shard.  Its header is checked against the size of the file before anything
is mapped, every tensor has as many models as the metadata says, and of a sparse tensor the bits
of each model are counted against its values when they are read.  A dense tensor takes at most
64 times the bytes of its bits, so no file makes a reader take memory that it does not have.

Views stay valid as long as they are held.  A file that is cut short under a map cannot be read
any more without killing the process, so its size is asked at each access; files that are
replaced by renaming, as writers here do, are not affected.
"""

import json
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from thrifty.errors import UnknownName, UserError
from thrifty.registry import suggest
from thrifty.sources.header import LENGTH_BYTES, check_covered, header_length, parse_header
from thrifty.sources.mapped import open_file
from thrifty.sources.stored import BITS
from thrifty.zoo.shards import DTYPES, KEY, MOST_MODELS, PARTS

MOST_HEADER = 1 << 23
"""Bytes of the longest header of a shard."""
Array = NDArray[Any]


@dataclass(frozen=True)
class About:
    """What a shard says of itself."""

    stack: str
    epoch: int
    first: int
    """Id of the model in row 0."""
    count: int
    model: str
    """What :func:`thrifty.resolve` builds such a model from."""
    shape: tuple[int, ...] | None
    """Of an input, if the shard says it."""
    classes: int | None


@dataclass(frozen=True)
class Sparse:
    """A tensor of which only the kept values are stored."""

    shape: tuple[int, ...]
    """Of one model."""
    bits: Array
    """(models, ceil(size / 8)) uint8."""
    values: Array
    starts: NDArray[np.int64]
    """(models + 1,) where the values of each model begin."""

    def kept(self, rows: slice) -> NDArray[np.bool_]:
        """(rows, size) True where a value is kept, checked against the values.

        Raises:
            ValueError: bits and values disagree.
        """
        size = int(np.prod(self.shape, dtype=np.int64))
        whole = np.unpackbits(self.bits[rows], axis=1, bitorder="little").view(np.bool_)
        counts = self.starts[1:][rows] - self.starts[:-1][rows]
        if whole[:, size:].any() or (whole.sum(1) != counts).any():
            raise ValueError("its bits and its values disagree")
        return whole[:, :size]

    def dense(self, rows: slice) -> Array:
        """(rows, *shape), zero where nothing is kept."""
        kept = self.kept(rows)
        found = np.zeros(kept.shape, self.values.dtype)
        begin, end = self.starts[:-1][rows][:1], self.starts[1:][rows][-1:]
        found[kept] = self.values[int(begin.sum()) : int(end.sum())]
        return found.reshape(-1, *self.shape)


class Shard:
    """The models of a stack at one epoch, mapped.

    Raises:
        UserError: the file is missing, cut short, damaged, or no shard; the message names it and
            the rule that it breaks.
    """

    def __init__(self, path: Path):
        self.path = path
        with open_file(path) as file:
            self._nbytes = os.fstat(file.fileno()).st_size
            length = header_length(file.read(LENGTH_BYTES), self._nbytes, str(path))
            if length > MOST_HEADER:
                self._refuse(f"its header has {length:,} bytes, more than {MOST_HEADER:,}")
            header = parse_header(file.read(length), str(path))
            check_covered(header, length, self._nbytes, str(path))
            said = self._said(header.metadata)
            self.about = self._about(said)
            self._map = mmap.mmap(file.fileno(), self._nbytes, access=mmap.ACCESS_READ)
        start = LENGTH_BYTES + length
        views: dict[str, Array] = {}
        for entry in header.tensors:
            if entry.dtype not in DTYPES:
                self._refuse(f"{entry.name!r} is {entry.dtype}, which no shard has")
            dtype = BITS[entry.dtype]
            number = (entry.end - entry.begin) // dtype.itemsize
            view: Array = np.frombuffer(self._map, dtype, number, start + entry.begin)
            views[entry.name] = (view if view.flags.aligned else view.copy()).reshape(entry.shape)
        self.sparse = {n: self._sparse(n, s, views) for n, s in self._shapes(said).items()}
        self.dense = views
        for name, view in views.items():
            if view.ndim < 1 or len(view) != self.about.count:
                self._refuse(
                    f"{name!r} is {view.shape} and the shard has {self.about.count} models"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """Tensors of a model."""
        return (*self.dense, *self.sparse)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor of one model."""
        return self.dense[name].shape[1:] if name in self.dense else self._one(name).shape

    def tensor(self, name: str, rows: slice = slice(None)) -> Array:
        """(rows, *shape): a read-only view of the file, or, of a sparse tensor, a new array.

        Raises:
            UserError: there is no such tensor, or it is damaged.
        """
        self._alive()
        if name in self.dense:
            return self.dense[name][rows]
        one = self._one(name)
        try:
            return one.dense(rows)
        except ValueError as error:
            self._refuse(f"{name!r}: {error}")

    def mask(self, name: str, rows: slice = slice(None)) -> NDArray[np.bool_] | None:
        """(rows, *shape) of bool, True where a weight is kept; ``None`` of a dense tensor."""
        self._alive()
        if name in self.dense:
            return None
        one = self._one(name)
        try:
            return one.kept(rows).reshape(-1, *one.shape)
        except ValueError as error:
            self._refuse(f"{name!r}: {error}")

    def model(self, row: int) -> dict[str, Array]:
        """Every tensor of one model."""
        self._alive()
        found = {name: view[row, ...] for name, view in self.dense.items()}
        for name in self.sparse:
            found[name] = self.tensor(name, slice(row, row + 1))[0, ...]
        return found

    def _one(self, name: str) -> Sparse:
        if name not in self.sparse:
            raise UnknownName(
                f"{self.path.name} has no tensor {name!r}; {suggest(name, self.names)}"
            )
        return self.sparse[name]

    def _alive(self) -> None:
        if self._map.size() < self._nbytes:
            raise UserError(
                f"{self.path} had {self._nbytes:,} bytes and has {self._map.size():,} now: it was "
                f"cut short while it was read; copy it again"
            )

    def _said(self, metadata: Mapping[str, str]) -> dict[str, Any]:
        try:
            said = json.loads(metadata[KEY])
        except (KeyError, ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            self._refuse(f"its metadata has no entry {KEY!r} that can be read")
        return said

    def _about(self, said: Mapping[str, Any]) -> About:
        stack, model, shape = said.get("stack"), said.get("model"), said.get("shape")
        counts = [said.get(k) for k in ("epoch", "first", "count")]
        classes = said.get("classes")
        fine = (
            isinstance(stack, str)
            and isinstance(model, str)
            and all(type(n) is int and 0 <= n < 1 << 62 for n in counts)
            and 1 <= said["count"] <= MOST_MODELS
            and (shape is None or (isinstance(shape, list) and all(map(_side, shape))))
            and (classes is None or _side(classes))
        )
        if not fine:
            self._refuse("its metadata says no stack, epoch, first, count and model")
        epoch, first, count = (int(said[k]) for k in ("epoch", "first", "count"))
        return About(
            said["stack"],
            epoch,
            first,
            count,
            said["model"],
            None if shape is None else tuple(shape),
            classes,
        )

    def _shapes(self, said: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        shapes = said.get("sparse", {})
        if not isinstance(shapes, dict) or not all(
            isinstance(s, list) and len(s) <= 32 and all(map(_side, s)) for s in shapes.values()
        ):
            self._refuse("'sparse' in its metadata is no object of shapes")
        return {name: tuple(s) for name, s in shapes.items()}

    def _sparse(self, name: str, shape: tuple[int, ...], views: dict[str, Array]) -> Sparse:
        """In place: takes the three parts of a sparse tensor out of ``views``."""
        parts = [views.pop(name + part, None) for part in PARTS]
        if any(part is None for part in parts) or name in views:
            self._refuse(f"the sparse tensor {name!r} has not its parts {', '.join(PARTS)}")
        bits, values, starts = (np.asarray(part) for part in parts)
        size = 1
        for side in shape:
            size *= side
        n = self.about.count
        if bits.dtype != np.uint8 or bits.shape != (n, -(-size // 8)):
            self._refuse(f"{name}.mask is no bit an element of {n} models of {shape}")
        if starts.dtype != np.int64 or starts.shape != (n + 1,) or values.ndim != 1:
            self._refuse(f"{name}.starts are not {n + 1} whole numbers, or its values no list")
        if starts[0] != 0 or starts[-1] != len(values) or (np.diff(starts) < 0).any():
            self._refuse(f"{name}.starts do not divide its {len(values):,} values")
        return Sparse(shape, bits, values, starts)

    def _refuse(self, why: str) -> NoReturn:
        raise UserError(f"{self.path} is no whole shard of a zoo: {why}; copy it or train it again")


def _side(value: object) -> bool:
    return type(value) is int and 0 < value < 1 << 40
