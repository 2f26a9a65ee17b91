"""Layouts in memory: tensors computed from others lie as those do, and random numbers as well.

With channels last, torch takes the layout of an operation from strides.  Pictures and filters of
one channel have the same memory in both layouts, and most operations forget which of the two the
strides said; the next convolution then returns the other layout, and mixed layouts cost three
times as much in all that follows.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def laid_out(values: Tensor, like: Tensor) -> Tensor:
    """``values`` with channels last if ``like``, of the same shape, has them so by its strides."""
    if values.dim() != 4 or values.stride() == like.stride():
        return values
    last = like.stride(1) == 1 and like.is_contiguous(memory_format=torch.channels_last)
    return values.to(memory_format=torch.channels_last) if last else values


def noise_like(values: Tensor, draw: Callable[..., Tensor] = torch.randn) -> Tensor:
    """Independent random numbers of that shape and layout; standard normal ones by default.

    torch draws for channels that lie last one by one, which takes twelve times as long as for
    memory in order; so they are drawn in the order of memory.

    Args:
        draw: ``torch.randn`` or ``torch.rand``.
    """
    last = values.dim() > 3 and not values.is_contiguous()
    shape = values.movedim(1, -1).shape if last else values.shape
    drawn = draw(shape, dtype=values.dtype, device=values.device)
    return drawn.movedim(-1, 1) if last else drawn
