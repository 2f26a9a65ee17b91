"""Predicted classes that a zoo stored at its last epochs, read row by row."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from thrifty.zoo.folder import Folder
from thrifty.zoo.levels import Columns, Ints


class Stored:
    """The predictions of a zoo, as :func:`thrifty.zoo.comparing.compare` asks for them.

    Files are mapped, and only the rows that are asked for are read.

    Args:
        folder: the zoo's.
        columns: of its index; ``stack``, ``epoch`` and ``row`` say where a model's lie.
    """

    def __init__(self, folder: Folder, columns: Columns):
        self._folder, self._columns = folder, columns
        self._open: dict[tuple[str, int], NDArray[Any] | None] = {}
        self.problems: list[str] = []
        """Files that could not be read, a sentence each."""

    def __call__(self, rows: Ints) -> NDArray[Any] | None:
        """(rows, inputs) classes; ``None`` if those of some row are not stored."""
        found: NDArray[Any] | None = None
        stacks, epochs = self._columns["stack"][rows], self._columns["epoch"][rows]
        keys = list(zip(stacks.tolist(), epochs.tolist(), strict=True))
        places = np.asarray(self._columns["row"][rows], np.int64)
        for key in dict.fromkeys(keys):
            stored = self._file(str(key[0]), int(key[1]))
            chosen = np.array([k == key for k in keys], np.bool_)
            own = places[chosen]
            if stored is None or own.min() < 0 or own.max() >= len(stored):
                return None
            if found is None:
                found = np.empty((len(rows), stored.shape[1]), np.uint16)
            if found.shape[1] != stored.shape[1]:
                return None
            found[chosen] = stored[own]
        return found

    def _file(self, stack: str, epoch: int) -> NDArray[Any] | None:
        key = (stack, epoch)
        if key not in self._open:
            self._open[key] = self._read(stack, epoch)
        return self._open[key]

    def _read(self, stack: str, epoch: int) -> NDArray[Any] | None:
        path = self._folder.predictions(stack, epoch)
        if not path.is_file():
            return None
        try:
            stored = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError, SyntaxError) as error:
            # numpy says no more than that the header or the size is wrong.
            self.problems.append(f"{path} cannot be read ({str(error)[:100]})")
            return None
        whole = isinstance(stored, np.ndarray) and stored.dtype in (np.uint8, np.uint16)
        if not whole or stored.ndim != 2 or not stored.shape[1]:
            self.problems.append(f"{path} is no table of uint8 or uint16, (models, test inputs)")
            return None
        return np.asarray(stored)
