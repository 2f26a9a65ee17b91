"""The numbers of ONNX tensors: raw, as typed fields, in other files, or sparse.

``raw_data`` and external data are mapped.  Typed fields are decoded piece by piece; integers and
16-bit floats lie in them as varints.  A sparse tensor is given as the dense one it stands for.

External data must lie in the folder of the model: a location that leads elsewhere, also through a
link, would let a model from anywhere have other files read.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from thrifty.errors import UserError
from thrifty.sources.mapped import Mapped, open_file
from thrifty.sources.onnx_graph import (
    DOUBLES,
    FLOATS,
    INT32S,
    INT64S,
    RAW,
    TYPES,
    UINT64S,
    Sparse,
    Tensor,
)
from thrifty.sources.protobuf import BYTES, VARINT, Field, Wire
from thrifty.sources.stored import BITS, PIECE, Bits
from thrifty.sources.unpacking import too_large

FIELDS = {
    **dict.fromkeys(("F32",), FLOATS),
    **dict.fromkeys(("F64",), DOUBLES),
    **dict.fromkeys(("I64",), INT64S),
    **dict.fromkeys(("U32", "U64"), UINT64S),
}
"""The typed field of each dtype; of the others it is ``int32_data``."""
BATCH = 1 << 16
MOST_FILES = 500
MOST_SPARSE = 1 << 23
"""Numbers that a sparse tensor may have: with their places they are held in memory."""


class Files:
    """The model's file and those with its external data, open and mapped.

    Args:
        mapped: the model's file.
        path: where it is, for errors and for locations.
    """

    def __init__(self, mapped: Mapped, path: str):
        self.mapped, self.path = mapped, path
        self._others: dict[str, Mapped] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all files that are open."""
        return self.mapped.nbytes + sum(x.nbytes for x in self._others.values())

    def wire(self) -> Wire:
        """The fields of the model's file, with limits of their own."""
        return Wire(self.mapped, f"{self.path} is no whole ONNX model")

    def external(self, tensor: Tensor, nbytes: int) -> tuple[Mapped, int]:
        """The file with the data of ``tensor``, and where in it they begin.

        Raises:
            UserError: it is missing, too short, or elsewhere than in the model's folder.
        """
        said = tensor.external or {}
        mapped = self._other(said.get("location", ""), tensor.name)
        offset = self._size(said.get("offset", "0"), tensor.name)
        length = self._size(said.get("length", str(nbytes)), tensor.name)
        if length != nbytes:
            self._refuse(tensor.name, f"takes {nbytes:,} bytes, and its length is {length:,}")
        if offset + nbytes > mapped.nbytes:
            self._refuse(
                tensor.name,
                f"should end at byte {offset + nbytes:,} of {said.get('location')}, which has "
                f"{mapped.nbytes:,}",
            )
        return mapped, offset

    def close(self) -> None:
        """Let go of all files."""
        for mapped in (self.mapped, *self._others.values()):
            mapped.close()

    def _other(self, location: str, name: str) -> Mapped:
        if location not in self._others:
            if len(self._others) >= MOST_FILES:
                self._refuse(name, f"lies in one more file than the {MOST_FILES} that are opened")
            self._others[location] = Mapped(open_file(self._place(location, name)), location)
        return self._others[location]

    def _place(self, location: str, name: str) -> Path:
        parts = (PurePosixPath(location), PureWindowsPath(location))
        if (
            not location
            or "\0" in location
            or any(p.is_absolute() or p.drive or ".." in p.parts for p in parts)
        ):
            self._refuse(
                name, f"lies in {ascii(location[:100])}, which is not in the model's folder"
            )
        folder = Path(os.path.realpath(Path(self.path).parent))
        place = folder / location
        try:
            found = place.exists()
        except OSError:  # a name longer than names can be
            found = False
        if not found:
            raise UserError(
                f"{self.path}: the data of {ascii(name[:100])} lie in {ascii(location[:200])}, and "
                f"there is no such file in {folder}; copy it there, beside the model"
            )
        real = Path(os.path.realpath(place))
        if folder not in real.parents:
            self._refuse(
                name,
                f"lies in {ascii(location[:100])}, a link to a file that is not in the model's "
                f"folder; copy the file there",
            )
        return real

    def _size(self, text: str, name: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) < 20):
            self._refuse(name, f"has {ascii(text[:40])} where a number of bytes should be")
        return int(text)

    def _refuse(self, name: str, why: str) -> NoReturn:
        raise UserError(f"{self.path}: the tensor {ascii(name[:100])} {why}")


