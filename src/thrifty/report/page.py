"""The report of a front as one HTML file; :mod:`thrifty.report.sheet` lays it out."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from thrifty.lab.front import Front
from thrifty.registry import call_spec, parse_spec
from thrifty.report import REPORTS
from thrifty.report.charts.networks import several
from thrifty.report.gate_states import problems
from thrifty.report.headline import MAX_DROP, engine_text, headline, latency_text
from thrifty.report.parts import method_colors, methods, pair_name, pairs
from thrifty.report.render import Drawn
from thrifty.report.rows import point_rows
from thrifty.report.sheet import Part, figure, lacking, section, table, write_sheet

FRONTS = (
    "front",
    "front?of=sparsity_conv",
    "front?of=packed_bytes",
    "front?of=bytes",
    "front?of=engine_ms",
    "front?of=latency_us",
)
ORDER = ("threshold", "gates", "layers", "agreement", "seeds")
GATED = ("threshold", "gates")
"""Reports that only some fronts have something for."""
Draw = Callable[[str, Front], Drawn]
"""Draws the chart of a spec such as ``front?of=bytes`` for a front or a part of it."""
ALL = "networks"
"""The report of networks of different kinds, which a page begins with."""

TABLE_NOTE = (
    "Means over seeds, +- one standard deviation. Bold: no other pruned network is as accurate in "
    "fewer bytes. Highlighted: the smallest within half a point of its dense parent. Select a "
    "heading to sort by it."
).replace("+-", "\u00b1")

TERMS = {
    "sparsity": "The share of the dense parent's prunable weights that are zero or gone, counted; "
    '"of all" counts among all its parameters, biases and norms too.',
    "drop": "Points of accuracy lost against the dense parent of the same seed; a negative drop is "
    "a gain.",
    "agreement": "The share of test inputs given the same class as by the dense parent, right or "
    "wrong.",
    "control": "The dense parent trained on, uncut, for as many epochs as networks pruned level by "
    "level got. What it gains is not due to pruning.",
    "before retraining": "The accuracy right after the cut, when the weights that are left have "
    "not yet been trained further.",
    "packed bytes": "The size of the network's .thrifty file, weights bit for bit and the program "
    "that runs them, for dense and pruned networks alike.",
    "bytes": "The size of the compressed safetensors file, for dense and pruned networks alike.",
    "engine ms, speedup": "Milliseconds for one input (batch 1) on one thread of thrifty's engine, "
    "which leaves zeros out, and how many times as fast that is as the dense parent in the same "
    "engine.",
    "torch us": "Microseconds for one input in eager torch, which multiplies by zeros too.",
    "parameters, multiply-adds": "What the network holds, zeros among it, and what a dense runtime "
    "does with it for one input. Zeros are held and multiplied by like other weights; channels "
    "that are gone are not.",
    "front, knee": "The networks that no other beats in accuracy and cost together; the knee is "
    "where they bend most.",
}

GATE_TERMS = {
    "gate, open": "What a channel's output passes through; training learns how far it is open, 0 "
    "to 1, and the incentive is the penalty that closes those of little use.",
    "threshold": "What the score of its gate must pass for a channel, or a weight, to stay.",
}
"""Terms of the pages that show gates or thresholds."""


def default_charts(front: Front) -> list[str]:
    """The charts worth drawing: the front over each measured cost, then every other report.

    The sparsity of the convolutions is worth one where one of several methods removes channels,
    and the compressed size where some network was not packed.  Gates and thresholds are drawn
    where there are any, and networks of different kinds on one data set together.
    """
    timed = any(r.latency_us is not None for r in front.records)
    engine = any(r.engine_ms is not None for r in front.records)
    packed = {part.size == "packed_bytes" for part in pairs(front)} or {False}
    filters = any(
        part.smaller and len(methods(part)) > 1 and point_rows(part, "accuracy", "sparsity_conv")
        for part in pairs(front)
    )
    wanted = {
        "front?of=sparsity_conv": filters,
        "front?of=packed_bytes": True in packed,
        "front?of=bytes": False in packed,
        "front?of=engine_ms": engine,
        "front?of=latency_us": timed,
        "threshold": any(r.threshold is not None for r in front.records),
        "gates": any(part.readings for part in pairs(front)),
    }
    first = [ALL] if several(front) else []
    if not front.pruned:  # networks that were only trained
        return first + [name for name in GATED if wanted[name]]
    fronts = [name for name in FRONTS if wanted.get(name, True)]
    others = (n for n in REPORTS.names() if n not in ("front", ALL) and wanted.get(n, True))
    return first + fronts + sorted(others, key=_rank)


def _rank(name: str) -> tuple[int, str]:
    return (ORDER.index(name) if name in ORDER else len(ORDER)), name


def drawn(name: str, front: Front, colors: Mapping[str, str] | None = None) -> Any:
    """The chart of a spec such as ``front?of=bytes``.

    Raises:
        UnknownName: there is no such report, or it has no such option.
        MissingExtra: altair is not installed.
    """
    spec = parse_spec(name)
    return call_spec("report", spec, REPORTS.get(spec.name), front, defaults={"colors": colors})


def drawer(front: Front) -> Draw:
    """Draws charts of ``front`` and of its parts in the colours of the whole, none twice.

    The whole is its only part where there is one model on one data set.
    """
    colors, only = method_colors(front), len(pairs(front)) < 2
    made: dict[tuple[str, ...], Drawn] = {}

    def draw(name: str, part: Front) -> Drawn:
        whole = only or part is front
        place = (name,) if whole else (name, part.records[0].model, part.records[0].data)
        if place not in made:
            made[place] = Drawn(drawn(name, part, colors))
        return made[place]

    return draw


def write_page(
    front: Front,
    path: Path,
    *,
    title: str,
    conditions: Mapping[str, object],
    charts: Sequence[str] | None = None,
    draw: Draw | None = None,
) -> None:
    """Write the report as one HTML file, whole or not at all.

    Without the extra ``report`` the page has everything but charts, and says how to get them.

    Args:
        front: what was measured; each model and data set gets a section.
        path: the file to write.
        title: the heading.
        conditions: what the numbers hold for (machine, threads, versions); under ``recipe`` the
            recipe, as YAML text or as a mapping.
        charts: specs of reports, in order; :func:`default_charts` if not given.
        draw: of :func:`drawer`, to write what it draws to other files too.

    Raises:
        UnknownName: a chart is not registered.
    """
    names = default_charts(front) if charts is None else list(charts)
    colors = method_colors(front)
    parts = pairs(front) or [front]
    together = [name for name in names if parse_spec(name).name == ALL]
    names = [name for name in names if name not in together]
    named = [names if charts is not None else _worth(part, names) for part in parts]
    if lacking():  # the page says how to get them
        together, named = [], [[] for _ in parts]
    draw = draw or drawer(front)
    sections = [_section(part, own, colors, draw) for part, own in zip(parts, named, strict=True)]
    if together:
        sections.insert(0, section("All networks", (), [_chart(n, front, draw) for n in together]))
    gated = set(GATED) & set(default_charts(front))
    terms = TERMS | GATE_TERMS if gated else TERMS
    write_sheet(path, title=title, sections=sections, conditions=conditions, terms=terms)


def _worth(front: Front, names: Sequence[str]) -> list[str]:
    """``names`` without the reports that one model and data set has nothing for."""
    own = default_charts(front)
    if not front.pruned:  # a network that was only trained is in the picture of all
        return own
    return [name for name in names if name not in GATED or name in own]


def _section(front: Front, names: Sequence[str], colors: Mapping[str, str], draw: Draw) -> Part:
    """What the page shows of one model and data set."""
    charts = [_chart(name, front, draw) for name in names] if front.records else []
    return section(pair_name(front), headline(front), charts, [_table(front, colors)])


def _chart(name: str, front: Front, draw: Draw) -> Part:
    spec = parse_spec(name)
    texts = {"latency_us": latency_text, "engine_ms": engine_text}
    told = texts.get(str(spec.options.get("of")))
    about = told(front) if told is not None else problems(front) if spec.name == "gates" else ""
    whose = "all" if spec.name == ALL else pair_name(front)
    summary = f"{REPORTS.summary(spec.name)} ({whose})"
    return figure(draw(name, front), summary, about)


def _table(front: Front, colors: Mapping[str, str]) -> Part:
    best = {_id(p) for p in front.pareto(front.size)}
    pruned = front.pruned
    good = [p for p in pruned if p.drop <= MAX_DROP]
    pick = _id(front.pick(MAX_DROP)) if good else None

    def marks(number: int) -> Part:
        point = front.points[number]
        return {
            "color": colors.get(point.method, ""),
            "best": point in pruned and _id(point) in best,
            "pick": point in pruned and _id(point) == pick,
        }

    return table("Every point", front.table(), TABLE_NOTE, marks)


def _id(point: Any) -> tuple[str, float]:
    """What tells a point from the others of its model and data set."""
    return point.method, point.level
