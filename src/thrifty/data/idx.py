"""Read the IDX files of MNIST and its kin, gzip or plain, without trusting their headers.

Header: two zero bytes, the type (8 = uint8), the number of dimensions, then each dimension
as a big-endian 32-bit number; the values follow.  http://yann.lecun.com/exdb/mnist/
"""

import gzip
import struct
import zlib
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from thrifty.data.pictures import LARGEST
from thrifty.data.places import first_of, folder_at
from thrifty.data.sets import Split
from thrifty.errors import UserError

PIECE = 1 << 20
DEFLATE_BEST = 1032  # bytes that one compressed byte can become at most, RFC 1951


def read_folder(name: str, location: str) -> tuple[Split, Split]:
    """Training and test part of the four usual files in the folder of ``name:DIR``."""
    folder = folder_at(name, location)
    train, test = (
        Split(
            read_idx(first_of(folder, _names(part, "images", 3)), 3)[:, None],
            read_idx(first_of(folder, _names(part, "labels", 1)), 1).long(),
        )
        for part in ("train", "t10k")
    )
    return train, test


def read_idx(path: Path, dimensions: int) -> Tensor:
    """The uint8 values of an IDX file of so many dimensions.

    No more is decompressed than the header promises and one byte, and memory grows only with
    what is really there.
    """
    compressed = path.stat().st_size
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        file: IO[bytes] = gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore[assignment]
        try:
            shape = _header(file, path, dimensions)
            expected = 1
            for length in shape:
                expected *= length
            possible = compressed * DEFLATE_BEST if packed else compressed - 4 - 4 * dimensions
            if expected > min(possible, LARGEST):
                raise UserError(
                    f"{path}: the header promises {expected:,} values {shape}, and a file of "
                    f"{compressed:,} bytes cannot hold them; get the file again"
                )
            values = _values(file, expected)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path}: cannot be read ({error}); get the file again") from error
    if len(values) != expected:
        found = "more" if len(values) > expected else f"{len(values):,}"
        raise UserError(
            f"{path}: the header promises {expected:,} values {shape}, and there are {found}; "
            f"get the file again"
        )
    if not expected:
        return torch.empty(shape, dtype=torch.uint8)
    return torch.frombuffer(values, dtype=torch.uint8).reshape(shape)


def _header(file: IO[bytes], path: Path, dimensions: int) -> tuple[int, ...]:
    header = file.read(4 + 4 * dimensions)
    magic = bytes((0, 0, 8, dimensions))
    if len(header) < 4 + 4 * dimensions or header[:4] != magic:
        raise UserError(
            f"{path}: begins with {header[:4].hex() or 'nothing'}; an IDX file of bytes in "
            f"{dimensions} dimensions begins with {magic.hex()} and its lengths"
        )
    return struct.unpack(f">{dimensions}I", header[4:])


def _values(file: IO[bytes], expected: int) -> bytearray:
    """All values, or one more than ``expected``, or fewer if the file ends."""
    values = bytearray()
    while wanted := min(expected + 1 - len(values), PIECE):
        piece = file.read(wanted)
        if not piece:
            break
        values += piece
    return values


def _names(part: str, kind: str, dimensions: int) -> list[str]:
    return [f"{part}-{kind}{dot}idx{dimensions}-ubyte{end}" for dot in "-." for end in ("", ".gz")]
