"""What was measured: a record is one network of one seed, a point is the mean over its seeds."""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from thrifty.shown import Shown

DENSE = "dense"
CONTROL = "control"


@dataclass(frozen=True, kw_only=True)
class Record(Shown):
    """One measured network.

    ``method`` is ``dense`` for the parent, ``control`` for the parent trained on, uncut, for as
    many epochs as a pruned network of that ``level`` got, else the method that pruned it.
    Accuracies and sparsities are shares, 0 to 1.
    """

    key: str
    """The step that made this network, 12 hex digits."""
    model: str
    data: str
    method: str
    level: float
    """What was asked for: the share of the dense network that goes, where it is a share."""
    threshold: float | None = None
    """What scores had to pass to stay, where that was asked for; it is then the level too."""
    seed: int
    sparsity: float
    """Share of the dense parent's prunable weights that is zero or gone, counted."""
    sparsity_all: float
    """Zeros among all parameters, counted."""
    sparsity_conv: float | None = None
    """Share of the weights of convolutions that is zero or gone; None if there are none."""
    accuracy: float
    accuracy_cut: float | None = None
    """Accuracy after the cut and before any retraining: under masks with the batch normalisation
    statistics of before, of a smaller network with its own, measured anew."""
    accuracy_dense: float
    """Accuracy of the dense parent of the same seed."""
    agreement: float
    """Share of test inputs on which this network and its dense parent give the same class."""
    loss: float
    params: int
    prunable: int
    nonzero: int
    """Parameters that are not zero."""
    macs: int
    """Multiply-adds that a dense runtime does for one input."""
    macs_nonzero: int
    """Multiply-adds whose weight is not zero: what a perfect sparse runtime would do."""
    bytes: int
    """Size of the compressed safetensors file (``model.safetensors.zst``) that was written."""
    bytes_dense: int
    """Size of the dense parent as plain safetensors."""
    latency_us: float | None = None
    """Time of one input, batch 1, in microseconds; how it was taken is in ``run.json``."""
    packed_bytes: int | None = None
    """Size of the ``.thrifty`` file, nothing lost; None in records of before there were such."""
    engine_ms: float | None = None
    """Milliseconds of one input, batch 1, on one thread of thrifty's engine."""
    engine_speedup: float | None = None
    """How many times as fast as its dense parent in the same engine; 1 for the parent."""
    engine_why: str | None = None
    """What prevents the two times of the engine; None if nothing does, or nobody asked."""
    epochs: int = 0
    """Epochs of training after the dense parent, over all levels before this one too."""
    seconds: float = 0.0
    layers: dict[str, list[int]] = field(default_factory=dict)
    """Prunable tensor -> [weights kept, weights]."""

    @property
    def drop(self) -> float:
        """Accuracy lost against the dense parent of the same seed; negative is a gain."""
        return self.accuracy_dense - self.accuracy

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Record":
        """The record of a JSON object; fields it does not know (of a newer version) are left."""
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{k: v for k, v in values.items() if k in known})


@dataclass(frozen=True, kw_only=True)
class Point(Shown):
    """One method at one level: means over seeds, with their spread.

    ``*_std`` is the sample standard deviation over seeds, ``None`` for a single seed.
    """

    model: str
    data: str
    method: str
    level: float
    threshold: float | None
    seeds: int
    sparsity: float
    sparsity_all: float
    sparsity_conv: float | None
    accuracy: float
    accuracy_std: float | None
    accuracy_min: float
    accuracy_max: float
    accuracy_cut: float | None
    drop: float
    """Mean of the accuracies lost against each seed's own dense parent."""
    drop_std: float | None
    agreement: float
    bytes: float
    bytes_dense: float
    latency_us: float | None
    packed_bytes: float | None
    engine_ms: float | None
    engine_speedup: float | None
    params: int
    nonzero: float
    macs: int
    macs_nonzero: float
    epochs: int


def points(records: Iterable[Record]) -> list[Point]:
    """Means over seeds by (model, data, method, level or threshold), in first-seen order."""
    groups: dict[tuple[object, ...], list[Record]] = {}
    for record in records:
        name = (record.model, record.data, record.method, record.level, record.threshold)
        groups.setdefault(name, []).append(record)
    return [_point(group) for group in groups.values()]


def deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation: ``None`` of a single value, NaN if one is not finite."""
    if len(values) < 2:
        return None
    return statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan


def _point(group: list[Record]) -> Point:
    def mean(name: str) -> float:
        return statistics.fmean(getattr(r, name) for r in group)

    def maybe_mean(name: str) -> float | None:
        values = [getattr(r, name) for r in group]
        return None if any(v is None for v in values) else statistics.fmean(values)

    def spread(name: str) -> float | None:
        return deviation([getattr(r, name) for r in group])

    first = group[0]
    return Point(
        model=first.model,
        data=first.data,
        method=first.method,
        level=first.level,
        threshold=first.threshold,
        seeds=len(group),
        sparsity=mean("sparsity"),
        sparsity_all=mean("sparsity_all"),
        sparsity_conv=maybe_mean("sparsity_conv"),
        accuracy=mean("accuracy"),
        accuracy_std=spread("accuracy"),
        accuracy_min=min(r.accuracy for r in group),
        accuracy_max=max(r.accuracy for r in group),
        accuracy_cut=maybe_mean("accuracy_cut"),
        drop=mean("drop"),
        drop_std=spread("drop"),
        agreement=mean("agreement"),
        bytes=mean("bytes"),
        bytes_dense=mean("bytes_dense"),
        latency_us=maybe_mean("latency_us"),
        packed_bytes=maybe_mean("packed_bytes"),
        engine_ms=maybe_mean("engine_ms"),
        engine_speedup=maybe_mean("engine_speedup"),
        params=round(mean("params")),
        nonzero=mean("nonzero"),
        macs=round(mean("macs")),
        macs_nonzero=mean("macs_nonzero"),
        epochs=first.epochs,
    )
