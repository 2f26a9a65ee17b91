"""What the benchmarks share: interleaved rounds, paired ratios, and the conditions of a run.

Seconds are of the calling thread (``time.thread_time``), which other programs disturb through
caches only; wall time is kept beside it.  Programs set one thread before they import torch.
"""

import datetime
import math
import platform
import random
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch


@dataclass
class Times:
    """What a call of one competitor took, an entry a round."""

    cpu: list[float] = field(default_factory=list)
    """Seconds of this thread."""
    wall: list[float] = field(default_factory=list)
    """Seconds of the clock."""
    faults: list[float] = field(default_factory=list)
    """Pages that the kernel had to hand out: memory that the allocator had given back."""


def timed(call: Callable[[], object], calls: int = 1) -> tuple[float, float]:
    """Seconds of one call, of this thread and of the clock, as the mean of ``calls``."""
    wall, cpu = time.perf_counter(), time.thread_time()
    for _ in range(calls):
        call()
    cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
    return cpu / calls, wall / calls


def interleaved(
    competitors: Mapping[str, Callable[[], object]], rounds: int, calls: int = 1
) -> dict[str, Times]:
    """Each competitor once a round, in an order drawn anew; one round before is not counted."""
    times = {name: Times() for name in competitors}
    order = random.Random(0)
    for number in range(-1, rounds):
        for name in order.sample(list(competitors), len(competitors)):
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            cpu, wall = timed(competitors[name], calls)
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
            if number >= 0:
                times[name].cpu.append(cpu)
                times[name].wall.append(wall)
                times[name].faults.append(faults / calls)
    return times


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return float(low), float(middle), float(high)


def ratios(over: Sequence[float], under: Sequence[float]) -> tuple[float, float, float]:
    """Quartiles of the ratio of two competitors within the same round."""
    return quartiles([a / b for a, b in zip(over, under, strict=True)])


def median_range(values: Sequence[float]) -> tuple[float, float]:
    """Where the true median lies, at 95 %, from order statistics; no distribution is assumed."""
    ordered, count = sorted(values), len(values)
    reach = 0.98 * count**0.5
    low, high = math.floor(count / 2 - reach), math.ceil(count / 2 + reach)
    return ordered[max(0, low)], ordered[min(count - 1, high)]


def shown(low: float, middle: float, high: float, digits: int = 3) -> str:
    """A median and its quartiles as text."""
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def conditions() -> str:
    """Processor, versions, threads and date, in one line."""
    return (
        f"{_processor()}; torch {torch.__version__}, numpy {np.__version__}, "
        f"Python {platform.python_version()}; {torch.get_num_threads()} thread; "
        f"{datetime.date.today().isoformat()}"
    )


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
