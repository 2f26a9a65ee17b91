"""Fronts that look like measured ones: levels, seeds, a method that collapses, a control."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from thrifty.lab.front import Front
from thrifty.lab.records import Record

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998)
FEW = {"conv1": 150, "conv2": 2400, "fc1": 48000, "fc2": 840}
DENSE_ACCURACY = 0.98
# What each method loses at each of LEVELS.
LOSSES = {
    "random": (0.002, 0.007, 0.02, 0.06, 0.25, 0.52, 0.74, 0.88),
    "one_shot": (0.000, 0.001, 0.003, 0.007, 0.02, 0.05, 0.13, 0.40),
    "magnitude": (-0.001, -0.001, 0.000, 0.001, 0.004, 0.010, 0.024, 0.09),
}
CUTS = {
    "random": (0.3, 0.8, 0.87, 0.88, 0.88, 0.88, 0.88, 0.88),
    "one_shot": (0.002, 0.03, 0.12, 0.34, 0.7, 0.85, 0.88, 0.88),
    "magnitude": (0.002, 0.005, 0.01, 0.02, 0.06, 0.09, 0.2, 0.5),
}


def make_record(**changes: Any) -> Record:
    """A record of the dense parent, with ``changes``."""
    params = sum(FEW.values()) + 200
    values = {
        "key": "0123456789ab", "model": "lenet", "data": "digits", "method": "dense", "level": 0.0,
        "seed": 0, "sparsity": 0.0, "sparsity_all": 0.0, "accuracy": DENSE_ACCURACY,
        "accuracy_dense": DENSE_ACCURACY, "agreement": 1.0, "loss": 0.07, "params": params,
        "prunable": params - 200, "sparsity_conv": 0.0, "nonzero": params, "macs": 400_000,
        "macs_nonzero": 400_000, "bytes": int(3.7 * params), "bytes_dense": 4 * params + 900,
        "epochs": 0, "seconds": 4.0,
    }  # fmt: skip
    return Record(**{**values, **changes})


def make_front(
    methods: Sequence[str] = ("random", "one_shot", "magnitude"),
    *,
    seeds: int = 3,
    levels: Sequence[float] = LEVELS,
    layers: dict[str, int] | None = None,
    latency: bool = True,
    packed: bool = True,
    control: bool = True,
    cut: bool = True,
    removing: Sequence[str] = (),
    **names: str,
) -> Front:
    """A front with noise that depends on nothing but the arguments.

    Args:
        latency: whether they were timed, in torch and, if packed, in the engine.
        packed: whether they have packed files.
        removing: those of ``methods`` whose networks are really smaller, and faster in torch.
    """
    layers = FEW if layers is None else layers
    found = []
    for seed in range(seeds):
        dice = random.Random(seed)
        dense = DENSE_ACCURACY + dice.gauss(0, 0.0012)
        prunable = sum(layers.values())
        common = {
            "seed": seed, "accuracy_dense": dense, "params": prunable + 200, "prunable": prunable,
            "bytes_dense": 4 * prunable + 1700, **names,
        }  # fmt: skip
        wide = {
            "nonzero": prunable + 200, "macs": 8 * prunable, "macs_nonzero": 8 * prunable,
            "bytes": int(3.7 * prunable) + 740,
        }  # fmt: skip

        def time(share: float = 1.0, dice: random.Random = dice) -> float | None:
            return dice.gauss(108, 2.5) * share if latency else None

        def deployed(size: int, left: float = 1.0) -> dict[str, Any]:
            share = 0.15 + 0.85 * left
            timed = {"engine_ms": 0.035 * share, "engine_speedup": 1 / share} if latency else {}
            return {"packed_bytes": int(0.9 * size), **timed} if packed else {}

        wide |= deployed(wide["bytes"])
        found.append(make_record(**common, **wide, accuracy=dense, latency_us=time()))
        if control:
            found.append(
                make_record(
                    **common, **wide, method="control", level=levels[-1], epochs=8 * len(levels),
                    accuracy=dense + 0.004 + dice.gauss(0, 0.001), agreement=0.988,
                    latency_us=time(),
                )
            )  # fmt: skip
        for number, method in enumerate(methods):
            like = method if method in LOSSES else list(LOSSES)[number % 3]
            for step, level in enumerate(levels):
                place = min(step, len(LEVELS) - 1)
                loss = LOSSES[like][place] + 0.001 * (number // 3)
                noise = dice.gauss(0, 0.001 + 0.05 * max(loss, 0))
                kept = {
                    name: [round(size * min(1, (1 - level) * (1 + 4 * (size < 3000)))), size]
                    for name, size in layers.items()
                }
                nonzero = sum(k for k, _ in kept.values())
                accuracy = max(0.1, dense - loss + noise)
                conv = [pair for name, pair in kept.items() if "conv" in name]
                left = nonzero / prunable
                sizes: dict[str, Any] = {"macs": 8 * prunable}
                if method in removing:
                    sizes = {"macs": 8 * nonzero + 3000, "params": nonzero + 200}
                found.append(
                    make_record(
                        **common | sizes, method=method, level=level, accuracy=accuracy,
                        sparsity=1 - left,
                        sparsity_conv=1 - sum(k for k, _ in conv) / sum(t for _, t in conv)
                        if conv else None,
                        sparsity_all=(prunable - nonzero) / (prunable + 200),
                        accuracy_cut=max(0.1, dense - CUTS[like][place]) if cut else None,
                        agreement=min(1.0, accuracy + 0.006), nonzero=nonzero + 200,
                        macs_nonzero=8 * nonzero + 3000, bytes=int(4.6 * nonzero) + 1900,
                        **deployed(int(4.6 * nonzero) + 1900, left),
                        latency_us=time(0.3 + 0.7 * left if method in removing else 1.0),
                        epochs=8 * (step + 1), layers=kept,
                    )
                )  # fmt: skip
    return Front(tuple(found))


def make_layers() -> dict[str, int]:
    """60 layers with the names and sizes of a residual network."""
    sizes = {"stem.weight": 432}
    for stage in range(3):
        width = 16 << stage
        for block in range(9):
            for part in (1, 2):
                sizes[f"stages.{stage}.{block}.conv{part}.weight"] = 9 * width * width
    for stage in range(1, 3):
        sizes[f"stages.{stage}.0.shortcut.weight"] = (8 << stage) * (16 << stage)
    sizes |= {f"head.{i}.weight": 640 for i in range(3)}
    return sizes


@pytest.fixture
def some_record() -> Callable[..., Record]:
    return make_record


@pytest.fixture
def some_front() -> Callable[..., Front]:
    return make_front


@pytest.fixture
def many_layers() -> Callable[[], dict[str, int]]:
    return make_layers


@pytest.fixture
def front() -> Front:
    return make_front()
