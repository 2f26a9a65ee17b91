"""Train a network: one loop, readable from top to bottom.

All randomness of an epoch (order of inputs, augmentation, dropout) is derived from the seed
and the number of the epoch, never carried, so a run that is resumed from a checkpoint is bit
for bit the run that was not interrupted.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thrifty.data import Data, Split
from thrifty.errors import Diverged
from thrifty.pruning.gates import Gate
from thrifty.shown import Shown
from thrifty.training import distributed, graphs, losses
from thrifty.training.averaging import Average
from thrifty.training.batches import Batch, batches, check, steps_an_epoch
from thrifty.training.batches import derive as derive
from thrifty.training.checkpoints import Checkpoints, Within
from thrifty.training.checkpoints import Held as Held
from thrifty.training.crew import Alone, Rates
from thrifty.training.memory import large_go_back
from thrifty.training.plan import Plan, lr_share, step_size
from thrifty.training.recovery import recalibrate
from thrifty.training.seen import Seen
from thrifty.training.stepper import Stepper
from thrifty.training.teachers import Teacher as Teacher
from thrifty.training.teachers import check_labels

Event = Callable[[dict[str, Any]], None]
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

    @property
    def speed(self) -> dict[str, float]:
        """``inputs_per_second`` over all epochs; nothing, if there was none."""
        if not self.seconds:
            return {}
        inputs = sum(epoch["seconds"] * epoch["inputs_per_second"] for epoch in self.epochs)
        return {"inputs_per_second": inputs / self.seconds}

    def to_dict(self) -> dict[str, Any]:
        """The epochs."""
        return {"epochs": self.to_rows()}

    def to_rows(self) -> list[dict[str, Any]]:
        """A row an epoch."""
        return [dict(e) for e in self.epochs]


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
        teacher: a network to stay close to; without one, some inputs need labels.
        gate: trained with the network, to which it must be attached; it is not folded here.
        checkpoint: file to resume from and to save to, at ends of epochs.
        checkpoint_seconds: least time between two saves.
        tell: called with a dictionary of figures, about once a second.

    Raises:
        UserError: the plan asks for augmentation of pictures and the inputs are none, the
            checkpoint is of another plan, or there is nothing to learn.
        Diverged: the loss or a weight is NaN or infinite; the model is put back to where the
            epoch began, and the checkpoint on disk is the last good one.
    """
    if plan.epochs == 0:
        return Log(masks=masks)
    check_labels(data, None if teacher is None else teacher.share)
    check(data, plan)
    rate = lr_of or (lambda p: plan.lr * lr_share(plan.schedule, p, plan.warmup))
    steps = steps_an_epoch(data.train, plan)
    crew = distributed.crew()
    crew.begin(
        {
            "model": model,
            "data": data,
            "plan": plan,
            "masks": None if masks is None else dict(masks),
            "seed": seed,
            "lr_of": Rates.of(rate, steps * plan.epochs),
            "teacher": teacher,
            "gate": gate,
            "ramps": ramp is not None,
        }
    )
    disk = Checkpoints(checkpoint, checkpoint_seconds)
    with graphs.checkpointing(model, plan.checkpointing):
        return _train(model, data, plan, crew, masks, seed, rate, ramp, teacher, gate, disk, tell)


