"""An engine from a ``.thrifty`` file, without torch."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from thrifty.container import Reader
from thrifty.engine.engine import Engine, Stand
from thrifty.engine.folding import Array
from thrifty.engine.program import Program
from thrifty.errors import UserError

BF16_SHIFT = 16
DEEPEST = 200
"""Nested lists of the JSON of a program at most; an honest one has under 10."""


class Stored(Mapping[str, Array]):
    """Tensors of a file as float32, each read when it is asked for and not kept."""

    def __init__(self, reader: Reader):
        self._reader = reader

    def __getitem__(self, name: str) -> Array:
        entry = self._reader.tensors[name]
        array = self._reader.read(name)
        if entry.dtype == "BF16":
            return (array.astype(np.uint32) << BF16_SHIFT).view(np.float32)
        return np.asarray(array, np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self._reader.tensors)

    def __len__(self) -> int:
        return len(self._reader.tensors)


def load(path: str | Path, threads: int = 1, stand: Stand | None = None) -> Engine:
    """The engine of the network in ``path``.

    Args:
        path: a ``.thrifty`` file with a program, as ``thrifty pack`` writes it.
        threads: used at most for a call.
        stand: see :class:`Engine`.

    Raises:
        UserError: there is no such file, it breaks a rule of the format, or it has no program.
    """
    with Reader(path) as reader:
        text = reader.metadata.get("program")
        if text is None:
            raise UserError(
                f"{path} holds weights and no program; pack the network again with "
                f"thrifty pack, giving the shape of an input, or use thrifty.compile on the model"
            )
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            raise UserError(f"{path}: its program is no JSON; the file is damaged") from None
        return Engine(Program.from_json(data), Stored(reader), threads, stand)
