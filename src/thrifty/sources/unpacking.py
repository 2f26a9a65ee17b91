"""Compressed content as a stream of small pieces, and how much of it is believed.

A file of a few kilobytes can unpack to terabytes, so nothing is unpacked whole in memory, and
content that is out of all proportion to its file is refused.
"""

import lzma
from collections.abc import Callable, Iterator
from typing import BinaryIO

import zstandard

from thrifty.errors import UserError

MOST_BYTES = 64 << 30
FREE_BYTES = 256 << 20
MOST_TIMES = 1000
"""A compressed file may declare up to MOST_BYTES, and above FREE_BYTES no more than MOST_TIMES
its own size.  Weights of which one in a thousand is left compress about 500 times; a file made
to fill the memory of whoever opens it compresses tens of thousands of times."""

MOST_WINDOW = 1 << 27
"""Bytes that a decompressor may keep to look back, as the command ``zstd -d`` allows at most.
xz with its largest preset takes half of that."""

OUT = 1 << 20
IN = 1 << 16
ZSTD_IN = 1 << 10
"""Bytes given to zstd at a time: it gives all that they unpack to, up to 32,000 times as much."""


def too_large(content: int, file: int) -> bool:
    """Whether ``content`` bytes are more than a compressed file of ``file`` bytes may hold."""
    return content > MOST_BYTES or content > max(FREE_BYTES, MOST_TIMES * file)


def unpacked(file: BinaryIO, path: str) -> Iterator[bytes]:
    """The content of an open ``.xz`` or ``.zst`` file, whichever ``path`` ends in, in pieces.

    Several frames or streams behind one another are one content, as for the commands.

    Raises:
        UserError: it is no such file, damaged, cut short, or wants too much memory.
    """
    read = _xz if path.lower().endswith(".xz") else _zst
    try:
        yield from read(file)
    except _MemoryWanted as error:
        raise UserError(
            f"{path} needs more than {MOST_WINDOW:,} bytes of memory to be unpacked ({error}); "
            f"unpack it yourself if you trust it, and give the result"
        ) from None
    except (lzma.LZMAError, zstandard.ZstdError, EOFError, OSError) as error:
        raise UserError(f"{path} is damaged or cut short: {error}; copy it again") from None


class _MemoryWanted(Exception):
    pass


def _xz(file: BinaryIO) -> Iterator[bytes]:
    def new() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=MOST_WINDOW)

    decompressor, data = new(), b""
    while True:
        if decompressor.eof:
            data = _behind(decompressor.unused_data, file)
            if not data:
                return
            decompressor = new()
        elif decompressor.needs_input:
            data = _more(file, IN)
        try:
            out = decompressor.decompress(data, OUT)
        except lzma.LZMAError as error:
            if "limit" in str(error).lower():
                raise _MemoryWanted(error) from None
            raise
        data = b""
        if out:
            yield out


def _behind(unused: bytes, file: BinaryIO) -> bytes:
    """What follows a stream, without the zeros that may pad it; empty at the end of the file."""
    while True:
        data = unused.lstrip(b"\0")
        if data:
            return data
        unused = file.read(IN)
        if not unused:
            return b""


def _zst(file: BinaryIO) -> Iterator[bytes]:
    new: Callable[[], zstandard.ZstdDecompressionObj] = zstandard.ZstdDecompressor(
        max_window_size=MOST_WINDOW
    ).decompressobj
    decompressor, data = new(), _more(file, ZSTD_IN)
    while data:
        try:
            out = decompressor.decompress(data)
        except zstandard.ZstdError as error:
            if "memory" in str(error).lower():
                raise _MemoryWanted(error) from None
            raise
        if out:
            yield out
        if decompressor.eof:
            data = decompressor.unused_data or file.read(ZSTD_IN)
            decompressor = new()
        else:
            data = _more(file, ZSTD_IN)


def _more(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if not data:
        raise EOFError("it ends in the middle")
    return data
