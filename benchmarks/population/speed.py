"""Training a population in lanes against torch and JAX: samples x models a second.

Question: how many times faster than one model after another, than torch.func.vmap, than grouped
convolutions and than JAX, by threads; what share of the measured peak; how much memory?
Run:      python benchmarks/population/speed.py --out speed.json
          python benchmarks/population/speed.py --cases small --rounds 5 --seconds .2
          python benchmarks/population/speed.py --jax-python /path/to/venv/bin/python

The cases are the published small network (2,464 parameters, 28 x 28 grey) and the large one
(10,853, 32 x 32 in colour) at batch 10 with Adam, the small one under variational dropout, and
evaluation.  Answers come first: after some steps the weights of every contender are those of
torch in float64, evaluated classes are torch's, and the loss under variational dropout, whose
noise is drawn otherwise, is torch's in the mean.  All contenders have their turn in every round.

A rate is inputs x models a second.  "Clock" is by the clock, and what a user waits for; "core" is
a second of one core's time, which other programs disturb less.  A ratio is to one model after
another on as many cores, each with a process of its own (torch's threads make a network of this
size slower), and the median of those within the rounds, with its quartiles.  The share of the
peak is that of the best round, and the peak the best of those that are measured in each round.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax_rival
import numpy as np
import torch
from problem import BETA1, BETA2, DECAY, EPSILON, RATE, Problem, Weights, multiply_adds, problem
from timing import conditions, quartiles, ratios, shown
from torch_rivals import MAKERS, Asked, Eager, Noisy, batches

from thrifty.native import lanes
from thrifty.shown import text_table

SPECS = {"small": ("zoo_cnn_s?act=tanh", (1, 28, 28)), "large": ("zoo_cnn_l?act=tanh", (3, 32, 32))}
CASES = ("small", "large", "variational", "evaluate", "memory")
BASE = "torch, one after another"
ROWS = 1000
NOISE = lanes.Noise(divergence=1e-3, clip_conv=8.0, clip_linear=10.0)
CHECKED_STEPS = 8

MEMORY = """
import re, sys
sys.path[:0] = {paths!r}
from problem import problem
from speed import Lanes
said = problem({spec!r}, {shape!r}, {models}, 1000)
Lanes(said, 1).run(20)
print(int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1024)
"""


class Lanes:
    """Models in the lanes of vector registers."""

    def __init__(
        self, said: Problem, threads: int, own: bool = True, noise: lanes.Noise | None = None
    ):
        self.models, self._own, self._noise = said.models, own, noise
        self.native = lanes.Lanes(said.layers, threads)
        self._samples, self._hyper, self._batch = said.samples, said.hyper(), said.batch
        flat = said.flat()
        spread = None if noise is None else np.full_like(flat, -10.0)
        self.state = lanes.State(flat, spread=spread)
        self._optimizer = lanes.Optimizer(name="adam", momentum=BETA1, beta2=BETA2, epsilon=EPSILON)
        self._epoch = 0

    def run(self, steps: int) -> float:
        """So many steps of all models; their mean loss."""
        lost, left = 0.0, steps
        while left > 0:
            now = min(left, len(self._samples) // self._batch)
            rows = slice(now * self._batch)
            some = lanes.Samples(
                self._samples.inputs[rows],
                self._samples.labels[rows],
                self._samples.mean,
                self._samples.deviation,
            )
            found, _ = self.native.train(
                self.state, some, self._hyper, self._optimizer, batch=self._batch,
                epoch=self._epoch, shared=not self._own, noise=self._noise,
            )  # fmt: skip
            lost, left, self._epoch = lost + now * float(found.mean()), left - now, self._epoch + 1
        return lost / steps

    def evaluate(self, passes: int) -> np.ndarray:
        """(models, n) classes after so many passes."""
        for _ in range(passes):
            found = self.native.evaluate(self.state, self._samples)[2]
        return found


@dataclass(eq=False)
class Contender:
    """One way, and what it took."""

    name: str
    models: int
    run: Callable[[int], Any]
    """Does so many steps, or passes; may say what seconds it took, of the clock and the core."""
    each: int
    """Inputs of a model in one of these."""
    threads: int
    count: int = 1
    wall: list[float] = field(default_factory=list)
    core: list[float] = field(default_factory=list)
    """Rates, a round each."""

    def once(self) -> tuple[float, float]:
        """Rates by the clock and by the core."""
        wall, core = time.perf_counter(), time.process_time()
        told = self.run(self.count)
        took = time.perf_counter() - wall, time.process_time() - core
        if isinstance(told, tuple):
            took = told
        done = self.count * self.each * self.models
        return done / took[0], done / max(took[1], 1e-9)

    def sized(self, seconds: float) -> None:
        """In place: as many steps as take about so long."""
        self.count = 2
        self.once()
        rate = self.once()[0]
        self.count = max(2, round(seconds * rate / (self.each * self.models)))


def measured(
    contenders: list[Contender], said: Problem, rounds: int, seconds: float
) -> list[float]:
    """In place: every contender once a round, in an order drawn anew; the peak in each round."""
    draw, native, peaks = random.Random(0), lanes.Lanes(said.layers), []
    for each in contenders:
        each.sized(seconds)
    for _ in range(rounds):
        for each in draw.sample(contenders, len(contenders)):
            wall, core = each.once()
            each.wall.append(wall)
            each.core.append(core)
        peaks.append(native.peak(0.1))
    return peaks


def close(ours: Weights, truth: Weights, start: Weights, limit: float, name: str) -> float:
    """How far updates are from the truth, relative to their size; over the limit is an error."""
    apart = sum(float((a.double() - b).square().sum()) for a, b in zip(ours, truth, strict=True))
    moved = sum(float((b - w).square().sum()) for b, w in zip(truth, start, strict=True))
    found: float = (apart / moved) ** 0.5
    assert found < limit, f"{name}: updates are {found:.2e} off those of torch in float64"
    return found


def as_weights(flat: np.ndarray, like: Weights) -> Weights:
    """(models, parameters) as tensors."""
    parts = torch.from_numpy(flat).split([w[0].numel() for w in like], 1)
    return [x.reshape(w.shape) for x, w in zip(parts, like, strict=True)]


def check_training(whole: Problem) -> dict[str, float]:
    """Relative errors of the update after some steps, of every way but JAX."""
    said = whole.some(3, CHECKED_STEPS * whole.batch)
    found = {}
    for own in (True, False):
        truth = Eager(said, double=True).answers(CHECKED_STEPS, own)
        kind = "own batches" if own else "shared batches"
        ours = Lanes(said, 1, own)
        ours.run(CHECKED_STEPS)
        answers = {f"thrifty, {kind}": as_weights(ours.state.weights, said.weights)}
        for name, make in MAKERS.items():
            if ("own" in name) == own:
                answers[name] = make(said).answers(CHECKED_STEPS)
        if not own:
            answers[BASE] = Eager(said).answers(CHECKED_STEPS, own)
        for name, weights in answers.items():
            found[name] = close(weights, truth, said.weights, 1e-2, name)
    return found


def training(said: Problem, rivals: Problem, asked: argparse.Namespace) -> list[Contender]:
    """Everyone who trains."""
    found = []
    for threads in asked.threads:
        for own in (False, True):
            ours = Lanes(said, threads, own)
            kind = "own batches" if own else "shared batches"
            found.append(Contender(f"thrifty, {kind}", said.models, ours.run, said.batch, threads))
    one = said.some(1)
    eager = {BASE: Eager(one), f"{BASE}, fused Adam": Eager(one, fused=True)}
    for name, way in (eager | {n: make(rivals) for n, make in MAKERS.items()}).items():
        found.append(Contender(name, way.models, way.run, said.batch, 1))
    return found


def jax_contenders(
    said: Problem, asked: argparse.Namespace, folder: Path
) -> tuple[list[Contender], list[jax_rival.Jax], dict[str, float]]:
    """JAX with each number of threads, checked; none if no interpreter has it."""
    version = jax_rival.version(asked.jax_python)
    if version is None:
        print(f"JAX is left out: {asked.jax_python} has none; give --jax-python")
        return [], [], {}
    steps, found, running = CHECKED_STEPS, [], []
    rows = torch.stack(list(batches(said, 0, steps))).numpy()
    truth = Eager(said, double=True).answers(steps, own=False)
    off = {}
    for threads in asked.threads:
        file = folder / f"{said.models}-{threads}.npz"
        np.savez(
            file,
            layers=json.dumps([asdict(layer) for layer in said.layers]),
            numbers=np.array([RATE, DECAY, BETA1, BETA2, EPSILON]),
            x=said.inputs.numpy(),
            y=said.labels,
            rows=rows,
            **{f"w{i}": w.numpy() for i, w in enumerate(said.weights)},
        )
        way = jax_rival.Jax(asked.jax_python, file, said.models, threads)
        running.append(way)
        with np.load(f"{file}.answers.npz") as answers:
            weights = [torch.from_numpy(answers[n]) for n in answers.files]
        name = f"JAX {version}, vmap, jit and scan"
        off[name] = close(weights, truth, said.weights, 1e-2, name)

        def run(count: int, way: jax_rival.Jax = way) -> tuple[float, float]:
            return way.run(count * steps)

        found.append(Contender(name, said.models, run, steps * said.batch, threads))
    return found, running, off


def noisy(said: Problem, asked: argparse.Namespace) -> tuple[list[Contender], dict[str, float]]:
    """Variational dropout, and how far the mean losses are apart."""
    few = said.some(16, 400)
    one = Lanes(few, 1, own=False, noise=NOISE).run(40)
    clips = (NOISE.clip_conv, NOISE.clip_linear)
    other = np.mean(
        [
            Noisy(
                Problem(
                    few.spec, 1, few.batch, few.layers, [w[k : k + 1] for w in few.weights],
                    few.pictures, few.labels,
                ), NOISE.divergence, clips,
            ).run(40)
            for k in range(16)
        ]
    )  # fmt: skip
    off = abs(one - other) / other
    assert off < 0.02, f"mean loss under noise is {one:.4f}, and that of torch {other:.4f}"
    found = [
        Contender(
            "thrifty, own batches", said.models, Lanes(said, n, noise=NOISE).run, said.batch, n
        )
        for n in asked.threads
    ]
    eager = Noisy(said.some(1), NOISE.divergence, clips)
    return [*found, Contender(BASE, 1, eager.run, said.batch, 1)], {"mean loss": off}


def asking(said: Problem, asked: argparse.Namespace) -> tuple[list[Contender], dict[str, float]]:
    """Evaluation, and the share of classes that are not torch's."""
    ours, eager = Lanes(said, 1).evaluate(1), Asked(said.some(8))
    theirs = np.stack([eager.classes(k) for k in range(8)])
    off = float((ours[:8] != theirs).mean())
    assert off < 1e-3, f"{off:.2%} of the classes are not those of torch"
    rows = len(said.labels)
    found = [
        Contender("thrifty", said.models, Lanes(said, n).evaluate, rows, n) for n in asked.threads
    ]
    return [*found, Contender(BASE, 1, Asked(said.some(1)).run, rows, 1)], {"classes": off}


