"""FlatBuffers, walked over a mapped file without unpacking it.

A table begins with the distance back to its vtable, which says where each of its fields lies, 0
for one that is not there.  Tables, vectors and texts are reached through distances forward.  Every
place is checked against the file before it is read.

Source: https://flatbuffers.dev/internals/
"""

import struct
from typing import NamedTuple, NoReturn

import numpy as np

from thrifty.errors import UserError
from thrifty.sources.mapped import Mapped
from thrifty.sources.stored import Bits

MOST_READS = 4_000_000
"""Numbers read in one walk over a file; a network of 50,000 operators takes fewer.  As parts may
be shared, a small file could otherwise describe a huge network."""
MOST_TEXT = 1 << 16
WINDOW = 1 << 12


class Vector(NamedTuple):
    """A vector: where its first element lies, and how many there are."""

    begin: int
    size: int


class Buffer:
    """The numbers, tables and vectors in a file.

    Args:
        mapped: the file.
        what: the file and what it should be, for errors.
    """

    def __init__(self, mapped: Mapped, what: str):
        self.mapped, self._what = mapped, what
        self._left = MOST_READS
        self._start, self._window = 0, b""

    def root(self) -> "Table":
        """The table that the file begins with."""
        return Table(self, self.forward(0))

    def number(self, at: int, kind: str) -> int:
        """The integer at byte ``at``, of a kind of :mod:`struct`, little-endian.

        Raises:
            UserError: it lies outside the file, or too many were read.
        """
        size = struct.calcsize(f"<{kind}")
        self.spend(1)
        if at < 0 or at + size > self.mapped.nbytes:
            self.refuse(f"it points to byte {at:,} of {self.mapped.nbytes:,}")
        place = at - self._start
        if not 0 <= place <= len(self._window) - size:
            self._start, place = at, 0
            self._window = self.mapped.bytes(at, min(at + WINDOW, self.mapped.nbytes))
        return int(struct.unpack_from(f"<{kind}", self._window, place)[0])

    def spend(self, count: int) -> None:
        """In place: note that ``count`` numbers are read; raises UserError if it was too many."""
        self._left -= count
        if self._left < 0:
            self.refuse("it has more parts than any network")

    def forward(self, at: int) -> int:
        """Where the distance at byte ``at`` leads."""
        distance = self.number(at, "I")
        if distance == 0:
            self.refuse(f"the distance at byte {at:,} is 0")
        return at + distance

    def vector(self, at: int, size: int) -> Vector:
        """The vector at byte ``at``, of elements of ``size`` bytes."""
        count = self.number(at, "I")
        if at + 4 + count * size > self.mapped.nbytes:
            self.refuse(
                f"a list at byte {at:,} has {count:,} elements, and the file is shorter than that"
            )
        return Vector(at + 4, count)

    def numbers(self, vector: Vector, dtype: str, most: int) -> Bits:
        """The elements of a vector of numbers, of which there may be ``most``."""
        if vector.size > most:
            self.refuse(f"a list at byte {vector.begin:,} has {vector.size:,} elements")
        self.spend(vector.size)
        kind = np.dtype(dtype)
        content = self.mapped.bytes(vector.begin, vector.begin + vector.size * kind.itemsize)
        return np.frombuffer(content, kind)

    def refuse(self, why: str) -> NoReturn:
        """Raises UserError: the file is damaged."""
        raise UserError(f"{self._what}: {why}; it is damaged, cut short or of another kind")


class Table:
    """A table at byte ``at`` of a buffer.

    Fields are numbered as in the schema; one that is not there is its default, or None.
    """

    def __init__(self, buffer: Buffer, at: int):
        self._buffer, self._at = buffer, at
        self._vtable = at - buffer.number(at, "i")
        self._size = buffer.number(self._vtable, "H")
        if self._size < 4 or self._size % 2:
            buffer.refuse(f"the table at byte {at:,} has a vtable of {self._size} bytes")

    def number(self, field: int, kind: str, otherwise: int = 0) -> int:
        """An integer field."""
        place = self._place(field)
        return otherwise if place is None else self._buffer.number(place, kind)

    def table(self, field: int) -> "Table | None":
        """A field that is a table."""
        place = self._place(field)
        return None if place is None else Table(self._buffer, self._buffer.forward(place))

    def vector(self, field: int, size: int) -> Vector:
        """A field that is a vector of elements of ``size`` bytes; empty if it is not there."""
        place = self._place(field)
        if place is None:
            return Vector(0, 0)
        return self._buffer.vector(self._buffer.forward(place), size)

    def numbers(self, field: int, dtype: str, most: int) -> Bits:
        """A field that is a vector of at most ``most`` numbers."""
        vector = self.vector(field, np.dtype(dtype).itemsize)
        return self._buffer.numbers(vector, dtype, most)

    def tables(self, field: int, most: int) -> "list[Table]":
        """A field that is a vector of at most ``most`` tables."""
        begin, count = self.vector(field, 4)
        if count > most:
            self._buffer.refuse(f"a list at byte {begin:,} has {count:,} tables")
        return [Table(self._buffer, self._buffer.forward(begin + 4 * i)) for i in range(count)]

    def text(self, field: int) -> str:
        """A field that is a text; empty if it is not there."""
        begin, count = self.vector(field, 1)
        if count > MOST_TEXT:
            self._buffer.refuse(f"a name at byte {begin:,} has {count:,} bytes")
        self._buffer.spend(count // 4)
        content = self._buffer.mapped.bytes(begin, begin + count)
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            self._buffer.refuse(f"a name at byte {begin:,} is no text")

    def _place(self, field: int) -> int | None:
        entry = 4 + 2 * field
        if entry + 2 > self._size:
            return None
        offset = self._buffer.number(self._vtable + entry, "H")
        return self._at + offset if offset else None
