"""Which rows: random subsets and splits that keep the classes in proportion.

``numpy.random.RandomState`` is used because its streams never change between versions of
numpy (NEP 19), so a subset named in a recipe means the same rows for good.
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thrifty.data.sets import UNLABELED, Data, Split
from thrifty.errors import UserError

Rows = NDArray[np.int64]


def spread(labels: Rows, count: int, seed: int) -> Rows:
    """Rows of a random subset of ``count``, ascending, each class in proportion.

    The count is exact: what rounding leaves goes to the classes with the largest remainder,
    of equal remainders to the lower label.

    Example:
        >>> labels = np.array([0, 0, 0, 0, 1, 1])
        >>> labels[spread(labels, 3, seed=0)].tolist()
        [0, 0, 1]
    """
    _, index, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    quota, remainder = np.divmod(sizes * count, len(labels))
    quota[np.argsort(-remainder, kind="stable")[: count - quota.sum()]] += 1
    by_class = _by_class(index, seed)
    start = np.cumsum(sizes) - sizes
    taken = [by_class[s : s + q] for s, q in zip(start, quota, strict=True)]
    return np.sort(np.concatenate(taken))


def fold(labels: Rows, number: int, of: int, seed: int) -> Rows:
    """Rows, ascending, of one of ``of`` disjoint folds, each class spread over all of them."""
    return np.sort(_by_class(labels, seed)[number::of])


def held_out(whole: Split, seed: int, share: float = 0.2) -> tuple[Split, Split]:
    """Split into training and test rows, stratified; a class of one row stays in training."""
    labels = whole.labels.numpy()
    _, index, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    several = np.flatnonzero(sizes[index] > 1)
    if not len(several):
        raise UserError(
            f"no class has two rows (there are {len(labels)} rows), so none can be set aside "
            f"for testing; give more rows, or separate train and test"
        )
    count = max(1, round(len(several) * share))
    return apart(whole, several[spread(labels[several], count, seed)])


def apart(whole: Split, test: Rows) -> tuple[Split, Split]:
    """All rows but ``test``, and the rows ``test``."""
    rest = np.ones(len(whole), dtype=bool)
    rest[test] = False
    return rows_of(whole, np.flatnonzero(rest)), rows_of(whole, test)


def rows_of(split: Split, rows: Rows) -> Split:
    """The given rows, copied, so that the others can be freed."""
    index: Tensor = torch.from_numpy(rows)
    return Split(split.inputs[index], split.labels[index])


def forgotten(data: Data, count: int, seed: int) -> Data:
    """``data`` with the labels of a random ``count`` training inputs, and none for the others.

    Raises:
        UserError: fewer than ``count`` have a label.
    """
    labels = data.train.labels
    known = np.flatnonzero(labels.numpy() != UNLABELED)
    if count > len(known):
        raise UserError(f"labels={count} asks for more than the {len(known)} labels there are")
    kept = torch.full_like(labels, UNLABELED)
    if count:
        rows = torch.from_numpy(known[spread(labels.numpy()[known], count, seed)])
        kept[rows] = labels[rows]
    return replace(data, train=Split(data.train.inputs, kept), unlabeled=True)


def _by_class(labels: Rows, seed: int) -> Rows:
    """Every row, class by class, in random order within a class."""
    order = np.random.RandomState(seed).permutation(len(labels))
    return order[np.argsort(labels[order], kind="stable")]
