"""Arrays of numpy: ``.npy``, and ``.npz``, a zip of them.  Objects, which are pickles, never.

Members that are stored are mapped; those that are compressed are unpacked piece by piece, each
time they are read.  What a zip declares is checked against the file before, and a member that
gives more or fewer bytes than its header describes is an error.
"""

import math
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from thrifty.errors import UserError
from thrifty.sources import SOURCES, Reader
from thrifty.sources.mapped import Mapped, open_file
from thrifty.sources.stored import BITS, PIECE, Bits, Source, Stored
from thrifty.sources.unpacking import too_large

MOST_HEADER = 10_000
"""Bytes of the longest header of an array that is parsed, numpy's own limit; real ones have 128."""
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_LOCAL = struct.Struct("<4s22xHH")
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_NAMES = {dtype: name for name, dtype in BITS.items() if name[0] != "B" and name[:2] != "F8"}
_NAMES[np.dtype("?")] = "BOOL"


def open_npz(text: str) -> Source:
    """The arrays of the npz file at the path ``text``.

    Raises:
        UserError: it is damaged, encrypted, out of proportion, or has no array of numbers.
    """
    path = Path(text)
    archive, tensors, notes = _Archive(path), [], []
    try:
        for member in archive.members:
            name = member.filename.removesuffix(".npy")
            try:
                tensors.append(archive.stored(member, name))
            except _NoNumbers as error:
                notes.append(f"{ascii(name)[:100]} is left out: {error}")
        if not tensors:
            why = "; ".join(notes[:5]) or "it is empty"
            raise UserError(f"{path} has no array of numbers; {why}")
    except BaseException:
        archive.close()
        raise
    return Source(
        label=path.name.removesuffix(".npz"),
        kind="npz",
        tensors=tuple(tensors),
        nbytes=archive.nbytes,
        notes=tuple(notes),
        on_close=archive.close,
    )


def open_npy(text: str) -> Source:
    """The one array of the npy file at the path ``text``, called as the file.

    Raises:
        UserError: it is damaged, or holds no numbers.
    """
    path = Path(text)
    file = open_file(path)
    name = path.name.removesuffix(".npy")
    mapped = None
    try:
        array = _Array(file, str(path))
        mapped = Mapped(file, str(path))
        start = file.tell()
        if mapped.nbytes - start != array.nbytes:
            raise UserError(
                f"{path} is damaged or cut short: it has {mapped.nbytes - start:,} bytes of "
                f"{array.shape}, which takes {array.nbytes:,}; copy it again"
            )
        tensor = array.stored(name, _mapping(mapped, start, array))
    except _NoNumbers as error:
        (mapped or file).close()
        raise UserError(f"{path} has no numbers: {error}") from None
    except BaseException:
        (mapped or file).close()
        raise
    return Source(name, "npy", (tensor,), mapped.nbytes, on_close=mapped.close)


class _NoNumbers(Exception):
    """An array of something else than real numbers."""


class _Array:
    """What the header of an array says; ``file`` is left behind it."""

    def __init__(self, file: IO[bytes], path: str):
        try:
            read = _HEADERS.get(np.lib.format.read_magic(file))
            if read is None:
                raise _NoNumbers("its header is of a version for arrays with named fields")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about headers and dtypes of old versions
                shape, fortran, dtype = read(file, max_header_size=MOST_HEADER)
        except _NoNumbers:
            raise
        except Exception as error:  # numpy passes on what its tokenizer and dtypes run into
            raise UserError(
                f"{path} is damaged: its header is no header of an array ({str(error)[:200]}); "
                f"copy it again"
            ) from None
        self.shape: tuple[int, ...] = shape
        self.fortran, self.dtype = fortran, dtype
        native = dtype.newbyteorder("<") if dtype.kind in "iuf" else dtype
        if native not in _NAMES or dtype.hasobject:
            raise _NoNumbers(f"it is of {str(dtype)[:80]}")
        self.name = _NAMES[native]
        if len(shape) > 64 or any(type(n) is not int or n < 0 for n in shape):
            raise UserError(f"{path} is damaged: it has the shape {str(shape)[:80]}")
        if math.prod(n or 1 for n in shape) >= 1 << 63:
            raise UserError(f"{path} is damaged: the shape {str(shape)[:80]} is too large")
        self.nbytes = math.prod(shape) * dtype.itemsize

    def stored(self, name: str, raw: Callable[[np.dtype[Any]], Iterator[Bits]]) -> Stored:
        """``raw`` gives the elements of a dtype in the order in which they lie."""

        def read() -> Iterator[Bits]:
            pieces = raw(self.dtype)
            if self.fortran and len(self.shape) > 1 and self.nbytes:
                yield from _rows(pieces, self.shape, self.dtype)
            else:
                yield from pieces

        def as_said() -> Iterator[Bits]:
            for piece in read():
                yield piece.astype(BITS[self.name], copy=False)

        return Stored(name, self.shape, self.name, as_said)


