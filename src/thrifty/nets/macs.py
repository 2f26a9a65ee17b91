"""Multiply-adds of a forward pass, counted on tensors that have a shape and no numbers."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from thrifty.errors import UserError


def count_macs(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-adds of convolutions and matrix products for one input of ``shape``.

    ``model`` is not touched: the pass runs on a copy whose tensors take no memory, or, where an
    operation cannot do without numbers, on a real copy.  A zero weight counts like any other.

    Raises:
        UserError: the network does not take such an input.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        return _counted(without_numbers(model), torch.empty((1, *shape), device="meta"))
    except Exception:  # whatever an operation that lacks a meta kernel raises
        pass
    try:
        return _counted(copy.deepcopy(model), torch.zeros((1, *shape), device=device))
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"{type(model).__name__} does not take one input of shape {tuple(shape)}: {error}; "
            f"give the shape it was built for"
        ) from error


def _counted(model: nn.Module, x: Tensor) -> int:
    model.eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), _plain_attention(), counter:
        model(x)
    return int(counter.get_total_flops()) // 2


def without_numbers(model: nn.Module) -> nn.Module:
    """A copy on the device meta, whose tensors have shapes and take no memory."""
    memo: dict[int, object] = {}
    for p in model.parameters():
        memo[id(p)] = nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad)
    for b in model.buffers():
        memo[id(b)] = torch.empty_like(b, device="meta")
    return copy.deepcopy(model, memo)


@contextmanager
def _plain_attention() -> Iterator[None]:
    # The fused attention of eval mode is one operation that the counter does not know.
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
