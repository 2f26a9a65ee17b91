"""Files of torch.save: their tensors, read where they lie, never code.

The numbers of a zip file stay in the file until they are used.  Their pages would stay with the
process as long as torch's map of the file does, so the file is mapped anew every so often.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from thrifty.errors import UserError
from thrifty.sources import SOURCES, Reader
from thrifty.sources.pruned import without_masks
from thrifty.sources.stored import DTYPES, PIECE, Bits, Quantised, Source, Stored
from thrifty.sources.unpickling import PICKLES, data_records, tensors_of, unpickled

if TYPE_CHECKING:
    from torch import Tensor

RESIDENT = 1 << 27
"""Bytes read from one map before it is made anew."""


def open_pickle(text: str) -> Source:
    """The tensors of the file of torch.save at the path ``text``.

    Raises:
        UserError: it is damaged, would run code, or holds no dense tensors of numbers by name.
    """
    path = Path(text)
    loaded = _Loaded(path)
    tensors, notes, seen = [], [], dict[tuple[int, ...], str]()
    for name, x in loaded.tensors().items():
        dtype = DTYPES.get(str(x.dtype).removeprefix("torch."))
        if dtype is None:
            notes.append(f"{ascii(name)} is left out: it is of {x.dtype}")
            continue
        first = seen.setdefault((x.data_ptr(), x.numel(), x.element_size()), name)
        if first != name and x.numel():
            notes.append(f"{name} is {first}, and counted once")
            continue
        tensors.append(Stored(name, tuple(x.shape), dtype, loaded.reading(name), _quantised(x)))
    if not tensors:
        raise UserError(f"{path} has no tensor of numbers that can be read: {'; '.join(notes[:5])}")
    del x
    folded, more = without_masks(tensors, str(path))
    return Source(
        label=path.stem,
        kind="pickle",
        tensors=folded,
        nbytes=path.stat().st_size,
        notes=(*notes, *more),
        on_close=loaded.close,
    )


class _Loaded:
    """The tensors of a file, mapped; mapped anew after every RESIDENT bytes."""

    def __init__(self, path: Path):
        self._path = path
        self._tensors: dict[str, Tensor] | None = None
        self._used, self._closed, self._zipped = 0, False, True
        self._state = self._now()
        self.tensors()

    def tensors(self) -> "dict[str, Tensor]":
        if self._closed:
            raise UserError(f"{self._path} was closed; open it again to read its tensors")
        if self._now() != self._state:
            raise UserError(f"{self._path} was changed while it was read; read it again")
        if self._tensors is None:
            self._tensors = tensors_of(unpickled(self._path, mapped=True), self._path)
            self._check_records()
        return self._tensors

    def reading(self, name: str) -> "_Reading":
        return _Reading(self, name)

    def used(self, nbytes: int) -> None:
        """In place: let go of the map when enough of it was read."""
        self._used += nbytes
        if self._used >= RESIDENT and self._zipped:
            self._tensors, self._used = None, 0

    def close(self) -> None:
        self._tensors, self._closed = None, True

    def _now(self) -> tuple[int, ...]:
        try:
            now = os.stat(self._path)
        except OSError as error:
            raise UserError(f"{self._path} cannot be read: {error}") from None
        return now.st_ino, now.st_dev, now.st_size, now.st_mtime_ns

    def _check_records(self) -> None:
        """A pickle may claim that a tensor goes on into the next one's numbers."""
        with self._path.open("rb") as file:
            self._zipped = file.read(2) == b"PK"
        if not self._zipped or self._tensors is None:
            return
        sizes = data_records(self._path)
        for name, x in self._tensors.items():
            held = x.untyped_storage().nbytes()
            if held and held not in sizes:
                raise UserError(
                    f"{self._path}: {name} claims {held:,} bytes, and no entry of the file has as "
                    f"many; it is damaged"
                )


class _Reading:
    """Gives the pieces of one tensor each time it is called."""

    def __init__(self, loaded: _Loaded, name: str):
        self._loaded, self._name = loaded, name

    def __call__(self) -> Iterator[Bits]:
        start, x = 0, self._loaded.tensors()[self._name]
        whole = x.int_repr() if x.is_quantized else None
        count = x.numel()
        del x  # or the map could not be let go of
        while start < count:
            stored = self._loaded.tensors()[self._name]
            piece = _piece(stored if whole is None else whole, start)
            del stored
            start += piece.size
            yield piece
            self._loaded.used(piece.nbytes)


def _piece(x: "Tensor", start: int) -> Bits:
    """Elements from ``start`` of the flattened tensor, as many as a piece has, or all to the end.

    Only the rows that they lie in are made contiguous, where the tensor is not.
    """
    stop = min(start + max(PIECE // x.element_size(), 1), x.numel())
    if x.is_contiguous():
        return _numpy(x.reshape(-1)[start:stop])
    while x.dim() > 1:
        row = x.numel() // x.shape[0]
        first, last = start // row, -(-stop // row)
        x = x[first:last]
        start, stop = start - first * row, stop - first * row
        if last - first > 1:
            break
        x = x[0]
    return _numpy(x.reshape(-1)[start:stop])


def _numpy(flat: "Tensor") -> Bits:
    import torch

    flat = flat.contiguous()
    if flat.dtype is torch.bool:
        truth: Bits = np.not_equal(flat.view(torch.uint8).numpy(), 0)
        return truth
    if flat.dtype is torch.bfloat16:
        flat = flat.view(torch.uint16)
    elif str(flat.dtype).startswith("torch.float8"):
        flat = flat.view(torch.uint8)
    piece: Bits = flat.numpy()
    return piece if piece.flags.aligned else piece.copy()


def _quantised(x: "Tensor") -> Quantised | None:
    import torch

    if not x.is_quantized:
        return None
    if x.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return Quantised(
            np.float64(x.q_scale()).reshape(()), np.float64(x.q_zero_point()).reshape(())
        )
    return Quantised(
        x.q_per_channel_scales().double().numpy(),
        x.q_per_channel_zero_points().double().numpy(),
        axis=x.q_per_channel_axis(),
    )


SOURCES.add(
    "pickle",
    Reader(
        about="Files of torch.save, mapped into memory; tensors only, no code is run",
        open=open_pickle,
        suffixes=PICKLES,
    ),
)
