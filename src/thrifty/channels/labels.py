"""What is known of a tensor during a trace: which atom each of its elements depends on.

A facet is an integer tensor that broadcasts to the shape of the tensor it describes, with size
1 along every dimension in which the atom does not change.  The output of a convolution has one,
(1, C, 1, 1); a weight has one a dimension; the product of queries and keys may have several.  An
element exists in the smaller network if the atoms of all its facets do.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

Facets = tuple[Tensor, ...]


def compact(ids: Tensor) -> Tensor:
    """``ids`` with size 1 along every dimension in which it does not change."""
    for dim in range(ids.dim()):
        if ids.shape[dim] > 1:
            first = ids.narrow(dim, 0, 1)
            if ids.stride(dim) == 0 or bool((ids == first).all()):
                ids = first
    return ids


def varying(ids: Tensor) -> tuple[int, ...]:
    """The dimensions along which a facet changes."""
    return tuple(dim for dim, size in enumerate(ids.shape) if size > 1)


def spread(ids: Tensor, shape: Sequence[int]) -> Tensor:
    """A facet as a tensor of the whole shape, sharing memory."""
    return ids.expand(tuple(shape))


def aligned(ids: Tensor, dims: int) -> Tensor:
    """With leading dimensions of size 1, as broadcasting aligns."""
    return ids.reshape((1,) * (dims - ids.dim()) + tuple(ids.shape))


def along(facets: Iterable[Tensor], dim: int) -> tuple[list[Tensor], list[Tensor]]:
    """The facets that change along ``dim``, and the others."""
    there: list[Tensor] = []
    others: list[Tensor] = []
    for ids in facets:
        (there if ids.shape[dim] > 1 else others).append(ids)
    return there, others


def row(values: Tensor, dims: int, dim: int) -> Tensor:
    """A facet of ``dims`` dimensions that holds ``values`` (n,) along ``dim``."""
    shape = [1] * dims
    shape[dim] = -1
    return values.reshape(shape)


def no_atoms(size: int) -> Tensor:
    """FIXED, ``size`` times."""
    return torch.zeros(size, dtype=torch.int64)
