"""The steps of a run: train the dense parent, then cut, retrain and measure level by level.

A step returns at once if its result is on disk.  What a step makes depends on what its key was
made from and on nothing else.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thrifty.data import Data, load_data
from thrifty.errors import UserError
from thrifty.lab.chains import Chains
from thrifty.lab.channel_steps import Dense, channel_level, cut_channels, removing
from thrifty.lab.distilling import teacher_of
from thrifty.lab.gate_steps import by_gates, dense_gate, gated_parent, settle, trained_on
from thrifty.lab.measure import agree, costs, judge, latency_ratio, latency_us
from thrifty.lab.recipe import Recipe
from thrifty.lab.records import CONTROL, DENSE, Record
from thrifty.lab.store import Step, Store
from thrifty.nets import resolve
from thrifty.pack import save
from thrifty.pruning import masks as _masks
from thrifty.pruning.allocation import Budget
from thrifty.pruning.masks import Masks, born
from thrifty.pruning.pruning import cut
from thrifty.pruning.schedules import at_once, sparsity_at
from thrifty.training.loop import Held, Log, Ramp, channels_last, derive, train
from thrifty.training.recovery import course, damage, recalibrate

Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Job:
    """A piece of a run that a worker can do: one dense parent, or one chain of levels."""

    recipe: Recipe
    root: Path
    seed: int
    method: str = DENSE

    @property
    def label(self) -> str:
        """What the job is called in progress lines."""
        return f"seed {self.seed} {self.method}"


def do(job: Job, tell: Tell) -> int:
    """Do a job; returns the number of steps that were not there yet."""
    store = Store(job.root)
    lab = Lab(job.recipe, store, job.label, tell)
    with store.working():
        if job.method == DENSE:
            return lab.dense(job.seed)
        numbers = range(len(lab.chains.levels(job.method)))
        return sum(lab.level(job.seed, job.method, n) for n in numbers)


class Lab:
    """Does the steps of one recipe in one store."""

    def __init__(self, recipe: Recipe, store: Store, label: str = "", tell: Tell = lambda _: None):
        self.recipe, self.store, self.label, self._tell = recipe, store, label, tell
        self.chains = Chains(recipe, store)
        self.device = pick_device(recipe.machine.device)
        self._timed: tuple[str, nn.Module] | None = None

    @functools.cached_property
    def data(self) -> Data:
        """The data set, checked to be the one the run began with."""
        data = load_data(self.recipe.data)
        if self.store.about.exists():
            self.store.remember_data(data.digest, self.recipe.data)
        return data

    def dense(self, seed: int) -> int:
        """Train the dense parent of a seed, or take its weights as they are."""
        step = self.chains.dense(seed)
        if step.done:
            return 0
        torch.manual_seed(derive(seed, "init"))
        model = self.build(self.recipe.weights)
        gate = dense_gate(self, model)
        log = train(
            model,
            self.data,
            self.recipe.train,
            seed=derive(seed, "dense"),
            teacher=teacher_of(self, self.recipe.train.distill, self.recipe.train),
            gate=gate,
            checkpoint=step.checkpoint,
            checkpoint_seconds=self.recipe.machine.checkpoint_seconds,
            tell=self.events(DENSE, 0.0),
        )
        if gate is not None:
            settle(self, gate, model, step, seed)
        self.finish(model, step, log, None, seed=seed, method=DENSE, level=0.0)
        return 1

    def level(self, seed: int, method: str, number: int) -> int:
        """Cut to a level, retrain with the zeros held, and measure."""
        step = self.chains.level(seed, method, number)
        if step.done:
            return 0
        if self.chains.removes(method) and method != CONTROL:
            return channel_level(self, seed, method, number)
        level, when = self.chains.levels(method)[number], self.chains.schedule(method)
        parent = self.chains.dense(seed)
        if method == CONTROL and self.chains.leader is not None:
            chained = when.start == "previous" and number > 0
            start = self.chains.level(seed, method, number - 1) if chained else self.further(seed)
            model, before, cut_to = self.build(start.model), None, None
            target, hurt = self._led(seed, number)
        else:
            model, before, cut_to = self._to_cut(seed, method, number)
            target = cut_to(level, before)
            hurt = damage(dict(model.named_parameters()), before, target)
        held: Held = born(model) if method == CONTROL else target
        ramp: Ramp | None = None
        ramps = when.ramp is not at_once and method != CONTROL and self.recipe.retrain.epochs
        if ramps and cut_to is not None:
            held, ramp = None, growing(cut_to, when.ramp, level, before)
        accuracy_cut = None
        if ramp is None and method != CONTROL:
            _masks.apply(model, target)
            accuracy_cut = judge(model, self.data).accuracy
        log = self._retrain(model, step, parent, held, ramp, hurt, seed, method, number)
        _masks.save(target if method == CONTROL else log.masks or target, step.masks)
        self.finish(
            model,
            step,
            log,
            parent,
            seed=seed,
            method=method,
            accuracy_cut=accuracy_cut,
            **self._asked(method, number),
        )
        return 1

    def _to_cut(
        self, seed: int, method: str, number: int
    ) -> tuple[nn.Module, Masks | None, Callable[[float, Held], Masks]]:
        """The network that a level makes weights of zero, the zeros it has, and the cut."""
        chains, parent = self.chains, self.chains.dense(seed)
        asked, gated = chains.budgets(method)[number], chains.gated(seed, method)
        chained = chains.schedule(method).start == "previous" and number > 0
        if gated is not None:
            self.gate(seed, method)
        if chained:
            start = chains.level(seed, method, number - 1)
        else:
            start = self.further(seed) if method == CONTROL else gated or parent
        model = self.build(start.model)
        if chained:
            before: Masks | None = _masks.load(start.masks, model)
        elif gated is None:
            before = born(model)
        else:  # zeros that gates made may come back at a level that has fewer
            before = None if chains.starts_anew(method) else born(self.build(parent.model))

        def cut_to(sparsity: float, within: Held) -> Masks:
            budget = Budget(sparsity) if asked.of == "sparsity" else asked
            if gated is not None:
                return by_gates(self, seed, method, budget)(model, within)
            lots = self.lots(seed)
            if chains.removes(method):  # the control of a method that removes channels
                return removing(model, self.data, chains.channel_cut(method), asked, lots)
            how = chains.cut(method)
            return cut(model, how, budget, data=self.data, within=within, seed=lots)

        return model, before, cut_to

    def _led(self, seed: int, number: int) -> tuple[Masks, tuple[float, float, float]]:
        """What the cut that the control measures takes, and its damage: that of the leader."""
        method = self.chains.leader or ""
        if self.chains.removes(method):
            made = cut_channels(self, seed, method, number)
            return made.taken, damage(dict(made.model.named_parameters()), None, made.taken)
        model, before, cut_to = self._to_cut(seed, method, number)
        taken = cut_to(self.chains.levels(method)[number], before)
        return taken, damage(dict(model.named_parameters()), before, taken)

    def _asked(self, method: str, number: int) -> dict[str, Any]:
        """The fields of a record that say what was asked for, and how long it was trained."""
        chains, budget = self.chains, self.chains.budgets(method)[number]
        levels = number + 1 if chains.schedule(method).start == "previous" else 1
        epochs = self.recipe.retrain.epochs * levels
        lead = self.recipe.prune.method[0] if method == CONTROL else method
        if chains.goes_on(lead):
            epochs += chains.gate_epochs(lead)
        return {
            "level": chains.levels(method)[number],
            "threshold": budget.amount if budget.of == "threshold" else None,
            "epochs": epochs,
        }

    def time(self, step: Step, parent: Step) -> None:
        """Measure the latency of a step's network, in turns with its dense parent's."""
        if "latency_us" not in parent.timing():
            parent.time(latency_us=latency_us(self.build(parent.model), self.data, seconds=0.3))
        if "latency_us" not in step.timing():
            if self._timed is None or self._timed[0] != parent.key:
                self._timed = parent.key, self.build(parent.model)
            ratio = latency_ratio(self.build(step.model), self._timed[1], self.data)
            step.time(latency_us=ratio * parent.timing()["latency_us"])

    def build(self, weights: str | Path | None) -> nn.Module:
        """The recipe's network with those weights, on the device, laid out for it."""
        model = resolve(
            self.recipe.model, weights=weights, classes=self.data.classes, shape=self.data.shape
        ).to(self.device)
        if self.recipe.train.channels_last:
            channels_last(model, self.data)
        return model

    def lots(self, seed: int) -> int:
        """The seed for what is drawn by lot."""
        return derive(seed, "lots")

    def gate(self, seed: int, method: str) -> int:
        """Train the parent of a method with its gates, or take it as it is."""
        step = self.chains.gated(seed, method)
        if step is None or step.done:
            return 0
        return gated_parent(self, step, seed, method)

    def further(self, seed: int) -> Step:
        """What the control begins at: the dense parent, trained on if the first method does so."""
        step = self.chains.further(seed)
        if step is None:
            return self.chains.dense(seed)
        if not step.done:
            trained_on(self, step, seed, self.recipe.prune.method[0])
        return step

    def retrain_level(
        self,
        model: nn.Module,
        step: Step,
        seed: int,
        method: str,
        number: int,
        held: Held,
        hurt: tuple[float, float, float],
        accuracy_cut: float,
        taken: Masks,
        dense: Dense,
    ) -> None:
        """Retrain a network whose channels are gone, and write all there is of it."""
        parent = self.chains.dense(seed)
        log = self._retrain(model, step, parent, held, None, hurt, seed, method, number)
        _masks.save(taken, step.masks)
        self.finish(
            model,
            step,
            log,
            parent,
            dense,
            seed=seed,
            method=method,
            accuracy_cut=accuracy_cut,
            **self._asked(method, number),
        )

    def _retrain(
        self,
        model: nn.Module,
        step: Step,
        parent: Step,
        held: Held,
        ramp: Ramp | None,
        hurt: tuple[float, float, float],
        seed: int,
        method: str,
        number: int,
    ) -> Log:
        recipe, said = self.recipe, self.recipe.retrain
        if said.epochs == 0 and said.recalibrate:
            recalibrate(model, self.data, augmented=recipe.train.augment)
        own = {"epochs": said.epochs, "recalibrate": said.recalibrate}
        plan = recipe.train.model_copy(update=own | {"gate": None, "distill": None})
        pretrained = self.chains.weights_digest is not None
        return train(
            model,
            self.data,
            plan,
            masks=held,
            seed=derive(seed, "retrain", self.chains.turn(method, number)),
            lr_of=course(said.policy, recipe.train, said.epochs, said.lr, hurt, pretrained),
            ramp=ramp,
            teacher=teacher_of(self, said.taught, plan, parent) if said.epochs else None,
            checkpoint=step.checkpoint,
            checkpoint_seconds=self.recipe.machine.checkpoint_seconds,
            tell=self.events(method, self.chains.levels(method)[number]),
        )

    def finish(
        self,
        model: nn.Module,
        step: Step,
        log: Log,
        parent: Step | None,
        dense: Dense | None = None,
        **about: Any,
    ) -> None:
        """Measure a network and write all there is of it."""
        judged = judge(model, self.data)
        agreement, accuracy_dense = 1.0, judged.accuracy
        if parent is not None:
            agreement = agree(judged.predictions, parent.predictions())
            accuracy_dense = parent.record().accuracy
        record = Record(
            key=step.key,
            model=self.recipe.model,
            data=self.recipe.data,
            accuracy=judged.accuracy,
            accuracy_dense=accuracy_dense,
            agreement=agreement,
            loss=judged.loss,
            bytes=save(model, step.model),
            bytes_dense=parent.record().bytes_dense if dense and parent else plain_bytes(model),
            **about,
            **(dense.record if dense else costs)(model, self.data.shape),
        )
        step.time(seconds=log.seconds)
        step.finish(record, judged.predictions, log.epochs)
        shown = ("method", "level", "threshold", "seed", "accuracy", "sparsity", "bytes")
        said = {k: getattr(record, k) for k in shown} | log.speed
        self._tell({"job": self.label, "done": True} | said)

    def note(self, text: str) -> None:
        """Tell what a person should know."""
        self._tell({"message": f"{self.label}: {text}" if self.label else text})

    def events(self, method: str, level: float) -> Tell:
        """What a training tells, with whose it is."""
        about = {"job": self.label, "method": method, "level": level}
        return lambda event: self._tell(about | event)


