"""The rows that charts draw, as plain values: means, single seeds, references, and tooltips."""

import math
from collections.abc import Sequence
from typing import Any, Literal

from thrifty.errors import UserError
from thrifty.lab.front import COSTS, SPARSITIES, Cost, Front
from thrifty.lab.records import Point, Record, deviation
from thrifty.registry import suggest
from thrifty.report.parts import CONTROL_NAME, finite, methods
from thrifty.report.units import percent, quantity, sparsity_percent

Share = Literal["accuracy", "agreement"]
Row = dict[str, Any]
NEAR = 0.05
"""What loses more than this share is outside the zoomed panel."""


def check_cost(of: str) -> None:
    """Refuse a cost that nothing measures.

    Raises:
        UserError: ``of`` is none of :data:`thrifty.lab.front.COSTS`.
    """
    if of not in COSTS:
        raise UserError(f"no cost is called {of!r}; {suggest(of, COSTS)}")


def place(row: Point | Record, of: Cost) -> float | None:
    """Where on the log axis ``row`` is drawn, ``None`` if its cost was not measured.

    The axis of a sparsity is the density, 1 - sparsity; a network that kept no weight is put
    where half a weight would be, because a log axis has no zero.
    """
    value = getattr(row, of)
    if of in SPARSITIES:
        return None if value is None else max(1 - value, 0.5 / max(row.params, 1))
    return float(value) if value is not None and value > 0 else None


def point_rows(front: Front, share: Share, of: Cost) -> list[Row]:
    """A row for each pruned point whose cost was measured; ``beaten`` if not on the front."""
    best = {(p.method, p.level) for p in front.pareto(of)}
    return [
        _row(front, point, share, x) | {"beaten": (point.method, point.level) not in best}
        for point in front.pruned
        if (x := place(point, of)) is not None
    ]


def reference_rows(front: Front, share: Share, of: Cost) -> list[Row]:
    """A row for the dense parent and one for the control, as far as there are any."""
    named = [("dense", front.dense), (CONTROL_NAME, front.control)]
    return [
        _row(front, point, share, place(point, of)) | {"method": name}
        for name, point in named
        if point is not None and (share, name) != ("agreement", "dense")
    ]


def seed_rows(front: Front, share: Share, of: Cost) -> list[Row]:
    """A row for each pruned network of one seed."""
    pruned = set(methods(front))
    return [
        finite({
            "method": record.method,
            "seed": record.seed,
            "x": x,
            "y": getattr(record, share),
            "sparsity": sparsity_percent(record.sparsity),
            share: percent(getattr(record, share)),
        })
        for record in front.records
        if record.method in pruned and (x := place(record, of)) is not None
    ]  # fmt: skip


def tooltip(point: Point) -> Row:
    """Every number of ``point`` as text with its unit; what was not measured is left out."""
    spread = "" if point.accuracy_std is None else f" +- {100 * point.accuracy_std:.2f}"
    texts = {
        "threshold": None if point.threshold is None else f"{point.threshold:g}",
        "sparsity": sparsity_percent(point.sparsity),
        "of convolutions": None
        if point.sparsity_conv is None
        else sparsity_percent(point.sparsity_conv),
        "accuracy": percent(point.accuracy) + spread,
        "lost against the parent": f"{100 * point.drop:+.2f} points",
        "before retraining": None if point.accuracy_cut is None else percent(point.accuracy_cut),
        "agreement": percent(point.agreement),
        "packed size": point.packed_bytes and quantity(point.packed_bytes, "packed_bytes"),
        "compressed size": quantity(point.bytes, "bytes"),
        "in the engine": point.engine_ms and _engine(point),
        "in eager torch": point.latency_us and quantity(point.latency_us, "latency_us"),
        "parameters": f"{point.params:,}, {point.nonzero:,.0f} not zero",
        "multiply-adds": f"{point.macs:,}, {point.macs_nonzero:,.0f} with a weight not zero",
        "epochs": str(point.epochs),
        "seeds": str(point.seeds),
    }
    return {key: text for key, text in texts.items() if text}


def _engine(point: Point) -> str:
    text = quantity(point.engine_ms or 0.0, "engine_ms")
    if point.engine_speedup is None:
        return text
    return f"{text}, {point.engine_speedup:.2f} times as fast as dense"


def domain(shares: Sequence[float]) -> tuple[float, float]:
    """Ends of a share axis around ``shares``: some air, on half points, within 0 and 1."""
    if not shares:
        return 0.0, 1.0
    low, high = min(shares), max(shares)
    air = max(0.04 * (high - low), 0.001)
    low, high = math.floor(200 * (low - air)) / 200, math.ceil(200 * (high + air)) / 200
    return max(0.0, low), min(1.0, high)


def zoomed(useful: Sequence[float], others: Sequence[float], best: float) -> bool:
    """Whether the top of the share axis deserves its own panel.

    Args:
        useful: the shares of the retrained networks.
        others: what must be visible too, such as the accuracy before retraining.
        best: the share of the reference.
    """
    near = [s for s in useful if s >= best - NEAR]
    return bool(near) and best - min([*useful, *others]) > 1.6 * NEAR


def _row(front: Front, point: Point, share: Share, x: float | None) -> Row:
    mean = getattr(point, share)
    spread = _spread(front, point, share)
    return finite({
        "method": point.method,
        "level": point.level,
        "x": x,
        "y": mean,
        "low": mean - spread,
        "high": mean + spread,
        "cut": point.accuracy_cut if share == "accuracy" else None,
        **tooltip(point),
    })  # fmt: skip


def _spread(front: Front, point: Point, share: Share) -> float:
    of = (point.method, point.level)
    return deviation([getattr(r, share) for r in front.records if (r.method, r.level) == of]) or 0.0
