"""The data of a zoo: what its models learn from, are chosen by and are judged on."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from thrifty.data import Data, Split, load_data
from thrifty.errors import UserError

SHUFFLE = 42
"""Seed of the rows that are kept aside for validation."""


@dataclass(frozen=True)
class Sets:
    """What models learn from and are judged on, and what is kept aside to choose by."""

    data: Data
    validation: Split | None


_known: dict[tuple[str, float], Sets] = {}


def sets_of(data: str, validation: float) -> Sets:
    """The data that a spec names, a share of its training inputs kept aside.

    Raises:
        UserError: there is no such data, or it is damaged.
    """
    known = _known.get((data, validation))
    return known if known is not None else split_of(load_data(data), validation)


def know(data: str, validation: float, sets: Sets) -> None:
    """Have :func:`sets_of` answer with ``sets``, in a worker that cannot read the data itself."""
    _known[data, validation] = sets


def split_of(data: Data, share: float) -> Sets:
    """``data`` with that share of its training inputs kept aside, the same for all.

    Raises:
        UserError: training inputs are without labels.
    """
    if data.unlabeled:
        raise UserError(
            f"{data.name} has training inputs without a label, of which the models of a zoo cannot "
            f"learn; leave them out, or use thrifty distill"
        )
    if not share:
        return Sets(data, None)
    count = len(data.train)
    aside = round(count * share)
    turn = torch.from_numpy(np.random.RandomState(SHUFFLE).permutation(count))
    kept, held = (
        Split(data.train.inputs[rows], data.train.labels[rows])
        for rows in (turn[aside:].sort().values, turn[:aside].sort().values)
    )
    return Sets(replace(data, train=kept, shift=0, flip=False), held)
