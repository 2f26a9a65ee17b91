"""What all charts share: how a front is split, what each method looks like, rows to draw."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from thrifty.lab.front import Front
from thrifty.lab.naming import titled
from thrifty.lab.records import CONTROL, DENSE

CONTROL_NAME = "dense, trained on"
DENSE_COLOR, CONTROL_COLOR = "#3d3d3d", "#8a8a8a"

# Okabe & Ito, Color Universal Design, 2008, https://jfly.uni-koeln.de/color/ without black (the
# dense parent is grey) and with its yellow darkened, which is not seen on white.
# The last is a violet of our own, for an eighth method.
COLORS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c7a00", "#6a3d9a",
)  # fmt: skip
# Seven shapes to eight colours: 56 methods differ, and few methods differ without any colour.
SHAPES = (
    "circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right",
)  # fmt: skip


def pairs(front: Front) -> list[Front]:
    """The front of each model and data set, in first-seen order; none for an empty front."""
    groups: dict[tuple[str, str], list[Any]] = {}
    for record in front.records:
        groups.setdefault((record.model, record.data), []).append(record)
    return [
        Front(
            tuple(group),
            front.where,
            tuple(r for r in front.readings if (r.model, r.data) == pair),
        )
        for pair, group in groups.items()
    ]


def pair_name(front: Front) -> str:
    """What is measured in a front of one pair: ``lenet on digits``."""
    if not front.records:
        return "nothing measured"
    return titled(front.records[0].model, front.records[0].data)


def methods(front: Front) -> list[str]:
    """The pruning methods, in first-seen order."""
    found = dict.fromkeys(r.method for r in front.records)
    return [name for name in found if name not in (DENSE, CONTROL)]


def method_colors(front: Front) -> dict[str, str]:
    """A colour for each method of the whole front, to give to the charts of its parts."""
    return {name: COLORS[i % len(COLORS)] for i, name in enumerate(methods(front))}


def method_shapes(names: Iterable[str]) -> dict[str, str]:
    """A point shape for each method, so that colour is never the only difference."""
    return {name: SHAPES[i % len(SHAPES)] for i, name in enumerate(names)}


def finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """``row`` with NaN and infinities as ``None``: JSON has no word for them."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }


def seeds_text(front: Front) -> str:
    """How many seeds the means are of: ``one seed``, ``3 seeds``, ``1 to 3 seeds``."""
    counts = [p.seeds for p in front.points if p.method != CONTROL] or [0]
    low, high = min(counts), max(counts)
    if low != high:
        return f"{low} to {high} seeds"
    return "one seed" if high == 1 else f"{high} seeds"
