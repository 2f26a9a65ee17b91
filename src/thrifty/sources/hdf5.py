"""HDF5 files: what is in them, and their numbers, without libhdf5 in this process.

A process of its own (:mod:`thrifty.sources.hdf5_child`) reads the structure with h5py, and unpacks
what is compressed, piece by piece.  It may crash, hang or ask for too much memory; each of these
becomes an error.  What it says is checked against the file: data that lie plainly in the file are
mapped here and never pass through libhdf5, which is also the fastest way.
"""

import importlib.util
import itertools
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NoReturn

import numpy as np

from thrifty.errors import MissingExtra, UserError
from thrifty.sources.hdf5_child import DONE, HEAD, MOST_NODES, MOST_SECONDS
from thrifty.sources.mapped import Mapped
from thrifty.sources.stored import BITS, PIECE, Bits
from thrifty.sources.unpacking import FREE_BYTES, MOST_TIMES, too_large

PATIENCE = 60.0
"""Seconds for one answer; a piece takes far less than one."""
MOST_TREE = 256 << 20
MOST_ALIASES = 16
MOST_ELEMENTS = 1 << 48
_CODE = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from thrifty.sources.hdf5_child import main
main(int(sys.argv[2]))
"""


@dataclass(frozen=True)
class Group:
    """A group: the attributes that matter here, and the names in it, in their natural order."""

    path: str
    attributes: Mapping[str, str | list[str]]
    names: list[str] = field(default_factory=list)

    def texts(self, name: str) -> list[str] | None:
        """A list of texts, also one that Keras wrote in parts; None if there is none."""
        if name in self.attributes:
            parts = [self.attributes[name]]
        else:
            numbered = (self.attributes.get(f"{name}{i}") for i in itertools.count())
            parts = [p for p in itertools.takewhile(lambda p: p is not None, numbered) if p]
            if f"{name}0" not in self.attributes:
                return None
        return [text for part in parts for text in ([part] if isinstance(part, str) else part)]

    def text(self, name: str) -> str | None:
        """One text; None if there is none."""
        found = self.attributes.get(name)
        return found if isinstance(found, str) else None


@dataclass(frozen=True)
class Dataset:
    """A data set.

    Args:
        path: from the root, without a slash in front.
        dtype: of :data:`BITS`, or what else it is, in words.
        shape: its sides.
        index: its number for the child.
        offset: where its elements lie in the file, None if they must be unpacked or converted.
        stored: bytes that it takes in the file.
    """

    path: str
    dtype: str
    shape: tuple[int, ...]
    index: int
    offset: int | None
    stored: int

    @property
    def nbytes(self) -> int:
        """Bytes of its elements, unpacked; 0 if they are no numbers."""
        return math.prod(self.shape) * BITS[self.dtype].itemsize if self.dtype in BITS else 0


Node = Group | Dataset


class Hdf5:
    """The tree of an HDF5 file, and readers of its data sets.

    Args:
        file: open for reading, a real file; it is closed with this, or if this fails.
        label: what it is called in errors.

    Raises:
        MissingExtra: h5py is not installed.
        UserError: it is no HDF5 file, damaged, or refers to other files.
    """

    def __init__(self, file: BinaryIO, label: str):
        self.label = label
        self._mapped, self._child = None, None
        try:
            if importlib.util.find_spec("h5py") is None:
                raise MissingExtra("keras", "h5py", "reading Keras and HDF5 files")
            self._mapped = Mapped(file, label)
            self.nbytes = self._mapped.nbytes
            self._child = _Child(file, label)
            self.root, self._nodes, self._aliases = _tree(self._child.tree(), label)
            self._check()
        except BaseException:
            self.close()
            file.close()
            raise
        if all(x.offset is not None or not x.nbytes for x in self.datasets()):
            self._child.close()

    def datasets(self) -> Iterator[Dataset]:
        """Every data set once."""
        return (node for node in self._nodes.values() if isinstance(node, Dataset))

    def find(self, path: str) -> Node | None:
        """What is at ``path``, through links within the file; None if there is nothing."""
        budget = [MOST_ALIASES]
        return self._found([p for p in path.split("/") if p not in ("", ".")], budget)

    def read(self, dataset: Dataset) -> Iterator[Bits]:
        """The elements of ``dataset`` in pieces.

        Raises:
            UserError: they are damaged, or the file was closed.
        """
        bits = BITS[dataset.dtype]
        if not dataset.nbytes:
            return
        if dataset.offset is not None and self._mapped is not None:
            begin = dataset.offset
            yield from self._mapped.pieces(begin, begin + dataset.nbytes, bits)
            return
        for start, stop in slabs(dataset.shape, max(1, PIECE // bits.itemsize)):
            size = math.prod(b - a for a, b in zip(start, stop, strict=True)) * bits.itemsize
            if self._child is None:
                raise UserError(f"{self.label} was closed; open it again to read its tensors")
            content = self._child.elements(dataset.index, start, stop, size)
            if bits.kind == "b":
                yield np.not_equal(np.frombuffer(content, np.uint8), 0)
            else:
                yield np.frombuffer(content, bits)

    def close(self) -> None:
        """Let go of the file and end the child."""
        if self._child is not None:
            self._child.close()
        if self._mapped is not None:
            self._mapped.close()
        self._child = None

    def _found(self, parts: list[str], budget: list[int]) -> Node | None:
        path = ""
        for i, part in enumerate(parts):
            path = f"{path}/{part}" if path else part
            alias = self._aliases.get(path)
            if alias is not None:
                budget[0] -= 1
                if budget[0] < 0:
                    return None
                base = [] if alias.startswith("/") else path.split("/")[:-1]
                target = [p for p in alias.split("/") if p not in ("", ".")]
                return self._found([*base, *target, *parts[i + 1 :]], budget)
        return self._nodes.get(path)

    def _check(self) -> None:
        """That what is declared can be in a file of this size."""
        total = 0
        for x in self.datasets():
            end = None if x.offset is None else x.offset + x.nbytes
            if end is not None and end > self.nbytes:
                _refuse(self.label, f"{x.path} ends at byte {end:,} of {self.nbytes:,}")
            total += x.nbytes
            if x.offset is None and too_large(x.nbytes, x.stored):
                _bomb(self.label, f"{x.path} has {x.stored:,} bytes in it", x.nbytes)
        if too_large(total, self.nbytes):
            _bomb(self.label, f"it has {self.nbytes:,} bytes", total)


def slabs(shape: tuple[int, ...], most: int) -> Iterator[tuple[list[int], list[int]]]:
    """Parts of an array, (start, stop) along each axis, in row-major order, of ``most`` elements.

    Example:
        >>> list(slabs((3, 4), 8))
        [([0, 0], [2, 4]), ([2, 0], [3, 4])]
    """
    axis, inner = len(shape), 1
    while axis and inner * shape[axis - 1] <= most:
        axis -= 1
        inner *= shape[axis]
    if axis == 0:
        yield [0] * len(shape), list(shape)
        return
    axis -= 1
    step = max(1, most // inner)
    rest = list(shape[axis + 1 :])
    for before in np.ndindex(*shape[:axis]):
        for at in range(0, shape[axis], step):
            start = [*map(int, before), at, *[0] * len(rest)]
            yield start, [*(i + 1 for i in map(int, before)), min(at + step, shape[axis]), *rest]


def _tree(content: bytes, label: str) -> tuple[Group, dict[str, Node], dict[str, str]]:
    """Groups and data sets by path, and the other ways to them."""
    nodes: dict[str, Node] = {}
    aliases: dict[str, str] = {}
    entries: list[dict[str, Any]] = json.loads(content)
    if len(entries) > MOST_NODES:
        _refuse(label, f"it has more than {MOST_NODES:,} groups and data sets")
    for entry in entries:
        path = entry["path"]
        parent, _, name = path.rpartition("/")
        above = nodes.get(parent) if path else None
        if isinstance(above, Group):
            above.names.append(name)
        if "alias" in entry:
            aliases[path] = entry["alias"]
        elif "attributes" in entry:
            nodes[path] = Group(path, entry["attributes"])
        else:
            nodes[path] = _dataset(entry, label)
    root = nodes.get("")
    if not isinstance(root, Group):
        _refuse(label, "it has no root")
    return root, nodes, aliases


def _dataset(entry: dict[str, Any], label: str) -> Dataset:
    shape = tuple(entry["shape"])
    if math.prod(max(1, n) for n in shape) > MOST_ELEMENTS:
        _refuse(label, f"{entry['path']} declares the shape {str(shape)[:80]}")
    offset, stored = entry.get("offset"), entry.get("stored", 0)
    return Dataset(entry["path"], entry["dtype"], shape, entry["index"], offset, stored)


class _Child:
    """The process that has libhdf5 in it."""

    def __init__(self, file: BinaryIO, label: str):
        self._label, self._turn = label, threading.Lock()
        mine = {k: v for k, v in os.environ.items() if not k.startswith("HDF5_")}
        mine |= {"HDF5_PLUGIN_PRELOAD": "::", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CODE, json.dumps(sys.path), str(file.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=[file.fileno()],
                env=mine,
            )
        except OSError as error:
            raise UserError(f"{label}: no process can be started to read it: {error}") from None
        self._end = weakref.finalize(self, _end, self._process)

    def tree(self) -> bytes:
        """The first answer."""
        return self._answer(MOST_TREE)

    def elements(self, index: int, start: list[int], stop: list[int], size: int) -> bytes:
        """Elements of a part of a data set, ``size`` bytes."""
        pipe = self._process.stdin
        if pipe is None or not self._end.alive:
            raise UserError(f"{self._label} was closed; open it again to read its tensors")
        request = {"index": index, "start": start, "stop": stop}
        with self._turn:
            try:
                pipe.write(json.dumps(request).encode() + b"\n")
                pipe.flush()
            except (OSError, ValueError):  # it has ended, or another reader found so
                self._died()
            content = self._answer(size)
        if len(content) != size:
            _refuse(self._label, f"{len(content):,} bytes came for {size:,}")
        return content

    def close(self) -> None:
        """End the process."""
        self._end()

    def _answer(self, most: int) -> bytes:
        deadline = time.monotonic() + PATIENCE
        length, status = HEAD.unpack(self._received(HEAD.size, deadline))
        if length > max(most, 1 << 16):
            self.close()
            _refuse(self._label, f"its structure takes {length:,} bytes")
        content = self._received(length, deadline)
        if status != DONE:
            self.close()
            raise UserError(
                f"{self._label} is refused: {content.decode('utf-8', 'replace')}; give a weight "
                f"file as Keras writes it, or copy it again"
            )
        return content

    def _received(self, size: int, deadline: float) -> bytes:
        pipe = self._process.stdout
        if pipe is None or pipe.closed:
            raise UserError(f"{self._label} was closed; open it again to read its tensors")
        parts, left = [], size
        with selectors.DefaultSelector() as ready:
            ready.register(pipe, selectors.EVENT_READ)
            while left:
                if not ready.select(max(0.0, deadline - time.monotonic())):
                    self.close()
                    _refuse(self._label, f"libhdf5 had no answer within {PATIENCE:.0f} seconds")
                part = os.read(pipe.fileno(), min(left, 1 << 20))
                if not part:
                    self._died()
                parts.append(part)
                left -= len(part)
        return b"".join(parts)

    def _died(self) -> NoReturn:
        code = self._process.wait()
        self.close()
        if code == -signal.SIGXCPU:
            _refuse(self._label, f"libhdf5 had no answer after {MOST_SECONDS} seconds of computing")
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        _refuse(self._label, f"reading it made libhdf5 crash ({how})")


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:  # a request that nobody took
                continue
    process.wait()


def _refuse(label: str, why: str) -> NoReturn:
    raise UserError(f"{label} is damaged, or made to do harm: {why}; copy it again")


def _bomb(label: str, what: str, declared: int) -> NoReturn:
    raise UserError(
        f"{label}: {what} and declares {declared:,} bytes of content; above {FREE_BYTES:,} no more "
        f"than {MOST_TIMES} times is taken, for such files are made to fill the memory"
    )
