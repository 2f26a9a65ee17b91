"""USPS, from the text files of LIBSVM, packed by bzip2 or not, without trusting them.

A line is a picture: its class, 1 to 10, then ``PLACE:VALUE`` with places 1 to 256 rising and
values from -1 to 1; a place that is left out is 0.  As torchvision reads them, class 1 is label 0
and a value v becomes the byte (v + 1) / 2 * 255, cut off and not rounded.
"""

import bz2
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from thrifty.data.places import first_of, folder_at
from thrifty.data.sets import DATASETS, Data, Split
from thrifty.errors import UserError

SIDE = 16
PIXELS = SIDE * SIDE
CLASSES = 10
MOST_LINE = 1 << 14
"""Bytes of a line: 256 places take 6,000 at most."""
MOST_ROWS = 100_000
"""Pictures of a file; there are 7,291 and 2,007."""


@DATASETS.entry("usps")
def usps(location: str) -> Data:
    """Digits of letters that the US mail sorted, 16 x 16 grey, 7,291 + 2,007, from LIBSVM's files.

    Args:
        location: folder of ``usps.bz2`` and ``usps.t.bz2``, or of these unpacked.

    References:
        Hull, A database for handwritten text recognition research, 1994; files of
        https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass.html#usps
    """
    folder = folder_at("usps", location)
    train, test = (
        read_libsvm(first_of(folder, [f"{name}.bz2", name])) for name in ("usps", "usps.t")
    )
    names = tuple(map(str, range(CLASSES)))
    return Data("usps", train, test, CLASSES, (), (), class_names=names)


def read_libsvm(path: Path) -> Split:
    """The pictures of one file.

    Raises:
        UserError: a line is none of a picture, or there are too many; the message names it.
    """
    pictures, labels = [], []
    try:
        for number, line in enumerate(_lines(path), 1):
            if number > MOST_ROWS:
                raise UserError(f"{path} has more than the {MOST_ROWS:,} lines that are read")
            label, picture = _picture(line, f"{path}, line {number}")
            labels.append(label)
            pictures.append(picture)
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); get the file again") from error
    if not pictures:
        raise UserError(f"{path} has no line; get the file again")
    inputs = np.stack(pictures).reshape(-1, 1, SIDE, SIDE)
    return Split(torch.from_numpy(inputs), torch.tensor(labels))


def _lines(path: Path) -> Iterator[bytes]:
    """Line by line, so that no more is unpacked than is read."""
    with path.open("rb") as raw:
        packed = raw.read(3) == b"BZh"
        raw.seek(0)
        file: io.BufferedIOBase = bz2.BZ2File(raw) if packed else raw
        while line := file.readline(MOST_LINE + 1):
            if len(line) > MOST_LINE:
                raise UserError(f"{path} has a line of more than {MOST_LINE:,} bytes; get it again")
            if line.strip():
                yield line


def _picture(line: bytes, where: str) -> tuple[int, np.ndarray]:
    first, *pairs = line.split()
    try:
        label = float(first)
        places = [int(pair.partition(b":")[0]) for pair in pairs]
        values = np.array([float(pair.partition(b":")[2]) for pair in pairs], np.float32)
    except ValueError:
        raise UserError(
            f"{where}: is not CLASS PLACE:VALUE PLACE:VALUE ...; get it again"
        ) from None
    if label not in range(1, CLASSES + 1):
        raise UserError(f"{where}: the class is {label:g}; classes are 1 to {CLASSES}")
    rising = all(a < b for a, b in zip([0, *places], [*places, PIXELS + 1], strict=True))
    if not rising:
        raise UserError(f"{where}: its places are not 1 to {PIXELS}, rising; get the file again")
    if not (np.abs(values) <= 1).all():
        raise UserError(f"{where}: a value is not from -1 to 1; get the file again")
    whole = np.zeros(PIXELS, np.float32)
    whole[np.array(places, np.int64) - 1] = values
    return int(label) - 1, ((whole + 1) / 2 * 255).astype(np.uint8)
