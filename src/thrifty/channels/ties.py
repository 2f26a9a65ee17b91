"""Atoms that live and die together: a union of sets, and the atoms that must stay, with reasons.

An atom is one index of one dimension of one parameter or buffer.  Tying is recorded as it is
found and solved by arrays, so that a network of a hundred thousand atoms takes milliseconds.
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Atoms = NDArray[np.int64]

FIXED = 0
"""The atom of what no layer makes: the input of the network, constants; it always stays."""


class Ties:
    """Disjoint sets of atoms, and why some of them stay."""

    def __init__(self, count: int):
        self._parent: Atoms = np.arange(count, dtype=np.int64)
        self.fixed: list[tuple[Atoms, str]] = []
        """Atoms that must stay, and why; an empty reason is not worth telling."""
        self.joins: list[tuple[int, str]] = []
        """An atom of what was tied, and the operation that tied it, such as "add in layer1.0"."""

    def roots(self, atoms: Atoms) -> Atoms:
        """The atom that stands for the set of each."""
        parent = self._parent
        found = parent[atoms]
        while True:
            above = parent[found]
            if np.array_equal(above, found):
                return found
            found = above

    def all_roots(self) -> Atoms:
        """The roots of all atoms."""
        return self.roots(np.arange(len(self._parent)))

    def tie(self, ours: Tensor, theirs: Tensor, because: str = "") -> None:
        """Tie two tensors of atoms element by element, broadcast; what meets FIXED is fixed."""
        shape = np.broadcast_shapes(ours.shape, theirs.shape)
        a, b = ours.expand(shape), theirs.expand(shape)
        pairs = np.stack([a.reshape(-1).numpy(), b.reshape(-1).numpy()])
        pairs = pairs[:, pairs[0] != pairs[1]]
        if pairs.shape[1] > 4096:
            pairs = np.unique(pairs, axis=1)
        loose = (pairs[0] == FIXED) | (pairs[1] == FIXED)
        if loose.any():
            self.fix(pairs[:, loose].max(0), f"{because} joins them with what no layer makes")
            pairs = pairs[:, ~loose]
        if pairs.shape[1]:
            if because:
                self.joins.append((int(pairs[0, 0]), because))
            self._union(pairs[0], pairs[1])

    def tie_along(self, ids: Tensor, dim: int) -> Tensor:
        """Tie all atoms along a dimension; returns the first ones, which stand for them."""
        first = ids.narrow(dim, 0, 1)
        if ids.shape[dim] > 1:
            self.tie(first, ids)
        return first

    def fix(self, atoms: Tensor | Atoms, why: str) -> None:
        """These stay, whatever is asked for."""
        flat = atoms.reshape(-1).numpy() if isinstance(atoms, Tensor) else atoms
        flat = np.unique(flat[flat != FIXED])
        if len(flat):
            self.fixed.append((flat, why))

    def _union(self, a: Atoms, b: Atoms) -> None:
        parent = self._parent
        while True:
            a, b = self.roots(a), self.roots(b)
            differ = a != b
            if not differ.any():
                return
            a, b = a[differ], b[differ]
            np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))
