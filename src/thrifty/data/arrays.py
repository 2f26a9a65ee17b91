"""Arrays as people keep them, turned into splits: which axis is what, and which type."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thrifty.data.sets import Data, Split
from thrifty.data.subsets import held_out
from thrifty.errors import UserError

FOUR = ("x_train", "y_train", "x_test", "y_test")
TWO = ("x", "y")
LAYOUTS = ("", "nhwc", "nchw")


def keys_of(arrays: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The four or two names under which ``arrays`` holds a data set."""
    for keys in (FOUR, TWO):
        if all(key in arrays for key in keys):
            return keys
    raise UserError(
        f"{where}: needs {', '.join(FOUR)}, or {' and '.join(TWO)} to be split 80/20; it has "
        f"{', '.join(map(str, arrays)) or 'nothing'}"
    )


def arrays_data(arrays: Mapping[str, Any], where: str, layout: str = "", seed: int = 0) -> Data:
    """A Data of NumPy arrays or tensors, named as ``keys_of`` says.

    Args:
        arrays: inputs (n, height, width), (n, height, width, channels), (n, channels, height,
            width) or (n, features), uint8 or floating; labels one integer a row.
        where: names them in errors.
        layout: ``nhwc`` or ``nchw`` for arrays of four axes; by their shape unless given.
        seed: of the split, if there is no test part.
    """
    if layout not in LAYOUTS:
        raise UserError(f"layout is {layout!r}; it is nhwc or nchw")
    keys = keys_of(arrays, where)
    splits = [
        Split(_inputs(arrays[x], f"{where}: {x}", layout), _labels(arrays[y], f"{where}: {y}"))
        for x, y in zip(keys[::2], keys[1::2], strict=True)
    ]
    for split, x in zip(splits, keys[::2], strict=True):
        if len(split.inputs) != len(split.labels):
            raise UserError(
                f"{where}: {x} has {len(split.inputs)} rows and its labels {len(split.labels)}"
            )
    train, test = splits if len(splits) == 2 else held_out(splits[0], seed)
    highest = max((int(s.labels.max()) for s in (train, test) if len(s)), default=-1)
    return Data(where, train, test, highest + 1, (), ())


def _inputs(given: Any, where: str, layout: str) -> Tensor:
    array = _array(given)
    kind = array.dtype.kind
    if array.dtype != np.uint8 and kind not in "fiu":
        raise UserError(f"{where} holds {array.dtype}; inputs are uint8 or floating numbers")
    if not 2 <= array.ndim <= 4:
        raise UserError(
            f"{where} has the shape {array.shape}; inputs are (n, features), (n, height, width) "
            f"or these with an axis of channels"
        )
    if array.ndim > 2 and kind in "iu" and array.dtype != np.uint8:
        raise UserError(
            f"{where} holds {array.dtype}; pictures are uint8 (0..255) or floating numbers; "
            f"convert it with .astype('uint8')"
        )
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and (layout or _layout(array.shape, where)) == "nhwc":
        array = array.transpose(0, 3, 1, 2)
    wanted = np.uint8 if array.dtype == np.uint8 and array.ndim == 4 else np.float32
    with np.errstate(over="ignore"):  # becomes infinity, which the check of all data names
        return torch.from_numpy(np.array(array, dtype=wanted, order="C"))


def _layout(shape: tuple[int, ...], where: str) -> str:
    """Which of the second and the last axis is the one of 1 or 3 channels."""
    first, last = shape[1] in (1, 3), shape[3] in (1, 3)
    if first == last:
        raise UserError(
            f"{where} has the shape {shape}, and {'two axes' if first else 'no axis'} could be "
            f"the channels (1 or 3); say which with layout=nhwc or layout=nchw"
        )
    return "nchw" if first else "nhwc"


def _labels(given: Any, where: str) -> Tensor:
    array = _array(given)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UserError(
            f"{where} is {array.dtype} of shape {array.shape}; labels are one whole number a row"
        )
    if array.size and array.max() > 2**62:
        raise UserError(f"{where} holds {array.max()}; labels are 0 .. classes - 1")
    return torch.from_numpy(array.astype(np.int64))


def _array(given: Any) -> np.ndarray:
    return np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given)
