"""Augmenting a batch at once, against picture by picture.

Question: what do shifts, RandAugment, cutout, mixup and cutmix cost a batch of 128 pictures of
          3 x 32 x 32, and what does working on a batch together save?
Run:      python benchmarks/training/augmentation.py        (half a minute)
Last:     two operations of RandAugment 6.7 ms, one 3.5 (picture by picture 64), shifts 0.5,
          cutout 0.9, mixup 0.7, cutmix 0.3; medians, torch 2.13.0 CPU, 1 thread, AMD EPYC, busy
          machine, 2026-11-21
"""

import os
import random
import time
from collections.abc import Callable
from statistics import median

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from torch import Tensor

from thrifty.data import augment
from thrifty.data.mixing import cutout, mix
from thrifty.data.randaugment import GEOMETRY, POINTS, apply, randaugment

BATCH, CALLS = 128, 60
BLACK = torch.zeros(3, dtype=torch.uint8)


def milliseconds(call: Callable[[], object]) -> tuple[float, float]:
    """(least, median) milliseconds of this thread that a call takes."""
    times = []
    for _ in range(CALLS):
        start = time.thread_time()
        call()
        times.append(1e3 * (time.thread_time() - start))
    return min(times), median(times)


def smooth(generator: torch.Generator) -> Tensor:
    """Pictures that are as smooth as photographs, of bytes."""
    small = torch.rand((BATCH, 3, 8, 8), generator=generator) * 255
    large = torch.nn.functional.interpolate(small, (32, 32), mode="bilinear")
    return large.to(torch.uint8)


def main() -> None:
    """Check, time, print."""
    lots, generator = random.Random(0), torch.Generator().manual_seed(0)
    pictures = smooth(generator)
    kinds = torch.randint(1 + len(GEOMETRY) + len(POINTS), (BATCH,), generator=generator)
    strength = 2 * torch.rand(BATCH, generator=generator) - 1
    prepared, labels = pictures.float() / 255, torch.arange(BATCH) % 10

    def together() -> Tensor:
        return apply(pictures, kinds, strength, BLACK)

    def apart() -> Tensor:
        rows = zip(pictures.split(1), kinds.split(1), strength.split(1), strict=True)
        return torch.cat([apply(*row, BLACK) for row in rows])

    assert torch.equal(together(), apart())
    cases: dict[str, Callable[[], object]] = {
        "shift=4 and flip": lambda: augment(pictures, 4, True, generator),
        "randaugment=1": lambda: randaugment(pictures, 1, 9, generator),
        "randaugment=2": lambda: randaugment(pictures, 2, 9, generator),
        "one operation, together": together,
        "one operation, picture by picture": apart,
        "cutout=16": lambda: cutout(prepared, 16, generator),
        "mixup=.2": lambda: mix(prepared, labels, 10, lots, mixup_alpha=0.2),
        "cutmix=1": lambda: mix(prepared, labels, 10, lots, cutmix_alpha=1.0),
    }
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread, {CALLS} calls each")
    for name, call in cases.items():
        call()
        least, middle = milliseconds(call)
        print(f"{name:36}{least:8.2f} ms at least{middle:8.2f} ms median")


if __name__ == "__main__":
    main()
