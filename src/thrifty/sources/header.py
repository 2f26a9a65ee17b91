"""The header of a safetensors file: read strictly, for it decides what memory is touched.

The library that others use gives tensors and no offsets, and needs the whole file; we map files
and fetch parts of them over the network.  So the header is parsed here, from bytes alone.  What
is accepted is what the library accepts, less a few oddities that no program writes: a name given
twice, an entry with further keys (which may mean that its bytes are not what they seem), dtypes
that nothing here can read, more than 64 axes, and sides whose product no array can have.

Layout: 8 bytes little-endian, the length of the header; the header, a JSON object of
``name: {"dtype", "shape", "data_offsets": [begin, end]}`` and perhaps ``__metadata__``; the data,
which the tensors cover exactly.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from thrifty.errors import UserError
from thrifty.sources.stored import BITS

LENGTH_BYTES = 8
MOST_HEADER = 100_000_000
"""Bytes of the longest header; the limit of the library."""
MOST_AXES = 64
_MOST_SIZE = 1 << 64
_MOST_COUNT = 1 << 63
_KEYS = frozenset({"dtype", "shape", "data_offsets"})
_METADATA = "__metadata__"


@dataclass(frozen=True)
class Entry:
    """One tensor of a header; ``begin`` and ``end`` count bytes from the start of the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a header says.

    Args:
        tensors: in the order in which their bytes lie in the file.
        metadata: the strings of ``__metadata__``.
        data_bytes: bytes that follow the header, all of them covered by ``tensors``.
    """

    tensors: tuple[Entry, ...]
    metadata: Mapping[str, str]
    data_bytes: int


def header_length(first8: bytes, file_bytes: int | None, label: str) -> int:
    """Bytes of the header that follows the first 8 bytes of a file.

    Args:
        first8: the first 8 bytes.
        file_bytes: of the whole file, or None where that is not known.
        label: what the file is called in errors.

    Raises:
        UserError: there are fewer than 8 bytes, or the length is more than the file or any header
            has.
    """
    if len(first8) < LENGTH_BYTES:
        _refuse(label, f"it has {len(first8)} bytes, and a header alone takes more")
    (length,) = struct.unpack("<Q", first8[:LENGTH_BYTES])
    if length > MOST_HEADER:
        _refuse(
            label,
            f"its first 8 bytes say that the header has {length:,} bytes, more than the "
            f"{MOST_HEADER:,} that are allowed",
        )
    if file_bytes is not None and LENGTH_BYTES + length > file_bytes:
        _refuse(label, f"the header has {length:,} bytes and the file {file_bytes:,}")
    return int(length)


def parse_header(head: bytes, label: str) -> Header:
    """What the bytes of a header say, without the 8 before them.

    The memory taken is at most some 25 times ``head``.

    Args:
        head: the JSON text, in UTF-8.
        label: what the file is called in errors.

    Raises:
        UserError: it is no such header, it has a dtype that cannot be read, or the tensors
            overlap, leave bytes out or are not of the size that their shape says.
    """
    fields = _object(head, label)
    metadata = _metadata(fields.pop(_METADATA, None), label)
    entries = [_entry(name, value, label) for name, value in fields.items()]
    entries.sort(key=lambda e: (e.begin, e.end))
    end = 0
    for entry in entries:
        if entry.begin != end:
            what = "overlaps another tensor" if entry.begin < end else "leaves a hole before it"
            _refuse(label, f"{_said(entry.name)} begins at byte {entry.begin:,} and {what}")
        end = entry.end
    return Header(tuple(entries), metadata, end)


def check_covered(header: Header, length: int, file_bytes: int, label: str) -> None:
    """That a file of ``file_bytes`` holds its header, of ``length`` bytes, the data and no more.

    Raises:
        UserError: it is cut short, or something is left behind the data.
    """
    expected = LENGTH_BYTES + length + header.data_bytes
    if file_bytes < expected:
        _refuse(label, f"it has {file_bytes:,} bytes of the {expected:,} that its header describes")
    if file_bytes > expected:
        _refuse(
            label, f"{file_bytes - expected:,} bytes are left behind the last tensor of its header"
        )


def _object(head: bytes, label: str) -> dict[str, Any]:
    try:
        value = json.loads(
            head.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_whole,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
    except UnicodeDecodeError as error:
        _refuse(label, f"its header is no UTF-8 text (byte {error.start})")
    except RecursionError:
        _refuse(label, "its header is nested without end")
    except ValueError as error:
        _refuse(label, f"its header cannot be read: {str(error)[:200]}")
    if not isinstance(value, dict):
        _refuse(label, "its header is no JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"it has {_said(twice)} twice")
    return found


def _whole(text: str) -> int:
    if text.startswith("-") or len(text) > 20 or int(text) >= _MOST_SIZE:
        raise ValueError(f"it has the number {text[:40]}, which is no size")
    return int(text)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"it has the number {text[:40]}, which is no whole one")


def _metadata(value: Any, label: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        _refuse(label, f"{_METADATA} in its header is no object of strings")
    for key, text in value.items():
        _check_text(key, label)
        _check_text(text, label)
    return value


def _entry(name: str, value: Any, label: str) -> Entry:
    _check_text(name, label)
    if not isinstance(value, dict) or value.keys() != _KEYS:
        _refuse(
            label, f"{_said(name)} is described by other things than dtype, shape and data_offsets"
        )
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        known = ", ".join(BITS)
        raise UserError(
            f"{label}: the tensor {_said(name)} is of dtype {ascii(dtype)[:40]}, which cannot be "
            f"read; those that can are {known}"
        )
    if not _sizes(shape):
        _refuse(label, f"{_said(name)} has the shape {ascii(shape)[:80]}")
    if len(shape) > MOST_AXES:
        _refuse(label, f"{_said(name)} has {len(shape):,} axes, more than {MOST_AXES}")
    if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _refuse(label, f"{_said(name)} has the data_offsets {ascii(offsets)[:80]}")
    begin, end = offsets
    nbytes = _count(shape, name, label) * BITS[dtype].itemsize
    if end - begin != nbytes:
        _refuse(
            label,
            f"{_said(name)} is {dtype} {shape}, which takes {nbytes:,} bytes, and has "
            f"{end - begin:,}",
        )
    return Entry(name, dtype, tuple(shape), begin, end)


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int for n in value)


def _count(shape: list[int], name: str, label: str) -> int:
    """Number of elements; also without its zeros a shape must be one that an array can have."""
    sides = 1
    for side in shape:
        sides *= side or 1
        if sides >= _MOST_COUNT:
            _refuse(label, f"{_said(name)} has the shape {str(shape)[:80]}, which is too large")
    return 0 if 0 in shape else sides


def _check_text(text: str, label: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        _refuse(label, f"its header has {_said(text)}, which is no text")


def _said(name: str) -> str:
    """A name as it stands in a message: quoted, and shortened if it fills the screen."""
    return ascii(name if len(name) <= 100 else f"{name[:97]}...")


def _refuse(label: str, why: str) -> NoReturn:
    raise UserError(f"{label} is no whole safetensors file: {why}; copy it again")
