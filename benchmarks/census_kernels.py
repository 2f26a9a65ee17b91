"""Counting stored numbers: thrifty.native against the speed of memory, numpy and torch.

Question: how near to reading memory is a census, and what do numpy and torch take for the same?
Run:      python benchmarks/census_kernels.py       (2 minutes, 1.5 GB; --help for more)
Last:     of 4e8 bytes of float32, 8 thresholds at 25 GB/s, 82 % of the read rate of one core, 62x
          numpy, 308x torch; tally 12, octaves 11 GB/s; kth of 1e8 values in 20 ms, 26x
          numpy.partition, 72x torch.kthvalue, 3 MB; torch 2.13.0 CPU, 2026-11-21 (README.md)
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from timing import Times, conditions, interleaved, quartiles, ratios, shown

from thrifty import native

THRESHOLDS = [1.0, 0.1, 0.01, 0.001, 1e-4, 0.5, 0.05, 0.005]
SIZES = [10_000_000, 100_000_000]
READ = "read: numpy or of int64"
OURS = "count_below"
SHARE, ROUNDS = 0.8, 15

Array = np.ndarray[Any, Any]
Calls = dict[str, Callable[[], object]]


def weights(size: int) -> Array:
    """Like those of a layer: normal, deviation 0.05."""
    generator = np.random.default_rng(0)
    return generator.standard_normal(size, np.float32) * np.float32(0.05)


def stored(values: Array) -> dict[str, Array]:
    """The same bytes each: as many halves again as there are floats."""
    halves = np.concatenate([values, values])
    return {
        "F32": values,
        "F64": values[: values.size // 2].astype(np.float64),
        "F16": halves.astype(np.float16),
        "BF16": (halves.view(np.uint32) >> 16).astype(np.uint16),
        "F8_E4M3": np.random.default_rng(1).integers(0, 127, 4 * values.size, np.uint8),
    }


def in_numpy(values: Array) -> tuple[int, ...]:
    return tuple(int(np.count_nonzero(np.abs(values) < np.float32(t))) for t in THRESHOLDS)


def in_torch(values: torch.Tensor) -> tuple[float, ...]:
    return tuple(float((values.abs() < t).float().mean()) for t in THRESHOLDS)


def check(values: Array) -> None:
    """All count the same, up to the rounding of torch's mean and of float32 thresholds."""
    right = native.count_below(values, "F32", THRESHOLDS)
    for target in native.available():
        with native.use(target):
            assert native.count_below(values, "F32", THRESHOLDS) == right
            assert native.tally(values, "F32", THRESHOLDS).under == right
    assert np.allclose(in_numpy(values), right, atol=2)
    assert np.allclose(in_torch(torch.from_numpy(values)), np.array(right) / values.size, atol=1e-3)
    k = int(SHARE * values.size)
    assert native.kth([values], k)[0] == np.partition(np.abs(values), k - 1)[k - 1]


def line(name: str, each: Times, nbytes: int, against: Mapping[str, Times]) -> None:
    middle = quartiles(each.cpu)[1]
    columns = [shown(*ratios(each.cpu, other.cpu), 2) for other in against.values()]
    print(f"{name:34}{1e3 * middle:10.2f}{nbytes / 1e9 / middle:9.1f}  {'  '.join(columns)}")


