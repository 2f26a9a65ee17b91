"""Zero what is small: every weight under a threshold, compared as real numbers, in place.

A cut to a budget (:mod:`thrifty.pruning.pruning`) keeps an exact count; a threshold keeps what it
keeps, which may be nothing.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from thrifty.errors import UserError
from thrifty.pruning.allocation import matching

PIECE = 1 << 20
"""Weights compared at a time: they are compared as doubles, and a second copy of all is too big."""


def under(weights: Tensor, t: float) -> Tensor:
    """True where abs(w) < t, both as real numbers: 0.1 in float32 lies above 0.1 and is not.

    Args:
        weights: any shape and device; NaN is under nothing.
        t: a double.

    Returns:
        Bool on the CPU, the shape of ``weights``.

    Example:
        >>> under(torch.tensor([0.1, -0.0999, float("nan"), 0.0]), 0.1).tolist()
        [False, True, False, True]
    """
    flat = weights.detach().cpu().reshape(-1)
    found = torch.empty(flat.shape, dtype=torch.bool)
    for start in range(0, flat.numel(), PIECE):
        found[start : start + PIECE] = flat[start : start + PIECE].double().abs() < t
    return found.reshape(weights.shape)


def spread(weights: Tensor) -> float:
    """Standard deviation of the finite elements of a tensor, as a whole population.

    Example:
        >>> spread(torch.tensor([1.0, 3.0]))
        1.0
    """
    flat = weights.detach().cpu().reshape(-1)

    def pieces() -> Iterator[Tensor]:
        for piece in torch.split(flat, PIECE):
            piece = piece.double()
            yield piece[piece.isfinite()]

    count = sum(p.numel() for p in pieces())
    if not count:
        return 0.0
    mean = math.fsum(float(p.sum()) for p in pieces()) / count
    return math.sqrt(math.fsum(float((p - mean).square().sum()) for p in pieces()) / count)


@torch.no_grad()
def zero_under(tensors: Mapping[str, Tensor], t: float, scales: Mapping[str, float]) -> None:
    """In place: +0.0 for every element of each tensor with abs(w) < t * its scale."""
    for name, tensor in tensors.items():
        tensor.masked_fill_(under(tensor, t * scales[name]).to(tensor.device), 0.0)


def not_kept(tensors: Mapping[str, nn.Parameter], keep: Sequence[str]) -> dict[str, nn.Parameter]:
    """The tensors that no pattern names, by their own name or by that of their layer.

    Raises:
        UserError: a pattern matches nothing, or together they leave nothing.
    """
    layers = [name.rpartition(".")[0] for name in tensors]
    found = set(matching(tuple(keep), [*tensors, *filter(None, layers)]))
    left = {n: p for n, p in tensors.items() if not {n, n.rpartition(".")[0]} & found}
    if not left:
        raise UserError(f"keep={list(keep)} exempts every layer; nothing is left to zero")
    return left
