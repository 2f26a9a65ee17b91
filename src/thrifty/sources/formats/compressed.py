"""Weight files compressed with xz or zstd, unpacked piece by piece to a temporary file.

Of a safetensors file the header comes first, and fixes how many bytes may follow, before any is
written; the temporary file has no name and is gone when it is closed, or when the process dies.
Other formats are told by their suffix and unpacked to a folder that is removed on closing.
Temporary files lie where TMPDIR says.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from thrifty.errors import UserError
from thrifty.sources import SOURCES, Reader
from thrifty.sources.formats.safetensors import from_file
from thrifty.sources.header import LENGTH_BYTES, header_length, parse_header
from thrifty.sources.mapped import open_file
from thrifty.sources.opening import reader_of
from thrifty.sources.stored import Source
from thrifty.sources.unpacking import FREE_BYTES, MOST_TIMES, too_large, unpacked

PACKED = (".xz", ".zst")
OTHERS = (".npz", ".npy", ".pt", ".pth", ".th", ".h5", ".keras", ".onnx", ".tflite")
FREE_HEADER = 16 << 20
"""A header may be so long, or as long as the compressed file: parsed, it takes 25 times that."""


def open_compressed(text: str) -> Source:
    """The tensors of a safetensors file that lies compressed at the path ``text``.

    Raises:
        UserError: there is no such file, it is damaged, its content is not what its header says
            or out of proportion, or there is no room for it.
    """
    path = Path(text)
    with open_file(path) as packed:
        size = os.fstat(packed.fileno()).st_size
        temporary = _temporary(text)
        try:
            _copy_checked(unpacked(packed, text), temporary, text, size)
        except BaseException:
            with suppress(OSError):  # of what it could not write, which is told already
                temporary.close()
            raise
    inner, ending = os.path.splitext(path.name)
    label = inner.removesuffix(".safetensors")
    source = from_file(temporary, text, label, f"safetensors{ending.lower()}")
    return replace(source, nbytes=size)


def open_other(text: str) -> Source:
    """The tensors of a compressed file of any other format, told by the suffix before the last.

    Raises:
        UserError: as :func:`open_compressed`, or what the reader of the format raises.
    """
    path = Path(text)
    inner, ending = os.path.splitext(path.name)
    reader = reader_of(Path(inner))
    if reader is None:
        raise UserError(f"{path}: there is no reader of {inner!r}; unpack it yourself")
    with open_file(path) as packed:
        size = os.fstat(packed.fileno()).st_size
        folder = _temporary_folder(text)
        plain = Path(folder.name, inner)
        try:
            _copy(unpacked(packed, text), plain, text, size)
            source = reader.open(str(plain))
        except UserError as error:
            folder.cleanup()
            if str(plain) not in str(error):
                raise
            raise UserError(str(error).replace(str(plain), text)) from None
        except BaseException:
            folder.cleanup()
            raise

    def close() -> None:
        source.close()
        folder.cleanup()

    return replace(source, kind=f"{source.kind}{ending.lower()}", nbytes=size, on_close=close)


def _copy_checked(pieces: Iterator[bytes], to: BinaryIO, path: str, size: int) -> None:
    """In place: the header to ``to``, and then as many bytes as it describes."""
    head = _taken(pieces, b"", LENGTH_BYTES)
    length = header_length(head[:LENGTH_BYTES], None, path)
    if length > max(FREE_HEADER, size):
        raise UserError(
            f"{path} has {size:,} bytes and declares a header of {length:,}; no real file has that"
        )
    head = _taken(pieces, head, LENGTH_BYTES + length)
    if len(head) < LENGTH_BYTES + length:
        raise UserError(
            f"{path} is no whole safetensors file: it ends in its header; copy it again"
        )
    described = parse_header(head[LENGTH_BYTES : LENGTH_BYTES + length], path).data_bytes
    expected = LENGTH_BYTES + length + described
    _check_proportion(expected, path, size)
    written = 0
    for piece in _with(head, pieces):
        written += len(piece)
        if written > expected:
            raise UserError(
                f"{path} is no whole safetensors file: it goes on behind the {expected:,} bytes "
                f"that its header describes; copy it again"
            )
        _write(to, piece, path, expected)
    if written < expected:
        raise UserError(
            f"{path} is no whole safetensors file: it has {written:,} bytes of the {expected:,} "
            f"that its header describes; copy it again"
        )
    _write(to, b"", path, expected)


def _copy(pieces: Iterator[bytes], to: Path, path: str, size: int) -> None:
    written = 0
    with _room(path), to.open("wb") as file:
        for piece in pieces:
            written += len(piece)
            _check_proportion(written, path, size)
            _write(file, piece, path, written)


def _check_proportion(content: int, path: str, size: int) -> None:
    if too_large(content, size):
        raise UserError(
            f"{path} has {size:,} bytes and unpacks to {content:,} or more; above "
            f"{FREE_BYTES:,} bytes no more than {MOST_TIMES} times the file is taken, for such "
            f"files are made to fill the disk; if you trust it, unpack it and give the result"
        )


def _taken(pieces: Iterator[bytes], head: bytes, least: int) -> bytes:
    """``head`` with as many more pieces as make it ``least`` bytes long, or all there are."""
    parts, have = [head], len(head)
    while have < least:
        piece = next(pieces, None)
        if piece is None:
            break
        parts.append(piece)
        have += len(piece)
    return b"".join(parts)


def _with(head: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from pieces


def _write(file: BinaryIO, piece: bytes, path: str, total: int) -> None:
    """In place: ``piece`` to ``file``; an empty one sees to it that all lies on the disk."""
    with _room(path, total):
        if piece:
            file.write(piece)
        else:
            file.flush()


def _temporary(path: str) -> BinaryIO:
    with _room(path):
        return tempfile.TemporaryFile()


def _temporary_folder(path: str) -> "tempfile.TemporaryDirectory[str]":
    with _room(path):
        return tempfile.TemporaryDirectory(ignore_cleanup_errors=True)


@contextmanager
def _room(path: str, total: int | None = None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        size = "" if total is None else f" ({total:,} bytes)"
        raise UserError(
            f"{path} cannot be unpacked to {tempfile.gettempdir()}{size}: {error}; make room, or "
            f"set TMPDIR to a folder that has it"
        ) from None


SOURCES.add(
    "safetensors_packed",
    Reader(
        about="Safetensors files compressed with xz or zstd, unpacked to the disk as they are read",
        open=open_compressed,
        suffixes=tuple(f".safetensors{packed}" for packed in PACKED),
    ),
)
SOURCES.add(
    "packed",
    Reader(
        about="Other weight files compressed with xz or zstd",
        open=open_other,
        suffixes=tuple(f"{other}{packed}" for other in OTHERS for packed in PACKED),
    ),
)
