"""Weights of TensorFlow Lite models, read without TensorFlow.

Tensors that have a buffer are constants; what each is for is told by the operators that read it,
through those that only dequantise.  Quantised integers, biases too, are given with their scales.
Several tensors of one buffer are counted once.

Source: https://github.com/tensorflow/tensorflow/blob/master/tensorflow/lite/schema/schema.fbs
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from thrifty.errors import UserError
from thrifty.sources import SOURCES, Reader
from thrifty.sources.flatbuffer import Buffer, Table
from thrifty.sources.mapped import Mapped, open_file
from thrifty.sources.stored import BITS, Bits, Quantised, Source, Stored

IDENTIFIER = b"TFL3"
LISTED = 4
MOST_AXES = 64
MOST_PARTS = 1 << 18
MOST_SCALES = 1 << 22
MOST_USES = 64
"""Operators that are looked at to tell what a tensor is for."""

TYPES: Mapping[int, str] = {
    0: "F32", 1: "F16", 2: "I32", 3: "U8", 4: "I64", 6: "BOOL", 7: "I16", 9: "I8", 10: "F64",
    12: "U64", 15: "U32", 16: "U16", 18: "BF16",
}  # fmt: skip
UNREAD: Mapping[int, str] = {
    5: "STRING", 8: "COMPLEX64", 11: "COMPLEX128", 13: "RESOURCE", 14: "VARIANT", 17: "INT4",
}  # fmt: skip
_NUMBERS = ("F32", "F16", "F64", "BF16")

ADD, CONV, DEPTHWISE, DEQUANTIZE, LOOKUP, DENSE, GATHER = 0, 3, 4, 6, 7, 9, 36
LSTM, RNN, SVDF, SEQUENCE_RNN, SEQUENCE_LSTM, PRELU = 16, 24, 27, 35, 44, 54
TRANSPOSE_CONV, BATCH_MATMUL, CONV_3D, CONV_3D_TRANSPOSE = 67, 126, 132, 135
_LSTM = {
    **dict.fromkeys((*range(1, 9), 16), ("weight", 0)),
    **dict.fromkeys((*range(12, 16), 17), ("bias", 0)),
}
_RNN = {1: ("weight", 0), 2: ("weight", 0), 3: ("bias", 0)}
USES: Mapping[int, Mapping[int, tuple[str, int]]] = {
    CONV: {1: ("weight", 0), 2: ("bias", 0)},
    DEPTHWISE: {1: ("weight", -1), 2: ("bias", 0)},
    DENSE: {1: ("weight", 0), 2: ("bias", 0)},
    TRANSPOSE_CONV: {0: ("other", 0), 1: ("weight", 0), 3: ("bias", 0)},
    CONV_3D: {1: ("weight", -1), 2: ("bias", 0)},
    CONV_3D_TRANSPOSE: {0: ("other", 0), 1: ("weight", -2), 3: ("bias", 0)},
    BATCH_MATMUL: {0: ("weight", -2), 1: ("weight", -1)},
    LOOKUP: {1: ("weight", -1)},
    GATHER: {0: ("weight", -1)},
    LSTM: _LSTM,
    SEQUENCE_LSTM: _LSTM,
    RNN: _RNN,
    SEQUENCE_RNN: _RNN,
    SVDF: {1: ("weight", 0), 2: ("weight", 0), 3: ("bias", 0)},
    PRELU: {1: ("other", 0)},
}
"""Builtin operators, and the role and the axis of output channels of their inputs."""

_ORDER = ("weight", "bias", "other")


@dataclass(frozen=True)
class _Tensor:
    """A tensor of the schema that has a buffer: its number, its table, and where its data are."""

    graph: int
    number: int
    table: Table
    buffer: int
    begin: int
    nbytes: int


def open_tflite(text: str) -> Source:
    """The weights of the TensorFlow Lite model at the path ``text``.

    Raises:
        UserError: there is no such file, it is no such model, damaged, or has no weights that can
            be counted.
    """
    path = Path(text)
    file = open_file(path)
    mapped = None
    try:
        mapped = Mapped(file, text)
        source = _source(mapped, text)
    except BaseException:
        (mapped or file).close()
        raise
    label = path.name[: -len(".tflite")] if path.name.lower().endswith(".tflite") else path.name
    return replace(source, label=label)


def _source(mapped: Mapped, path: str) -> Source:
    buffer = Buffer(mapped, f"{path} is no whole TensorFlow Lite model")
    if mapped.bytes(4, min(8, mapped.nbytes)) != IDENTIFIER:
        buffer.refuse("its bytes 4 to 8 are not TFL3")
    model = buffer.root()
    roles = _Roles(model)
    tensors: list[Stored] = []
    seen: set[int] = set()
    shared = total = 0
    skipped, odd = defaultdict[str, list[str]](list), list[str]()
    names = Counter[str]()
    for x in _constants(model, buffer):
        name = x.table.text(3) or f"tensor {x.number}"
        kind = _unread(x.table)
        if kind:
            skipped[kind].append(name)
            continue
        if x.begin in seen:
            shared += 1
            continue
        seen.add(x.begin)
        total += x.nbytes
        if total > mapped.nbytes:
            buffer.refuse("its tensors overlap")
        names[name] += 1
        unique = name if names[name] == 1 else f"{name} ({x.graph}:{x.number})"
        tensors.append(_stored(x, unique, mapped, buffer, roles, odd))
    notes = [f"left out, {kind} cannot be counted: {_listed(n)}" for kind, n in skipped.items()]
    if odd:
        notes.append(f"{_listed(odd)}: its scales are not one a channel; taken as stored")
    if shared:
        notes.append(f"{shared:,} tensors share the buffer of another, and are counted once")
    if not tensors:
        raise UserError(
            f"{path} holds no weights that can be counted" + "".join(f"; {n}" for n in notes)
        )
    said = model.text(3)
    return Source(
        label=path,
        kind="tflite",
        tensors=tuple(tensors),
        nbytes=mapped.nbytes,
        notes=tuple(notes),
        claims={"description": said} if said.isprintable() and said else {},
        on_close=mapped.close,
    )


def _constants(model: Table, buffer: Buffer) -> Iterator[_Tensor]:
    buffers = model.tables(4, MOST_PARTS)
    for g, graph in enumerate(model.tables(2, MOST_PARTS)):
        for i, table in enumerate(graph.tables(0, MOST_PARTS)):
            number = table.number(2, "I")
            if number >= len(buffers):
                buffer.refuse(f"a tensor is in buffer {number} of {len(buffers)}")
            begin, nbytes = buffers[number].vector(0, 1)
            offset, size = buffers[number].number(1, "Q"), buffers[number].number(2, "Q")
            if offset > 1 and size > 0:  # data of large models lie behind the flatbuffer
                begin, nbytes = offset, size
                if begin + nbytes > buffer.mapped.nbytes:
                    buffer.refuse(f"buffer {number} ends at byte {begin + nbytes:,}")
            if number and nbytes:
                yield _Tensor(g, i, table, number, begin, nbytes)


def _unread(table: Table) -> str | None:
    """Why a tensor cannot be counted; None if it can."""
    kind = table.number(1, "b")
    if kind not in TYPES:
        return UNREAD.get(kind, f"numbers of type {kind}")
    return "what is stored sparse" if table.table(6) is not None else None


def _stored(
    x: _Tensor, name: str, mapped: Mapped, buffer: Buffer, roles: "_Roles", odd: list[str]
) -> Stored:
    shape = tuple(int(n) for n in x.table.numbers(0, "<i4", MOST_AXES))
    dtype = TYPES[x.table.number(1, "b")]
    if min(shape, default=0) < 0 or math.prod(shape) * BITS[dtype].itemsize != x.nbytes:
        buffer.refuse(
            f"{ascii(name[:100])} is {dtype} of shape {list(shape)} and has {x.nbytes:,} bytes"
        )

    def read() -> Iterator[Bits]:
        return mapped.pieces(x.begin, x.begin + x.nbytes, BITS[dtype])

    role, axis = roles.of(x.graph, x.number, len(shape))
    how, fits = _quantised(x.table, dtype, shape, buffer)
    if role is None and how is None and dtype in ("I32", "I64", "U32", "U64", "BOOL"):
        role = "other"
    if not fits:
        odd.append(name)
    return Stored(name, shape, dtype, read, how, axis, role)


def _quantised(
    table: Table, dtype: str, shape: Sequence[int], buffer: Buffer
) -> tuple[Quantised | None, bool]:
    """How integers stand for numbers, and whether what is said of it fits the tensor."""
    said = table.table(4)
    if said is None or dtype in _NUMBERS or dtype == "BOOL":
        return None, True
    scale = said.numbers(2, "<f4", MOST_SCALES).astype(np.float64)
    zero = said.numbers(3, "<i8", MOST_SCALES).astype(np.float64)
    if not len(scale):
        return None, True
    zero = zero if len(zero) else np.zeros(1)
    if not np.isfinite(scale).all() or (scale < 0).any():
        return None, False
    if len(scale) == len(zero) == 1:
        return Quantised(scale.reshape(()), zero.reshape(())), True
    axis = said.number(6, "i")
    if not 0 <= axis < len(shape) or len(scale) != shape[axis] or len(zero) not in (1, len(scale)):
        return None, False
    return Quantised(scale, np.broadcast_to(zero, scale.shape).copy(), axis), True


class _Roles:
    """What the tensors of each graph are for, by the operators that read them."""

    def __init__(self, model: Table):
        codes = [
            max(code.number(0, "b"), code.number(3, "i")) for code in model.tables(1, MOST_PARTS)
        ]
        self._readers: dict[tuple[int, int], list[tuple[int, int, int]]] = defaultdict(list)
        for g, graph in enumerate(model.tables(2, MOST_PARTS)):
            for operator in graph.tables(3, MOST_PARTS):
                number = operator.number(0, "I")
                code = codes[number] if number < len(codes) else -1
                outputs = operator.numbers(2, "<i4", MOST_PARTS)
                behind = int(outputs[0]) if len(outputs) else -1
                for place, tensor in enumerate(operator.numbers(1, "<i4", MOST_PARTS).tolist()):
                    self._readers[g, tensor].append((code, place, behind))

    def of(self, graph: int, number: int, axes: int) -> tuple[str | None, int]:
        """The role of a tensor and the axis of its output channels."""
        found = list(self._found(graph, number, axes))
        return min(found, key=lambda x: _ORDER.index(x[0])) if found else (None, 0)

    def _found(self, graph: int, number: int, axes: int) -> Iterator[tuple[str, int]]:
        places, left = [number], MOST_USES
        for at in places:
            for code, place, behind in self._readers.get((graph, at), [])[:left]:
                left -= 1
                use = USES.get(code, {}).get(place)
                if use is not None and (use[0] != "weight" or axes > 1):
                    yield use
                elif code == DEQUANTIZE and behind not in places:
                    places.append(behind)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return ", ".join(ascii(name[:100])[1:-1] for name in names[:LISTED]) + more


SOURCES.add(
    "tflite",
    Reader(
        about="TensorFlow Lite models, mapped into memory",
        open=open_tflite,
        suffixes=(".tflite",),
    ),
)
