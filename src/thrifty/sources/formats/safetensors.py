"""Plain safetensors files, mapped into memory and read in pieces; see :mod:`thrifty.sources.header`
for what is checked before.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from thrifty.errors import UserError
from thrifty.sources import SOURCES, Reader
from thrifty.sources.header import (
    LENGTH_BYTES,
    Entry,
    Header,
    check_covered,
    header_length,
    parse_header,
)
from thrifty.sources.mapped import Mapped, open_file
from thrifty.sources.scales import with_scales
from thrifty.sources.stored import BITS, Bits, Source, Stored


def open_safetensors(text: str) -> Source:
    """The tensors of the safetensors file at the path ``text``.

    Raises:
        UserError: there is no such file, or its header does not hold.
    """
    path = Path(text)
    return from_file(open_file(path), str(path), path.name.removesuffix(".safetensors"))


def from_file(file: BinaryIO, path: str, label: str, kind: str = "safetensors") -> Source:
    """The source of an open file of the format, which is closed with it or on an error.

    Args:
        file: a real file, which can be mapped.
        path: what it is called in errors.
        label: what the source is called in tables.
        kind: what its format is called.

    Raises:
        UserError: its header does not hold.
    """
    mapped = None
    try:
        mapped = Mapped(file, path)
        header, start = _header(mapped, path)
        tied = tied_notes(header.metadata, path)
        tensors, notes = with_scales([stored(mapped, start, e) for e in header.tensors])
    except BaseException:
        (mapped or file).close()
        raise
    return Source(
        label=label,
        kind=kind,
        tensors=tensors,
        nbytes=mapped.nbytes,
        notes=tied + notes,
        claims=header.metadata,
        on_close=mapped.close,
    )


def stored(mapped: Mapped, start: int, entry: Entry) -> Stored:
    """The tensor of ``entry`` in a mapped file whose data begin at byte ``start``."""

    def read() -> Iterator[Bits]:
        return mapped.pieces(start + entry.begin, start + entry.end, BITS[entry.dtype])

    return Stored(entry.name, entry.shape, entry.dtype, read)


def tied_notes(metadata: Mapping[str, str], path: str) -> tuple[str, ...]:
    """Which tensors of a file of ours have a second name; they are in the file once.

    Raises:
        UserError: the file says it is ours and its own entry cannot be read.
    """
    if "thrifty" not in metadata:
        return ()
    try:
        said = json.loads(metadata["thrifty"])
        tied = said.get("tied", {}).items()
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: the entry 'thrifty' of the header is damaged: {error}") from None
    return tuple(f"{name} is {kept}, and counted once" for name, kept in tied)


def _header(mapped: Mapped, path: str) -> tuple[Header, int]:
    """The header, and the byte at which the data begin."""
    length = header_length(mapped.bytes(0, min(LENGTH_BYTES, mapped.nbytes)), mapped.nbytes, path)
    header = parse_header(mapped.bytes(LENGTH_BYTES, LENGTH_BYTES + length), path)
    check_covered(header, length, mapped.nbytes, path)
    return header, LENGTH_BYTES + length


SOURCES.add(
    "safetensors",
    Reader(
        about="Tensors with a header, mapped into memory; no code by design",
        open=open_safetensors,
        suffixes=(".safetensors",),
    ),
)
