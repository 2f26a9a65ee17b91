"""The wire format of protocol buffers, walked over a mapped file without unpacking it.

A message is a row of fields: a key (number and wire type), then a varint, 4 or 8 bytes, or a
length and so many bytes.  Fields are given as places in the file, so that a tensor of any size
costs nothing until it is read.  Every length is checked against the message around it.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterator
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from thrifty.errors import UserError
from thrifty.sources.mapped import Mapped

VARINT, EIGHT, BYTES, FOUR = 0, 1, 2, 5
MOST_VARINT = 10
MOST_FIELDS = 5_000_000
"""Fields in one walk over a file; a network of a million nodes has fewer."""
MOST_TEXT = 1 << 16
WINDOW = 1 << 12
STEP = 1 << 20
"""Bytes of packed varints that are decoded at a time; they may become 8 times as many."""


class Field(NamedTuple):
    """One field: for a varint its ``value``, else the bytes from ``begin`` to ``end``."""

    number: int
    wire: int
    value: int
    begin: int
    end: int


class Wire:
    """The fields of messages in a file.

    Args:
        mapped: the file.
        what: the file and what it should be, for errors.
    """

    def __init__(self, mapped: Mapped, what: str):
        self.mapped, self._what = mapped, what
        self._left = MOST_FIELDS
        self._start, self._window = 0, b""

    def fields(self, begin: int, end: int) -> Iterator[Field]:
        """The fields of the message from byte ``begin`` to ``end``.

        Raises:
            UserError: a key or a length does not hold, or there are too many fields.
        """
        at = begin
        while at < end:
            self._left -= 1
            if self._left < 0:
                self.refuse(f"it has more than {MOST_FIELDS:,} fields")
            key, at = self._varint(at, end)
            number, wire = key >> 3, key & 7
            if number == 0 or number >= 1 << 29:
                self.refuse(f"a field before byte {at:,} has the number {number}")
            if wire == VARINT:
                value, at = self._varint(at, end)
                yield Field(number, wire, value, at, at)
                continue
            size = 8 if wire == EIGHT else 4
            if wire == BYTES:
                size, at = self._varint(at, end)
            elif wire not in (EIGHT, FOUR):
                self.refuse(f"a field before byte {at:,} is of wire type {wire}")
            if size > end - at:
                self.refuse(
                    f"a field at byte {at:,} has {size:,} bytes where {end - at:,} are left"
                )
            yield Field(number, wire, 0, at, at + size)
            at += size

    def text(self, field: Field) -> str:
        """The content of a field as text.

        Raises:
            UserError: it is no UTF-8, or too long for a name.
        """
        self.expect(field, BYTES)
        if field.end - field.begin > MOST_TEXT:
            self.refuse(f"a name at byte {field.begin:,} has {field.end - field.begin:,} bytes")
        try:
            return self.content(field).decode("utf-8")
        except UnicodeDecodeError:
            self.refuse(f"a name at byte {field.begin:,} is no text")

    def content(self, field: Field) -> bytes:
        """The bytes of a short field."""
        if self._start <= field.begin and field.end <= self._start + len(self._window):
            return self._window[field.begin - self._start : field.end - self._start]
        return self.mapped.bytes(field.begin, field.end)

    def expect(self, field: Field, wire: int) -> None:
        """Raises UserError unless ``field`` is of that wire type."""
        if field.wire != wire:
            self.refuse(f"field {field.number} at byte {field.begin:,} is of the wrong wire type")

    def integers(self, field: Field, most: int) -> list[int]:
        """The signed integers of one field, packed or single, of which there may be ``most``.

        Raises:
            UserError: there are more, or it is of another type.
        """
        if field.wire == VARINT:
            return [signed(field.value)]
        self.expect(field, BYTES)
        if field.end - field.begin > MOST_VARINT * most:
            self.refuse(f"a list at byte {field.begin:,} is longer than {most} numbers")
        found, at = [], field.begin
        while at < field.end:
            value, at = self._varint(at, field.end)
            found.append(signed(value))
        return found

    def count_varints(self, field: Field) -> int:
        """How many varints a packed field holds."""
        pieces = self.mapped.pieces(field.begin, field.end, np.dtype("u1"))
        return sum(int(np.count_nonzero(piece < 0x80)) for piece in pieces)

    def varints(self, field: Field) -> Iterator[NDArray[np.uint64]]:
        """The varints of a packed field, in pieces.

        Raises:
            UserError: one is too long, or cut short.
        """
        kept = np.empty(0, np.uint8)
        for piece in self.mapped.pieces(field.begin, field.end, np.dtype("u1")):
            for at in range(0, len(piece), STEP):
                data = np.concatenate([kept, piece[at : at + STEP]])
                ends = np.flatnonzero(data < 0x80)
                last = int(ends[-1]) + 1 if len(ends) else 0
                kept = data[last:]
                if len(kept) >= MOST_VARINT:
                    self.refuse(f"a number before byte {field.end:,} is too long")
                if last:
                    yield self._decoded(data[:last], ends, field)
        if len(kept):
            self.refuse(f"the numbers before byte {field.end:,} are cut short")

    def refuse(self, why: str) -> NoReturn:
        """Raises UserError: the file is damaged."""
        raise UserError(f"{self._what}: {why}; it is damaged, cut short or of another kind")

    def _decoded(
        self, data: NDArray[np.uint8], ends: NDArray[np.intp], field: Field
    ) -> NDArray[np.uint64]:
        starts = np.concatenate([[0], ends[:-1] + 1])
        lengths = ends - starts + 1
        longest = int(lengths.max())
        if longest > MOST_VARINT:
            self.refuse(f"a number before byte {field.end:,} is too long")
        found = np.zeros(len(ends), np.uint64)
        for k in range(longest):
            has = lengths > k
            part = (data[starts[has] + k] & 0x7F).astype(np.uint64)
            found[has] |= part << np.uint64(7 * k)
        return found

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """The varint at byte ``at``, and the byte behind it."""
        value = k = 0
        while True:
            if at + k >= end:
                self.refuse(f"a number at byte {at:,} is cut short")
            if k == MOST_VARINT:
                self.refuse(f"a number at byte {at:,} is longer than {MOST_VARINT} bytes")
            byte = self._byte(at + k)
            value |= (byte & 0x7F) << (7 * k)
            k += 1
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, at + k

    def _byte(self, at: int) -> int:
        place = at - self._start
        if not 0 <= place < len(self._window):
            self._start = at
            self._window = self.mapped.bytes(at, min(at + WINDOW, self.mapped.nbytes))
            place = 0
        return self._window[place]


def signed(value: int) -> int:
    """The 64 bits of ``value`` as a signed integer."""
    return value - (1 << 64) if value >= 1 << 63 else value