def growing(
    cut_to: Callable[[float, Held], Masks],
    ramp: Callable[[float], float],
    level: float,
    before: Masks | None = None,
) -> Ramp:
    """Masks that grow from ``before`` to ``level`` with the progress, each within the last."""

    def at(progress: float, held: Mapping[str, Tensor] | None) -> Masks | None:
        start = before.sparsity if before is not None else 0.0
        sparsity = sparsity_at(progress, start, level, ramp)
        if held is not None and sparsity <= Masks(held).sparsity:
            return None
        return cut_to(sparsity, before if held is None else held)

    return at


def plain_bytes(model: nn.Module) -> int:
    """Size of the network as plain safetensors: header and tensors, nothing written."""
    from safetensors.torch import save as serialise

    seen: set[int] = set()
    tensors = {}
    for name, tensor in model.state_dict().items():
        if tensor.numel() == 0 or tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            tensors[name] = tensor.detach().cpu().contiguous()
    return len(serialise(tensors))


def pick_device(name: str) -> torch.device:
    """``auto`` takes a GPU if torch sees one, else the CPU.

    Raises:
        UserError: torch knows no such device, or it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        if reason.startswith("Expected one of"):
            reason = "torch knows no such device; it may be auto, cpu, cuda, cuda:1, mps, ..."
        raise UserError(f"the device {name!r} cannot be used: {reason}") from None
    return device
