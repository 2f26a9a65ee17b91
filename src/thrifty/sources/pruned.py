"""Networks saved while torch.nn.utils.prune held their masks: ``X_orig`` and ``X_mask`` are ``X``.

What such a network computes with is the product, so that is what is given.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from thrifty.errors import UserError
from thrifty.sources.stored import BITS, Bits, Stored

ORIGINAL, MASK = "_orig", "_mask"


def without_masks(
    tensors: Sequence[Stored], path: str
) -> tuple[tuple[Stored, ...], tuple[str, ...]]:
    """``tensors`` with every pair ``X_orig`` and ``X_mask`` as ``X``, and a note if there is one.

    Raises:
        UserError: a mask is not of the shape of its tensor.
    """
    by_name = {x.name: x for x in tensors}
    result, folded = [], 0
    for x in tensors:
        base = x.name.removesuffix(ORIGINAL)
        if x.name.endswith(MASK) and x.name.removesuffix(MASK) + ORIGINAL in by_name:
            continue
        mask = by_name.get(base + MASK) if base != x.name else None
        if mask is None:
            result.append(x)
            continue
        if mask.shape != x.shape:
            raise UserError(
                f"{path}: {x.name} is {x.shape} and {mask.name} {mask.shape}; they must be of one "
                f"shape"
            )
        result.append(replace(x, name=base, read=_product(x, mask)))
        folded += 1
    notes = (f"{folded:,} pairs of _orig and _mask are taken as their product",) if folded else ()
    return tuple(result), notes


def _product(x: Stored, mask: Stored) -> Callable[[], Iterator[Bits]]:
    def read() -> Iterator[Bits]:
        masks = _Ahead(mask.read(), BITS[mask.dtype].type(0))
        for piece in x.read():
            yield np.where(masks.next(piece.size), piece, piece.dtype.type(0))

    return read


class _Ahead:
    """Whether elements are not zero, asked for in pieces of any size."""

    def __init__(self, pieces: Iterator[Bits], zero: np.generic):
        self._pieces, self._zero = pieces, zero
        self._rest = np.empty(0, bool)

    def next(self, count: int) -> Bits:
        parts, have = [self._rest], self._rest.size
        while have < count:
            piece = next(self._pieces) != self._zero
            parts.append(piece)
            have += piece.size
        flat = np.concatenate(parts)
        self._rest = flat[count:]
        return flat[:count]
