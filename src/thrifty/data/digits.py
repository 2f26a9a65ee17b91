"""1,797 scans of handwritten digits, 8 x 8, that come with the package: no download, no extra.

``digits.npz`` holds the values of the source, 0..16; ``digits.txt`` says whose they are.
"""

from functools import cache
from pathlib import Path

import numpy as np
import torch

from thrifty.data.sets import DATASETS, Data, Split
from thrifty.data.subsets import apart, fold, spread
from thrifty.errors import UserError

FILE = Path(__file__).with_suffix(".npz")
FOLDS = 5


@DATASETS.entry("digits")
def digits(location: str, *, fold: int | None = None, seed: int = 0) -> Data:
    """Optical Recognition of Handwritten Digits: 8 x 8 grey, 10 classes, embedded.

    Values are scaled from 0..16 to 0..255: x * 255 / 16, rounded to the nearest.  Split at
    random, classes in proportion: 1,258 to train and 539 to test.

    Args:
        location: none; the data is in the package.
        fold: 0 .. 4 to test on that fifth of the data and train on the rest instead.
        seed: of the split.

    References:
        Alpaydin and Kaynak, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0
    """
    if location:
        raise UserError(f"digits comes with the package; write digits instead of digits:{location}")
    values, labels = stored()
    pictures = np.rint(values.astype(np.float64) * 255 / 16).astype(np.uint8)[:, None]
    whole = Split(torch.from_numpy(pictures), torch.from_numpy(labels))
    train, test = apart(whole, _test_rows(labels, fold, seed))
    names = tuple(map(str, range(10)))
    return Data("digits", train, test, 10, (), (), shift=1, class_names=names)


@cache
def stored() -> tuple[np.ndarray, np.ndarray]:
    """Values (1797, 8, 8) uint8 in 0..16 and labels (1797,) int64, as in scikit-learn."""
    with np.load(FILE, allow_pickle=False) as file:
        return file["values"], file["labels"].astype(np.int64)


def _test_rows(labels: np.ndarray, number: int | None, seed: int) -> np.ndarray:
    if number is None:
        return spread(labels, round(len(labels) * 0.3), seed)
    if number not in range(FOLDS):
        raise UserError(f"fold is {number!r}; there are the folds 0 .. {FOLDS - 1}")
    return fold(labels, number, FOLDS, seed)
