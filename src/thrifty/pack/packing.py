"""Packing a network into a ``.thrifty`` file, with what each tensor takes there and elsewhere."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard
from torch import Tensor, nn

from thrifty.container import Reader
from thrifty.container.bound import bound_bits, scale_bits
from thrifty.container.encoding import unsigned
from thrifty.engine.program import OWN
from thrifty.errors import UserError
from thrifty.nets.reading import located
from thrifty.pack.contents import contents
from thrifty.pack.formats.safetensors_zst import LEVEL, QUICK, QUICK_ABOVE
from thrifty.pack.formats.thrifty_format import array_of
from thrifty.pack.programs import programmed
from thrifty.pack.saving import save
from thrifty.shown import Shown

SUFFIX = ".thrifty"


@dataclass(frozen=True, kw_only=True)
class Size:
    """What one tensor takes, in bytes.

    Args:
        name: of the tensor.
        elements: of the dense tensor.
        nonzero: elements that are not zero in the file.
        encoding: how positions are told: raw, bitmask or gap8.
        values: what values are stored as, such as ``"F32"``.
        dense: bytes of the network's tensor.
        zstd: bytes of that, compressed with zstd.
        packed: bytes in the file, without its header.
        bound: the order-0 bound of what is stored (:mod:`thrifty.container.bound`).
    """

    name: str
    elements: int
    nonzero: int
    encoding: str
    values: str
    dense: int
    zstd: int
    packed: int
    bound: float


@dataclass(frozen=True, kw_only=True)
class Packed(Shown):
    """A packed network: the bytes of the file and of every tensor in it."""

    path: str
    nbytes: int
    tensors: tuple[Size, ...]
    operations: int = 0
    """Of the program in the file; 0 where it has none."""
    by_torch: int = 0
    """Operations of it that only torch runs."""
    why: str = ""
    """What prevents a program; empty where there is one."""

    @property
    def header(self) -> int:
        """Bytes of the file that are no tensor's."""
        return self.nbytes - sum(t.packed for t in self.tensors)

    def total(self, of: str) -> float:
        """The sum of one field of the tensors: dense, zstd, packed, bound, nonzero, elements.

        What is stored is counted with the constants of the program, which are no tensors of the
        network; all else is counted without.
        """
        stored = of in ("packed", "bound")
        there = (t for t in self.tensors if stored or not t.name.startswith(OWN))
        return float(sum(getattr(t, of) for t in there))

    def to_rows(self) -> list[dict[str, Any]]:
        """A row a tensor."""
        return [dict(vars(t)) for t in self.tensors]


def pack(
    model: nn.Module,
    path: str | Path,
    masks: Mapping[str, Tensor] | None = None,
    metadata: Mapping[str, str] | None = None,
    *,
    values: str = "f32",
    example: Tensor | None = None,
) -> Packed:
    """Write ``model`` to the ``.thrifty`` file ``path``, read it back and count its bytes.

    The file gets a program too, where the network can be followed, and is then run without torch.

    Args:
        model: as for :func:`thrifty.save`.
        path: ends in ``.thrifty``.
        masks: as for :func:`thrifty.save`.
        metadata: as for :func:`thrifty.save`.
        values: as for :func:`thrifty.save`.
        example: an input with its batch dimension; not needed for networks of thrifty.

    Raises:
        UserError: as :func:`thrifty.save`, or the path ends otherwise.
    """
    path = located(path)
    if not path.name.lower().endswith(SUFFIX):
        raise UserError(f"{path} does not end in {SUFFIX}, and a packed network is such a file")
    tensors = contents(model, masks or {}, metadata or {}, str(path)).tensors
    made = programmed(model, masks or {}, tensors, example)
    nbytes = save(
        model,
        path,
        masks,
        metadata,
        values=values,
        program=made.program,
        constants=made.constants,
    )
    tensors.update(made.constants)
    return Packed(
        path=str(path),
        nbytes=nbytes,
        tensors=tuple(_sizes(path, tensors)),
        operations=made.operations,
        by_torch=made.torch,
        why=made.why,
    )


def _sizes(path: Path, tensors: Mapping[str, Tensor]) -> Iterator[Size]:
    total = sum(x.numel() * x.element_size() for x in tensors.values())
    compressor = zstandard.ZstdCompressor(level=LEVEL if total <= QUICK_ABOVE else QUICK)
    with Reader(path) as file:
        for name, entry in file.tensors.items():
            bits = unsigned(file.stored(name))
            bits = bits[bits != 0]
            bound = bound_bits(bits, entry.values, entry.count) + scale_bits(entry)
            dense = array_of(name, tensors[name]).tobytes()
            yield Size(
                name=name,
                elements=entry.count,
                nonzero=bits.size,
                encoding=entry.encoding,
                values=entry.values,
                dense=entry.dense_bytes,
                zstd=len(compressor.compress(dense)),
                packed=entry.nbytes,
                bound=bound / 8,
            )
