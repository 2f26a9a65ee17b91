"""What the gates of one network said, ready to be drawn: a column for each way it was trained.

Gates of several seeds cannot be averaged channel by channel, for channels of two trainings have
nothing to do with each other.  So one seed is drawn, and means over all of them are told.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from thrifty.lab.front import Front
from thrifty.lab.gate_readings import Reading
from thrifty.lab.records import deviation
from thrifty.registry import parse_spec

CLOSED = 1e-3
"""A block whose gates are open less than this on the mean passes on what comes in."""


@dataclass(frozen=True)
class State:
    """One network and the scores of its gates."""

    title: str
    about: str
    values: Mapping[str, tuple[float, ...]]
    carries: bool = False
    """Whether a path goes around what is gated, as in a highway network."""


def states(front: Front, seed: int | None = None) -> list[State]:
    """A state for each run, method and gate: those trained without an incentive first, in each
    run where every run has several, else of all.

    Args:
        front: of one model and data set.
        seed: whose channels are drawn; the first that all states have if ``None``.
    """
    groups: dict[tuple[str, str, str], list[Reading]] = {}
    for reading in front.readings:
        if reading.values:
            groups.setdefault((reading.run, reading.method, reading.gate), []).append(reading)
    found = [sorted(group, key=lambda r: r.seed) for group in groups.values()]
    found = _different(sorted(found, key=lambda group: group[0].strength or 0.0))
    runs = [group[0].run for group in found]
    if all(runs.count(run) > 1 for run in runs):
        found.sort(key=lambda group: runs.index(group[0].run))
    shown = seed if seed is not None else _common(found)
    titles = _titles([group[0] for group in found])
    return [_state(title, group, shown) for title, group in zip(titles, found, strict=True)]


def problems(front: Front) -> str:
    """What is wrong with the files of gates that could not be read, and what to do."""
    found = dict.fromkeys(r.problem for r in front.readings if r.problem)
    return " ".join(f"{problem[:1].upper()}{problem[1:]}." for problem in found)


def left_out(front: Front) -> list[str]:
    """The steps whose files of gates could not be read, in a line that has room in a picture."""
    steps = list(dict.fromkeys(f"{r.run}/steps/{r.step}" for r in front.readings if r.problem))
    if not steps:
        return []
    more = f" and {len(steps) - 1} more" if steps[1:] else ""
    return [f"Left out, for what its gates said cannot be read: {steps[0]}{more}."]


def what(front: Front) -> str:
    """What the scores are, in words."""
    specs = [parse_spec(r.gate) for r in front.readings if r.values]
    names = {spec.name for spec in specs}
    scores = {str(spec.options.get("score", "mean")) for spec in specs}
    changes = {spec.options.get("of") == "change" for spec in specs}
    if names == {"highway"} and changes == {True}:
        return "how much of what a block writes is its own"
    if names == {"highway"} and changes == {False} and len(scores) == 1:
        (score,) = scores
        return "mean of the gate T" if score == "mean" else f"{score.lstrip('q')} % quantile of T"
    if names == {"l0_channels"}:
        return "probability of an open gate"
    return "openness of the gate"


def closed(state: State) -> list[str]:
    """The layers whose gates are as good as closed, all of them."""
    return [
        name for name, found in state.values.items() if found and statistics.fmean(found) < CLOSED
    ]


def _state(title: str, group: Sequence[Reading], seed: int) -> State:
    drawn = next((r for r in group if r.seed == seed), group[0])
    means = [_mean(reading) for reading in group]
    about = f"seed {drawn.seed}: mean {_mean(drawn):.2g}"
    if len(group) > 1:
        spread = deviation(means) or 0.0
        about += f"; {len(group)} seeds: {statistics.fmean(means):.2g} \u00b1 {spread:.1g}"
    return State(title, about, drawn.values, parse_spec(drawn.gate).name == "highway")


def _mean(reading: Reading) -> float:
    return statistics.fmean(v for found in reading.values.values() for v in found)


def _different(groups: Sequence[list[Reading]]) -> list[list[Reading]]:
    """Without a group that repeats another: a parent that was measured and not trained further."""
    found: list[list[Reading]] = []
    for group in groups:
        like = [dict(r.values) for r in group]
        if like not in [[dict(r.values) for r in other] for other in found]:
            found.append(group)
    return found


def _common(groups: Sequence[Sequence[Reading]]) -> int:
    """The smallest seed of all groups; the smallest of any if they have none together."""
    seeds = [{r.seed for r in group} for group in groups] or [{0}]
    return min(set.intersection(*seeds) or set.union(*seeds))


def _titles(firsts: Sequence[Reading]) -> list[str]:
    """The incentive of each, with as much of run, method and gate as tells them apart."""
    several = len({r.run for r in firsts}) > 1
    titles = [(f"{r.run}: " if several else "") + _incentive(r) for r in firsts]
    for extra in ("method", "gate"):
        titles = [
            f"{title}, {getattr(r, extra)}" if titles.count(title) > 1 else title
            for title, r in zip(titles, firsts, strict=True)
        ]
    return titles


def _incentive(reading: Reading) -> str:
    if reading.strength is None:
        return "gates"
    if not reading.strength:
        return "without incentive"
    cost = parse_spec(reading.gate).options.get("cost")
    return f"incentive {reading.strength:g}" + (f" on {cost}" if cost else "")
