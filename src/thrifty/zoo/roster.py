"""Who is in a zoo: which rows of its index are checkpoints of one model, and at which epochs.

A model is told by its id; of twins, which have the ids of their parents, also by the method and
the sparsity asked for.
"""

import numpy as np
from numpy.typing import NDArray

from thrifty.errors import UserError
from thrifty.zoo.table import Table

LAST = -1
"""The epoch that stands for the last checkpoint of each model."""
Rows = NDArray[np.int64]


class Roster:
    """The models of an index, numbered from 0 by id, method and sparsity asked for.

    Args:
        table: an index.  Of two rows that are one model at one epoch the first counts.
    """

    def __init__(self, table: Table):
        self.doubled = 0
        """Rows left out, for they repeat another."""
        self.epochs: tuple[int, ...] = ()
        self._at: dict[int, Rows] = {}
        self.count = 0
        self.members = np.empty(0, np.int64)
        """(rows,) which model a row is of."""
        if not len(table):
            return
        self.members = _members(table)
        self.count = int(self.members.max()) + 1
        epochs, number = np.unique(table["epoch"], return_inverse=True)
        self.epochs = tuple(int(e) for e in epochs)
        keys = self.members * len(epochs) + number.reshape(-1)
        self._keys, self._rows = np.unique(keys, return_index=True)
        self.doubled = len(keys) - len(self._keys)

    def rows(self, epoch: int = LAST) -> Rows:
        """(models,) the row of each at an epoch, -1 where it has none.

        Raises:
            UserError: no model has a checkpoint of that epoch.
        """
        if epoch not in self._at:
            self._at[epoch] = self._found(epoch)
        return self._at[epoch]

    def epochs_of(self, member: int) -> tuple[int, ...]:
        """Checkpoints of one model."""
        begin, end = np.searchsorted(
            self._keys, [member * len(self.epochs), (member + 1) * len(self.epochs)]
        )
        return tuple(self.epochs[int(k) % len(self.epochs)] for k in self._keys[begin:end])

    def _found(self, epoch: int) -> Rows:
        every = np.arange(self.count, dtype=np.int64)
        if not self.count:
            return every
        if epoch == LAST:
            ends = np.searchsorted(self._keys, (every + 1) * len(self.epochs))
            return np.asarray(self._rows[ends - 1], np.int64)
        if isinstance(epoch, bool) or epoch not in self.epochs:
            raise UserError(f"no model has a checkpoint of epoch {epoch}; {said(self.epochs)}")
        wanted = every * len(self.epochs) + self.epochs.index(epoch)
        at = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        return np.asarray(np.where(self._keys[at] == wanted, self._rows[at], -1), np.int64)


def said(epochs: tuple[int, ...]) -> str:
    """Epochs as they stand in a message."""
    few = epochs if len(epochs) <= 8 else (*epochs[:3], "...", *epochs[-3:])
    return (
        f"there are {', '.join(map(str, few))}, and -1 is the last" if epochs else "there is none"
    )


def _members(table: Table) -> Rows:
    """(rows,) numbers of models, in order of id, method and sparsity asked for."""
    _, members = np.unique(table["model"], return_inverse=True)
    keys = members.reshape(-1).astype(np.int64)
    for name in ("method", "asked"):
        if name not in table:
            continue
        column = table[name]
        if column.dtype == object:
            numbers = {v: i for i, v in enumerate(sorted(set(column.tolist())))}
            codes = np.array([numbers[v] for v in column.tolist()], np.int64)
        else:  # NaN is one value here, and the last
            _, codes = np.unique(column, return_inverse=True)
            codes = codes.reshape(-1).astype(np.int64)
        _, keys = np.unique(keys * (int(codes.max()) + 1) + codes, return_inverse=True)
        keys = keys.reshape(-1).astype(np.int64)
    return keys