def _rows(pieces: Iterator[Bits], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[Bits]:
    """Row-major pieces of an array that lies column by column; it is held whole meanwhile."""
    flat = np.empty(math.prod(shape), dtype)
    start = 0
    for piece in pieces:
        flat[start : start + piece.size] = piece
        start += piece.size
    rows = flat.reshape(shape[::-1]).T
    step = max(PIECE // (flat.nbytes // shape[0]), 1)
    for first in range(0, shape[0], step):
        yield np.ascontiguousarray(rows[first : first + step]).reshape(-1)


def _mapping(
    mapped: Mapped, start: int, array: _Array
) -> Callable[[np.dtype[Any]], Iterator[Bits]]:
    return lambda dtype: mapped.pieces(start, start + array.nbytes, dtype)


class _Archive:
    """The directory of an npz file, checked, and the file mapped."""

    def __init__(self, path: Path):
        self._path = str(path)
        file = open_file(path)
        try:
            self.nbytes = os.fstat(file.fileno()).st_size
            self._zip = zipfile.ZipFile(file)
            self.members = [m for m in self._zip.infolist() if not m.is_dir()]
            self._check()
            self._mapped = Mapped(file, self._path)
        except UserError:
            file.close()
            raise
        except Exception as error:  # zipfile passes on what damage leads to
            file.close()
            raise self._damaged(error) from None

    def close(self) -> None:
        self._zip.close()
        self._mapped.close()

    def stored(self, member: zipfile.ZipInfo, name: str) -> Stored:
        """The array of ``member``.

        Raises:
            _NoNumbers: it holds something else.
            UserError: it is damaged.
        """
        if not member.filename.endswith(".npy"):
            raise _NoNumbers("it is no .npy")
        what = f"{self._path}: {ascii(name)[:100]}"
        try:
            with self._zip.open(member) as stream:
                array = _Array(stream, what)
                start = stream.tell()
        except (UserError, _NoNumbers):
            raise
        except Exception as error:
            raise self._damaged(error) from None
        if member.file_size != start + array.nbytes:
            raise UserError(
                f"{what} is damaged: it has {member.file_size - start:,} bytes of {array.shape}, "
                f"which takes {array.nbytes:,}; copy it again"
            )
        if member.compress_type == zipfile.ZIP_STORED:
            return array.stored(name, _mapping(self._mapped, self._begin(member) + start, array))
        return array.stored(name, self._unpacking(member, start, array.nbytes, what))

    def _begin(self, member: zipfile.ZipInfo) -> int:
        """The byte of the file at which a stored member begins."""
        head = self._mapped.bytes(member.header_offset, member.header_offset + _LOCAL.size)
        _, name, extra = _LOCAL.unpack(head)
        begin = int(member.header_offset + _LOCAL.size + name + extra)
        if begin + member.file_size > self.nbytes:
            raise self._damaged(EOFError(f"{member.filename} goes on behind the end of the file"))
        return begin

    def _unpacking(
        self, member: zipfile.ZipInfo, start: int, nbytes: int, what: str
    ) -> Callable[[np.dtype[Any]], Iterator[Bits]]:
        def read(dtype: np.dtype[Any]) -> Iterator[Bits]:
            step = max(PIECE // dtype.itemsize, 1) * dtype.itemsize
            try:
                with self._zip.open(member) as stream:
                    _exactly(stream, start)
                    for begin in range(0, nbytes, step):
                        data = _exactly(stream, min(step, nbytes - begin))
                        yield _elements(data, dtype)
                    if stream.read(1):
                        raise EOFError("it goes on behind its end")
            except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
                raise UserError(f"{what} is damaged: {error}; copy it again") from None

        return read

    def _check(self) -> None:
        """Raises UserError if what the directory declares cannot be, or is not to be, read."""
        names = [member.filename for member in self.members]
        if len(set(names)) != len(names):
            raise UserError(f"{self._path} has two arrays of one name; it is damaged")
        for member in self.members:
            if member.flag_bits & 1:
                raise UserError(f"{self._path}: {member.filename} is encrypted; decrypt it first")
            if member.compress_type not in _METHODS:
                raise UserError(
                    f"{self._path}: {member.filename} is compressed by method "
                    f"{member.compress_type}, which numpy does not write; save it again"
                )
            stored = member.compress_type == zipfile.ZIP_STORED
            if stored and member.file_size != member.compress_size:
                raise self._damaged(EOFError(f"{member.filename} has two sizes"))
        declared = sum(member.file_size for member in self.members)
        if sum(member.compress_size for member in self.members) > self.nbytes:
            raise self._damaged(EOFError("its members overlap"))
        if too_large(declared, self.nbytes):
            raise UserError(
                f"{self._path} has {self.nbytes:,} bytes and declares {declared:,} bytes of "
                f"content; such files are made to fill the memory; if you trust it, save it again "
                f"with numpy.savez, uncompressed"
            )

    def _damaged(self, error: Exception) -> UserError:
        reason = f"{type(error).__name__}: {error}".strip()[:200]
        return UserError(
            f"{self._path} cannot be read as an npz file, it is damaged or cut short ({reason}); "
            f"copy it again"
        )


def _exactly(stream: IO[bytes], size: int) -> bytes:
    parts, left = [], size
    while left and (part := stream.read(left)):
        parts.append(part)
        left -= len(part)
    if left:
        raise EOFError(f"it ends {left:,} bytes before its end")
    return b"".join(parts)


def _elements(data: bytes, dtype: np.dtype[Any]) -> Bits:
    if dtype.kind == "b":
        return np.not_equal(np.frombuffer(data, np.uint8), 0)
    return np.frombuffer(data, dtype)


SOURCES.add(
    "npz",
    Reader(
        about="Arrays of numpy in a zip, mapped or unpacked in pieces; no objects",
        open=open_npz,
        suffixes=(".npz",),
    ),
)
SOURCES.add(
    "npy",
    Reader(about="One array of numpy, mapped into memory", open=open_npy, suffixes=(".npy",)),
)
