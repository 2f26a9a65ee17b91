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

from thrifty import files
from thrifty.data import Data, load_data
from thrifty.errors import UserError
from thrifty.lab.measure import agree, costs, judge, latency_us
from thrifty.lab.recipe import Recipe, identity
from thrifty.lab.records import CONTROL, DENSE, Record
from thrifty.lab.store import Step, Store
from thrifty.nets import resolve
from thrifty.pack import save
from thrifty.prune import masks as _masks
from thrifty.prune.allocation import Budget
from thrifty.prune.masks import Masks
from thrifty.prune.methods import METHODS
from thrifty.prune.pruning import Cut, cut
from thrifty.prune.schedules import at_once, schedule, sparsity_at
from thrifty.train.loop import Teacher, derive, train
from thrifty.train.plan import lr_share
from thrifty.train.recovery import allr, damage, last_lr, recalibrate

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
    lab = Lab(job.recipe, Store(job.root), job.label, tell)
    if job.method == DENSE:
        return lab.dense(job.seed)
    return sum(lab.level(job.seed, job.method, n) for n in range(len(lab.levels(job.method))))


class Lab:
    """The steps of one recipe in one store."""

    def __init__(self, recipe: Recipe, store: Store, label: str = "", tell: Tell = lambda _: None):
        self.recipe, self.store, self.label, self._tell = recipe, store, label, tell
        self.device = pick_device(recipe.machine.device)

    @functools.cached_property
    def data(self) -> Data:
        """The data set, checked to be the one the run began with."""
        data = load_data(self.recipe.data)
        self.store.remember_data(data.digest, self.recipe.data)
        return data

    def levels(self, method: str) -> tuple[float, ...]:
        """The sparsities of a method's chain; ``explicit`` has the one its layers give."""
        if self.recipe.prune.layers is not None and self.cut(method).allocation == "explicit":
            return self.recipe.prune.sparsity[:1]
        return self.recipe.prune.sparsity

    def cut(self, method: str) -> Cut:
        """How a method cuts, the recipe's overrides applied; ``random`` keeps its criterion."""
        said = self.recipe.prune
        base = self.recipe.prune.method[0] if method == CONTROL else method
        mine = base != "random"
        return Cut.of(
            base,
            criterion=said.criterion if mine else None,
            granularity=said.granularity,
            allocation=said.allocation if mine or said.allocation == "explicit" else None,
            keep=said.keep or None,
            layers=said.layers,
        )

    def schedule(self, method: str) -> str:
        """When a method cuts; the control goes level by level, like the longest chain."""
        if method == CONTROL:
            return "iterative"
        if self.recipe.prune.schedule is not None and method != "random":
            return self.recipe.prune.schedule
        return METHODS.get(method).schedule

    # Keys and folders

    def dense_step(self, seed: int) -> Step:
        """The folder of a dense parent."""
        return self.store.step(f"seed{seed}-dense", self._dense_key(seed))

    def level_step(self, seed: int, method: str, number: int) -> Step:
        """The folder of a method's level, counted from 0."""
        level = self.levels(method)[number]
        return self.store.step(
            f"seed{seed}-{method}-{level:g}", self._level_key(seed, method, number)
        )

    def _dense_key(self, seed: int) -> str:
        said = self.recipe.differences()
        start = {k: said[k] for k in ("model", "data", "train") if k in said}
        return identity("dense", start, self._weights_digest, seed)

    @functools.cached_property
    def _weights_digest(self) -> str | None:
        if self.recipe.weights is None:
            place = Path(self.recipe.model)
            return files.digest(place) if place.is_file() else None
        path = Path(self.recipe.weights)
        if not path.is_file():
            raise UserError(f"weights: {path}: there is no such file")
        return files.digest(path)

    def _level_key(self, seed: int, method: str, number: int) -> str:
        how = self.cut(method)
        start = schedule(self.schedule(method)).start
        levels = self.levels(method)
        chain = levels[: number + 1] if start == "previous" else levels[number : number + 1]
        retrain = self.recipe.retrain.model_dump(mode="json", exclude_defaults=True)
        said = [how.criterion, how.granularity, how.allocation, sorted(how.keep), how.layers]
        name = CONTROL if method == CONTROL else ""
        return identity(
            "level", self._dense_key(seed), name, said, self.schedule(method), chain, retrain
        )

    # Steps

    def dense(self, seed: int) -> int:
        """Train the dense parent of a seed, or take its weights as they are."""
        step = self.dense_step(seed)
        if step.done:
            return 0
        data, recipe = self.data, self.recipe
        torch.manual_seed(derive(seed, "init"))
        model = resolve(
            recipe.model, weights=recipe.weights, classes=data.classes, shape=data.shape
        )
        model = model.to(self.device)
        log = train(
            model,
            data,
            recipe.train,
            seed=derive(seed, "dense"),
            checkpoint=step.checkpoint,
            tell=self._events(DENSE, 0.0),
        )
        judged = judge(model, data)
        sizes = self._save(model, step)
        record = Record(
            key=self._dense_key(seed),
            model=recipe.model,
            data=recipe.data,
            method=DENSE,
            level=0.0,
            seed=seed,
            accuracy=judged.accuracy,
            accuracy_dense=judged.accuracy,
            agreement=1.0,
            loss=judged.loss,
            **sizes,
            **costs(model, data.shape),
        )
        step.time(seconds=sum(e["seconds"] for e in log.epochs))
        step.finish(record, judged.predictions, log.epochs)
        self._done(record)
        return 1

    def level(self, seed: int, method: str, number: int) -> int:
        """Cut to a level, retrain with the mask frozen, and measure."""
        step = self.level_step(seed, method, number)
        if step.done:
            return 0
        data, recipe, level = self.data, self.recipe, self.levels(method)[number]
        parent = self.dense_step(seed)
        when = schedule(self.schedule(method))
        chained = when.start == "previous" and number > 0
        start = self.level_step(seed, method, number - 1) if chained else parent
        model = self._load(start)
        before = _masks.load(start.masks, model) if chained else None
        control = method == CONTROL

        def masks_at(sparsity: float, within: Mapping[str, Tensor] | None) -> Masks:
            return cut(
                model,
                self.cut(method),
                Budget(sparsity),
                data=data,
                within=within,
                seed=derive(seed, "lots"),
            )

        target = masks_at(level, before)
        weights = {n: p.detach() for n, p in model.named_parameters()}
        rates = self._rates(*damage(weights, before, target))
        accuracy_cut, ramp = None, None
        held: Mapping[str, Tensor] | None = None if control else target
        if when.ramp is not at_once and not control:
            ramp, held = self._ramp(masks_at, when.ramp, level), None
        elif not control:
            _masks.apply(model, target)
            accuracy_cut = judge(model, data).accuracy
        plan = recipe.train.model_copy(
            update={"epochs": recipe.retrain.epochs, "recalibrate": recipe.retrain.recalibrate}
        )
        if plan.epochs == 0 and not control:
            if ramp is not None:
                _masks.apply(model, target)
                accuracy_cut = judge(model, data).accuracy
            if plan.recalibrate:
                recalibrate(model, data)
        log = train(
            model,
            data,
            plan,
            masks=held,
            seed=derive(seed, "retrain", number),
            lr=rates[0],
            lr_of=rates[1],
            ramp=ramp,
            teacher=self._teacher(parent),
            checkpoint=step.checkpoint,
            tell=self._events(method, level),
        )
        masks = target if ramp is None else _masks.of_zeros(model)
        if ramp is not None:
            masks = Masks({n: masks[n] for n in target}, model)
        judged = judge(model, data)
        sizes = self._save(model, step)
        _masks.save(masks, step.masks)
        dense = parent.record()
        record = Record(
            key=self._level_key(seed, method, number),
            model=recipe.model,
            data=recipe.data,
            method=method,
            level=level,
            seed=seed,
            accuracy=judged.accuracy,
            accuracy_cut=accuracy_cut,
            accuracy_dense=dense.accuracy,
            agreement=agree(judged.predictions, parent.predictions()),
            loss=judged.loss,
            epochs=recipe.retrain.epochs * (number + 1 if when.start == "previous" else 1),
            **sizes,
            **costs(model, data.shape),
        )
        step.time(seconds=sum(e["seconds"] for e in log.epochs))
        step.finish(record, judged.predictions, log.epochs)
        self._done(record)
        return 1

    def time(self, step: Step) -> None:
        """Measure the latency of a step's network, unless it is known."""
        if "latency_us" not in step.timing():
            step.time(latency_us=latency_us(self._load(step), self.data))

    # Parts

    def _rates(
        self, cut_norm: float, norm: float, gone: float
    ) -> tuple[float, Callable[[float], float] | None]:
        """Highest learning rate of retraining, and its course if it is not the plan's."""
        plan, said = self.recipe.train, self.recipe.retrain
        if said.policy == "finetune":
            constant = said.lr or last_lr(plan)
            return constant, lambda _: constant
        if said.policy == "rewind":
            highest = said.lr or plan.lr
            whole = max(plan.epochs, said.epochs, 1)
            begin = 1.0 - said.epochs / whole
            return (
                highest,
                lambda p: highest * lr_share(plan.schedule, begin + (1 - begin) * p, plan.warmup),
            )
        shorter = said.epochs / plan.epochs if plan.epochs and not self.recipe.weights else 0.1
        highest = said.lr or allr(plan.lr, cut_norm, norm, gone, shorter)
        return highest, lambda p: highest * lr_share("linear", p, 0.1)

    def _ramp(
        self,
        masks_at: Callable[[float, Mapping[str, Tensor] | None], Masks],
        ramp: Callable[[float], float],
        level: float,
    ) -> Callable[[float], Masks | None]:
        """Masks that grow with the progress, each within the one before."""
        state: dict[str, Any] = {"sparsity": -1.0, "masks": None}

        def at(progress: float) -> Masks | None:
            sparsity = sparsity_at(progress, 0.0, level, ramp)
            if sparsity <= state["sparsity"]:
                return None
            state["masks"] = masks_at(sparsity, state["masks"])
            state["sparsity"] = sparsity
            found: Masks = state["masks"]
            return found

        return at

    def _teacher(self, parent: Step) -> Teacher | None:
        said = self.recipe.retrain
        if said.distill == 0:
            return None
        return Teacher(self._load(parent).eval(), said.distill, said.temperature)

    def _load(self, step: Step) -> nn.Module:
        """The network of a step that is done, as its recipe names it."""
        model = resolve(
            self.recipe.model,
            weights=step.model,
            classes=self.data.classes,
            shape=self.data.shape,
        ).to(self.device)
        if self.recipe.train.channels_last and len(self.data.shape) == 3:
            to: Any = model.to
            to(memory_format=torch.channels_last)
        return model

    def _save(self, model: nn.Module, step: Step) -> dict[str, int]:
        """Write the network; bytes of the compressed file and of the plain one."""
        return {
            "bytes": save(model, step.model),
            "bytes_dense": plain_bytes(model),
        }

    def _events(self, method: str, level: float) -> Tell:
        about = {"job": self.label, "method": method, "level": level}
        return lambda event: self._tell(about | event)

    def _done(self, record: Record) -> None:
        self._tell(
            {
                "job": self.label,
                "method": record.method,
                "level": record.level,
                "seed": record.seed,
                "done": True,
                "accuracy": record.accuracy,
                "sparsity": record.sparsity,
                "bytes": record.bytes,
            }
        )


def plain_bytes(model: nn.Module) -> int:
    """Size of the network as plain safetensors: header and tensors, nothing written."""
    from safetensors.torch import save as serialise

    seen: dict[int, str] = {}
    tensors = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen or tensor.numel() == 0:
            seen[tensor.data_ptr()] = name
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
        raise UserError(
            f"the device {name!r} cannot be used: {str(error).splitlines()[0]}"
        ) from None
    return device
