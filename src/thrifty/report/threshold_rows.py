"""What a threshold on gates costs and saves, as rows to draw: accuracy and size, seed by seed."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from thrifty.lab.front import Front
from thrifty.lab.records import CONTROL, DENSE, Record, deviation
from thrifty.report.parts import finite
from thrifty.report.units import percent, points_text, quantity

Size = Literal["packed_bytes", "bytes"]
ACCURACY, CUT, SIZE = "accuracy", "before retraining", "size"
WITHIN = 0.005
"""The share of accuracy that the headline sentence lets go."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Curve:
    """One method cut at several thresholds."""

    method: str
    records: tuple[Record, ...]
    size: Size

    @property
    def thresholds(self) -> list[float]:
        """Rising."""
        return sorted({r.threshold for r in self.records if r.threshold is not None})

    def at(self, threshold: float) -> list[Record]:
        """Every seed's network at a threshold."""
        return [r for r in self.records if r.threshold == threshold]

    def rows(self) -> list[Row]:
        """A row a threshold and quantity: mean and spread over seeds, and what a tooltip tells."""
        of: list[tuple[str, Callable[[Record], float | None]]] = [
            (ACCURACY, lambda r: r.accuracy),
            (CUT, lambda r: r.accuracy_cut),
            (SIZE, lambda r: getattr(r, self.size)),
        ]
        return [
            row
            for threshold in self.thresholds
            for name, value in of
            if (row := self._row(threshold, name, value)) is not None
        ]

    def dots(self) -> list[Row]:
        """A row a network of one seed and quantity, where there are several seeds."""
        if len({r.seed for r in self.records}) < 2:
            return []
        return [
            finite({"threshold": r.threshold, "quantity": name, "seed": r.seed, "y": float(y)})
            for r in self.records
            for name, y in ((ACCURACY, r.accuracy), (SIZE, getattr(r, self.size)))
            if y is not None
        ]

    def saved(self, dense: float | None) -> str:
        """The smallest network within half a point, in one sentence.

        Args:
            dense: bytes of the dense network.
        """
        good = [t for t in self.thresholds if self._drop(t) <= WITHIN]
        if not good:
            return f"no threshold loses at most {100 * WITHIN:g} points"
        sizes = {t: size for t in good if (size := self._mean_size(t)) is not None}
        if not sizes or not dense:
            return ""
        best = min(sizes, key=lambda t: sizes[t])
        change = "loses" if round(self._drop(best), 4) > 0 else "gains"
        return (
            f"threshold {best:g} {change} {points_text(self._drop(best))} of accuracy and saves "
            f"{percent(1 - sizes[best] / dense, 1)} of the bytes"
        )

    def emptied(self) -> str:
        """How many layers lose all they have, at the first threshold and the last that do so."""
        counts = {t: max(map(_empty, self.at(t))) for t in self.thresholds}
        found = [t for t, count in counts.items() if count]
        if not found:
            return ""
        ends = dict.fromkeys((found[0], found[-1]))
        told = ", ".join(f"{counts[t]} at {t:g}" for t in ends)
        return f"layers that lose all: {told}"

    def _drop(self, threshold: float) -> float:
        return fmean(r.drop for r in self.at(threshold))

    def _mean_size(self, threshold: float) -> float | None:
        sizes = [getattr(r, self.size) for r in self.at(threshold)]
        return None if None in sizes else fmean(sizes)

    def _row(
        self, threshold: float, name: str, value: Callable[[Record], float | None]
    ) -> Row | None:
        values = [v for r in self.at(threshold) if (v := value(r)) is not None]
        if not values or not all(map(math.isfinite, values)):
            return None
        mean, spread = fmean(values), deviation(values) or 0.0
        return {
            "threshold": threshold,
            "quantity": name,
            "y": mean,
            "low": mean - spread,
            "high": mean + spread,
            "at": f"{threshold:g}",
            "said": self._said(name, mean, spread if len(values) > 1 else None),
            "seeds": str(len(values)),
        }

    def _said(self, name: str, mean: float, spread: float | None) -> str:
        if name == SIZE:
            return quantity(mean, self.size)
        return percent(mean) + (f" \u00b1 {100 * spread:.2f}" if spread is not None else "")


def curves(front: Front) -> list[Curve]:
    """A curve for each method that was cut by thresholds."""
    groups: dict[str, list[Record]] = {}
    for record in front.records:
        if record.threshold is not None and record.method not in (DENSE, CONTROL):
            groups.setdefault(record.method, []).append(record)
    size: Size = "packed_bytes" if front.size == "packed_bytes" else "bytes"
    return [Curve(method, tuple(found), size) for method, found in groups.items()]


def _empty(record: Record) -> int:
    return sum(kept == 0 for kept, _ in record.layers.values())


def seeds_of(found: Iterable[Curve]) -> str:
    """How many seeds the means of the curves are of: ``one seed``, ``2 to 3 seeds``."""
    counts = sorted({len(curve.at(t)) for curve in found for t in curve.thresholds})
    if counts == [1]:
        return "one seed"
    return " to ".join(str(n) for n in dict.fromkeys((counts[0], counts[-1]))) + " seeds"


def dense_bytes(front: Front, size: Size) -> float | None:
    """Mean size of the dense parents, as the cut networks are measured."""
    found = [getattr(r, size) for r in front.records if r.method == DENSE]
    return None if not found or None in found else fmean(found)


def dense_accuracy(curve: Curve) -> float | None:
    """Mean accuracy of the parents that a curve starts from, one a seed."""
    parents = {r.seed: r.accuracy_dense for r in curve.records}
    good = [a for a in parents.values() if math.isfinite(a)]
    return fmean(good) if good else None


def place_of_zero(thresholds: Iterable[float]) -> float | None:
    """Where on a log axis the threshold 0 is drawn: left of all others, as far as they lie apart.

    ``None`` where the axis should not be logarithmic: a threshold is negative, or they are near
    each other.

    Example:
        >>> place_of_zero([0.0, 0.01, 0.02])
        0.005
    """
    found = sorted(set(thresholds))
    positive = [t for t in found if t > 0]
    if len(positive) < 2 or found[0] < 0 or positive[-1] < 2 * positive[0]:
        return None
    return positive[0] * min(max(positive[0] / positive[1], 0.2), 0.7)


def size_ends(sizes: Sequence[float]) -> tuple[float, float, bool]:
    """Ends of an axis of bytes, and whether it is logarithmic: it is if some network is tiny.

    The largest, the dense network, stays below the top, where the accuracy of the dense one is.
    """
    found = [size for size in sizes if size > 0] or [1.0]
    low, high = min(found), max(found)
    if low < high / 25:
        return low / 1.5, high * (high / low) ** 0.2, True
    return 0.0, 1.2 * high, False