def shares(values: Array, rounds: int) -> None:
    tensor = torch.from_numpy(values)
    calls: Calls = {
        READ: lambda: np.bitwise_or.reduce(values.view(np.int64)),
        OURS: lambda: native.count_below(values, "F32", THRESHOLDS),
        "tally": lambda: native.tally(values, "F32", THRESHOLDS),
        "octaves": lambda: native.octaves(values, "F32"),
        "count_below, 1 threshold": lambda: native.count_below(values, "F32", [0.01]),
        "count_below, 32 thresholds": lambda: native.count_below(values, "F32", THRESHOLDS * 4),
    }
    slow: Calls = {
        OURS: calls[OURS],
        "numpy, 8 x count_nonzero(abs < t)": lambda: in_numpy(values),
        "torch, 8 x (abs < t).float().mean()": lambda: in_torch(tensor),
    }
    times = interleaved(calls, rounds)
    print(f"\n{values.size:,} float32, 8 thresholds, {rounds} rounds")
    print(f"{'':34}{'ms':>10}{'GB/s':>9}  time / read           time / count_below")
    for name, each in times.items():
        line(name, each, values.nbytes, {READ: times[READ], OURS: times[OURS]})
    share = ratios(times[READ].cpu, times[OURS].cpu)
    goal("count_below, share of the read rate", share[1], 0.7)
    late = interleaved(slow, max(3, rounds // 5))
    for name, each in late.items():
        line(name, each, values.nbytes, {OURS: late[OURS]})
    for (name, each), least in zip(list(late.items())[1:], (20.0, 150.0), strict=True):
        goal(f"{name}, times count_below", ratios(each.cpu, late[OURS].cpu)[1], least)


def goal(what: str, found: float, least: float) -> None:
    print(f"goal: {what}: {found:.2f}, at least {least:g}, {'met' if found >= least else 'missed'}")


def dtypes(values: Array, rounds: int) -> None:
    print(f"\nGB/s of every dtype and target, {values.nbytes / 1e6:.0f} MB each, {rounds} rounds")
    print(f"{'':24}{'count_below':>12}{'tally':>12}{'octaves':>12}")
    for dtype, bits in stored(values).items():
        calls: Calls = {}
        for target in native.available()[:-1]:
            calls[f"{target} count_below"] = forced(target, native.count_below, bits, dtype)
            calls[f"{target} tally"] = forced(target, native.tally, bits, dtype)
            calls[f"{target} octaves"] = forced(target, native.octaves, bits, dtype)
        times = interleaved(calls, rounds)
        for target in native.available()[:-1]:
            cells = [
                bits.nbytes / 1e9 / quartiles(times[f"{target} {what}"].cpu)[1]
                for what in ("count_below", "tally", "octaves")
            ]
            print(f"{dtype + ' ' + target:24}" + "".join(f"{c:12.1f}" for c in cells))


def forced(
    target: str, count: Callable[..., object], bits: Array, dtype: str
) -> Callable[[], object]:
    more = () if count is native.octaves else (THRESHOLDS,)

    def call() -> object:
        with native.use(target):
            return count(bits, dtype, *more)

    return call


def threads(values: Array, rounds: int) -> None:
    """Of the clock; says nothing where other programs hold the second core."""
    load = os.getloadavg()[0]
    print(f"\n{values.size:,} float32, ms of the clock, best of {rounds}, load {load:.1f}")
    print(f"{'':24}{'1 thread':>10}{'2 threads':>10}")
    for name, call in {
        "count_below": lambda n: native.count_below(values, "F32", THRESHOLDS, threads=n),
        "tally": lambda n: native.tally(values, "F32", THRESHOLDS, threads=n),
        "octaves": lambda n: native.octaves(values, "F32", threads=n),
        "kth": lambda n: native.kth([values], int(SHARE * values.size), threads=n),
    }.items():
        one, two = (best(lambda n=n, call=call: call(n), rounds) for n in (1, 2))
        print(f"{name:24}{1e3 * one:10.2f}{1e3 * two:10.2f}{one / two:8.2f}x")


def best(call: Callable[[], object], rounds: int) -> float:
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)


def ranks(values: Array, rounds: int) -> None:
    k, tensor = int(SHARE * values.size), torch.from_numpy(np.abs(values))
    scratch = np.empty_like(values)

    def partition() -> object:
        np.abs(values, out=scratch)
        scratch.partition(k - 1)
        return scratch[k - 1]

    calls: Calls = {
        "kth": lambda: native.kth([values], k),
        "numpy, partition in place of an abs": partition,
        "torch.kthvalue, abs given": lambda: tensor.kthvalue(k).values,
    }
    times = interleaved(calls, rounds)
    print(f"\nexact k-th of {values.size:,} magnitudes, k = {SHARE:g} n, {rounds} rounds")
    for name, each in times.items():
        line(name, each, values.nbytes, {"kth": times["kth"]})
    for (name, each), least in zip(list(times.items())[1:], (1.5, 20.0), strict=True):
        goal(f"{name}, times kth", ratios(each.cpu, times["kth"].cpu)[1], least)


HARD: dict[str, Callable[[int], Array]] = {
    "normal": weights,
    "all equal": lambda n: np.full(n, 0.25, np.float32),
    "two values": lambda n: np.float32(np.arange(n) % 3 == 0),
    "few values": lambda n: np.round(weights(n) * 300),
    "large where samples are taken": lambda n: misleading(weights(n)),
}


def misleading(values: Array) -> Array:
    for stride in range(50, 600):
        values[stride // 2 :: stride] = 2.0
    return values


def memory(size: int) -> None:
    print(f"\nkth of {size:,} values: ms of the thread, and MB of extra memory in a fresh process")
    for name, make in HARD.items():
        values = make(size)
        taken = interleaved({name: lambda v=values: native.kth([v], int(SHARE * size))}, 3)[name]
        del values
        command = [sys.executable, __file__, "--peak", name, "--sizes", str(size)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        print(f"{name:34}{1e3 * quartiles(taken.cpu)[1]:10.2f}{float(done.stdout):9.1f}")


def peak(name: str, size: int) -> float:
    """MB by which the peak of resident memory (VmHWM, set back before) passes what was there."""
    values = HARD[name](size)
    native.kth([values[:1000]], 500)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    native.kth([values], int(SHARE * size))
    return (status("VmHWM") - before) / 1e3


def status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1.024 * float(line.split()[1]) for line in lines if line.startswith(key))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument("--longer", type=float, default=1.0, help="times the rounds")
    parser.add_argument("--peak", metavar="KIND", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.peak:
        print(peak(args.peak, args.sizes[0]))
        return
    print(conditions())
    print(f"targets {', '.join(native.available())}; {native.target()} counts where none is named")
    print(f"load {os.getloadavg()[0]:.1f} at the start")
    print("ms of the thread; ratios as median [quartiles] of pairs")
    check(weights(1_000_001))
    for size in args.sizes:
        rounds = max(5, int(args.longer * ROUNDS * min(1, SIZES[0] * 3 / size)))
        values = weights(size)
        shares(values, rounds)
        if size == args.sizes[0]:
            dtypes(values, rounds)
        threads(values, int(args.longer * 4_000_000_000 / size))
        ranks(values, max(3, rounds // 3))
    memory(max(args.sizes))


if __name__ == "__main__":
    main()
