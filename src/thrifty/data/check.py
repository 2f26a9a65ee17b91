"""Everything that can be wrong with a data set, said at once."""

import math

import torch
from torch import Tensor

from thrifty.data.sets import UNLABELED, Data, Split
from thrifty.errors import UserError

MOST_CLASSES = 1_000_000  # a label beyond is a mistake, and would make a layer of that width


def check(data: Data) -> None:
    """Raise one UserError that lists all that is wrong with ``data``; empty moments are fine."""
    least = UNLABELED if data.unlabeled else 0
    wrong = _split(data.train, "train", data.classes, least) + _split(
        data.test, "test", data.classes
    )
    if data.classes == 1 and not wrong:
        wrong.append("classes is 1; training needs at least two")
    elif not 2 <= data.classes <= MOST_CLASSES:
        wrong.append(f"classes is {data.classes}; it must be 2 .. {MOST_CLASSES:,}")
    elif not wrong and (only := _only_class(data.train.labels)) is not None:
        wrong.append(f"every train label is {only}; training needs at least two classes")
    if not wrong:
        wrong = _together(data)
    if wrong:
        raise UserError(f"data set {data.name!r} cannot be used: " + "; ".join(wrong))


def _only_class(labels: Tensor) -> int | None:
    """The class of all that have one, ``None`` if there are several, or none has."""
    said = labels[labels != UNLABELED]
    return int(said[0]) if len(said) and bool((said == said[0]).all()) else None


def _split(split: Split, name: str, classes: int, least: int = 0) -> list[str]:
    inputs, labels = split.inputs, split.labels
    if not all(isinstance(thing, Tensor) for thing in (inputs, labels)):
        return [f"{name} holds {type(inputs).__name__} and {type(labels).__name__}, not tensors"]
    wrong = []
    if inputs.dtype not in (torch.uint8, torch.float32):
        wrong.append(f"{name} inputs are {inputs.dtype}; pictures are uint8, all else float32")
    if inputs.dim() < 2 or (inputs.dtype == torch.uint8 and inputs.dim() != 4):
        wrong.append(
            f"{name} inputs have the shape {tuple(inputs.shape)}; pictures are "
            f"(n, channels, height, width), other inputs (n, features) at least"
        )
    elif 0 in inputs.shape[1:]:
        wrong.append(f"{name} inputs have the shape {tuple(inputs.shape)}, so they hold nothing")
    if labels.dim() != 1 or labels.dtype != torch.int64:
        wrong.append(f"{name} labels are {labels.dtype} {tuple(labels.shape)}; give int64 (n,)")
    elif inputs.dim() and len(inputs) != len(labels):
        wrong.append(f"{name} has {len(inputs)} inputs and {len(labels)} labels")
    if not labels.numel() or not inputs.numel():
        return [*wrong, f"{name} is empty"]
    if labels.dtype == torch.int64 and labels.dim() == 1:
        outside = (labels < least) | (labels >= classes)
        if outside.any():
            row = int(outside.int().argmax())
            wrong.append(
                f"{name} label {int(labels[row])} of row {row} (counted from 0) lies outside "
                f"0 .. {classes - 1}, as do {int(outside.sum())} in all"
            )
    if inputs.is_floating_point() and inputs.dim() > 1:
        first = _first_not_finite(inputs)
        if first is not None:
            wrong.append(
                f"{name} inputs have NaN or infinity, first in row {first} (counted from 0)"
            )
    return wrong


def _first_not_finite(inputs: Tensor) -> int | None:
    for start in range(0, len(inputs), 8192):  # so that no second copy of all is made
        bad = ~inputs[start : start + 8192].flatten(1).isfinite().all(1)
        if bad.any():
            return start + int(bad.int().argmax())
    return None


def _together(data: Data) -> list[str]:
    wrong = []
    train, test = data.train.inputs, data.test.inputs
    if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
        wrong.append(
            f"train inputs are {train.dtype} {tuple(train.shape[1:])} each, test inputs "
            f"{test.dtype} {tuple(test.shape[1:])}; they must be alike (pictures: give size=N)"
        )
    for name, numbers in (("mean", data.mean), ("std", data.std)):
        if numbers and len(numbers) != train.shape[1]:
            wrong.append(f"{name} has {len(numbers)} numbers for {train.shape[1]} channels")
        if not all(map(math.isfinite, numbers)) or (name == "std" and min(numbers, default=1) <= 0):
            wrong.append(f"{name} is {numbers}; it must be finite, and std above 0")
    if data.class_names and len(data.class_names) != data.classes:
        wrong.append(f"there are {len(data.class_names)} class names for {data.classes} classes")
    if (data.shift or data.flip) and train.dim() != 4:
        wrong.append(f"shift and flip are for pictures, and inputs are {data.shape}")
    elif data.shift < 0 or (data.shift and data.shift >= min(train.shape[-2:])):
        wrong.append(f"shift is {data.shift}; it must be 0 or more and less than the picture side")
    return wrong
