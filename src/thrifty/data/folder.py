"""Pictures in folders, one folder for each class."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from thrifty.data.columns import pictures_data
from thrifty.data.pictures import Stack
from thrifty.data.places import folder_at, listing
from thrifty.data.sets import DATASETS, Data, Split
from thrifty.data.subsets import held_out
from thrifty.errors import UserError

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
TESTS = ("test", "val", "valid", "validation")


@DATASETS.entry("folder")
def folder(
    location: str, *, channels: int | None = None, size: int | None = None, seed: int = 0
) -> Data:
    """Pictures in DIR/train/CLASS and DIR/test/CLASS (or val), or in DIR/CLASS split 80/20.

    Classes are numbered in the order of their sorted names.  Hidden files and files that are
    not pictures by their ending are passed over.

    Args:
        location: DIR.
        channels: 1 for grey, 3 for colour; by the files unless given.
        size: side to which each picture is resized.
        seed: of the split.
    """
    root = folder_at("folder", location)
    if not (root / "train").is_dir():
        names = _classes(root)
        train, test = held_out(_read(root, names, size, channels), seed)
        return pictures_data("folder", train, test, tuple(names))
    tests = [root / name for name in TESTS if (root / name).is_dir()]
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
    train, test = (_read(place, names, size, channels) for place in (root / "train", tests[0]))
    return pictures_data("folder", train, test, tuple(names))


def _classes(place: Path) -> list[str]:
    names = sorted(p.name for p in place.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(names) < 2:
        raise UserError(
            f"{place} has {len(names)} folders of pictures, and each class is one folder, at "
            f"least two; it has {listing(place)}"
        )
    return names


def _read(place: Path, names: Sequence[str], size: int | None, channels: int | None) -> Split:
    files = [(path, label) for label, name in enumerate(names) for path in _files(place / name)]
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
        raise UserError(
            f"the class folder {place} has no picture ({' '.join(ENDINGS)}); it has "
            f"{listing(place)}; fill it or remove it"
        )
    return found
