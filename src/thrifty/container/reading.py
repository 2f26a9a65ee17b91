"""Reading a ``.thrifty`` file: mapped, a tensor at a time, dense or as positions and values.

Opening reads the header and nothing else.  A tensor's checksum is compared before its bytes are
looked at, which tells a damaged copy; it is no defence against who made the file, and everything
else is checked as if it were not there.
"""

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thrifty.container.header import MOST_HEADER, Entry, Header, parse, refuse, said
from thrifty.container.rounding import widened
from thrifty.container.sections import unpacked
from thrifty.container.writing import MAGIC, PREFIX
from thrifty.errors import UserError
from thrifty.native import unpack
from thrifty.native.formats import DTYPES
from thrifty.native.unpack import Bytes
from thrifty.registry import suggest
from thrifty.sources.mapped import Mapped, open_file

_NONE = np.empty(0, np.uint8)


class _Content(NamedTuple):
    """The sections of a tensor, unpacked."""

    positions: Bytes
    planes: list[Bytes]
    scales: NDArray[np.float32] | None


class Reader:
    """The tensors of the file ``path``.  A context manager: closing it lets go of the file.

    Two threads may read from one reader.

    Args:
        path: a file that :func:`thrifty.container.write` wrote, or anybody.

    Attributes:
        metadata: strings, by name.
        tensors: entries by name, in the order in which they lie in the file.
        nbytes: of the whole file.

    Raises:
        UserError: there is no such file, or its header breaks a rule of the format.
    """

    metadata: Mapping[str, str]
    tensors: Mapping[str, Entry]

    def __init__(self, path: str | Path):
        self._label = str(path)
        file = open_file(Path(path))
        mapped = None
        try:
            mapped = Mapped(file, self._label)
            header, self._start = _header(mapped, self._label)
        except BaseException:
            (mapped or file).close()
            raise
        self._mapped = mapped
        self.nbytes = mapped.nbytes
        self.metadata = header.metadata
        self.tensors = {entry.name: entry for entry in header.tensors}

    def __enter__(self) -> "Reader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; arrays that were read stay."""
        self._mapped.close()

    def read(self, name: str) -> NDArray[Any]:
        """The tensor ``name``, dense, in its shape and the dtype of the network.

        Bfloat16 comes as uint16 and the 8-bit floats as uint8, for numpy has neither.

        Raises:
            UserError: there is no such tensor, or what is in the file breaks a rule.
        """
        entry = self._entry(name)
        with _told(entry, self._label):
            content = self._content(entry)
            bits = unpack.dense(
                entry.encoding, content.positions, content.planes, entry.rotated, entry.count
            )
            stored = _numbers(bits, entry).reshape(entry.shape)
            if entry.values == entry.dtype:
                return stored
            scales = content.scales
            if scales is not None:
                scales = scales.reshape(-1, *[1] * (stored.ndim - 1))
            return widened(stored, entry.dtype, entry.values, scales)

    def sparse(self, name: str) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Where the tensor ``name`` has values, and the values; nothing dense is made.

        Returns:
            Flat indices, int64, ascending, and as many values in the dtype of the network, as
            :meth:`read` gives it.  Of a tensor that is stored ``raw`` all elements, zeros among
            them.

        Raises:
            UserError: as :meth:`read`.
        """
        entry = self._entry(name)
        with _told(entry, self._label):
            content = self._content(entry)
            places = unpack.indices(entry.encoding, content.positions, entry.count)
            if places.size != entry.nnz:
                raise UserError("there are more or fewer values than positions")
            bits = unpack.dense("raw", _NONE, content.planes, entry.rotated, entry.nnz)
            stored = _numbers(bits, entry)
            if entry.values == entry.dtype:
                return places, stored
            scales = content.scales
            if scales is not None and entry.count:
                scales = scales[places // (entry.count // entry.shape[0])]
            elif scales is not None:
                scales = scales[:0]
            return places, widened(stored, entry.dtype, entry.values, scales)

    def stored(self, name: str) -> NDArray[Any]:
        """The stored values of the tensor ``name`` as they are, in the dtype ``entry.values``."""
        entry = self._entry(name)
        with _told(entry, self._label):
            planes = self._content(entry).planes
            return _numbers(unpack.dense("raw", _NONE, planes, entry.rotated, entry.nnz), entry)

    def _entry(self, name: str) -> Entry:
        if name not in self.tensors:
            raise UserError(
                f"{self._label} has no tensor {said(name)}; {suggest(name, self.tensors)}"
            )
        return self.tensors[name]

    def _content(self, entry: Entry) -> _Content:
        begin = self._start + entry.offset
        content = self._mapped.bytes(begin, begin + entry.nbytes)
        if zlib.crc32(content) != entry.crc32:
            raise UserError("its bytes are not those that were written (crc32)")
        raw, at = [], 0
        for section in entry.sections:
            part = unpacked(content[at : at + section.nbytes], section.raw)
            raw.append(np.frombuffer(part, np.uint8))
            at += section.nbytes
        positions = _NONE if entry.encoding == "raw" else raw.pop(0)
        scales = _scales(raw.pop()) if entry.scaled else None
        size = DTYPES[entry.values].itemsize
        planes = np.split(raw[0], size) if len(raw) < size else raw
        return _Content(positions, planes, scales)


@contextmanager
def _told(entry: Entry, label: str) -> Iterator[None]:
    """Rules that the bytes of a tensor break are told with its name and that of the file."""
    try:
        yield
    except UserError as error:
        if str(error).startswith(label):
            raise
        entry.refuse(label, str(error))
    except MemoryError:
        raise UserError(
            f"{label}: the tensor {said(entry.name)} takes {entry.dense_bytes:,} bytes of memory, "
            f"and there is not so much"
        ) from None


def _header(mapped: Mapped, label: str) -> tuple[Header, int]:
    """The header, and the byte at which the first tensor begins."""
    first = mapped.bytes(0, min(PREFIX.size, mapped.nbytes))
    if first[: len(MAGIC)] != MAGIC[: len(first)]:
        raise UserError(
            f"{label} is no .thrifty file: it does not begin as one does; if it is of another "
            f"kind, give it the suffix of that kind"
        )
    if len(first) < PREFIX.size:
        refuse(label, f"it has {len(first)} bytes, and what comes first takes {PREFIX.size}")
    _, nbytes, raw, crc = PREFIX.unpack(first)
    start = PREFIX.size + nbytes
    if nbytes > raw or raw > MOST_HEADER:
        refuse(label, f"its header would unpack from {nbytes:,} to {raw:,} bytes")
    if start > mapped.nbytes:
        refuse(label, f"its header has {nbytes:,} bytes and the file {mapped.nbytes:,}")
    content = mapped.bytes(PREFIX.size, start)
    if zlib.crc32(content) != crc:
        refuse(label, "its header is not the one that was written (crc32)")
    try:
        text = unpacked(content, raw)
    except UserError as error:
        refuse(label, f"its header: {error}")
    return parse(text, mapped.nbytes - start, mapped.nbytes, label), start


def _numbers(bits: NDArray[Any], entry: Entry) -> NDArray[Any]:
    """Unsigned integers as what they are bits of."""
    if entry.values == "BOOL" and bits.size and int(bits.max()) > 1:
        raise UserError("a boolean is neither 0 nor 1")
    return bits.view(DTYPES[entry.values])


def _scales(raw: Bytes) -> NDArray[np.float32]:
    bits = unpack.dense("raw", _NONE, np.split(raw, 4), True, raw.size // 4)
    scales: NDArray[np.float32] = bits.view(np.float32)
    if not (np.isfinite(scales) & (scales >= 0)).all():
        raise UserError("a scale is negative, infinite or NaN")
    return scales
