"""Arrays as people keep them, turned into splits: which axis is what, and which type."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thrifty.data.sets import UNLABELED, Data, Split
from thrifty.data.subsets import held_out
from thrifty.errors import UserError

FOUR = ("x_train", "y_train", "x_test", "y_test")
TWO = ("x", "y")
MORE = "x_unlabeled"
LAYOUTS = ("", "nhwc", "nchw")


def keys_of(arrays: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The names under which ``arrays`` holds a data set: inputs with labels, then without."""
    more = (MORE,) if MORE in arrays else ()
    for keys in (FOUR, TWO, *([FOUR[2:]] if more else [])):
        if all(key in arrays for key in keys):
            return (*keys, *more)
    raise UserError(
        f"{where}: needs {', '.join(FOUR)}, or {' and '.join(TWO)} to be split 80/20; it has "
        f"{', '.join(map(str, arrays)) or 'nothing'}"
    )


def arrays_data(arrays: Mapping[str, Any], where: str, layout: str = "", seed: int = 0) -> Data:
    """A Data of NumPy arrays or tensors, named as ``keys_of`` says.

    Args:
        arrays: inputs (n, height, width), (n, height, width, channels), (n, channels, height,
            width) or (n, features), uint8 or floating; labels one integer a row.  Training
            inputs without a label, for a teacher, may lie beside them, or instead of them.
        where: names them in errors.
        layout: ``nhwc`` or ``nchw`` for arrays of four axes; by their shape unless given.
        seed: of the split, if there is no test part.
    """
    if layout not in LAYOUTS:
        raise UserError(f"layout is {layout!r}; it is nhwc or nchw")
    keys = keys_of(arrays, where)
    splits = [_labeled(arrays, x, where, layout) for x in keys if x.startswith("x") and x != MORE]
    if "x_test" not in keys:
        splits = [*held_out(splits[0], seed)]
    highest = max((int(s.labels.max()) for s in splits if len(s)), default=-1)
    train, test = (*splits, *splits)[:2]
    if MORE in keys:
        more = _inputs(arrays[MORE], f"{where}: {MORE}", layout)
        train = with_unlabeled(train if len(splits) == 2 else None, more, f"{where}: {MORE}")
    return Data(where, train, test, highest + 1, (), (), unlabeled=MORE in keys)


def _labeled(arrays: Mapping[str, Any], x: str, where: str, layout: str) -> Split:
    y = f"y{x[1:]}"
    split = Split(_inputs(arrays[x], f"{where}: {x}", layout), _labels(arrays[y], f"{where}: {y}"))
    if len(split.inputs) != len(split.labels):
        raise UserError(
            f"{where}: {x} has {len(split.inputs)} rows and its labels {len(split.labels)}"
        )
    return split


def with_unlabeled(labeled: Split | None, inputs: Tensor, where: str) -> Split:
    """Training inputs with labels, if there are any, and then those without.

    Raises:
        UserError: they are not alike.
    """
    labels = torch.full((len(inputs),), UNLABELED)
    if labeled is None:
        return Split(inputs, labels)
    ours, theirs = labeled.inputs, inputs
    if ours.shape[1:] != theirs.shape[1:] or ours.dtype != theirs.dtype:
        raise UserError(
            f"{where} holds {theirs.dtype} {tuple(theirs.shape[1:])} each, and the inputs with "
            f"labels are {ours.dtype} {tuple(ours.shape[1:])}; they must be alike"
        )
    return Split(torch.cat([ours, theirs]), torch.cat([labeled.labels, labels]))


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
    if array.size and array.dtype.kind == "i" and array.min() < 0:
        row = int((array < 0).argmax())
        raise UserError(
            f"{where}: label {array[row]} of row {row} (counted from 0) is below 0; labels are 0 "
            f".. classes - 1, and inputs without one are given as {MORE}"
        )
    return torch.from_numpy(array.astype(np.int64))


def _array(given: Any) -> np.ndarray:
    return np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given)
