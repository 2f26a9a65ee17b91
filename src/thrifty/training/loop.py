"""Train a network: one loop, readable from top to bottom.

All randomness of an epoch (order of inputs, augmentation, dropout) is derived from the seed
and the number of the epoch, never carried, so a run that is resumed from a checkpoint is bit
for bit the run that was not interrupted.
"""

import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thrifty.data import Data, Split, augment
from thrifty.errors import Diverged
from thrifty.files import written
from thrifty.pruning.gates import Gate
from thrifty.pruning.masks import Masks
from thrifty.shown import Shown
from thrifty.training import losses
from thrifty.training.plan import Plan, lr_share, step_size
from thrifty.training.recovery import recalibrate
from thrifty.training.stepper import Stepper

Event = Callable[[dict[str, Any]], None]
Held = Mapping[str, Tensor] | None
Ramp = Callable[[float, Held], Held]
"""(progress 0..1, masks held now) -> masks to hold from now on, ``None`` for no change."""


@dataclass(frozen=True)
class Log(Shown):
    """One row an epoch: loss, training accuracy, learning rate, seconds, inputs a second."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    masks: Held = None
    """What was held at zero when training ended."""

    @property
    def seconds(self) -> float:
        """Time of all epochs."""
        return sum(epoch["seconds"] for epoch in self.epochs)

    def to_dict(self) -> dict[str, Any]:
        """The epochs."""
        return {"epochs": self.to_rows()}

    def to_rows(self) -> list[dict[str, Any]]:
        """A row an epoch."""
        return [dict(e) for e in self.epochs]


@dataclass(frozen=True)
class Teacher:
    """A network to stay close to: (1 - weight) * task + weight * distillation."""

    model: nn.Module
    weight: float = 0.9
    temperature: float = 4.0


def train(
    model: nn.Module,
    data: Data,
    plan: Plan,
    *,
    masks: Held = None,
    seed: int = 0,
    lr_of: Callable[[float], float] | None = None,
    ramp: Ramp | None = None,
    teacher: Teacher | None = None,
    gate: Gate | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 20.0,
    tell: Event | None = None,
) -> Log:
    """In place: train ``model`` on ``data`` as ``plan`` says, with pruned weights held at zero.

    Args:
        model: on the device it shall be trained on.
        masks: what stays zero; ``None`` trains all.
        seed: decides the order of inputs, augmentation and dropout.
        lr_of: learning rate by progress 0..1, instead of the plan's schedule.
        ramp: masks by progress 0..1, for pruning while training; asked at most 100 times.
        teacher: a network to stay close to.
        gate: trained with the network, to which it must be attached; it is not folded here.
        checkpoint: file to resume from and to save to, at ends of epochs.
        checkpoint_seconds: least time between two saves.
        tell: called with a dictionary of figures, about once a second.

    Raises:
        Diverged: the loss or a weight is NaN or infinite; the model is put back to where the
            epoch began, and the checkpoint on disk is the last good one.
    """
    if plan.epochs == 0:
        return Log(masks=masks)
    if plan.channels_last:
        channels_last(model, data)
    device = next(model.parameters()).device
    split = Split(data.train.inputs.to(device), data.train.labels.to(device))
    rate = lr_of or (lambda p: plan.lr * lr_share(plan.schedule, p, plan.warmup))
    steps = max(1, len(split) // plan.batch)
    first, rows = 0, list[dict[str, float]]()
    held = masks if masks is not None else ramp(0.0, None) if ramp else None
    spared = gate.variables(model).values() if gate is not None else ()
    stepper = Stepper(model, plan, held, undecayed=spared)
    if checkpoint is not None and checkpoint.exists():
        first, rows, held = _load(checkpoint, model, stepper, held)
    every = max(1, steps * plan.epochs // 100)
    saved = told = time.monotonic()
    for epoch in range(first, plan.epochs):
        began = time.monotonic()
        backup = {k: v.clone() for k, v in model.state_dict().items()}
        lost = right = seen = 0.0
        model.train()
        for step, (inputs, labels) in enumerate(_batches(data, split, plan, seed, epoch)):
            number = epoch * steps + step
            progress = number / (steps * plan.epochs)
            if ramp is not None and number % every == 0 and (new := ramp(progress, held)):
                held = new
                stepper.hold(held)
            stepper.zero_grad()
            with _precision(plan, device):
                outputs = model(inputs)
            loss = losses.task(outputs, labels, plan.label_smoothing)
            if teacher is not None:
                with torch.no_grad(), _precision(plan, device):
                    aim = teacher.model(inputs)
                gap = losses.distillation(outputs, aim, teacher.temperature)
                loss = (1 - teacher.weight) * loss + teacher.weight * gap
            if gate is not None and (penalty := gate.penalty(model, progress)) is not None:
                loss = loss + penalty
            loss.backward()  # type: ignore[no-untyped-call]
            if not math.isfinite(value := float(loss.detach())):
                model.load_state_dict(backup)
                raise Diverged(
                    f"the loss became {value} in epoch {epoch + 1}, step {step + 1} of {steps}, at "
                    f"a learning rate of {rate(progress):.4g}; lower the learning rate, add "
                    f"warmup, or set clip; the weights are those from before this epoch"
                )
            if gate is not None:
                gate.after_backward(model)
            stepper.step(rate(progress))
            if gate is not None:
                gate.after_step(model, step_size(plan, rate(progress)), progress)
                stepper.clear_held()
            lost += value * len(labels)
            right += float((outputs.detach().argmax(1) == labels).sum())
            seen += len(labels)
            if tell is not None and time.monotonic() - told > 1.0:
                told = time.monotonic()
                done = progress + 1 / (steps * plan.epochs)
                tell(
                    {
                        "progress": done,
                        "epoch": epoch + 1,
                        "loss": lost / seen,
                        "accuracy": right / seen,
                    }
                )
        if ramp is not None and epoch == plan.epochs - 1 and (new := ramp(1.0, held)):
            held = new
            stepper.hold(held)
        _check_weights(model, epoch, backup)
        took = time.monotonic() - began
        rows.append(
            {
                "epoch": epoch + 1,
                "loss": lost / seen,
                "accuracy": right / seen,
                "lr": rate((epoch * steps) / (steps * plan.epochs)),
                "seconds": took,
                "inputs_per_second": seen / took,
            }
        )
        if checkpoint is not None and time.monotonic() - saved > checkpoint_seconds:
            saved = time.monotonic()
            _save(checkpoint, epoch + 1, rows, model, stepper, held)
    stepper.release()
    if plan.recalibrate:
        recalibrate(model, data, augmented=plan.augment)
    model.eval()
    return Log(rows, held)


def derive(seed: int, *words: object) -> int:
    """A seed for one purpose, decided by ``seed`` and the words that name the purpose."""
    text = ":".join(map(str, (seed, *words)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def _batches(
    data: Data, split: Split, plan: Plan, seed: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Prepared, augmented batches of one epoch; a last batch that is not full is left out."""
    torch.manual_seed(derive(seed, "layers", epoch))
    order = torch.Generator().manual_seed(derive(seed, "order", epoch))
    turns = torch.Generator(split.inputs.device).manual_seed(derive(seed, "augment", epoch))
    index = torch.randperm(len(split), generator=order).to(split.inputs.device)
    picture = plan.channels_last and split.inputs.dim() == 4
    full = max(1, len(split) // plan.batch)
    for piece in torch.split(index, plan.batch)[:full]:
        inputs = split.inputs[piece]
        if plan.augment and (data.shift or data.flip):
            inputs = augment(inputs, data.shift, data.flip, turns)
        inputs = data.prepare(inputs)
        if picture:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        yield inputs, split.labels[piece]


def _precision(plan: Plan, device: torch.device) -> contextlib.AbstractContextManager[object]:
    if plan.precision == "f32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def channels_last(model: nn.Module, data: Data) -> None:
    """In place: lay convolutions out with channels last, if the inputs are pictures."""
    if len(data.shape) == 3 and any(p.dim() == 4 for p in model.parameters()):
        to: Any = model.to
        to(memory_format=torch.channels_last)


def _check_weights(model: nn.Module, epoch: int, backup: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter.detach()).all()):
            bad = int((~torch.isfinite(parameter.detach())).sum())
            model.load_state_dict(backup)
            raise Diverged(
                f"{bad} weights of {name} became NaN or infinite in epoch {epoch + 1}; lower the "
                f"learning rate, add warmup, or set clip; the weights are those from before it"
            )


def _save(
    path: Path,
    epochs: int,
    rows: list[dict[str, float]],
    model: nn.Module,
    stepper: Stepper,
    masks: Held,
) -> None:
    state = {
        "epochs": epochs,
        "rows": rows,
        "model": {k: v.clone() for k, v in model.state_dict().items()},
        "optimizer": stepper.optimizer.state_dict(),
        "masks": dict(masks) if masks is not None else None,
    }
    with written(path) as temporary:
        torch.save(state, temporary)


def _load(
    path: Path, model: nn.Module, stepper: Stepper, masks: Held
) -> tuple[int, list[dict[str, float]], Held]:
    device = next(model.parameters()).device
    state = torch.load(path, map_location=device, weights_only=True)
    model.load_state_dict(state["model"])
    stepper.optimizer.load_state_dict(state["optimizer"])
    if state["masks"] is not None:
        masks = Masks(state["masks"])
        stepper.hold(masks)
    return state["epochs"], state["rows"], masks
