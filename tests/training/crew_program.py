"""A program that torchrun starts in the tests: trainings, whose results the first process saves.

Usage: crew_program.py OUT CASE ...
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thrifty.data import Data, Split
from thrifty.errors import UserError
from thrifty.nets import resolve
from thrifty.pruning import Budget, Cut, cut
from thrifty.pruning.gates import GATES
from thrifty.training import distributed
from thrifty.training.loop import Teacher, train
from thrifty.training.plan import Plan
from thrifty.training.stepper import Stepper


def pictures(unlabeled: bool = False) -> Data:
    """Three classes of 1x8x8 pictures; of some the label may be unknown."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(96) % 3
    inputs = torch.randint(0, 120, (96, 1, 8, 8), generator=generator)
    for n, label in enumerate(labels):
        inputs[n, 0, 1 + 2 * int(label) : 3 + 2 * int(label), 2:6] += 100
    known = torch.where(torch.arange(96) % 5 > 1, labels, -1) if unlabeled else labels
    train, test = Split(inputs.to(torch.uint8), known), Split(inputs.to(torch.uint8), labels)
    return Data("made", train, test, 3, (0.3,), (0.2,), 1, True, unlabeled=unlabeled)


def network(seed: int = 0, norm: bool = False) -> nn.Module:
    """A convolution, a normalisation if asked for, and a linear layer."""
    torch.manual_seed(seed)
    middle: list[nn.Module] = [nn.BatchNorm2d(6)] if norm else []
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False), *middle, nn.ReLU(), nn.Flatten(), nn.Linear(216, 3)
    )


def plain(
    model: nn.Module | None = None,
    unlabeled: bool = False,
    taught: bool = False,
    gate: str | None = None,
    sparsity: float = 0.0,
    **said: Any,
) -> dict[str, Any]:
    """A training, alone or not."""
    model = network() if model is None else model
    masks = cut(model, Cut(), Budget(sparsity)) if sparsity else None
    learnt = GATES.get(gate)() if gate else None
    if learnt is not None:
        learnt.attach(model)
    log = train(
        model,
        pictures(unlabeled),
        Plan(**({"epochs": 3, "batch": 18, "lr": 0.02, "recalibrate": False} | said)),
        masks=masks,
        gate=learnt,
        teacher=Teacher(network(1).eval(), 0.5) if taught else None,
        seed=5,
    )
    return {"state": model.state_dict(), "rows": log.epochs, "masks": dict(log.masks or {})}


def thriftynet() -> dict[str, Any]:
    """A recursion that keeps little and uses its parameters many times."""
    torch.manual_seed(0)
    model = resolve("thriftynet?filters=8&iterations=4&history=2", classes=3, shape=(1, 8, 8))
    return plain(model, epochs=1, checkpointing=True)


def ramped(file: Path) -> dict[str, Any]:
    """Pruned while it is trained, with a checkpoint."""
    model = network()

    def ramp(progress: float, held: Any) -> Any:
        return cut(model, Cut(), Budget(0.8 * min(1.0, progress / 0.7)), within=held)

    plan = Plan(epochs=4, batch=16, optimizer="adamw", lr=0.01)
    log = train(model, pictures(), plan, ramp=ramp, checkpoint=file, checkpoint_seconds=0)
    return {"state": model.state_dict(), "rows": log.epochs, "masks": dict(log.masks or {})}


def dying(step: Callable[[Stepper, float], None]) -> Callable[[Stepper, float], None]:
    """``step``, which ends the process in its third epoch of six steps."""
    done = iter(range(2 * 6 + 2))

    def stepping(self: Stepper, lr: float) -> None:
        if next(done, None) is None:
            os._exit(9)
        step(self, lr)

    return stepping


def refused(**said: Any) -> dict[str, Any]:
    """What is said of a training that cannot be, or goes wrong."""
    try:
        plain(**said)
    except UserError as error:
        return {"said": str(error)}
    return {"said": None}


CASES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "plain": lambda _: plain(),
    "adamw": lambda _: plain(optimizer="adamw", clip=1.0, lr=0.01),
    "masked": lambda _: plain(sparsity=0.5),
    "uneven": lambda _: plain(batch=17, label_smoothing=0.1),
    "unlabeled": lambda _: plain(unlabeled=True, taught=True, augment=False),
    "mixed": lambda _: plain(mixup=0.5, average="ema?decay=.9"),
    "gated": lambda _: plain(gate="str"),
    "norm": lambda _: plain(network(norm=True), epochs=6),
    "gated_norm": lambda _: plain(network(norm=True), gate="bn_scale"),
    "thriftynet": lambda _: thriftynet(),
    "diverged": lambda _: refused(epochs=50, lr=1e30, warmup=0),
    "small": lambda _: refused(batch=1),
    "after": lambda _: plain(),
    "ramped": ramped,
}


def main() -> None:
    """Do cases, by all processes if there are several."""
    torch.set_num_threads(1)
    out, names = Path(sys.argv[1]), sys.argv[2:]
    if "DIES" in os.environ and os.environ["RANK"] == os.environ["DIES"]:
        Stepper.step = dying(Stepper.step)  # type: ignore[method-assign]

    def work() -> None:
        torch.save({n: CASES[n](out.with_suffix(".checkpoint")) for n in names}, out)

    if "WORLD_SIZE" not in os.environ:
        work()
        return
    try:
        distributed.together(work, "cpu")
    except UserError as error:
        sys.exit(f"said: {error}")


if __name__ == "__main__":
    main()