class Data:
    """The numbers of one tensor, checked now and read when they are needed.

    Raises:
        UserError: there are not as many as the shape says, or they cannot be found.
    """

    def __init__(self, files: Files, tensor: Tensor):
        self._files, self._tensor = files, tensor
        if tensor.type not in TYPES:
            self._refuse(f"is of numbers of type {tensor.type}")
        self.dtype = TYPES[tensor.type]
        self._bits = BITS[self.dtype]
        count = math.prod(tensor.shape)
        nbytes = count * self._bits.itemsize
        self._mapped, self._begin = files.mapped, tensor.raw[0]
        self._end = self._begin + nbytes
        self._typed = False
        if tensor.is_external:
            if tensor.data is not None:
                self._refuse("has data here and in another file")
            self._mapped, self._begin = files.external(tensor, nbytes)
            self._end = self._begin + nbytes
        elif tensor.data == RAW:
            found = tensor.raw[1] - tensor.raw[0]
            if found != nbytes:
                self._refuse(f"takes {nbytes:,} bytes by its shape, and has {found:,}")
        else:
            self._typed = True
            if tensor.data not in (None, FIELDS.get(self.dtype, INT32S)):
                self._refuse(f"is {self.dtype} and has its data in field {tensor.data}")
            found = sum(self._counted(f) for f in self._fields())
            if found != count:
                self._refuse(f"has {count:,} numbers by its shape, and {found:,} in it")

    def read(self) -> Iterator[Bits]:
        """The numbers in pieces."""
        if not self._typed:
            yield from self._mapped.pieces(self._begin, self._end, self._bits)
            return
        single: list[int | float] = []
        for f in self._fields():
            if f.wire != BYTES:
                single.append(self._single(f))
            if single and (f.wire == BYTES or len(single) >= BATCH):
                yield self._of(single)
                single = []
            if f.wire == BYTES:
                yield from self._packed(f)
        if single:
            yield self._of(single)

    def _fields(self) -> Iterator[Field]:
        wire = self._files.wire()
        found = wire.fields(self._tensor.begin, self._tensor.end)
        return (f for f in found if f.number == self._tensor.data)

    def _counted(self, f: Field) -> int:
        if f.wire != BYTES:
            return 1
        if f.number not in (FLOATS, DOUBLES):
            return self._files.wire().count_varints(f)
        size, rest = divmod(f.end - f.begin, self._bits.itemsize)
        if rest:
            self._refuse(f"has {rest} bytes more than whole numbers")
        return size

    def _single(self, f: Field) -> int | float:
        if f.wire == VARINT:
            return f.value
        content = self._files.wire().content(f)
        return float(np.frombuffer(content, self._bits)[0])

    def _of(self, single: list[int | float]) -> Bits:
        if self.dtype in ("F32", "F64"):
            return np.array(single, self._bits)
        return self._narrowed(np.array(single, np.uint64))

    def _packed(self, f: Field) -> Iterator[Bits]:
        if f.number in (FLOATS, DOUBLES):
            yield from self._files.mapped.pieces(f.begin, f.end, self._bits)
            return
        for piece in self._files.wire().varints(f):
            yield self._narrowed(piece)

    def _narrowed(self, numbers: NDArray[np.uint64]) -> Bits:
        """Varints as what they stand for; those of int32_data count 32 bits, as for all readers."""
        if self._tensor.data == INT64S:
            return numbers.view(np.int64)
        whole: NDArray[Any] = numbers
        if self._tensor.data == INT32S:
            whole = numbers.astype(np.uint32).view(np.int32)
        if self._bits.kind == "b":
            return np.asarray(whole != 0)
        bits = np.dtype("<u2") if self._bits.kind == "f" else self._bits  # 16-bit floats
        limits = np.iinfo(bits)
        if len(whole) and (whole.min() < limits.min or whole.max() > limits.max):
            self._refuse(f"is {self.dtype} and has a number that is none")
        return whole.astype(bits).view(self._bits)

    def _refuse(self, why: str) -> NoReturn:
        name = ascii(self._tensor.name[:100])
        raise UserError(f"{self._files.path}: the tensor {name} {why}; the model is damaged")


class SparseData:
    """The numbers of a sparse tensor with the zeros between them.

    Raises:
        UserError: places and values do not fit each other or the shape, or it is out of
            proportion to its file.
    """

    def __init__(self, files: Files, sparse: Sparse):
        self._label = f"{files.path}: the sparse tensor {ascii(sparse.values.name[:100])}"
        values, indices = Data(files, sparse.values), Data(files, sparse.indices)
        self.dtype = values.dtype
        self._values, self._indices = values, indices
        self._shape, self._count = sparse.shape, math.prod(sparse.shape)
        (stored,) = sparse.values.shape if len(sparse.values.shape) == 1 else (-1,)
        if stored > MOST_SPARSE:
            raise UserError(f"{self._label} has more than {MOST_SPARSE:,} numbers; make it dense")
        if indices.dtype != "I64" or sparse.indices.shape not in (
            (stored,),
            (stored, len(sparse.shape)),
        ):
            raise UserError(f"{self._label} has places that do not fit its numbers; it is damaged")
        self._linear = len(sparse.indices.shape) == 1
        if too_large(self._count * BITS[self.dtype].itemsize, files.nbytes):
            raise UserError(
                f"{self._label} has {stored:,} numbers and stands for {self._count:,}, out of all "
                f"proportion"
            )

    def read(self) -> Iterator[Bits]:
        """All numbers, zeros too, in pieces."""
        places = self._places()
        values = _together(self._values)
        step = max(1, PIECE // values.dtype.itemsize)
        for start in range(0, self._count, step):
            stop = min(start + step, self._count)
            a, b = np.searchsorted(places, (start, stop))
            dense = np.zeros(stop - start, values.dtype)
            dense[places[a:b] - start] = values[a:b]
            yield dense

    def _places(self) -> NDArray[np.int64]:
        places = _together(self._indices)
        if not self._linear:
            rows = places.reshape(-1, len(self._shape))
            if len(rows) and ((rows < 0) | (rows >= np.array(self._shape))).any():
                raise UserError(f"{self._label} has a place outside its shape; it is damaged")
            sides = [*self._shape[1:], 1]
            strides = np.array([math.prod(sides[i:]) for i in range(len(sides))], np.int64)
            places = rows @ strides
        if len(places) and (
            places[0] < 0 or places[-1] >= self._count or (np.diff(places) <= 0).any()
        ):
            raise UserError(f"{self._label} has places out of order or range; it is damaged")
        return places


def _together(data: Data) -> Bits:
    pieces = list(data.read())
    return np.concatenate(pieces) if pieces else np.empty(0, BITS[data.dtype])
