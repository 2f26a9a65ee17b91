"""Writing a ``.thrifty`` file: for each tensor the encoding that takes the fewest bytes."""

import struct
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thrifty.container import encoding
from thrifty.container.header import (
    LOSSY,
    MOST_AXES,
    Entry,
    Header,
    Section,
    check_expansion,
    dump,
    said,
)
from thrifty.container.rounding import narrowed
from thrifty.container.sections import packed
from thrifty.errors import UserError
from thrifty.files import written
from thrifty.native.formats import DTYPES, FLOATS
from thrifty.registry import suggest

MAGIC = b"\x89THRIFTY"
PREFIX = struct.Struct("<8sQQQ")
"""Magic, bytes of the header in the file, bytes of its JSON text, crc32 of what is in the file."""

VALUES = {"f32": None, "bf16": "BF16", "f16": "F16", "int8": "I8"}
"""How weights may be stored; ``f32`` is as they are, whatever their dtype."""

SECTION_COST = 6
"""Bytes that a section costs in a header, about."""


@dataclass(frozen=True)
class Report:
    """What was written.

    Args:
        tensors: in the order in which they lie in the file, each with its encoding, bytes and
            dense bytes.
        header_bytes: bytes before the first tensor.
        nbytes: of the whole file.
    """

    tensors: tuple[Entry, ...]
    header_bytes: int
    nbytes: int


class _Parts(NamedTuple):
    """Sections, what they hold as it goes into the file, and what they cost."""

    sections: tuple[Section, ...]
    contents: tuple[bytes, ...]

    @property
    def cost(self) -> int:
        return sum(map(len, self.contents)) + SECTION_COST * len(self.contents)


def write(
    path: str | Path,
    tensors: Mapping[str, NDArray[Any]],
    metadata: Mapping[str, str],
    values: str = "f32",
    *,
    dtypes: Mapping[str, str] | None = None,
    exact: Collection[str] = (),
) -> Report:
    """Write ``tensors`` to ``path``, whole or not at all; equal contents give equal bytes.

    Args:
        path: missing folders are made.
        tensors: of any shape, little-endian; in the order in which they are best read.
        metadata: strings.
        values: ``"f32"`` as they are; ``"bf16"``, ``"f16"`` or ``"int8"`` for floats of two or
            more axes, the first of which is that of the output channels, each with its scale.
        dtypes: names for what numpy has no type for: ``"BF16"`` for uint16, ``"F8_E4M3"`` and the
            like for uint8.
        exact: names that stay as they are, whatever ``values`` says.

    Raises:
        UserError: a tensor is of no dtype that can be stored, a number does not fit ``values``,
            or the file would be refused by its reader.
    """
    if values not in VALUES:
        raise UserError(f"no values are called {values!r}; {suggest(values, VALUES)}")
    entries: list[Entry] = []
    contents: list[bytes] = []
    for name, array in tensors.items():
        dtype = _dtype(name, array, (dtypes or {}).get(name))
        wanted = VALUES[values] if name not in exact and array.ndim > 1 else None
        stored = wanted if wanted in LOSSY.get(dtype, ()) else dtype
        entry, parts = _encoded(name, np.asarray(array, order="C"), dtype, stored or dtype)
        entries.append(entry)
        contents += parts
    placed = _placed(entries)
    head = _head(placed, metadata)
    nbytes = len(head) + sum(map(len, contents))
    check_expansion(sum(e.dense_bytes for e in placed), nbytes, "the file to be written")
    with written(Path(path)) as temporary, temporary.open("wb") as file:
        file.write(head)
        file.writelines(contents)
    return Report(placed, len(head), nbytes)


def _dtype(name: str, array: NDArray[Any], given: str | None) -> str:
    kind = array.dtype.newbyteorder("<") if array.dtype.itemsize > 1 else array.dtype
    names = [d for d, bits in DTYPES.items() if bits == kind and array.dtype == kind]
    plain = [d for d in names if d not in ("BF16",) and not d.startswith("F8_")]
    if array.ndim > MOST_AXES:
        raise UserError(f"{said(name)} has {array.ndim} axes and may have {MOST_AXES}")
    if given is None and plain:
        return plain[0]
    if given is None or given not in names:
        asked = "" if given is None else f" as {given}"
        raise UserError(
            f"{said(name)} is {array.dtype} and cannot be stored{asked}; what can be is "
            f"{', '.join(DTYPES)}"
        )
    return given


def _encoded(
    name: str, array: NDArray[Any], dtype: str, stored: str
) -> tuple[Entry, tuple[bytes, ...]]:
    """A tensor's entry, but for its place in the file, and the contents of its sections."""
    scales = None
    shape = array.shape
    if stored != dtype:
        try:
            array, scales = narrowed(array, dtype, stored)
        except UserError as error:
            raise UserError(f"{said(name)}: {error}") from None
    bits = encoding.unsigned(np.ascontiguousarray(array))
    there = bits != 0
    nnz = int(np.count_nonzero(there))
    kind, parts = _shortest(bits, there, nnz, stored in FLOATS)
    if scales is not None:
        parts = _both(parts, _joined(encoding.planes(encoding.unsigned(scales), rotate=True)))
    crc = 0
    for content in parts.contents:
        crc = zlib.crc32(content, crc)
    nnz = bits.size if kind == "raw" else nnz
    entry = Entry(name, dtype, shape, kind, nnz, stored, 0, parts.sections, crc)
    return entry, parts.contents


def _shortest(
    bits: encoding.Bits, there: NDArray[np.bool_], nnz: int, rotate: bool
) -> tuple[str, _Parts]:
    if nnz == bits.size:
        return "raw", _values(bits, rotate)
    values = _values(bits[there], rotate)
    mask, gaps = _one(encoding.bitmask(there)), _one(encoding.gaps(there))
    tries = {"bitmask": _both(mask, values), "gap8": _both(gaps, values)}
    if nnz > bits.size // 2:  # where most are zero, they are dear among the fractions
        tries["raw"] = _values(bits, rotate)
    best = min(tries, key=lambda kind: (tries[kind].cost, kind))
    return best, tries[best]


def _values(values: encoding.Bits, rotate: bool) -> _Parts:
    """The values in one section or in one for each of their bytes, whichever is shorter."""
    planes = encoding.planes(values, rotate)
    if len(planes) == 1:
        return _one(planes[0])
    apart = [packed(plane) for plane in planes]
    sections, contents = zip(*apart, strict=True)
    each = _Parts(sections, contents)
    if all(s.nbytes == s.raw for s in sections) or values.nbytes <= 1 << 12:
        return min(_joined(planes), each, key=lambda parts: parts.cost)
    return each


def _joined(planes: list[bytes]) -> _Parts:
    return _one(b"".join(planes))


def _one(raw: bytes) -> _Parts:
    section, content = packed(raw)
    return _Parts((section,), (content,))


def _both(one: _Parts, other: _Parts) -> _Parts:
    return _Parts(one.sections + other.sections, one.contents + other.contents)


def _placed(entries: list[Entry]) -> tuple[Entry, ...]:
    placed, offset = [], 0
    for entry in entries:
        placed.append(replace(entry, offset=offset))
        offset = placed[-1].end
    return tuple(placed)


def _head(entries: tuple[Entry, ...], metadata: Mapping[str, str]) -> bytes:
    """The bytes before the first tensor."""
    section, content = packed(dump(Header(entries, metadata)))
    return PREFIX.pack(MAGIC, section.nbytes, section.raw, zlib.crc32(content)) + content
