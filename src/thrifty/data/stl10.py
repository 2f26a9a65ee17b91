"""STL-10, from its binary files: bytes without a header, so that a size is all there is to check.

A picture is three channels of 96 columns of 96 pixels; labels are bytes from 1 to 10.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from thrifty.data.pictures import LARGEST, resized
from thrifty.data.places import first_of, folder_at
from thrifty.data.sets import DATASETS, Data, Split
from thrifty.errors import UserError

SHAPE = (3, 96, 96)
NAMES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
AT_ONCE = 512
"""Pictures in memory at their full size, if they are resized."""


@DATASETS.entry("stl10")
def stl10(location: str, *, size: int | None = None) -> Data:
    """Objects of ten kinds, 96 x 96 in colour, 5,000 + 8,000; those without a label are not read.

    Args:
        location: folder of ``train_X.bin``, ``train_y.bin``, ``test_X.bin`` and ``test_y.bin``.
        size: side to which each picture is resized as it is read.

    References:
        Coates et al., An Analysis of Single Layer Networks in Unsupervised Feature Learning, 2011,
        https://cs.stanford.edu/~acoates/stl10/
    """
    folder = folder_at("stl10", location)
    train, test = (_split(folder, part, size) for part in ("train", "test"))
    return Data("stl10", train, test, len(NAMES), (), (), flip=True, class_names=NAMES)


def _split(folder: Path, part: str, size: int | None) -> Split:
    labels = _labels(first_of(folder, [f"{part}_y.bin"]))
    path = first_of(folder, [f"{part}_X.bin"])
    each = int(np.prod(SHAPE))
    if path.stat().st_size != len(labels) * each:
        raise UserError(
            f"{path} has {path.stat().st_size:,} bytes, and {len(labels):,} labels are those of "
            f"{len(labels) * each:,}; get the files again"
        )
    side = size or SHAPE[1]
    if len(labels) * SHAPE[0] * side**2 > LARGEST:
        raise UserError(
            f"{path}: {len(labels):,} pictures of {side} x {side} pixels are more than the "
            f"{LARGEST >> 30} GiB held in memory; give a smaller size=N"
        )
    pictures = torch.empty((len(labels), SHAPE[0], side, side), dtype=torch.uint8)
    with path.open("rb") as file:
        for start in range(0, len(labels), AT_ONCE):
            count = min(AT_ONCE, len(labels) - start)
            found = np.fromfile(file, np.uint8, count * each)
            if len(found) != count * each:
                raise UserError(f"{path} became shorter while it was read; try again")
            whole = torch.from_numpy(found.reshape(count, *SHAPE)).transpose(2, 3).contiguous()
            pictures[start : start + count] = resized(whole, side)
    return Split(pictures, labels)


def _labels(path: Path) -> Tensor:
    if not 0 < path.stat().st_size <= LARGEST // int(np.prod(SHAPE)):
        raise UserError(f"{path} has {path.stat().st_size:,} bytes, a label each; get it again")
    found = np.fromfile(path, np.uint8)
    if not ((found >= 1) & (found <= len(NAMES))).all():
        raise UserError(
            f"{path} has labels from {found.min()} to {found.max()}; they are 1 to {len(NAMES)}"
        )
    return torch.from_numpy(found.astype(np.int64) - 1)
