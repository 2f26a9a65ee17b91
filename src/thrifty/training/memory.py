"""Memory that a freed tensor took goes back to the system, where there is little of it.

The allocator of glibc keeps freed blocks of up to 32 MB to give them out again, once it has seen
some of that size.  A recursion allocates and frees tensors of several sizes in turn, and the gaps
between those that stay grow to a third of all memory.  With a fixed bound large tensors are mapped
one by one, at the price of a page fault for every 4 kB: a step of a small ThriftyNet then takes
half to three quarters more time; it is done only where memory is wanted more.
"""

import ctypes
import functools
import sys
from pathlib import Path

import torch
from torch import nn

LARGE = 1 << 20
"""Bytes from which on a tensor is mapped alone; smaller ones are worth more than their gaps."""
IDLE = 16 << 20
"""Bytes that the allocator may keep at the end of its heap."""
ENOUGH = 8 << 30
"""Bytes of available memory from which on gaps do not matter."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def large_go_back(model: nn.Module, device: torch.device) -> None:
    """In place, for the whole process: do so on the CPU if ``model`` can be checkpointed and
    either is, or the system has less than :data:`ENOUGH` left.

    Nothing is done where the allocator is another than that of glibc.
    """
    asked = [m.checkpointing for m in model.modules() if hasattr(m, "checkpointing")]
    if device.type == "cpu" and asked and (any(asked) or available() < ENOUGH):
        _bound_heap()


def available(root: Path = Path("/")) -> int:
    """Bytes that the system would still give, within the limit of a container; at least 0.

    Args:
        root: of the system's files.

    Returns:
        What Linux tells in ``proc/meminfo`` and in the files of a control group; where it tells
        neither, more than :data:`ENOUGH`.
    """
    free = _number(root / "proc/meminfo", "MemAvailable:")
    found = [] if free is None else [free << 10]
    most = _number(root / "sys/fs/cgroup/memory.max")
    used = _number(root / "sys/fs/cgroup/memory.current")
    if most is not None and used is not None:
        found.append(max(0, most - used))
    return min(found, default=2 * ENOUGH)


def _number(path: Path, name: str = "") -> int | None:
    """The number after ``name`` in a file of the system; none where there is no such number."""
    try:
        words = path.read_text("ascii", errors="replace").split()
    except OSError:
        return None
    place = words.index(name) + 1 if name in words else 0 if not name else len(words)
    return int(words[place]) if place < len(words) and words[place].isdigit() else None


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
