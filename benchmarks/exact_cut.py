"""An exact global share of weights to keep: thrifty.pruning.select against torch and numpy.

Question: what do time and memory of an exact cut cost, and which other ways are exact on ties?
Run:      python benchmarks/exact_cut.py           (2 to 3 minutes; --help for more)
Last:     at 1e7 scores, 20 % kept, top takes 5.1 ms; torch.topk 62x that, unsorted 28x, of the
          80 % cut 197x, unsorted 37x; less than 1 MB beyond the mask against 184 to 256 MB;
          compiled kernels, torch 2.13.0 CPU, 1 thread, busy machine, 2026-11-21 (README.md)
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from timing import Times, conditions, interleaved, quartiles, ratios, shown
from torch import Tensor

from thrifty import native
from thrifty.pruning.select import top, top_together

KEPT = 0.2
GOAL = 20.0
GOAL_SIZE = 10_000_000
PARTS = (0.5, 0.3, 0.15, 0.05)  # how top_together's tensors share the scores
OURS = "top"

Mask = Tensor | list[Tensor]
Choose = Callable[[Tensor, int], object]
Finish = Callable[[Tensor, Any], Mask]


def together(scores: Tensor, count: int) -> object:
    sizes = [int(p * scores.numel()) for p in PARTS[1:]]
    return top_together(scores.split([scores.numel() - sum(sizes), *sizes]), count)


def done(_: Tensor, chosen: Mask) -> Mask:
    """Ours are masks already."""
    return chosen


def at(scores: Tensor, chosen: Tensor) -> Tensor:
    """True at the chosen positions."""
    mask = torch.zeros(scores.shape, dtype=torch.bool)
    mask[chosen] = True
    return mask


def not_at(scores: Tensor, chosen: Tensor) -> Tensor:
    """False at the chosen positions."""
    mask = torch.ones(scores.shape, dtype=torch.bool)
    mask[chosen] = False
    return mask


def from_edge(scores: Tensor, edge: float | Tensor) -> Tensor:
    """True at and above a threshold."""
    return scores >= edge


def largest(ordered: bool) -> Choose:
    return lambda s, count: torch.topk(s, count, sorted=ordered).indices


def smallest(ordered: bool) -> Choose:
    return lambda s, count: torch.topk(s, s.numel() - count, largest=False, sorted=ordered).indices


def stable_sort(scores: Tensor, count: int) -> object:
    return scores.sort(descending=True, stable=True).indices[:count]


def partition(scores: Tensor, count: int) -> object:
    place = scores.numel() - count
    return float(np.partition(scores.numpy(), place)[place])


def argpartition(scores: Tensor, count: int) -> object:
    return torch.from_numpy(np.argpartition(scores.numpy(), scores.numel() - count)[-count:])


WAYS: dict[str, tuple[Choose, Finish]] = {  # name -> (what finds the cut, what makes the mask)
    OURS: (top, done),
    "top_together, 4 tensors": (together, done),
    "torch.topk kept": (largest(True), at),
    "torch.topk kept, unsorted": (largest(False), at),
    "torch.topk cut": (smallest(True), not_at),
    "torch.topk cut, unsorted": (smallest(False), not_at),
    "torch.sort, stable": (stable_sort, at),
    "torch.kthvalue": (lambda s, count: s.kthvalue(s.numel() - count + 1).values, from_edge),
    "numpy.partition": (partition, from_edge),
    "numpy.argpartition": (argpartition, at),
}


def mask(name: str, scores: Tensor, count: int) -> Mask:
    choose, finish = WAYS[name]
    return finish(scores, choose(scores, count))


def whole(name: str, scores: Tensor, count: int) -> Tensor:
    made = mask(name, scores, count)
    return torch.cat(made) if isinstance(made, list) else made


def magnitudes(size: int) -> Tensor:
    """As of normal weights, made without temporary memory."""
    return torch.randn(size, generator=torch.Generator().manual_seed(0)).abs_()


def check(size: int) -> None:
    """All keep the same scores if no two are equal."""
    scores = torch.randperm(size, generator=torch.Generator().manual_seed(1)).float()
    count = int(KEPT * size)
    right = scores >= size - count
    assert size <= 1 << 24  # float32 tells these whole numbers apart
    assert int(right.sum()) == count
    for name in WAYS:
        assert torch.equal(whole(name, scores, count), right), f"{name} keeps other scores"


def tied(size: int) -> None:
    """Print which ways stay exact where many scores are equal."""
    scores = (magnitudes(size) * 16).round_()
    count = int(KEPT * size)
    edge = scores.sort(descending=True).values[count - 1]
    room = count - int((scores > edge).sum())
    first = (scores > edge) | ((scores == edge) & ((scores == edge).cumsum(0) <= room))
    print(f"\nties: {size:,} scores of {scores.unique().numel()} values, {count:,} to keep")
    print(f"{'':28}{'kept too many':>14}  first of equals kept")
    for name in WAYS:
        kept = whole(name, scores, count)
        print(f"{name:28}{int(kept.sum()) - count:14,}  {'yes' if kept.equal(first) else 'no'}")
        assert not name.startswith(OURS) or kept.equal(first)


def table(choice: Mapping[str, Times], masks: Mapping[str, Times]) -> None:
    """Ours is the whole way to a mask in both ratios; theirs first without, then with it."""
    head = ("cut ms", "with mask", "wall", "cut / ours", "with mask / ours")
    print("{:28}{:>10}{:>10}{:>10}  {:21}{}".format("", *head))
    for name in WAYS:
        columns = (choice[name].cpu, masks[name].cpu, masks[name].wall)
        middles = "".join(f"{1e3 * quartiles(c)[1]:10.3f}" for c in columns)
        both = [shown(*ratios(each[name].cpu, masks[OURS].cpu), 1) for each in (choice, masks)]
        print(f"{name:28}{middles}  {both[0]:21}{both[1]}")


def run(size: int, rounds: int) -> None:
    check(size)
    scores, count = magnitudes(size), int(KEPT * size)
    calls: dict[str, Callable[[], object]] = {}
    for name, (choose, _) in WAYS.items():
        calls[f"cut {name}"] = lambda choose=choose: choose(scores, count)
        calls[f"all {name}"] = lambda name=name: mask(name, scores, count)
    times = interleaved(calls, rounds, max(1, 200_000 // size))
    choice = {name: times[f"cut {name}"] for name in WAYS}
    masks = {name: times[f"all {name}"] for name in WAYS}
    print(f"\n{size:,} scores, {count:,} to keep, {rounds} rounds")
    table(choice, masks)
    if size == GOAL_SIZE:
        for name in (n for n in WAYS if "topk" in n):
            middle = ratios(choice[name].cpu, masks[OURS].cpu)[1]
            verdict = "met" if middle >= GOAL else "missed"
            print(f"goal {GOAL:.0f}x: {name}, without its mask: {middle:.1f}x, {verdict}")


def hard(size: int, rounds: int) -> None:
    """Print what ``top`` takes where sampling is of little help."""
    count = int(KEPT * size)
    usual = magnitudes(size)
    period = torch.rand(size, generator=torch.Generator().manual_seed(2))
    period[:: int(size ** (1 / 3))] += 1.0
    period[:: max(1, size >> 16)] += 1.0
    kinds = {
        "magnitudes of normal weights": usual,
        "sorted": usual.sort().values,
        "all equal": torch.ones(size),
        "99 % zeros": torch.where(period < 0.01, usual, 0.0),
        "fewer than 100 values": (usual * 16).round(),
        "large where samples are taken": period,
    }
    calls = {name: lambda s=s: top(s, count) for name, s in kinds.items()}
    times = interleaved(calls, rounds)
    usually = times["magnitudes of normal weights"].cpu
    print(f"\ntop on harder scores, {size:,}, {count:,} to keep, {rounds} rounds")
    for name, each in times.items():
        middle = 1e3 * quartiles(each.cpu)[1]
        print(f"{name:34}{middle:10.3f} ms  {shown(*ratios(each.cpu, usually), 2)}")


def memory(sizes: list[int]) -> None:
    """Print the peak of extra memory, of a fresh process for each entry."""
    print("\nextra memory at the peak of making the mask, MB; the mask itself is 1 byte a score")
    print(f"{'':28}" + "".join(f"{size:>14,}" for size in sizes))
    for name in WAYS:
        cells = "".join(f"{fresh(name, size):14.1f}" for size in sizes)
        print(f"{name:28}{cells}")


def fresh(name: str, size: int) -> float:
    command = [sys.executable, __file__, "--peak", name, "--sizes", str(size)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def peak(name: str, size: int) -> float:
    """MB by which the peak of resident memory (VmHWM, set back before) passes what was there."""
    mask(name, magnitudes(10_000), 2_000)  # what the first call loads is not counted
    scores, count = magnitudes(size), int(KEPT * size)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    made = mask(name, scores, count)
    assert made is not None
    return (status("VmHWM") - before) / 1e3


def status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1.024 * float(line.split()[1]) for line in lines if line.startswith(key))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=[100_000, 1_000_000, GOAL_SIZE])
    parser.add_argument("--longer", type=float, default=1.0, help="times the rounds")
    parser.add_argument("--peak", metavar="WAY", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.peak:
        print(peak(args.peak, args.sizes[0]))
        return
    print(f"{conditions()}; kernels of thrifty: {native.target()}")
    print("ms of the thread (wall: of the clock, with mask); ratios as median [quartiles] of pairs")
    for size in args.sizes:
        run(size, max(3, int(args.longer * min(30, 7 * GOAL_SIZE // size))))
    tied(1_000_000)
    hard(max(args.sizes), max(3, int(args.longer * 7)))
    memory(args.sizes)


if __name__ == "__main__":
    main()
