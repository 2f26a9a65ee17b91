"""Memory that a freed tensor took goes back to the system, for networks that hold many at once.

The allocator of glibc keeps freed blocks of up to 32 MB to give them out again, once it has seen
some of that size.  A recursion allocates and frees tensors of several sizes in turn, and the gaps
between those that stay grow to half of all memory.  With a fixed bound large tensors are mapped one
by one, at the price of a page fault for every 4 kB.
"""

import ctypes
import functools
import sys

import torch
from torch import nn

LARGE = 1 << 20
"""Bytes from which on a tensor is mapped alone; smaller ones are worth more than their gaps."""
IDLE = 16 << 20
"""Bytes that the allocator may keep at the end of its heap."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def large_go_back(model: nn.Module, device: torch.device) -> None:
    """In place, for the whole process: do so if ``model`` can be checkpointed, on the CPU.

    Nothing is done where the allocator is another than that of glibc.
    """
    if device.type == "cpu" and any(hasattr(m, "checkpointing") for m in model.modules()):
        _bound_heap()


@functools.cache
def _bound_heap() -> None:
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another library of C
        return
    mallopt(_M_MMAP_THRESHOLD, LARGE)
    mallopt(_M_TRIM_THRESHOLD, IDLE)
