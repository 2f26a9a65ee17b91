"""The steps of a study of zeroing: at each threshold zero, measure, recalibrate, measure again.

Thresholds go upwards and nest, so one network is zeroed further and further, and each step is
what it would be if the intact network had been zeroed at once.  A step returns at once if its
result is on disk; its folder is named by what decides it.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from thrifty.census.words import percent
from thrifty.data import Data
from thrifty.errors import UserError
from thrifty.lab.measure import Judged, agree, judge, run
from thrifty.lab.recipe import identity
from thrifty.lab.store import Step, Store
from thrifty.lab.subject import LARGE_INPUT, digest_of, judge_batch
from thrifty.lab.zeroed import Outcome, Zeroed
from thrifty.pruning.layers import prunable
from thrifty.pruning.small import not_kept, spread, zero_under
from thrifty.training.recovery import recalibrate, were_measured, with_statistics

Tell = Callable[[dict[str, Any]], None]

STUDY = "zeroing"
FRESH = "predictions-recalibrated"


class Study:
    """The network of a study, its data, and its steps on disk."""

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        store: Store,
        now: Mapping[str, Any],
        drawn: bool = False,
    ):
        self.model, self.data, self.store, self.now = model, data, store, now
        weights = prunable(model)
        self.tensors: dict[str, nn.Parameter] = (
            dict(model.named_parameters()) if now["everything"] else weights
        )
        self.cut = not_kept(self.tensors, now["keep"])
        self.digest = digest_of(model)
        self.folded = not drawn and not were_measured(with_statistics(model))
        self.norms = [] if self.folded else with_statistics(model)
        self.large = math.prod(data.shape) > LARGE_INPUT
        if now["relative"]:
            self.scales = {name: spread(p) for name, p in self.cut.items()}
        else:
            self.scales = dict.fromkeys(self.cut, 1.0)

    @property
    def train_inputs(self) -> int:
        """Training inputs that new statistics are taken from, 0 if none can be."""
        train: Any = self.data.train
        found = 0 if train is None else min(len(train), 5120)
        found -= found % self.batch == 1  # of a last batch of one, some layers have no variance
        return found if self.norms and found > 1 else 0

    @property
    def batch(self) -> int:
        """Training inputs at a time for new statistics."""
        return 64 if self.large else 256

    @torch.inference_mode()
    def try_it(self) -> None:
        """Show that the network and the data do not fit before anything is written.

        Raises:
            UserError: the network does not take the data.
        """
        device = next(self.model.parameters()).device
        run(self.model, self.data.prepare(self.data.test.inputs[:2].to(device)), self.data)

    def step(self, t: float) -> Step:
        """The folder of a threshold, named by all that decides its figures."""
        data = self.data
        key = identity(
            STUDY,
            self.digest,
            [data.digest, data.mean, data.std, data.classes, data.shift, data.flip],
            [self.now[k] for k in ("relative", "everything", "keep", "seed")],
            float(t).hex(),
        )
        return self.store.step(f"under-{t:g}{'std' if self.now['relative'] else ''}", key)

    def rows(
        self, known: Sequence[float], asked: Sequence[float], tell: Tell
    ) -> tuple[Zeroed, ...]:
        """The rows asked for and those that are there; measures what is not."""
        wanted = [t for t in sorted({*known, *asked}) if t in asked or self.step(t).done]
        tell({"total": len(wanted), "ready": sum(self.step(t).done for t in wanted)})
        found: list[Zeroed] = []
        for t in wanted:
            step = self.step(t)
            if not step.done:
                self._measure(t, step, tell)
                self._write(wanted)
            found.append(_read(step))
        self._write(wanted)
        return tuple(found)

    def _measure(self, t: float, step: Step, tell: Tell) -> None:
        """Zero, measure, take new statistics, measure again, and write it all."""
        began, job = time.perf_counter(), f"under {self.named(t)}"
        tell({"job": job, "progress": 0.0})
        zero_under(self.cut, t, self.scales)
        intact = None if t == 0 else self.step(0.0)
        plain = self._judge()
        step.predict(plain.predictions)
        before = plain.predictions if intact is None else intact.predictions()
        outcome = _outcome(plain, before, before, self.data)
        tell({"job": job, "progress": 0.4})
        fresh = self._fresh()
        recalibrated = None
        if fresh is not None:
            step.predict(fresh.predictions, FRESH)
            alike = fresh.predictions if intact is None else intact.predictions(FRESH)
            recalibrated = _outcome(fresh, alike, before, self.data)
        row = self._row(t, step.key, outcome, recalibrated)
        step.time(seconds=time.perf_counter() - began)
        step.write(asdict(row))
        tell({"job": job, "done": True, "text": _told(job, row)} | _figures(row))

    def _judge(self) -> Judged:
        return judge(self.model, self.data, judge_batch(self.data))

    def _fresh(self) -> Judged | None:
        """The network with new statistics, judged; the old ones are put back."""
        inputs = self.train_inputs
        if not inputs:
            return None
        old = [(b, b.detach().clone()) for norm in self.norms for b in norm.buffers(recurse=False)]
        try:
            recalibrate(
                self.model, self.data, inputs=inputs, batch=self.batch, seed=self.now["seed"]
            )
            return self._judge()
        finally:
            for buffer, value in old:
                buffer.copy_(value)

    def _row(self, t: float, key: str, plain: Outcome, recalibrated: Outcome | None) -> Zeroed:
        weights, everything = list(prunable(self.model).values()), list(self.model.parameters())
        return Zeroed(
            key=key,
            model=self.now["model"],
            data=self.now["data"],
            threshold=t,
            seed=self.now["seed"],
            zeros=sum(_zeros(p) for p in weights),
            weights=sum(p.numel() for p in weights),
            zeros_all=sum(_zeros(p) for p in everything),
            params=sum(p.numel() for p in everything),
            plain=plain,
            recalibrated=recalibrated,
            layers={name: [_zeros(p), p.numel()] for name, p in self.tensors.items()},
        )

    def _write(self, thresholds: Sequence[float]) -> None:
        """Replace ``records.jsonl`` and ``points.csv`` by what is done."""
        done = [row for t in thresholds if self.step(t).done for row in [_read(self.step(t))]]
        self.store.write_rows([asdict(row) for row in done], [_flat(row) for row in done])

    def named(self, t: float) -> str:
        """A threshold as progress lines call it."""
        return f"{t:g} std" if self.now["relative"] else f"{t:g}"


def _outcome(
    judged: Judged, alike: NDArray[np.int32], intact: NDArray[np.int32], data: Data
) -> Outcome:
    """A judged network beside the intact one treated alike, and beside the one as it came."""
    labels = data.test.labels.cpu().numpy()
    right, was = judged.predictions == labels, alike == labels
    return Outcome(
        accuracy=judged.accuracy,
        loss=judged.loss,
        agreement=agree(judged.predictions, intact),
        lost=int((was & ~right).sum()),
        gained=int((right & ~was).sum()),
    )


def _zeros(tensor: Tensor) -> int:
    return tensor.numel() - int(torch.count_nonzero(tensor.detach()))


def _read(step: Step) -> Zeroed:
    try:
        return Zeroed.from_dict(step.values())
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{step.folder} holds no measured network ({error!r}); remove it and run again"
        ) from None


def _flat(row: Zeroed) -> dict[str, Any]:
    """A row of ``points.csv``."""
    values = asdict(row)
    outcomes = {"": values.pop("plain"), "_recalibrated": values.pop("recalibrated")}
    del values["layers"]
    names = [*Outcome.__dataclass_fields__]
    return (
        values
        | {"sparsity": row.sparsity, "sparsity_all": row.sparsity_all}
        | {f"{n}{end}": (found or {}).get(n) for end, found in outcomes.items() for n in names}
    )


def _told(job: str, row: Zeroed) -> str:
    text = f"{job}:  {percent(row.zeros, row.weights)} zero  "
    text += f"accuracy {100 * row.plain.accuracy:.2f} %"
    fresh = row.recalibrated
    return text if fresh is None else f"{text}  recalibrated {100 * fresh.accuracy:.2f} %"


def _figures(row: Zeroed) -> dict[str, Any]:
    fresh = row.recalibrated
    return {
        "threshold": row.threshold,
        "seed": row.seed,
        "sparsity": row.sparsity,
        "accuracy": row.plain.accuracy,
        "accuracy_recalibrated": None if fresh is None else fresh.accuracy,
    }
