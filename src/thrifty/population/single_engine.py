"""A stack model by model, one a core: for networks that fill a core by themselves.

A residual network of eleven million parameters does as many operations a second alone as it does
among others, so nothing is stacked: convolutions run with channels last, in bfloat16 where it is
asked for, and so many models at a time as there are threads.  Each model is computed by one
thread, so that its numbers do not depend on how many there are.
"""

import contextlib
import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from thrifty.data import Data, Split
from thrifty.population.batches import orders, presented, turns
from thrifty.population.engines import Judged, Learned, Moments, small
from thrifty.population.gating import Gating, network
from thrifty.population.optimizers import kinds, move
from thrifty.population.plan import Plan
from thrifty.population.stack import Stack, dropping
from thrifty.training.loop import channels_last, derive

Found = TypeVar("Found")


class _One(NamedTuple):
    """A model while it is trained: the network, its parameters, and what the optimizer carries."""

    model: nn.Module
    parameters: dict[str, nn.Parameter]
    moments: dict[str, tuple[Tensor, ...]]
    masks: dict[str, Tensor]


class SingleEngine:
    """One model after another, or several beside each other.

    Args:
        moments: of the optimizer, to go on with.
        gating: a gate, if the stack has ``gates``.
        threads: models at a time; networks that draw random numbers are trained one by one, for
            torch has one source of them a process.
    """

    def __init__(
        self,
        stack: Stack,
        data: Data,
        plan: Plan,
        *,
        moments: Moments | None = None,
        gating: Gating | None = None,
        threads: int = 1,
    ):
        self._stack, self._data, self._plan, self._gating = stack, data, plan, gating
        self._template = network(stack, data, gating)
        names = [n for n, _ in self._template.named_parameters()]
        self._tensors = {n: x.clone() for n, x in {**stack.tensors, **stack.gates}.items()}
        spared = gating.gate.variables(self._template) if gating is not None else ()
        self._spared = frozenset(spared)
        self._moments: dict[str, dict[str, Tensor]] = {}
        for kind in kinds(plan):
            given = (moments or {}).get(kind)
            every = given or {n: torch.zeros_like(self._tensors[n]) for n in names}
            self._moments[kind] = {n: x.clone() for n, x in every.items()}
        self._draws = draws(self._template, data)
        self._threads = max(1, min(threads, len(stack)))
        self._stop = threading.Event()
        self.hold(stack)

    def hold(self, masks: Stack) -> None:
        """In place: from now on the masks of that stack stay zero."""
        self._stack = replace(self._stack, masks=masks.masks)
        for name, mask in self._stack.masks.items():
            self._tensors[name].masked_fill_(~mask, 0.0)

    def epoch(self, number: int) -> Learned:
        """Do the epoch of that number, counted from 0."""
        threads = 1 if self._draws else self._threads
        found = self._each(lambda index: self._learn(index, number), threads)
        loss, accuracy = np.array(found, np.float64).reshape(-1, 2).T
        return Learned(loss, accuracy)

    def stack(self) -> Stack:
        """The models as they are now."""
        return replace(
            self._stack,
            tensors={n: self._tensors[n].clone() for n in self._stack.tensors},
            gates={n: self._tensors[n].clone() for n in self._stack.gates},
        )

    def moments(self) -> Moments:
        """What the optimizer carries from epoch to epoch."""
        return self._moments

    def judge(self, split: Split) -> Judged:
        """The models on a split, in float32 however they are trained."""
        found = self._each(lambda index: self._asked(index, split), self._threads)
        losses, shares = (np.array([f[i] for f in found], np.float64) for i in (0, 1))
        classes = small(np.stack([f[2] for f in found]), self._stack.classes)
        return Judged(losses, shares, classes)

    def _each(self, function: Callable[[int], Found], threads: int) -> list[Found]:
        """What ``function`` gives for each model; after an error the others stop soon."""
        self._stop.clear()
        before = torch.get_num_threads()
        alone: Callable[[], None] = lambda: torch.set_num_threads(1)  # noqa: E731
        try:
            with ThreadPoolExecutor(threads, initializer=alone) as pool:
                futures = [pool.submit(function, index) for index in range(len(self._stack))]
                try:
                    return [future.result() for future in futures]
                except BaseException:
                    self._stop.set()
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
        finally:
            torch.set_num_threads(before)

    def _learn(self, index: int, number: int) -> tuple[float, float]:
        """Do an epoch of one model: its mean loss and share of right answers."""
        data, plan, columns = self._data, self._plan, self._stack.columns
        labels = data.train.labels
        size = min(plan.batch, len(labels))
        steps = len(labels) // size if size else 0
        seeds = [int(s) for s in columns["seed"].tolist()]
        first = seeds[0] if plan.shared_order else seeds[index]
        order = orders([first], number, len(labels), shared=True)[0]
        moved, rates = turns(seeds[index], number, plan), plan.rates(number, steps)
        if self._draws:
            torch.manual_seed(derive(seeds[index], "layers", number))
        one = self._loaded(index)
        one.model.train()
        lost = right = 0.0
        for at in range(steps):
            if self._stop.is_set():
                break
            rows = order[at * size : (at + 1) * size]
            inputs = self._laid_out(presented(data, rows, plan, moved))
            rate = 1.0 if rates is None else float(rates[at])
            loss, hits = self._step(
                one, index, inputs, labels[rows], rate, number * steps + at + 1,
                self._gating.progress(number, at / steps) if self._gating else 0.0,
            )  # fmt: skip
            lost += loss * size
            right += hits
        self._store(one, index)
        seen = max(1, steps * size)
        return lost / seen, right / seen

    def _step(
        self,
        one: _One,
        index: int,
        inputs: Tensor,
        labels: Tensor,
        share: float,
        number: int,
        progress: float,
    ) -> tuple[float, float]:
        """In place: one step; the loss and how many were right."""
        plan, columns, gating = self._plan, self._stack.columns, self._gating
        with precision(plan):
            outputs = one.model(inputs)
        outputs = outputs.float()
        loss = whole = nn.functional.cross_entropy(outputs, labels)
        if gating is not None and (penalty := gating.gate.penalty(one.model, progress)) is not None:
            whole = loss + penalty
        for p in one.parameters.values():
            p.grad = None
        whole.backward()  # type: ignore[no-untyped-call]
        if gating is not None:
            gating.gate.after_backward(one.model)
        lr = torch.tensor(float(columns["lr"][index])) * share
        decay = torch.tensor(float(columns["weight_decay"][index]))
        with torch.no_grad():
            for name, p in one.parameters.items():
                g = torch.zeros_like(p) if p.grad is None else p.grad
                if name in one.masks:
                    g.masked_fill_(one.masks[name], 0.0)
                free = torch.zeros(()) if name in self._spared else decay
                move(p, g, one.moments[name], plan, lr=lr, decay=free, number=number)
        if gating is not None:
            far = 1.0 - plan.momentum if plan.optimizer == "sgd" else 1.0
            gating.gate.after_step(one.model, float(lr) / far, progress)
        with torch.no_grad():
            for name, mask in one.masks.items():
                one.parameters[name].masked_fill_(mask, 0.0)
        return float(loss.detach()), float((outputs.detach().argmax(1) == labels).sum())

    def _loaded(self, index: int) -> _One:
        """One of the models, its tensors laid out as its convolutions want them."""
        model = copy.deepcopy(self._template)
        model.load_state_dict({n: x[index] for n, x in self._tensors.items()}, strict=False)
        dropping(model, float(self._stack.columns["dropout"][index]))
        channels_last(model, self._data)
        own = dict(model.named_parameters())
        moments = {
            n: tuple(torch.empty_like(p).copy_(of[n][index]) for of in self._moments.values())
            for n, p in own.items()
        }
        gone = {n: ~mask[index] for n, mask in self._stack.masks.items()}
        return _One(model, own, moments, gone)

    @torch.no_grad()
    def _store(self, one: _One, index: int) -> None:
        """In place: put a model back into the stack."""
        state = one.model.state_dict()
        for name, x in self._tensors.items():
            x[index].copy_(state[name])
        for place, of in enumerate(self._moments.values()):
            for name, x in of.items():
                x[index].copy_(one.moments[name][place])

    @torch.no_grad()
    def _asked(self, index: int, split: Split, at_once: int = 500) -> tuple[float, float, Any]:
        """Loss, accuracy and classes (n,) of one model on a split."""
        model = self._loaded(index).model.eval()
        lost, classes = 0.0, []
        for at in range(0, len(split), at_once):
            labels = split.labels[at : at + at_once]
            inputs = self._laid_out(self._data.prepare(split.inputs[at : at + at_once]))
            outputs = model(inputs).double()
            lost += float(nn.functional.cross_entropy(outputs, labels, reduction="sum"))
            classes.append(outputs.argmax(1))
        found = torch.cat(classes)
        right = float((found == split.labels).double().mean())
        return lost / max(1, len(split)), right, found.numpy()

    def _laid_out(self, inputs: Tensor) -> Tensor:
        if inputs.dim() != 4:
            return inputs
        return inputs.contiguous(memory_format=torch.channels_last)


def draws(model: nn.Module, data: Data) -> bool:
    """Whether a network in training draws random numbers, as dropout does."""
    trial = copy.deepcopy(model).train()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        before = torch.get_rng_state()
        trial(data.prepare(data.train.inputs[[0, 0]]))
        return not torch.equal(before, torch.get_rng_state())


def precision(plan: Plan) -> contextlib.AbstractContextManager[object]:
    """Autocast to bfloat16 if the plan asks for it."""
    if plan.precision == "f32":
        return contextlib.nullcontext()
    return torch.autocast("cpu", dtype=torch.bfloat16)