def told(contenders: list[Contender], macs: int, peak: float) -> list[dict[str, Any]]:
    """A row a contender: rates, ratios to one model after another on as many cores, share."""
    rows = []
    base = next(c for c in contenders if c.name == BASE)
    for each in contenders:
        first = next(c for c in contenders if (c.name, c.threads) == (each.name, 1))
        rows.append(
            {
                "contender": each.name,
                "threads": each.threads,
                "models": each.models,
                "clock": quartiles(each.wall),
                "core": quartiles(each.core),
                "ratio": ratios(each.wall, [each.threads * r for r in base.wall]),
                "core_ratio": ratios(each.core, base.core),
                "to_one_thread": ratios(each.wall, first.wall),
                "share_of_peak": max(each.core) * macs / peak,
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text."""
    return text_table(
        [
            {
                "contender": row["contender"],
                "threads": str(row["threads"]),
                "models": str(row["models"]),
                "k/s, clock": shown(*(r / 1e3 for r in row["clock"]), digits=1),
                "k/s, core": f"{row['core'][1] / 1e3:.1f}",
                "ratio, clock": shown(*row["ratio"], digits=2),
                "ratio, core": f"{row['core_ratio'][1]:.2f}",
                "to 1 thread": f"{row['to_one_thread'][1]:.2f}",
                "of peak": f"{row['share_of_peak']:.0%}",
            }
            for row in rows
        ]
    )


def memory(models: int) -> dict[str, float]:
    """MiB at most of a process that imports torch and thrifty and trains, by models."""
    here = Path(__file__).resolve().parent
    found = {}
    for count in (1, models):
        spec, shape = SPECS["small"]
        program = MEMORY.format(
            paths=[str(here), str(here.parent)], spec=spec, shape=shape, models=count
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        found[str(count)] = float(done.stdout.split()[-1])
    return found


def case(name: str, asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Check, time and print one case."""
    spec, shape = SPECS["large" if name == "large" else "small"]
    said = problem(spec, shape, asked.models, ROWS)
    running: list[jax_rival.Jax] = []
    if name == "variational":
        contenders, off = noisy(said, asked)
    elif name == "evaluate":
        contenders, off = asking(said, asked)
    else:
        rivals = said.some(asked.rival_models)
        off = check_training(said)
        contenders = training(said, rivals, asked)
        more, running, jax_off = jax_contenders(rivals, asked, folder)
        contenders, off = contenders + more, off | jax_off
    macs = multiply_adds(said.layers, training=name != "evaluate")
    if name == "variational":
        macs *= 2  # a mean and a variance
    try:
        peak = max(measured(contenders, said, asked.rounds, asked.seconds))
    finally:
        for way in running:
            way.close()
    rows = told(contenders, macs, peak)
    print(f"\n{name}: {spec}, batch {said.batch}, {macs:,} multiply-adds an input; the peak of a "
          f"core is {peak / 1e9:.0f} G a second")  # fmt: skip
    print("checked: " + "; ".join(f"{n} {e:.1e}" for n, e in off.items()))
    print(table(rows), flush=True)
    return {
        "case": name,
        "spec": spec,
        "multiply_adds": macs,
        "peak": peak,
        "off": off,
        "rows": rows,
    }


def main() -> None:
    """Every case that is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--models", type=int, default=64, help="in lanes")
    parser.add_argument("--rival-models", type=int, default=32, help="of stacks in torch and JAX")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a contender in a round")
    parser.add_argument("--memory-models", type=int, default=512)
    parser.add_argument("--jax-python", default=sys.executable, help="the interpreter with JAX")
    parser.add_argument("--out", type=Path, help="write everything there as JSON")
    asked = parser.parse_args()
    if 1 not in asked.threads:
        parser.error("--threads has 1, to compare with")
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    print(f"{conditions()}; up to {max(asked.threads)} threads; load {load:.1f} before")
    found: dict[str, Any] = {"conditions": conditions(), "load": load, "rounds": asked.rounds}
    with tempfile.TemporaryDirectory() as folder:
        found["cases"] = [case(n, asked, Path(folder)) for n in asked.cases if n != "memory"]
    if "memory" in asked.cases:
        found["memory"] = memory(asked.memory_models)
        said = ", ".join(f"{m:.0f} MiB with {k} models" for k, m in found["memory"].items())
        print(f"\npeak of memory of a process with torch that trains in lanes: {said}")
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
