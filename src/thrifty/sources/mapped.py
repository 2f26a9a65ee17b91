"""A file that is mapped into memory and read in pieces, each let go of after use.

Pieces are views of the map, so nothing is copied and the native kernels run on the page cache.
After a piece is consumed its pages are given back to the system, so that a file of any size keeps
only a few pieces resident.  A map that still has views is not closed under them: it goes when the
last view goes.

A file that is cut short while it is mapped has no pages behind its new end, and touching them
kills the process (SIGBUS).  Its size is therefore asked before every piece, which turns this into
an error unless the file is cut within the milliseconds in which one piece is read.  Files that
are replaced by renaming another over them, as :mod:`thrifty.files` does, are not affected.
"""

import mmap
import os
from collections.abc import Iterator
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from thrifty.errors import UserError
from thrifty.sources.stored import PIECE, Bits

PAGE = mmap.ALLOCATIONGRANULARITY


class Mapped:
    """The bytes of an open file, read-only.

    Args:
        file: open for reading; it is closed with the map.
        label: what the file is called in errors.
    """

    def __init__(self, file: BinaryIO, label: str):
        self._file, self._label = file, label
        self.nbytes = os.fstat(file.fileno()).st_size
        self._map: mmap.mmap | None = None
        if self.nbytes:
            try:
                self._map = mmap.mmap(file.fileno(), self.nbytes, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise UserError(f"{label} cannot be mapped into memory: {error}") from None
            self._advise("MADV_SEQUENTIAL", 0, self.nbytes)

    def bytes(self, begin: int, end: int) -> bytes:
        """A copy of the bytes from ``begin`` to ``end``; for headers.

        Raises:
            UserError: the file was closed or cut short.
        """
        if begin == end:
            return b""
        return self._alive()[begin:end]

    def pieces(self, begin: int, end: int, dtype: np.dtype[Any]) -> Iterator[Bits]:
        """The elements from byte ``begin`` to ``end``, in order, as one-dimensional views.

        A view is read-only and stays valid as long as it is held, also when the file is closed.
        Where the elements are not aligned in the file, and for booleans, whose bytes may be any,
        it is a copy.

        Raises:
            UserError: the file was closed or cut short.
        """
        step = max(PIECE // dtype.itemsize, 1) * dtype.itemsize
        for start in range(begin, end, step):
            stop = min(start + step, end)
            yield self._view(start, stop, dtype)
            self._let_go(start, stop)

    def close(self) -> None:
        """Let go of the file; the map goes with its last view."""
        if self._map is not None:
            with suppress(
                BufferError
            ):  # a view is held; without our reference the map dies with it
                self._map.close()
            self._map = None
        self._file.close()

    def _view(self, start: int, stop: int, dtype: np.dtype[Any]) -> Bits:
        count = (stop - start) // dtype.itemsize
        if dtype.kind == "b":
            return np.not_equal(np.frombuffer(self._alive(), np.uint8, count, start), 0)
        view = np.frombuffer(self._alive(), dtype, count, start)
        return view if view.flags.aligned else view.copy()

    def _alive(self) -> mmap.mmap:
        if self._file.closed or self._map is None:
            raise UserError(f"{self._label} was closed; open it again to read its tensors")
        size = os.fstat(self._file.fileno()).st_size
        if size < self.nbytes:
            raise UserError(
                f"{self._label} had {self.nbytes:,} bytes and has {size:,} now: it was cut short "
                f"while it was read; wait until it is written, and read it again"
            )
        return self._map

    def _let_go(self, start: int, stop: int) -> None:
        """Pages wholly before ``stop``: the last one may begin the next piece."""
        begin, end = start - start % PAGE, stop - stop % PAGE
        self._advise("MADV_DONTNEED", begin, end - begin)

    def _advise(self, what: str, begin: int, size: int) -> None:
        advice = getattr(mmap, what, None)
        if advice is None or self._map is None or size <= 0:
            return
        with suppress(OSError):  # advice only: without it the pages stay until they are wanted
            self._map.madvise(advice, begin, size)


def open_file(path: Path) -> BufferedReader:
    """``path`` opened for reading.

    Raises:
        UserError: it is missing, empty, no ordinary file, or may not be read.
    """
    try:
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "no ordinary file"
            raise UserError(f"{path} is {kind}; give a weight file")
        file = path.open("rb")
    except FileNotFoundError:
        raise UserError(f"there is no file {str(path)!r} (seen from {Path.cwd()})") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise UserError(f"{str(path)!r} cannot be read: {error}") from None
    if os.fstat(file.fileno()).st_size == 0:
        file.close()
        raise UserError(f"{path} is empty; copy it again")
    return file
