"""An engine from a ``.thrifty`` file, without torch."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from thrifty.engine.engine import MOST_MEMORY, Engine, Stand
from thrifty.engine.folding import Array
from thrifty.engine.program import Program
from thrifty.errors import UserError
from thrifty.native.formats import decode

if TYPE_CHECKING:
    from thrifty.container import Reader


class Stored(Mapping[str, Array]):
    """Tensors of a file, each read when it is asked for and not kept.

    Floats of any width come as float32, whole numbers and booleans as they are.
    """

    def __init__(self, reader: "Reader"):
        self._reader = reader
        self.shapes = {name: entry.shape for name, entry in reader.tensors.items()}
        """Known without reading one."""

    def __getitem__(self, name: str) -> Array:
        entry = self._reader.tensors[name]
        array = self._reader.read(name)
        if entry.dtype.startswith(("F", "BF")):
            with np.errstate(over="ignore"):
                return np.asarray(decode(array, entry.dtype), np.float32)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._reader.tensors)

    def __len__(self) -> int:
        return len(self._reader.tensors)


def load(
    path: str | Path, threads: int = 1, stand: Stand | None = None, memory: int = MOST_MEMORY
) -> Engine:
    """The engine of the network in ``path``.

    Args:
        path: a ``.thrifty`` file with a program, as ``thrifty pack`` writes it.
        threads: used at most for a call.
        stand: see :class:`Engine`.
        memory: bytes, see :class:`Engine`.

    Raises:
        UserError: there is no such file, it breaks a rule of the format, it has no program, or
            the network needs more memory.
    """
    from thrifty.container import Reader

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
        return Engine(Program.from_json(data), Stored(reader), threads, stand, memory)
