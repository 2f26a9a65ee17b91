"""The steps of a study of sensitivity: one layer cut to one sparsity, measured, put back.

A step returns at once if its result is on disk; its folder is named by what decides it.  All of
them are measured on the same inputs, so that what a layer costs is a matter of the inputs on
which two networks differ.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from thrifty.data import Data, Split
from thrifty.errors import UserError
from thrifty.lab.measure import Judged, judge
from thrifty.lab.recipe import identity
from thrifty.lab.sensitive import Sensitive, Tried
from thrifty.lab.sensitivity_cuts import Cutter
from thrifty.lab.store import Step, Store
from thrifty.lab.subject import digest_of, judge_batch
from thrifty.training.loop import derive
from thrifty.training.recovery import recalibrate, with_statistics

Tell = Callable[[dict[str, Any]], None]

STUDY = "sensitivity"
STATISTICS = 1024
"""Training inputs that statistics are taken from anew, for every network."""


@dataclass(frozen=True)
class Inputs:
    """What a study measures on, and what it takes statistics from."""

    data: Data
    """Its ``test`` are the inputs measured on, its ``train`` those of the statistics."""
    apart: bool
    """Whether the statistics are of other inputs than the measures."""

    @classmethod
    def drawn(cls, data: Data, count: int, test: bool, seed: int) -> "Inputs":
        """``count`` inputs of one split, drawn by the seed, all if there are fewer.

        Raises:
            UserError: the split has no inputs.
        """
        train: Any = data.train if data.train is None else data.labeled
        source: Any = data.test if test else train
        if source is None or not len(source):
            raise UserError(
                f"{data.name} has no {'test' if test else 'training'} inputs to measure on"
                + ("" if test else "; --test (test=True) measures on the test inputs")
            )
        generator = torch.Generator().manual_seed(derive(seed, STUDY))
        order = torch.randperm(len(source), generator=generator)
        mine, others = order[:count].sort().values, order[count:].sort().values
        apart = test or len(others) >= min(STATISTICS, count)
        rest = data.test if train is None else train
        if not test and apart:
            rest = Split(source.inputs[others], source.labels[others])
        measured = Split(source.inputs[mine], source.labels[mine])
        return cls(replace(data, test=measured, train=rest), apart)


class Study:
    """The network of a study, what cuts it, its inputs, and its steps on disk."""

    def __init__(
        self,
        model: nn.Module,
        cutter: Cutter,
        data: Data,
        inputs: Inputs,
        store: Store,
        now: Mapping[str, Any],
    ):
        self.model, self.cutter, self.data, self.store, self.now = model, cutter, data, store, now
        self.inputs = inputs
        self.digest = digest_of(model)
        self._began, self._made, self._todo = time.monotonic(), 0, 0

    def step(self, layers: Mapping[str, float], label: str) -> Step:
        """The folder of the network with those layers cut."""
        data, now = self.data, self.now
        decided = ("method", "keep", "round", "seed", "inputs", "test", "recalibrate")
        key = identity(
            STUDY,
            self.digest,
            [data.digest, data.mean, data.std, data.classes, data.shift, data.flip],
            [now[k] for k in decided],
            sorted((name, float(s).hex()) for name, s in layers.items()),
        )
        return self.store.step(label, key)

    def intact(self) -> Step:
        """The folder of the network as it came."""
        return self.step({}, "intact")

    def one(self, layer: str, sparsity: float) -> Step:
        """The folder of the network with one layer cut."""
        return self.step({layer: sparsity}, f"{_plain(layer)}-{sparsity:g}")

    def measure(
        self, known: Sequence[float], asked: Sequence[float], tell: Tell
    ) -> tuple[Sensitive, ...]:
        """Every layer at the sparsities asked for and those that are there."""
        names = list(self.cutter.parts)
        wanted = {
            n: [s for s in sorted({*known, *asked}) if s in asked or self.one(n, s).done]
            for n in names
        }
        left = {n: [s for s in wanted[n] if not self.one(n, s).done] for n in names}
        self._todo = sum(map(len, left.values())) + (not self.intact().done)
        ready = sum(not left[n] for n in names)
        tell({"total": len(names), "ready": ready, "what": "layers to try"})
        if not self.intact().done:
            self._take({}, self.intact())
        for name in names:
            for number, sparsity in enumerate(left[name]):
                tell({"job": name, "level": sparsity, "progress": number / len(left[name])})
                self._take({name: sparsity}, self.one(name, sparsity))
            if left[name]:
                row = self._row(name, wanted[name])
                about = {"job": name, "done": True, "layer": name, "text": self._told(row)}
                tell(about | {"accuracies": [t.accuracy for t in row.tried]})
        return tuple(self._row(n, wanted[n]) for n in names)

    def together(self, layers: Mapping[str, float], prunable: int) -> Tried:
        """All those layers cut at once."""
        step = self.step(layers, "together")
        if not step.done:
            self._take(layers, step)
        found = _read(step)
        return replace(found, sparsity=found.removed / prunable)

    def _take(self, layers: Mapping[str, float], step: Step) -> None:
        """Cut, take new statistics where asked for, measure, write."""
        began = time.perf_counter()
        gone, removed = 0.0, 0
        if not layers:
            with self._fresh(self.model):
                judged = self._judge(self.model)
            step.predict(judged.predictions)
            before = judged.predictions
        else:
            before = self.intact().predictions()
            with self.cutter.cut(layers) as (model, gone, removed), self._fresh(model):
                judged = self._judge(model)
        lost, gained = _changed(judged.predictions, before, self.inputs.data)
        tried = Tried(
            sparsity=next(iter(layers.values())) if len(layers) == 1 else 0.0,
            gone=gone,
            removed=removed,
            accuracy=judged.accuracy,
            loss=judged.loss,
            lost=lost,
            gained=gained,
        )
        step.time(seconds=time.perf_counter() - began)
        step.write(asdict(tried))
        self._made += 1

    def _judge(self, model: nn.Module) -> Judged:
        return judge(model, self.inputs.data, judge_batch(self.data))

    @contextlib.contextmanager
    def _fresh(self, model: nn.Module) -> Iterator[None]:
        """New statistics for a block, if the study takes any; the old ones are put back."""
        norms = with_statistics(model) if self.now["recalibrate"] else []
        old = [(b, b.detach().clone()) for norm in norms for b in norm.buffers(recurse=False)]
        try:
            if norms:
                data = self.inputs.data
                count = min(STATISTICS, len(data.train))
                recalibrate(
                    model, data, inputs=count - (count % 64 == 1), batch=64, seed=self.now["seed"]
                )
            yield
        finally:
            for buffer, value in old:
                buffer.copy_(value)

    def _row(self, name: str, sparsities: Sequence[float]) -> Sensitive:
        part = self.cutter.parts[name]
        return Sensitive(
            layer=name,
            units=part.units,
            weights=part.weights,
            makes=part.makes,
            tried=tuple(_read(self.one(name, s)) for s in sparsities),
        )

    def _told(self, row: Sensitive) -> str:
        """A layer that is done, and how long the others will take."""
        found = "  ".join(f"{t.sparsity:g}: {100 * t.accuracy:.1f}" for t in row.tried)
        rest = self._todo - self._made
        seconds = (time.monotonic() - self._began) / max(1, self._made) * rest
        return f"{row.label}  {found} %" + (f"  ({_about(seconds)} left)" if rest else "")


def _about(seconds: float) -> str:
    """A time in words: ``40 s``, ``3 min``, ``1.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _plain(layer: str) -> str:
    """A layer as part of the name of a folder."""
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in layer)[:80]


def _changed(ours: NDArray[np.int32], intact: NDArray[np.int32], data: Data) -> tuple[int, int]:
    """(inputs that only the intact network gets right, inputs that only ours does)."""
    labels = data.test.labels.cpu().numpy()
    right, was = ours == labels, intact == labels
    return int((was & ~right).sum()), int((right & ~was).sum())


def _read(step: Step) -> Tried:
    try:
        return Tried(**step.values())
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{step.folder} holds no measured network ({error!r}); remove it and run again"
        ) from None


def intact_of(study: Study) -> Tried:
    """The intact network, measured."""
    return _read(study.intact())