def _train(
    model: nn.Module,
    data: Data,
    plan: Plan,
    crew: Alone,
    masks: Held,
    seed: int,
    rate: Callable[[float], float],
    ramp: Ramp | None,
    teacher: Teacher | None,
    gate: Gate | None,
    disk: Checkpoints,
    tell: Event | None,
) -> Log:
    if plan.channels_last:
        channels_last(model, data)
    device = next(model.parameters()).device
    large_go_back(model, device)
    split = Split(data.train.inputs.to(device), data.train.labels.to(device))
    steps = steps_an_epoch(split, plan)
    cut = _Cut(crew, masks, ramp)
    spared = gate.variables(model).values() if gate is not None else ()
    stepper = Stepper(model, plan, cut.held, undecayed=spared)
    average = Average(plan.average, model, steps, plan.epochs) if plan.average else None
    first, rows, cut.held, going = disk.load(model, stepper, cut.held, average, crew.told)
    network = crew.network(graphs.network(model, plan, tell), gate is not None)
    pupil = _Pupil(model, network, plan, crew, stepper, teacher, gate)
    every = max(1, steps * plan.epochs // 100)
    told = time.monotonic()
    for epoch in range(first, plan.epochs):
        backup = {k: v.clone() for k, v in model.state_dict().items()}
        seen = Seen(device)
        if going is not None and crew.rank == 0:
            seen.load(going.seen)
        model.train()
        parts = crew.parts(batches(data, split, plan, seed, epoch), seed, epoch)
        for step, (batch, inputs) in _from(going, enumerate(parts), device):
            number = epoch * steps + step
            progress = number / (steps * plan.epochs)
            lr = rate(progress)
            if number % every == 0:
                cut.grow(progress, stepper)
            loss, outputs = pupil.learn(batch, progress)
            if not math.isfinite(loss):
                model.load_state_dict(backup)
                where = f", step {step + 1} of {steps}"
                raise _diverged(f"the loss became {loss}", epoch, lr, where)
            pupil.move(lr, progress)
            if average is not None:
                average.after_step(number + 1)
            seen.add(loss, outputs, batch, inputs)
            if tell is not None and time.monotonic() - told > 1.0:
                told = time.monotonic()
                part = progress + 1 / (steps * plan.epochs)
                tell({"progress": part, "epoch": epoch + 1, **seen.means()})
            if crew.size == 1 and step + 1 < steps and disk.due(within=True):
                now = Within.at(step + 1, seen.state(), device)
                disk.save(epoch, rows, model, stepper, cut.held, average, now)
        going = None
        if epoch == plan.epochs - 1:
            cut.grow(1.0, stepper)
        crew.level(model)
        _check_weights(model, epoch, rate(progress), backup)
        rows.append(seen.row(epoch + 1, rate(epoch / plan.epochs), crew))
        crew.told(partial(disk.save, epoch + 1, rows, model, stepper, cut.held, average))
    if average is not None:
        average.settle()
    stepper.release()
    if crew.rank == 0 and (plan.recalibrate or average is not None):
        recalibrate(model, data, augmented=plan.augment)
    model.eval()
    return Log(rows, cut.held)


class _Cut:
    """What is held at zero, and how that grows while a network trains."""

    def __init__(self, crew: Alone, masks: Held, ramp: Ramp | None):
        self._crew, self._ramp = crew, ramp
        self.held = masks
        if masks is None and ramp is not None:
            self.held = crew.told(partial(ramp, 0.0, None))

    def grow(self, progress: float, stepper: Stepper) -> None:
        """In place: hold what the ramp says from now on."""
        if self._ramp is None:
            return
        new = self._crew.told(partial(self._ramp, progress, self.held))
        if new:
            self.held = new
            stepper.hold(new)


@dataclass(frozen=True)
class _Pupil:
    """A network that takes steps: how it is run, what it is told, and its optimizer."""

    model: nn.Module
    network: nn.Module
    """The model as it is run: compiled, or shared by several processes."""
    plan: Plan
    crew: Alone
    stepper: Stepper
    teacher: Teacher | None
    gate: Gate | None

    def learn(self, batch: Batch, progress: float) -> tuple[float, Tensor]:
        """Set the gradients: loss, the mean over all processes, and own logits (n, classes)."""
        self.stepper.zero_grad()
        with _precision(self.plan, batch.inputs.device):
            outputs = self.network(batch.inputs)
            smoothing = self.plan.label_smoothing
            loss = losses.task(outputs, batch.labels, smoothing, batch.targets)
            loss = self.crew.task(loss)
            if self.teacher is not None:
                loss = self.teacher.loss(outputs, batch, loss, progress)
        loss = self.crew.loss(loss)
        if self.gate is not None and (more := self.gate.penalty(self.model, progress)) is not None:
            loss = loss + more
        loss.backward()  # type: ignore[no-untyped-call]
        self.crew.reduce(self.model)
        return self.crew.mean(loss.detach()), outputs.detach()

    def move(self, lr: float, progress: float) -> None:
        """In place: a step along the gradients, with what is held at zero at zero."""
        if self.gate is not None:
            self.gate.after_backward(self.model)
        self.stepper.step(lr)
        if self.gate is not None:
            self.gate.after_step(self.model, step_size(self.plan, lr), progress)
            self.stepper.clear_held()


_Step = tuple[int, tuple[Batch, int]]


def _from(going: Within | None, steps: Iterable[_Step], device: torch.device) -> Iterator[_Step]:
    """The steps of an epoch that are not done; all batches are drawn, for draws are counted."""
    done = 0 if going is None else going.steps
    for step, drawn in steps:
        if step >= done:
            yield step, drawn
        elif going is not None and step == done - 1:
            going.draw_on(device)


def _precision(plan: Plan, device: torch.device) -> contextlib.AbstractContextManager[object]:
    if plan.precision == "f32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def channels_last(model: nn.Module, data: Data) -> None:
    """In place: lay convolutions out with channels last, if the inputs are pictures."""
    if len(data.shape) == 3 and any(p.dim() == 4 for p in model.parameters()):
        to: Any = model.to
        to(memory_format=torch.channels_last)


def _check_weights(model: nn.Module, epoch: int, lr: float, backup: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter.detach()).all()):
            bad = int((~torch.isfinite(parameter.detach())).sum())
            model.load_state_dict(backup)
            raise _diverged(f"{bad} weights of {name} became NaN or infinite", epoch, lr)


def _diverged(what: str, epoch: int, lr: float, step: str = "") -> Diverged:
    return Diverged(
        f"{what} in epoch {epoch + 1}{step}, at a learning rate of {lr:.4g}; lower the learning "
        f"rate, add warmup, or set clip; the weights are those from before this epoch"
    )
