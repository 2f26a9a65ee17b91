"""Training with pruned weights held at zero, against training without masks.

Question: what do frozen masks cost a training step, and what do other ways of holding cost?
Run:      python benchmarks/frozen_masks.py        (3 minutes; --help for more)
Last:     Stepper with masks to torch fused without: lenet, batch 10, one buffer 1.00; resnet20,
          batch 128, many tensors 0.99 to 1.01, masking alone 0.05 %; prune.custom_from_mask
          1.24 and 1.01; torch 2.13.0 CPU, 1 thread, busy machine, 2026-11-21 (README.md)
"""

import argparse
import copy
import ctypes
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import cycle

os.environ["OMP_NUM_THREADS"] = "1"

import torch
import torch.nn.functional as F
from timing import Times, conditions, interleaved, median_range, quartiles, ratios, shown, timed
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils import prune as torch_prune

from thrifty.nets import resolve
from thrifty.pruning import Budget, freeze, prune
from thrifty.pruning.masks import Masks, bit_mask, clear, named
from thrifty.training.plan import Plan
from thrifty.training.stepper import FLAT_BELOW, Stepper, build

LR = 1e-3
SPARSITY = 0.9
COLD = 1 << 24  # float32 values, 64 MiB: written to push everything else out of the caches


@dataclass(frozen=True)
class Case:
    """A network, its inputs, and how often its step is timed."""

    name: str
    shape: tuple[int, ...]
    batch: int
    rounds: int
    calls: int  # steps a round
    goal: float
    judged: tuple[str, ...]  # the competitors that the goal is for


MANY, FLAT = "Stepper, many tensors, masks", "Stepper, one buffer, masks"
CASES = (
    Case("resnet20", (3, 32, 32), 128, 6, 1, 1.01, (MANY, FLAT)),
    Case("lenet", (1, 28, 28), 10, 60, 8, 1.03, (FLAT,)),
    Case("three_methods_cnn", (1, 8, 8), 10, 60, 8, 1.03, (FLAT,)),
)

BASE, DEFAULT = "torch fused", "torch default"
TWINS = {  # with masks -> the same loop without
    MANY: "Stepper, many tensors",
    FLAT: "Stepper, one buffer",
    "freeze() on torch fused": BASE,
    "freeze() on torch default": DEFAULT,
    "prune.custom_from_mask, fused": BASE,
    "prune.custom_from_mask, default": DEFAULT,
    "parametrize weight * mask, fused": BASE,
}
SAME = {  # kernel with like kernel: Adam makes a step of a rounding
    name: MANY if twin != DEFAULT else "prune.custom_from_mask, default"
    for name, twin in TWINS.items()
}


class Product(nn.Module):
    """weight * mask, as a parametrization."""

    def __init__(self, mask: Tensor):
        super().__init__()
        self.register_buffer("mask", mask.float())

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


@dataclass
class Loop:
    """One competitor: a network with its way of stepping."""

    model: nn.Module
    step: Callable[[Tensor, Tensor], None]
    masking: Callable[[], None] | None = None  # what it does for the masks, alone


def steps_of(model: nn.Module, begin: Callable[[], None], end: Callable[[], None]) -> Loop:
    def step(inputs: Tensor, labels: Tensor) -> None:
        begin()
        F.cross_entropy(model(inputs), labels).backward()
        end()

    return Loop(model, step)


def ours(model: nn.Module, plan: Plan, masks: Masks | None, flat: bool) -> Loop:
    """The stepper that ``thrifty.train`` uses."""
    stepper = Stepper(model, plan, masks, flat=flat)
    loop = steps_of(model, stepper.zero_grad, lambda: stepper.step(LR))

    def masking() -> None:
        for tensor, mask in stepper._held:
            clear(tensor.detach(), mask)

    loop.masking = masking
    return loop


