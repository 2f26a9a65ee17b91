"""What is worth having: the Pareto front of what was measured, and which point to take.

Accuracy is what is bought; sparsity, bytes, latency, multiply-adds or parameters is its price.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from thrifty.errors import NoPoint, UserError
from thrifty.lab.gate_readings import Reading
from thrifty.lab.records import CONTROL, DENSE, Point, Record, points
from thrifty.shown import Shown, html_table

if TYPE_CHECKING:
    import altair

Cost = Literal[
    "sparsity",
    "sparsity_conv",
    "packed_bytes",
    "bytes",
    "engine_ms",
    "latency_us",
    "macs",
    "macs_nonzero",
    "params",
    "nonzero",
]
COSTS: dict[str, str] = {
    "sparsity": "sparsity of the prunable weights",
    "sparsity_conv": "sparsity of the weights of convolutions",
    "packed_bytes": "bytes of the .thrifty file",
    "bytes": "bytes of the compressed safetensors file",
    "engine_ms": "latency in thrifty's engine, ms",
    "latency_us": "latency in eager torch, us",
    "macs": "multiply-adds of a dense runtime",
    "macs_nonzero": "multiply-adds with a weight that is not zero",
    "params": "parameters, zeros among them",
    "nonzero": "parameters that are not zero",
}
SPARSITIES = ("sparsity", "sparsity_conv")
"""Costs of which more is better; a dense network has 0 of them."""


def cost(point: Point, of: Cost) -> float | None:
    """What ``point`` costs, so that less is better; ``None`` if it was not measured."""
    value = getattr(point, of)
    if value is None:
        return None
    return -float(value) if of in SPARSITIES else float(value)


def pareto(candidates: Iterable[Point], of: Cost = "sparsity") -> list[Point]:
    """The points that no other beats: none is at least as accurate for less, cheapest first.

    Of points equal in both, the first given is kept.  Points without that cost are left out.
    """
    priced = [
        (c, -p.accuracy, i, p) for i, p in enumerate(candidates) if (c := cost(p, of)) is not None
    ]
    kept: list[Point] = []
    for _, _, _, point in sorted(priced, key=lambda row: row[:3]):
        if not kept or point.accuracy > kept[-1].accuracy:
            kept.append(point)
    return kept


def hypervolume(
    candidates: Iterable[Point], worst: float, floor: float = 0.0, of: Cost = "sparsity"
) -> float:
    """Area between the front and the corner (cost ``worst``, accuracy ``floor``); larger is better.

    Args:
        worst: the cost of the reference corner, in the unit of :func:`cost` (0 for sparsity).
        floor: the accuracy of the reference corner, such as that of guessing.

    References:
        Zitzler & Thiele, Multiobjective Evolutionary Algorithms, 1999,
        https://doi.org/10.1109/4235.797969
    """
    front = [(c, p.accuracy) for p in pareto(candidates, of) if (c := cost(p, of)) is not None]
    front = [(c, a) for c, a in front if c < worst and a > floor]
    edges = [*(c for c, _ in front), worst][1:]
    return sum((right - c) * (a - floor) for (c, a), right in zip(front, edges, strict=True))


def knee(candidates: Iterable[Point], of: Cost = "sparsity") -> Point | None:
    """The point of the front farthest from the line between its two ends, ``None`` under three.

    References:
        Satopaa et al., Finding a Kneedle in a Haystack, 2011,
        https://doi.org/10.1109/ICDCSW.2011.20
    """
    front = pareto(candidates, of)
    if len(front) < 3:
        return None
    xs = [cost(p, of) or 0.0 for p in front]
    ys = [p.accuracy for p in front]
    width, height = xs[-1] - xs[0], ys[-1] - ys[0]
    if width <= 0 or height <= 0:
        return None
    above = [(y - ys[0]) / height - (x - xs[0]) / width for x, y in zip(xs, ys, strict=True)]
    return front[max(range(len(front)), key=above.__getitem__)]


@dataclass(frozen=True)
class Front(Shown):
    """Everything measured in one or more runs, and the questions people ask of it."""

    records: tuple[Record, ...]
    where: str = ""
    """The run folders it was read from, for messages."""
    readings: tuple[Reading, ...] = ()
    """What gates said of the channels of the dense and gated parents."""

    @property
    def points(self) -> list[Point]:
        """Means over seeds, with spread: dense, control, and every method at every level."""
        return points(self.records)

    @property
    def pruned(self) -> list[Point]:
        """The points that were pruned."""
        return [p for p in self.points if p.method not in (DENSE, CONTROL)]

    @property
    def dense(self) -> Point | None:
        """The dense parents."""
        return next((p for p in self.points if p.method == DENSE), None)

    @property
    def control(self) -> Point | None:
        """The dense parents trained on for as long as the longest chain of pruned levels."""
        found = [p for p in self.points if p.method == CONTROL]
        return max(found, key=lambda p: p.epochs, default=None)

    @property
    def smaller(self) -> list[Point]:
        """The pruned points whose networks do fewer multiply-adds than their dense parents."""
        dense = self.dense
        return [p for p in self.pruned if dense is not None and p.macs < dense.macs]

    @property
    def size(self) -> Cost:
        """The cost that says how large a file is: packed, if every network was, else compressed."""
        packed = all(p.packed_bytes is not None for p in self.points)
        return "packed_bytes" if packed and self.records else "bytes"

    def pareto(self, of: Cost = "sparsity") -> list[Point]:
        """The pruned points that no other pruned point beats, cheapest first."""
        return pareto(self.pruned, of)

    def knee(self, of: Cost = "sparsity") -> Point | None:
        """Where the front bends most."""
        return knee(self.pruned, of)

    def hypervolume(self, floor: float = 0.0, of: Cost = "sparsity") -> float:
        """Area under the front above ``floor``; the dense network's cost is the corner."""
        dense = self.dense
        worst = 0.0 if of in SPARSITIES else (cost(dense, of) if dense else None)
        if worst is None:
            raise UserError(f"the hypervolume over {of} needs a dense point with {of} measured")
        return hypervolume(self.pruned, worst, floor, of)

    def pick(self, max_drop: float = 0.005, of: Cost | None = None) -> Point:
        """The cheapest point whose mean accuracy is at most ``max_drop`` below its parents'.

        Args:
            max_drop: a share: 0.005 is half a point.
            of: what "cheapest" means; the size of the file (:attr:`size`) if ``None``.

        Raises:
            NoPoint: none loses so little; the message names the one that loses least.
        """
        if not 0 <= max_drop <= 1:
            raise UserError(
                f"max_drop is {max_drop}; it is the share of accuracy that may be lost, "
                "0 to 1, so half a point is 0.005"
            )
        pruned, of = self.pruned, of or self.size
        if not pruned:
            raise UserError(
                f"there is no pruned point to pick from{self._where()}; run a method first"
            )
        priced = [p for p in pruned if cost(p, of) is not None]
        good = [p for p in priced if p.drop <= max_drop]
        if not priced:
            raise UserError(
                f"{of} was not measured{self._where()}; pick by another of {', '.join(COSTS)}"
            )
        if not good:
            best = min(priced, key=lambda p: p.drop)
            raise NoPoint(
                f"no point loses at most {100 * max_drop:g} points{self._where()}; the least is "
                f"{100 * best.drop:.2f} points, by {best.method} at sparsity {best.sparsity:.4g}"
            )
        return min(good, key=lambda p: (cost(p, of) or 0.0, -p.accuracy))

    def plot(self, of: Cost = "sparsity") -> "altair.Chart":
        """Accuracy against ``of`` as an Altair chart, spread and controls shown."""
        from thrifty.report import REPORTS

        chart: altair.Chart = REPORTS.get("front")(self, of=of)
        return chart

    def to_dict(self) -> dict[str, Any]:
        """All records, all points, and which of them are on the front or its knee."""
        knee = self.knee()
        return {
            "records": [r.to_dict() for r in self.records],
            "points": [p.to_dict() for p in self.points],
            "pareto": [{"method": p.method, "level": p.level} for p in self.pareto()],
            "knee": None if knee is None else {"method": knee.method, "level": knee.level},
            "hypervolume": self.hypervolume(),
        }

    def to_rows(self) -> list[dict[str, Any]]:
        """A row a point."""
        return [p.to_dict() for p in self.points]

    def table(self) -> list[dict[str, str]]:
        """The rows people read: percentages with spread, bytes and times with units."""
        return table(self.points)

    def _repr_html_(self) -> str:
        try:
            from thrifty.report.render import svg

            picture = svg(self.plot())
        except ImportError:
            picture = ""
        return picture + html_table(self.table())

    def _where(self) -> str:
        return f" in {self.where}" if self.where else ""


