"""What a source of weights gives: tensors that are described now and read when they are needed.

A source is a file, a repository or a network; its tensors are read in pieces, so that a file of
any size needs the memory of one piece.  Dtypes are named as in safetensors.  What numpy has no
type for (bfloat16, the 8-bit floats) is given as unsigned integers of the same bits.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thrifty.native import formats

Bits = NDArray[Any]

BITS = formats.DTYPES
"""The dtypes that can be read, and how their elements lie in a piece."""

DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "int8": "I8",
    "uint8": "U8",
    "int16": "I16",
    "uint16": "U16",
    "int32": "I32",
    "uint32": "U32",
    "int64": "I64",
    "uint64": "U64",
    "bool": "BOOL",
    "qint8": "I8",
    "quint8": "U8",
    "qint32": "I32",
}
"""What torch and keras call a dtype, without a module, and what sources do."""

PIECE = 1 << 24
"""Bytes a reader gives at a time, about; a piece is a whole number of elements."""


@dataclass(frozen=True)
class Quantised:
    """How integers stand for numbers: ``(stored - zero) * scale``.

    ``scale`` and ``zero`` are float64 of shape (), or (channels,) along ``axis`` of the tensor.
    """

    scale: NDArray[np.float64]
    zero: NDArray[np.float64]
    axis: int | None = None


@dataclass(frozen=True)
class Stored:
    """One tensor of a source.

    Args:
        name: as the source has it.
        shape: as the source has it.
        dtype: of :data:`BITS`.
        read: gives the elements in row-major order as one-dimensional arrays of
            ``BITS[dtype]``, together as many as the shape says; may be called again.
        quantised: how its integers stand for numbers, where the source says so.
        out_axis: where the output channels of a weight lie: 0 in PyTorch and ONNX, -1 in Keras.
        role: ``"weight"``, ``"bias"``, ``"scale"``, ``"shift"``, ``"statistic"`` or ``"other"``,
            where the source says so; ``None`` where only the name tells.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Iterator[Bits]]
    quantised: Quantised | None = None
    out_axis: int = 0
    role: str | None = None

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes it takes as it is stored, uncompressed."""
        return self.count * BITS[self.dtype].itemsize

    def whole(self) -> Bits:
        """All elements in the shape of the tensor; for small ones."""
        pieces = list(self.read())
        flat = np.concatenate(pieces) if pieces else np.empty(0, BITS[self.dtype])
        return flat.reshape(self.shape)


@dataclass(frozen=True)
class Norm:
    """Names of the tensors of a batch normalisation that follows the weight called ``weight``."""

    weight: str
    bias: str | None = None
    scale: str | None = None
    shift: str | None = None
    mean: str | None = None
    variance: str | None = None
    eps: float = 1e-5


@dataclass
class Source:
    """One network's tensors.  A context manager: closing it lets go of files.

    Args:
        label: what it is called in tables, short.
        kind: of what format, such as ``"safetensors"``.
        tensors: all of them, in the order in which they are best read.
        nbytes: bytes of the file or files, ``None`` if there is none.
        notes: sentences that the reader should see, such as what was left out.
        norms: which batch normalisation follows which weight, where the source says so;
            ``None`` where only names tell.
        claims: what the source says of itself; shown, never believed.
    """

    label: str
    kind: str
    tensors: tuple[Stored, ...]
    nbytes: int | None = None
    notes: tuple[str, ...] = ()
    norms: tuple[Norm, ...] | None = None
    claims: Mapping[str, str] = field(default_factory=dict)
    on_close: Callable[[], None] = lambda: None

    def __enter__(self) -> "Source":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of files and connections; its tensors cannot be read any more."""
        self.on_close()
