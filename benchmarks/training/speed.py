"""A training step of ``thrifty.train`` beside a plain PyTorch loop with the best settings.

Question: what do augmentation, held zeros, checks of the loss and figures of the log cost?
Run:      PYTHONPATH=benchmarks python benchmarks/training/speed.py --out speed.json
          (5 minutes; --help for more)

Both sides train the same network from the same weights on the same pictures in memory: channels
last, fused SGD with Nesterov momentum, weight decay of weights only, pictures of bytes shifted and
mirrored in batches.  The plain loop is what a careful user writes, with crops by one gather; it
reads the loss of a step, as a loop that prints it does.  First both train five steps in the same
order without augmentation, and their weights must agree.
"""

import argparse
import copy
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch
import torch.nn.functional as F
from timing import conditions, interleaved, median_range, quartiles, ratios, shown
from torch import Tensor, nn

from thrifty.data import Data, Split
from thrifty.nets import resolve
from thrifty.training.batches import derive
from thrifty.training.loop import train
from thrifty.training.plan import Plan

LR, MOMENTUM, DECAY = 0.01, 0.9, 5e-4
GOAL = 1.03


@dataclass(frozen=True)
class Case:
    """A network, its inputs, and how many steps an epoch has."""

    name: str
    net: str
    shape: tuple[int, ...]
    batch: int
    steps: int
    rounds: int


CASES = (
    Case("lenet", "lenet", (1, 28, 28), 64, 100, 8),
    Case("resnet20", "resnet20", (3, 32, 32), 16, 24, 8),
    Case("thriftynet", "thriftynet?filters=60&iterations=15", (3, 32, 32), 16, 8, 5),
)


def pictures(case: Case, steps: int) -> Data:
    """Random pictures of bytes for so many steps."""
    lots = torch.Generator().manual_seed(1)
    count = case.batch * steps
    inputs = torch.randint(256, (count, *case.shape), generator=lots, dtype=torch.uint8)
    split = Split(inputs, torch.randint(10, (count,), generator=lots))
    channels = case.shape[0]
    return Data("random", split, split, 10, (0.5,) * channels, (0.25,) * channels, 4, True)


def plain(model: nn.Module, data: Data, batch: int, bf16: bool, moved: bool, seed: int) -> None:
    """In place: an epoch as a careful user writes it.

    Args:
        moved: shift by up to ``data.shift`` pixels and mirror half of the pictures.
    """
    model.to(memory_format=torch.channels_last).train()
    weights = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": weights, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=LR, momentum=MOMENTUM, nesterov=True, fused=True)
    mean = torch.tensor(data.mean).view(1, -1, 1, 1) * 255
    scale = 1 / (torch.tensor(data.std).view(1, -1, 1, 1) * 255)
    order = torch.Generator().manual_seed(derive(seed, "order", 0))
    total, right = 0.0, torch.zeros((), dtype=torch.int64)
    for piece in torch.randperm(len(data.train), generator=order).split(batch):
        inputs, labels = data.train.inputs[piece], data.train.labels[piece]
        if moved:
            inputs = crops(inputs, data.shift)
        inputs = ((inputs.float() - mean) * scale).contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            outputs = model(inputs)
        loss = F.cross_entropy(outputs.float(), labels)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(labels)
        right += (outputs.argmax(1) == labels).sum()


def crops(inputs: Tensor, shift: int) -> Tensor:
    """Pictures (n, c, h, w) shifted by up to ``shift`` pixels, half of them mirrored."""
    n, c, h, w = inputs.shape
    padded = F.pad(inputs, (shift,) * 4)
    rows = torch.randint(2 * shift + 1, (n, 1)) + torch.arange(h)
    across = torch.arange(w).expand(n, w)
    across = torch.where(torch.rand(n, 1) < 0.5, across, across.flip(1))
    columns = torch.randint(2 * shift + 1, (n, 1)) + across
    places = torch.arange(n)[:, None, None]
    return padded.permute(0, 2, 3, 1)[places, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


def ours(model: nn.Module, data: Data, plan: Plan, seed: int) -> None:
    """In place: the same by ``thrifty.train``."""
    train(model, data, plan, seed=seed)


def plan_of(case: Case, bf16: bool, moved: bool) -> Plan:
    """What the plain loop does, as a plan."""
    return Plan(
        epochs=1,
        batch=case.batch,
        lr=LR,
        momentum=MOMENTUM,
        weight_decay=DECAY,
        schedule="constant",
        warmup=0,
        augment=moved,
        precision="bf16" if bf16 else "f32",
        recalibrate=False,
    )


def check(case: Case, start: nn.Module, bf16: bool) -> float:
    """Both train the same network; returns the largest difference of a weight."""
    data = pictures(case, 5)
    one, other = copy.deepcopy(start), copy.deepcopy(start)
    ours(one, data, plan_of(case, bf16, False), 3)
    plain(other, data, case.batch, bf16, False, 3)
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    worst = max(float((a - b).detach().abs().max()) for a, b in pairs)
    limit = 3e-2 if bf16 else 1e-3
    assert worst < limit, f"{case.name}: weights differ by {worst}"
    return worst


def run(case: Case, bf16: bool, rounds: int) -> dict[str, object]:
    """Check and time a case; what was found."""
    torch.manual_seed(0)
    start = resolve(case.net, classes=10, shape=case.shape)
    worst = check(case, start, bf16)
    data, plan = pictures(case, case.steps), plan_of(case, bf16, True)
    models = [copy.deepcopy(start) for _ in range(3)]
    calls: dict[str, Callable[[], object]] = {
        "thrifty.train": lambda: ours(models[0], data, plan, 0),
        "plain loop": lambda: plain(models[1], data, case.batch, bf16, True, 0),
        "plain loop, once more": lambda: plain(models[2], data, case.batch, bf16, True, 0),
    }
    times = interleaved(calls, rounds)
    precision = "bf16" if bf16 else "f32"
    print(
        f"\n{case.net}, {precision}, batch {case.batch}, {case.steps} steps an epoch, "
        f"{rounds} rounds; weights agree within {worst:.0e}"
    )
    base, inputs = times["plain loop"].cpu, case.batch * case.steps
    found: dict[str, object] = {"net": case.net, "precision": precision, "batch": case.batch}
    for name, each in times.items():
        middle = quartiles(each.cpu)[1]
        pairs = [a / b for a, b in zip(each.cpu, base, strict=True)]
        found[name] = {
            "inputs_per_second": inputs / middle,
            "ratio": quartiles(pairs)[1],
            "interval": median_range(pairs),
        }
        print(f"  {name:24}{inputs / middle:10,.0f} samples/s  {shown(*ratios(each.cpu, base))}")
    low, high = found["thrifty.train"]["interval"]  # type: ignore[index]
    verdict = "met" if high <= GOAL else "missed" if low > GOAL else "unclear"
    print(f"  goal {GOAL}: between {low:.3f} and {high:.3f}: {verdict}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", default=[c.name for c in CASES], help="of these")
    parser.add_argument("--precision", nargs="+", default=["f32"], choices=["f32", "bf16"])
    parser.add_argument("--longer", type=float, default=1.0, help="times the rounds")
    parser.add_argument("--out", type=Path, help="JSON of all figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(conditions())
    print("samples a second of thread time; ratios of time within rounds, median [quartiles]")
    found = [
        run(case, precision == "bf16", max(3, int(case.rounds * args.longer)))
        for case in CASES
        if case.name in args.nets
        for precision in args.precision
    ]
    if args.out:
        args.out.write_text(json.dumps({"conditions": conditions(), "cases": found}, indent=2))


if __name__ == "__main__":
    main()