def plain(model: nn.Module, plan: Plan, masks: Masks | None, fused: bool) -> Loop:
    """A loop of the user's own, with the same groups; held by ``thrifty.freeze`` if masked."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = build(plan, decayed, rest)
    if not fused:
        optimizer = type(optimizer)(
            [{**g, "fused": None, "foreach": None} for g in optimizer.param_groups]
        )
    loop = steps_of(model, optimizer.zero_grad, optimizer.step)
    if masks is not None:
        freeze(optimizer, masks, model)
        bits = [(p, bit_mask(masks[n], p)) for n, p in named(model, masks).items()]
        loop.masking = lambda: (
            [(clear(p.grad, m), clear(p.detach(), m)) for p, m in bits if p.grad is not None]
            and None
        )
    return loop


def by_torch_prune(model: nn.Module, plan: Plan, masks: Masks, fused: bool) -> Loop:
    for name, mask in masks.items():
        holder, _, leaf = name.rpartition(".")
        torch_prune.custom_from_mask(model.get_submodule(holder), leaf, mask)
    return plain(model, plan, None, fused=fused)


def by_parametrization(model: nn.Module, plan: Plan, masks: Masks) -> Loop:
    for name, mask in masks.items():
        holder, _, leaf = name.rpartition(".")
        module = model.get_submodule(holder)
        parametrize.register_parametrization(module, leaf, Product(mask))
    return plain(model, plan, None, fused=True)


def competitors(start: nn.Module, masks: Masks, plan: Plan) -> dict[str, Loop]:
    """Each on its own copy of ``start``; the first entries without masks."""

    def new() -> nn.Module:
        return copy.deepcopy(start)

    return {
        BASE: plain(new(), plan, None, fused=True),
        f"{BASE}, once more": plain(new(), plan, None, fused=True),
        DEFAULT: plain(new(), plan, None, fused=False),
        "Stepper, many tensors": ours(new(), plan, None, flat=False),
        "Stepper, one buffer": ours(new(), plan, None, flat=True),
        MANY: ours(new(), plan, masks, flat=False),
        FLAT: ours(new(), plan, masks, flat=True),
        "freeze() on torch fused": plain(new(), plan, masks, fused=True),
        "freeze() on torch default": plain(new(), plan, masks, fused=False),
        "prune.custom_from_mask, fused": by_torch_prune(new(), plan, masks, fused=True),
        "prune.custom_from_mask, default": by_torch_prune(new(), plan, masks, fused=False),
        "parametrize weight * mask, fused": by_parametrization(new(), plan, masks),
    }


def batches(case: Case) -> Iterator[tuple[Tensor, Tensor]]:
    """The same random inputs for all, over and over."""
    random = torch.Generator().manual_seed(1)
    made = []
    for _ in range(16):
        inputs = torch.randn(case.batch, *case.shape, generator=random)
        labels = torch.randint(10, (case.batch,), generator=random)
        made.append((inputs.contiguous(memory_format=torch.channels_last), labels))
    return cycle(made)


@torch.no_grad()
def weights(loop: Loop, names: Mapping[str, Tensor], inputs: Tensor) -> dict[str, Tensor]:
    """The weights that the network computes with, whatever it stores."""
    loop.model.eval()(inputs)  # torch_prune recomputes its weights in the forward pass only
    loop.model.train()
    found = {}
    for name in names:
        holder, _, leaf = name.rpartition(".")
        found[name] = getattr(loop.model.get_submodule(holder), leaf).detach().clone()
    return found


def check(case: Case, loops: Mapping[str, Loop], masks: Masks, steps: int = 5) -> float:
    """Zeros are exact and survivors agree; returns the largest difference of two survivors."""
    for name in TWINS:
        for _, (inputs, labels) in zip(range(steps), batches(case), strict=False):
            loops[name].step(inputs, labels)
    found = {name: weights(loops[name], masks, inputs) for name in TWINS}
    worst = 0.0
    for name, tensors in found.items():
        for key, mask in masks.items():
            assert not bool((tensors[key][~mask] != 0).any()), f"{name}: {key} revived"
            gap = (
                float((tensors[key] - found[SAME[name]][key])[mask].abs().max())
                if mask.any()
                else 0.0
            )
            assert gap < 1e-5, f"{name}: survivors of {key} differ by {gap}"
            worst = max(worst, gap)
    return worst


def alone(loop: Loop, repeats: int) -> tuple[float, float] | None:
    """Median seconds of the masking, with everything in the caches and with nothing."""
    if loop.masking is None:
        return None
    warm = quartiles([timed(loop.masking)[0] for _ in range(repeats * 10)])[1]
    other = torch.zeros(COLD)
    cold = []
    for _ in range(repeats):
        other.add_(1.0)
        cold.append(timed(loop.masking)[0])
    return warm, quartiles(cold)[1]


def table(loops: Mapping[str, Loop], times: Mapping[str, Times], repeats: int) -> None:
    head = ("ms/step", "wall", "faults", "to torch fused", "to the same without masks", "alone")
    print("{:34}{:>9}{:>9}{:>8}  {:22}{:27}{}".format("", *head))
    for name, each in times.items():
        twin = TWINS.get(name)
        paired = shown(*ratios(each.cpu, times[twin].cpu)) if twin else ""
        cost = alone(loops[name], repeats) if twin else None
        dense = quartiles(times[BASE].cpu)[1]
        part = f"{100 * cost[0] / dense:.2f} to {100 * cost[1] / dense:.2f} %" if cost else ""
        print(
            f"{name:34}{1e3 * quartiles(each.cpu)[1]:9.3f}{1e3 * quartiles(each.wall)[1]:9.3f}"
            f"{quartiles(each.faults)[1]:8.0f}  "
            f"{shown(*ratios(each.cpu, times[BASE].cpu)):22}{paired:27}{part}"
        )


def judge(case: Case, times: Mapping[str, Times]) -> None:
    """Print which goals are met; unclear if the median may lie on either side, at 95 %."""
    for name in case.judged:
        for against in (BASE, TWINS[name]):
            pairs = zip(times[name].cpu, times[against].cpu, strict=True)
            values = [a / b for a, b in pairs]
            low, high = median_range(values)
            middle = quartiles(values)[1]
            verdict = "met" if high <= case.goal else "missed" if low > case.goal else "unclear"
            print(f"goal {case.goal}: {name} / {against}: ", end="")
            print(f"{middle:.3f}, between {low:.3f} and {high:.3f}: {verdict}")


def run(case: Case, optimizer: str, rounds: int, repeats: int) -> None:
    torch.manual_seed(0)
    start = resolve(case.name, classes=10, shape=case.shape)
    start = start.to(memory_format=torch.channels_last).train()
    masks = prune(start, "magnitude", Budget(SPARSITY))
    plan = Plan(optimizer=optimizer, lr=LR, nesterov=False)
    loops = competitors(start, masks, plan)
    worst = check(case, loops, masks)
    streams = {name: batches(case) for name in loops}
    calls = {n: lambda n=n: loops[n].step(*next(streams[n])) for n in loops}
    times = interleaved(calls, rounds, case.calls)
    size = sum(p.numel() for p in start.parameters())
    print(
        f"\n{case.name}, batch {case.batch}, {optimizer}, {size:,} parameters "
        f"({'one buffer' if size < FLAT_BELOW else 'many tensors'} by default), "
        f"{rounds} rounds of {case.calls}; survivors within {worst:.0e}"
    )
    table(loops, times, repeats)
    judge(case, times)


def keep_memory() -> None:
    """In place: glibc keeps what is freed, instead of handing it back and asking again."""
    trim_threshold, mmap_threshold = -1, -3
    for option in (trim_threshold, mmap_threshold):
        ctypes.CDLL(None).mallopt(option, 2**31 - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", default=[c.name for c in CASES], help="of these")
    parser.add_argument("--optimizers", nargs="+", default=["sgd", "adam"])
    parser.add_argument("--longer", type=float, default=1.0, help="times the rounds")
    parser.add_argument("--repeats", type=int, default=30, help="of the masking alone")
    parser.add_argument("--batch", type=int, help="instead of each network's own")
    parser.add_argument("--keep-memory", action="store_true", help="no page faults (glibc)")
    args = parser.parse_args()
    if args.keep_memory:
        keep_memory()
    torch.set_num_threads(1)
    print(conditions())
    print(
        f"{SPARSITY:.0%} sparse; ms of the thread and of the clock, page faults a step, ratios of"
    )
    print("thread time as median [quartiles] of pairs; alone: the masking by itself, as a share of")
    print("a step of torch fused, in warm to in cold caches")
    for case in CASES:
        case = replace(case, batch=args.batch or case.batch)
        for optimizer in args.optimizers if case.name in args.nets else ():
            run(case, optimizer, max(3, int(case.rounds * args.longer)), args.repeats)


if __name__ == "__main__":
    main()
