"""Cores that this process may use: a container or a cluster may grant fewer than there are."""

import math
import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds of processors that a container has in a period, and the period (Linux)."""


def cores() -> int:
    """Cores that this process may use, 1 or more.

    Of those that the machine has, the ones it is bound to (taskset, Slurm), and no more than a
    container's share of time (docker run --cpus), rounded up.
    """
    free = getattr(os, "sched_getaffinity", None)
    count = len(free(0)) if free is not None else os.cpu_count() or 1
    return max(1, min(count, _quota(QUOTA)))


def _quota(file: Path) -> int:
    """Cores whose time a container has; more than any machine where nothing is said."""
    try:
        time, period = file.read_text().split()
        return math.ceil(int(time) / int(period))
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
        return 1 << 20
