"""The header of a ``.thrifty`` file: read strictly, for it decides what memory is touched.

The JSON text has one form only (sorted keys, no blanks, whole numbers), so that what is parsed is
written again and compared: names given twice, other numbers and odd spellings fall out at once,
and equal contents are equal bytes.  What a tensor says of itself leaves its sections almost no
freedom; the sizes that follow from shape, dtype, encoding and number of values are checked here.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from thrifty.errors import UserError
from thrifty.native.formats import DTYPES, FLOATS
from thrifty.native.unpack import ENCODINGS
from thrifty.sources.unpacking import MOST_BYTES, MOST_TIMES, too_large

VERSION = 1
MOST_HEADER = 1 << 24
"""Bytes of the JSON text."""
MOST_AXES = 32
MOST_COUNT = 1 << 48
"""Elements of a tensor; more are in no machine."""

LOSSY: Mapping[str, tuple[str, ...]] = {
    "F64": ("F32", "BF16", "F16", "I8"),
    "F32": ("BF16", "F16", "I8"),
    "BF16": ("I8",),
    "F16": ("I8",),
}
"""What the values of a dtype may be stored as, other than as they are."""

_KEYS = frozenset({"metadata", "tensors", "version"})
_TENSOR = frozenset({"crc32", "dtype", "encoding", "nnz", "offset", "sections", "shape", "values"})


@dataclass(frozen=True)
class Section:
    """Bytes in the file, and how many they unpack to; equal where they are stored as they are."""

    nbytes: int
    raw: int


@dataclass(frozen=True)
class Entry:
    """One tensor of a file.

    Args:
        name: in the file.
        dtype: of the network, such as ``"F32"``.
        shape: of the network.
        encoding: ``"raw"``, ``"bitmask"`` or ``"gap8"``.
        nnz: values that are stored; of ``raw`` all elements.
        values: the dtype that values are stored in; with ``"I8"`` for a float, a scale for each
            index of the first axis is stored too.
        offset: where the first section begins, in bytes behind the header.
        sections: positions unless ``raw``, values in one section or one for each of their bytes,
            scales if there are any; one behind the other.
        crc32: of the bytes of all sections as they lie in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    encoding: str
    nnz: int
    values: str
    offset: int
    sections: tuple[Section, ...]
    crc32: int

    @property
    def count(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def dense_bytes(self) -> int:
        """Bytes of the tensor, unpacked and dense."""
        return self.count * DTYPES[self.dtype].itemsize

    @property
    def nbytes(self) -> int:
        """Bytes in the file, without those of the header."""
        return sum(s.nbytes for s in self.sections)

    @property
    def end(self) -> int:
        """Where its last section ends, in bytes behind the header."""
        return self.offset + self.nbytes

    @property
    def scaled(self) -> bool:
        """Whether values are whole numbers with scales."""
        return self.values == "I8" and self.dtype != "I8"

    @property
    def rotated(self) -> bool:
        """Whether the sign of the values was put last."""
        return self.values in FLOATS

    def refuse(self, label: str, rule: str) -> NoReturn:
        """Raise the error that this tensor of the file ``label`` breaks ``rule``."""
        refuse(label, f"the tensor {said(self.name)}: {rule}")


@dataclass(frozen=True)
class Header:
    """What a header says; the tensors in the order in which they lie in the file."""

    tensors: tuple[Entry, ...]
    metadata: Mapping[str, str]


def dump(header: Header) -> bytes:
    """The JSON text of a header.

    Raises:
        UserError: it is longer than any reader takes, or a string of it is no text.
    """
    tensors = {entry.name: _described(entry) for entry in header.tensors}
    whole = {"metadata": dict(header.metadata), "tensors": tensors, "version": VERSION}
    try:
        text = canonical(whole)
    except UnicodeEncodeError as error:
        raise UserError(
            f"a name or a text of the metadata is no text ({error}); write it in Unicode"
        ) from None
    if len(text) > MOST_HEADER:
        raise UserError(
            f"the names, shapes and metadata of {len(tensors):,} tensors take {len(text):,} bytes "
            f"and a header {MOST_HEADER:,} at most; give less metadata"
        )
    return text


def parse(text: bytes, data_bytes: int, file_bytes: int, label: str) -> Header:
    """What the JSON text of a header says.

    Args:
        text: unpacked.
        data_bytes: bytes of the file behind the header.
        file_bytes: of the whole file.
        label: what the file is called in errors.

    Raises:
        UserError: a rule of the format is broken; the message names the tensor and the rule.
    """
    value = _json(text, label)
    if not isinstance(value, dict) or "version" not in value:
        refuse(label, "its header has no version")
    if value["version"] != VERSION or type(value["version"]) is not int:
        raise UserError(
            f"{label} is of version {ascii(value['version'])[:40]} of the format and this thrifty "
            f"reads version {VERSION}; upgrade thrifty"
        )
    if value.keys() != _KEYS:
        refuse(label, "its header has other entries than metadata, tensors and version")
    metadata, tensors = value["metadata"], value["tensors"]
    if not isinstance(metadata, dict) or any(type(x) is not str for x in metadata.values()):
        refuse(label, "metadata is no object of strings")
    if not isinstance(tensors, dict):
        refuse(label, "tensors is no object")
    entries = sorted(
        (_entry(name, x, label) for name, x in tensors.items()),
        key=lambda e: (e.offset, e.end, e.name),
    )
    _check_contiguous(entries, data_bytes, label)
    check_expansion(sum(e.dense_bytes for e in entries), file_bytes, label)
    return Header(tuple(entries), metadata)


def canonical(value: object) -> bytes:
    """The one form in which a JSON value is written."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def gap_limit(count: int, nnz: int) -> int:
    """Most bytes that the gaps of ``nnz`` values among ``count`` elements take."""
    return nnz + (count - nnz) // 255 if nnz else 0


def refuse(label: str, rule: str) -> NoReturn:
    """Raise the error that a file breaks a rule."""
    raise UserError(f"{label} is no whole .thrifty file: {rule}; copy it again")


def said(name: str) -> str:
    """A name as it stands in a message: quoted, and shortened if it fills the screen."""
    return ascii(name if len(name) <= 100 else f"{name[:97]}...")


def _described(entry: Entry) -> dict[str, Any]:
    return {
        "crc32": entry.crc32,
        "dtype": entry.dtype,
        "encoding": entry.encoding,
        "nnz": entry.nnz,
        "offset": entry.offset,
        "sections": [[s.nbytes, s.raw] for s in entry.sections],
        "shape": list(entry.shape),
        "values": entry.values,
    }


def _json(text: bytes, label: str) -> Any:
    try:
        value = json.loads(text.decode("utf-8"), parse_int=_whole, parse_constant=_no_number)
        same = canonical(value) == text
    except UnicodeError:
        refuse(label, "its header is no UTF-8 text")
    except RecursionError:
        refuse(label, "its header is nested without end")
    except ValueError as error:
        refuse(label, f"its header cannot be read: {str(error)[:200]}")
    if not same:
        refuse(label, "its header is not in the one form that is allowed (sorted, without blanks)")
    return value


def _whole(text: str) -> int:
    if len(text) > 20:
        raise ValueError(f"it has the number {text[:40]}, which is no size")
    return int(text)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"it has the number {text[:40]}, which is no whole one")


def _entry(name: str, value: Any, label: str) -> Entry:
    where = f"the tensor {said(name)}"
    if not isinstance(value, dict) or value.keys() != _TENSOR:
        refuse(label, f"{where} is described by other things than {', '.join(sorted(_TENSOR))}")
    dtype, stored, shape = value["dtype"], value["values"], value["shape"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        refuse(label, f"{where} is of dtype {ascii(dtype)[:40]}; there is {', '.join(DTYPES)}")
    if not _sizes(shape) or len(shape) > MOST_AXES:
        refuse(label, f"{where} has the shape {ascii(shape)[:80]}")
    if math.prod(side or 1 for side in shape) > MOST_COUNT:
        refuse(label, f"{where} has the shape {str(shape)[:80]}, which is too large")
    if not isinstance(stored, str) or stored not in (dtype, *LOSSY.get(dtype, ())):
        refuse(label, f"{where} is {dtype} and its values are {ascii(stored)[:40]}")
    if value["encoding"] not in ENCODINGS:
        refuse(label, f"{where} has the encoding {ascii(value['encoding'])[:40]}")
    numbers = [value["nnz"], value["offset"], value["crc32"]]
    if not _sizes(numbers) or value["crc32"] >> 32:
        refuse(label, f"{where} has no sizes for nnz, offset and crc32: {ascii(numbers)[:80]}")
    entry = Entry(
        name=name,
        dtype=dtype,
        shape=tuple(shape),
        encoding=value["encoding"],
        nnz=value["nnz"],
        values=stored,
        offset=value["offset"],
        sections=_sections(value["sections"], where, label),
        crc32=value["crc32"],
    )
    _check_sizes(entry, label)
    return entry


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in value)


def _sections(value: Any, where: str, label: str) -> tuple[Section, ...]:
    pairs = isinstance(value, list) and all(_sizes(x) and len(x) == 2 for x in value)
    if not pairs:
        refuse(label, f"the sections of {where} are no pairs of sizes")
    for nbytes, raw in value:
        if nbytes > raw:
            refuse(label, f"{where} has a section that is longer than what it unpacks to")
    return tuple(Section(nbytes, raw) for nbytes, raw in value)


def _check_sizes(entry: Entry, label: str) -> None:
    """That the unpacked sizes of all sections are those that the rest of the entry asks for."""
    count, nnz, size = entry.count, entry.nnz, DTYPES[entry.values].itemsize
    raw = [s.raw for s in entry.sections]
    if nnz > count or (entry.encoding == "raw" and nnz != count):
        entry.refuse(label, f"it has {nnz:,} values and {count:,} elements")
    if entry.scaled and len(entry.shape) < 2:
        entry.refuse(label, "values with scales are for tensors of 2 and more axes")
    if entry.encoding != "raw":
        positions = raw.pop(0) if raw else -1
        least, most = (nnz, gap_limit(count, nnz))
        if entry.encoding == "bitmask":
            least = most = -(-count // 8)
        if not least <= positions <= most:
            entry.refuse(label, f"its positions take {positions:,} bytes, not {least:,}")
    if entry.scaled:
        scales = raw.pop() if raw else -1
        if scales != 4 * entry.shape[0]:
            entry.refuse(label, f"its scales take {scales:,} bytes, not {4 * entry.shape[0]:,}")
    if raw not in ([nnz * size], [nnz] * size):
        entry.refuse(label, f"the sections of its {nnz:,} values are not of their size")


def _check_contiguous(entries: list[Entry], data_bytes: int, label: str) -> None:
    end = 0
    for entry in entries:
        if entry.offset != end:
            what = "overlaps what is before it" if entry.offset < end else "leaves a hole before it"
            entry.refuse(label, f"it begins at byte {entry.offset:,} and {what}")
        end = entry.end
    if end > data_bytes:
        refuse(label, f"it has {data_bytes:,} bytes of the {end:,} that its header describes")
    if end < data_bytes:
        refuse(label, f"{data_bytes - end:,} bytes are left behind its last tensor")


def check_expansion(dense: int, file_bytes: int, label: str) -> None:
    """That a file does not unpack to what only a file made to fill the memory unpacks to.

    Raises:
        UserError: it does.
    """
    if too_large(dense, file_bytes):
        raise UserError(
            f"{label} has {file_bytes:,} bytes and describes {dense:,} bytes of tensors; more than "
            f"{MOST_TIMES} times the file (or {MOST_BYTES:,} bytes) is refused, for such files are "
            f"made to fill the memory"
        )
