"""Arrays in one NumPy archive, read without pickle and without trusting its sizes."""

import math
import zipfile
import zlib
from pathlib import Path

import numpy as np

from thrifty.data.arrays import arrays_data, keys_of
from thrifty.data.pictures import LARGEST
from thrifty.data.places import file_at
from thrifty.data.sets import DATASETS, Data
from thrifty.errors import UserError

# What zipfile and numpy raise for files that are damaged, encrypted or hold Python objects.
BROKEN = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError)


@DATASETS.entry("npz")
def npz(location: str, *, layout: str = "", seed: int = 0) -> Data:
    """An archive of x_train, y_train, x_test, y_test, or of x and y to be split 80/20.

    Inputs are (n, height, width), (n, height, width, channels), (n, channels, height, width),
    uint8 or floating, or (n, features); labels are one integer a row.  Training inputs without a
    label, for a teacher to tell of, are x_unlabeled, beside the others or instead of x_train.

    Args:
        location: the file.
        layout: nhwc or nchw, if the shape does not tell where the channels are.
        seed: of the split.
    """
    path = file_at("npz", location)
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {
                info.filename[:-4]: info.file_size
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }
            keys = keys_of(sizes, str(path))
            _refuse_large(sum(sizes[key] for key in keys), path)
            for key in keys:
                _check_header(archive, key, sizes[key], path)
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in keys}
    except UserError:
        raise
    except BROKEN as error:
        raise UserError(
            f"{path}: not a NumPy archive of plain arrays that can be read ({error}); write it "
            f"with numpy.savez_compressed"
        ) from error
    return arrays_data(arrays, str(path), layout, seed)


def _refuse_large(size: int, path: Path) -> None:
    if size > LARGEST:
        raise UserError(
            f"{path}: unpacks to {size / 2**30:.1f} GiB, more than the {LARGEST >> 30} GiB held "
            f"in memory; keep pictures as uint8, or give fewer or smaller ones"
        )


def _check_header(archive: zipfile.ZipFile, key: str, size: int, path: Path) -> None:
    """The array that the header describes must be as large as the archive says the entry is."""
    with archive.open(f"{key}.npy") as file:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise ValueError(f"{key} has the format version {version}, for structures")
        if dtype.hasobject:
            raise ValueError(f"{key} holds Python objects")
        described = math.prod(shape) * dtype.itemsize
        if described != size - file.tell():
            raise UserError(
                f"{path}: the header of {key} describes {shape} {dtype}, {described:,} bytes, and "
                f"there are {size - file.tell():,}; write the file again"
            )