def table(rows: Sequence[Point]) -> list[dict[str, str]]:
    """Points as text, a column a quantity; what was not measured is left empty.

    Parameters and multiply-adds are told where a network really has fewer than another.  Bytes
    are those of the packed file, and those of the compressed one where a network was not packed.
    """
    packed = {p.packed_bytes is not None for p in rows}
    timed = any(p.engine_ms is not None for p in rows)
    sizes = len({(p.params, p.macs) for p in rows}) > 1
    return [
        {
            "method": p.method,
            "asked": "" if p.method in (DENSE, CONTROL) else asked(p),
            "sparsity %": f"{100 * p.sparsity:.2f}",
            "accuracy %": _percent(p.accuracy, p.accuracy_std),
            "drop": f"{100 * p.drop:+.2f}",
            **({"packed bytes": _number(p.packed_bytes)} if True in packed else {}),
            **({"bytes": f"{p.bytes:,.0f}"} if packed != {True} else {}),
            **({"engine ms": _digits(p.engine_ms), "speedup": _times(p)} if timed else {}),
            "agreement %": f"{100 * p.agreement:.2f}",
            "before retraining %": "" if p.accuracy_cut is None else f"{100 * p.accuracy_cut:.2f}",
            "of all %": f"{100 * p.sparsity_all:.2f}",
            **({"parameters": f"{p.params:,}", "multiply-adds": f"{p.macs:,}"} if sizes else {}),
            "torch us": _number(p.latency_us),
            "epochs": str(p.epochs),
            "seeds": str(p.seeds),
        }
        for p in rows
    ]


def asked(point: Point | Record) -> str:
    """What was asked for, as a label: ``0.9``, or ``threshold 0.05``."""
    return f"{point.level:g}" if point.threshold is None else f"threshold {point.threshold:g}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _digits(milliseconds: float | None) -> str:
    """Three digits, whatever the size."""
    if not milliseconds or milliseconds >= 100:
        return _number(milliseconds)
    return f"{milliseconds:.{2 - math.floor(math.log10(milliseconds))}f}"


def _times(point: Point) -> str:
    return "" if point.engine_speedup is None else f"{point.engine_speedup:.2f}"


def _percent(mean: float, std: float | None) -> str:
    return f"{100 * mean:.2f}" + ("" if std is None else f" +- {100 * std:.2f}")
