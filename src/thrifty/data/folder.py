"""Pictures in folders, one folder for each class."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from thrifty.data.arrays import with_unlabeled
from thrifty.data.columns import pictures_data
from thrifty.data.pictures import Stack, same_channels
from thrifty.data.places import folder_at, listing
from thrifty.data.sets import DATASETS, UNLABELED, Data, Split
from thrifty.data.subsets import held_out
from thrifty.errors import UserError

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
TESTS = ("test", "val", "valid", "validation")
UNTOLD = "unlabeled"
"""The folder of training pictures without a label; it is no class."""


@DATASETS.entry("folder")
def folder(
    location: str, *, channels: int | None = None, size: int | None = None, seed: int = 0
) -> Data:
    """Pictures in DIR/train/CLASS and DIR/test/CLASS (or val), or in DIR/CLASS split 80/20.

    Pictures in DIR/unlabeled are training inputs without a label, for a teacher to tell of; then
    there need be no DIR/train.  Classes are numbered in the order of their sorted names.
    Hidden files and files that are not pictures by their ending are passed over.

    Args:
        location: DIR.
        channels: 1 for grey, 3 for colour; by the files unless given.
        size: side to which each picture is resized.
        seed: of the split.
    """
    root = folder_at("folder", location)
    more = _files(root / UNTOLD) if (root / UNTOLD).is_dir() else []
    tests = [root / name for name in TESTS if (root / name).is_dir()]
    if more and tests and not (root / "train").is_dir():
        names = _classes(tests[0])
        test = _read(_named(tests[0], names), size, channels)
        return _with(more, Split(test.inputs[:0], test.labels[:0]), test, names, size, channels)
    if not (root / "train").is_dir():
        names = _classes(root, but=UNTOLD)
        train, test = held_out(_read(_named(root, names), size, channels), seed)
        return _with(more, train, test, names, size, channels)
    if not tests:
        raise UserError(
            f"{root} has a folder train and none of {', '.join(TESTS)} beside it; it has "
            f"{listing(root)}; to split train 80/20 write folder:{root / 'train'}"
        )
    names = _classes(root / "train")
    others = set(_classes(tests[0])) ^ set(names)
    if others:
        raise UserError(
            f"the classes {', '.join(sorted(others)[:8])} are only in one of {root / 'train'} "
            f"and {tests[0]}; both must have the same classes"
        )
    places = (root / "train", tests[0])
    train, test = (_read(_named(place, names), size, channels) for place in places)
    return _with(more, train, test, names, size, channels)


def _with(
    more: Sequence[Path],
    train: Split,
    test: Split,
    names: Sequence[str],
    size: int | None,
    channels: int | None,
) -> Data:
    """The data set of these pictures, and of those without a label, if there are any."""
    if not more:
        return pictures_data("folder", train, test, tuple(names))
    found = _read([(path, UNLABELED) for path in more], size, channels)
    if len(train):
        train, found = same_channels(train, found)
        found = with_unlabeled(train, found.inputs, UNTOLD)
    return replace(pictures_data("folder", found, test, tuple(names)), unlabeled=True)


def _classes(place: Path, but: str = "") -> list[str]:
    names = sorted(
        p.name
        for p in place.iterdir()
        if p.is_dir() and not p.name.startswith(".") and p.name != but
    )
    if len(names) < 2:
        raise UserError(
            f"{place} has {len(names)} folders of pictures, and each class is one folder, at "
            f"least two; it has {listing(place)}"
        )
    return names


def _named(place: Path, names: Sequence[str]) -> list[tuple[Path, int]]:
    return [(path, label) for label, name in enumerate(names) for path in _files(place / name)]


def _read(files: Sequence[tuple[Path, int]], size: int | None, channels: int | None) -> Split:
    stack = Stack(len(files), size, channels)
    with stack.quiet():
        for path, _ in files:
            stack.add(path, str(path))
    return Split(stack.tensor(), torch.tensor([label for _, label in files]))


def _files(place: Path) -> list[Path]:
    """Every picture in and below ``place``, sorted."""
    found = sorted(
        Path(root, name)
        for root, _, names in os.walk(place)
        for name in names
        if not name.startswith(".") and Path(name).suffix.lower() in ENDINGS
    )
    if not found:
        what = "folder" if place.name == UNTOLD else "class folder"
        raise UserError(
            f"the {what} {place} has no picture ({' '.join(ENDINGS)}); it has {listing(place)}; "
            f"fill it or remove it"
        )
    return found
