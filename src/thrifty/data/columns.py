"""Pictures and labels from Arrow columns, as Hugging Face data sets hold them.

A picture is a struct {bytes, path} or plain binary; a label is an integer.  Class names are
in the schema's ``huggingface`` metadata, if anywhere.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from thrifty.data.pictures import CIFAR, Stack, same_channels
from thrifty.data.sets import Data, Split
from thrifty.errors import MissingExtra, UserError

IMAGES = ("image", "img", "pixel_values", "pixels", "pixel", "picture", "photo", "png", "jpg")
LABELS = ("label", "labels", "fine_label", "fine_labels", "class", "target", "category", "y", "cls")

Batches = Iterable[tuple[str, int, Any]]  # file, its row that comes first, Arrow batch or table


@dataclass(frozen=True)
class Columns:
    """Which column is what, and what the classes are called."""

    image: str
    label: str
    class_names: tuple[str, ...] = ()


def find_columns(schema: Any, where: str, image: str = "", label: str = "") -> Columns:
    """The picture and the label column of an Arrow schema, by the usual names or as told."""
    image = _named(list(schema.names), image, IMAGES, "image", where)
    label = _named(list(schema.names), label, LABELS, "label", where)
    return Columns(image, label, _class_names(schema, label))


def read_split(
    batches: Batches, columns: Columns, rows: int, stack: Stack, classes: int | None
) -> Split:
    """Decode ``rows`` rows; labels must lie in 0 .. classes - 1, or be 0 or more if None."""
    labels = np.empty(rows, dtype=np.int64)
    with stack.quiet():
        for file, first, batch in batches:
            start = stack.filled
            found = _labels(batch, columns.label, file, first, classes)
            labels[start : start + len(found)] = found
            for row, content in enumerate(_contents(batch, columns.image, file), first):
                if content is None:
                    raise UserError(
                        f"{file}, row {row} (counted from 0): there is no picture in the file; "
                        f"save the data set with its pictures embedded"
                    )
                stack.add(content, f"{file}, row {row} (counted from 0)")
    return Split(stack.tensor(), torch.from_numpy(labels[: stack.filled]))


def pictures_data(
    name: str, train: Split, test: Split, names: tuple[str, ...] = (), classes: int | None = None
) -> Data:
    """A Data of pictures: channels made equal, classes counted, usual augmentation at CIFAR size.

    Args:
        name: of the data set.
        train: its training part.
        test: its test part.
        names: of the classes; left out if there are not ``classes``.
        classes: their number; else that of the names, else the largest label + 1.
    """
    train, test = same_channels(train, test)
    if classes is None:
        highest = max((int(s.labels.max()) for s in (train, test) if len(s.labels)), default=-1)
        classes = len(names) or highest + 1
    small_colour = tuple(train.inputs.shape[1:]) == CIFAR
    return Data(
        name,
        train,
        test,
        classes,
        (),
        (),
        shift=4 if small_colour else 0,
        flip=small_colour,
        class_names=names if len(names) == classes else (),
    )


def arrow() -> Any:
    """The module ``pyarrow``, with ``pyarrow.parquet``, ``pyarrow.compute``."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("data", "pyarrow", "reading parquet files") from None
    return pyarrow


def _named(names: list[str], told: str, usual: tuple[str, ...], what: str, where: str) -> str:
    """``told`` or the first usual name among the columns, whatever its case."""
    if told:
        if told in names:
            return told
        raise UserError(f"{where}: no column is called {told!r}; it has {', '.join(names)}")
    lower = {name.lower(): name for name in reversed(names)}
    for name in usual:
        if name in lower:
            return lower[name]
    raise UserError(
        f"{where}: no column is called {', '.join(usual)}; it has {', '.join(names)}; "
        f"say which it is with {what}=COLUMN"
    )


def _class_names(schema: Any, label: str) -> tuple[str, ...]:
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[label]["names"])
    except (KeyError, TypeError, ValueError):  # no such metadata, or not of that form
        return ()


def _contents(batch: Any, name: str, file: str) -> list[bytes | None]:
    pyarrow = arrow()
    column, types = batch.column(name), pyarrow.types
    if types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        column = pyarrow.compute.struct_field(column, "bytes")
    if not (types.is_binary(column.type) or types.is_large_binary(column.type)):
        raise UserError(
            f"{file}: column {name!r} holds {column.type}; pictures are encoded files (PNG, JPEG) "
            f"as binary or as struct {{bytes, path}}; name their column with image=COLUMN"
        )
    contents: list[bytes | None] = column.to_pylist()
    return contents


def _labels(batch: Any, name: str, file: str, first: int, classes: int | None) -> NDArray[np.int64]:
    pyarrow = arrow()
    column = batch.column(name)
    if not pyarrow.types.is_integer(column.type):
        raise UserError(
            f"{file}: column {name!r} holds {column.type}; labels are whole numbers from 0; "
            f"name their column with label=COLUMN"
        )
    if column.null_count:
        row = first + column.is_null().to_pylist().index(True)
        raise UserError(
            f"{file}, row {row} (counted from 0): the label is missing; take the row out"
        )
    labels = np.asarray(column)
    bad = (labels < 0) | (labels > 2**62)
    if classes is not None:
        bad |= labels >= classes
    if bad.any():
        row = int(bad.argmax())
        allowed = "0 or more" if classes is None else f"0 .. {classes - 1}"
        raise UserError(
            f"{file}, row {first + row} (counted from 0): the label is {labels[row]}; it must be "
            f"{allowed}; correct it, or set classes=N"
        )
    return labels.astype(np.int64)
