"""What was found, in sentences: the first thing on a page and the last line of a run."""

from collections.abc import Iterable, Sequence

from thrifty.errors import UserError
from thrifty.lab.front import Front
from thrifty.lab.records import Point
from thrifty.report.parts import pair_name
from thrifty.report.units import percent, points_text, quantity, sparsity_percent

MAX_DROP = 0.005
NOISE = 0.05
"""Latencies that differ by less than this share are called equal."""


def headline(front: Front) -> list[str]:
    """The findings on a front of one model and data set, the most important first."""
    found = [_dense(front), _smallest(front), _fastest(front), _smaller(front), _knee(front)]
    found += [_control(front), _trust(front)]
    return [sentence for sentence in found if sentence]


def engine_text(front: Front) -> str:
    """What thrifty's engine takes for the dense and the pruned networks; empty if not timed."""
    dense = front.dense
    timed = [p for p in front.pruned if p.engine_ms is not None]
    if dense is None or dense.engine_ms is None or not timed:
        return ""
    times = [p.engine_ms or 0.0 for p in timed]
    ends = [quantity(t, "engine_ms") for t in (min(times), max(times))]
    text = (
        f"Thrifty's engine takes {quantity(dense.engine_ms, 'engine_ms')} for one input of the "
        f"dense network, and {' to '.join(dict.fromkeys(ends))} for one of the pruned ones (batch "
        "1, one thread; the machine is under Conditions)."
    )
    slow = [p for p in timed if (p.engine_speedup or 1.0) < 1 - NOISE]
    if slow:
        worst = min(slow, key=lambda p: p.engine_speedup or 1.0)
        text += (
            f" {len(slow)} of {len(timed)} points are slower than the dense network there, "
            f"{_named(worst)} most, at {worst.engine_speedup:.2f} times its speed."
        )
    whys = _prevented(front)
    return text + (f" Some were not timed: {whys}." if whys else "")


def _fastest(front: Front) -> str:
    """The fastest in the engine within half a point; why there are no times, if there are none."""
    timed = [p for p in front.pruned if p.engine_speedup is not None]
    if not timed:
        whys = _prevented(front)
        return f"Nothing was timed in thrifty's engine: {whys}." if whys else ""
    good = [p for p in timed if p.drop <= MAX_DROP]
    if not good:
        return ""
    best = max(good, key=lambda p: (p.engine_speedup or 0.0, p.accuracy))
    if (best.engine_speedup or 0.0) <= 1 + NOISE:
        return "In thrifty's engine no pruned network within half a point is faster than the dense."
    return (
        f"The fastest within half a point is {_named(best)}: thrifty's engine takes "
        f"{quantity(best.engine_ms or 0.0, 'engine_ms')} for one input on one thread, "
        f"{best.engine_speedup:.1f} times as fast as the dense network there."
    )


def _prevented(front: Front) -> str:
    return "; ".join(dict.fromkeys(r.engine_why for r in front.records if r.engine_why))


def latency_text(front: Front) -> str:
    """What the latencies do and do not show; empty if none was measured."""
    dense = front.dense
    times = [p.latency_us for p in front.pruned if p.latency_us is not None]
    if dense is None or dense.latency_us is None or not times:
        return ""
    ends = [quantity(t, "latency_us") for t in (min(times), max(times))]
    measured = (
        f"Eager torch takes {quantity(dense.latency_us, 'latency_us')} for one input of the dense "
        "network (batch 1; machine and threads are under Conditions), and "
        f"{' to '.join(dict.fromkeys(ends))} for one of the pruned ones."
    )
    noise = max(NOISE, _latency_noise(front))
    if all(abs(t / dense.latency_us - 1) <= noise for t in times):
        measured += f" That is the same within the noise of {100 * noise:.0f} %: no speed was won."
    small = [p for p in front.smaller if p.latency_us is not None]
    fast = min(small, key=lambda p: p.latency_us or 0.0, default=None)
    if fast is not None and (fast.latency_us or 0.0) < (1 - noise) * dense.latency_us:
        measured += (
            f" The fastest that has channels removed, {_named(fast)}, takes "
            f"{(fast.latency_us or 0.0) / dense.latency_us:.2f} of the dense network's time with "
            f"{fast.macs / dense.macs:.2g} of its multiply-adds."
        )
    if all(p in small for p in front.pruned):
        return measured
    whole = "" if not small else f" ({_names(p for p in front.pruned if p not in small)})"
    return measured + (
        f" Masks alone{whole} do not make a dense runtime faster: it multiplies by the zeros too, "
        "so a difference here is not an effect of pruning."
    )


def _latency_noise(front: Front) -> float:
    """Half the range of the dense networks' latencies over seeds, as a share of their mean."""
    times = [r.latency_us for r in front.records if r.method == "dense" and r.latency_us]
    return 0.0 if len(times) < 2 else (max(times) - min(times)) / (2 * sum(times) / len(times))


def _dense(front: Front) -> str:
    if not front.records:
        return "Nothing was measured yet."
    dense = front.dense
    if dense is None:
        return f"No dense parent of {pair_name(front)} was measured."
    spread = "" if dense.accuracy_std is None else f" +- {100 * dense.accuracy_std:.2f}"
    mean = f" (mean of {dense.seeds} seeds)" if dense.seeds > 1 else " (one seed)"
    return (
        f"The dense {pair_name(front)} is right on {100 * dense.accuracy:.2f}{spread} % of the "
        f"test inputs{mean} and takes {_size(front, dense)} on disk, {_how(front)}."
    )


def _smallest(front: Front) -> str:
    if not front.pruned:
        return "No pruned network was measured yet." if front.records else ""
    try:
        best = front.pick(MAX_DROP)
    except UserError:
        near = min(front.pruned, key=lambda p: p.drop)
        return (
            f"No pruned network stays within half a point of its dense parent; the nearest, "
            f"{_named(near)}, loses {points_text(near.drop)}."
        )
    return f"The smallest within half a point is {_named(best)}: {_saved(front, best)}."


def _smaller(front: Front) -> str:
    """What removing channels won, where some were removed."""
    dense, small = front.dense, front.smaller
    if dense is None or not small:
        return ""
    names = _names(small)
    good = [p for p in small if p.drop <= MAX_DROP]
    if not good:
        return f"No network that has channels removed ({names}) stays within half a point."
    best = min(good, key=lambda p: (p.macs, -p.accuracy))
    return (
        f"Of the networks that have channels removed ({names}), the one of fewest multiply-adds "
        f"within half a point is {_named(best)}: {quantity(best.macs, 'macs')} of "
        f"{quantity(dense.macs, 'macs')} multiply-adds for one input, {best.params:,} of "
        f"{dense.params:,} parameters."
    )


def _names(some: Iterable[Point]) -> str:
    return ", ".join(dict.fromkeys(p.method for p in some))


def _saved(front: Front, point: Point) -> str:
    change = f"{'loses' if point.drop > 0 else 'gains'} {points_text(point.drop)}"
    if round(point.drop, 4) == 0:
        change = "loses nothing"
    text = f"it {change} and takes {_size(front, point)}"
    dense = front.dense
    if dense is None or not getattr(point, front.size):
        return text
    times = getattr(dense, front.size) / getattr(point, front.size)
    if times <= 1:
        return text + ", which saves nothing"
    shown = f"{times:.0f}" if times >= 9.95 else f"{times:.1f}"
    return text + f", {shown} times less than the dense network"


def _size(front: Front, point: Point) -> str:
    return quantity(getattr(point, front.size), front.size)


def _how(front: Front) -> str:
    return "packed" if front.size == "packed_bytes" else "compressed"


def _knee(front: Front) -> str:
    knee = front.knee()
    if knee is None:
        return ""
    return (
        f"Accuracy falls fastest beyond {_named(knee)}, the knee of the front, "
        f"at {percent(knee.accuracy)}."
    )


def _control(front: Front) -> str:
    dense, control = front.dense, front.control
    if dense is None or control is None:
        return ""
    gain = control.accuracy - dense.accuracy
    text = (
        f"The control, the dense network trained on for {control.epochs} more epochs, is at "
        f"{percent(control.accuracy)}"
    )
    if gain > 0:
        text += (
            f", so gains of up to {points_text(gain)} come from longer training, not from pruning"
        )
    return text + "."


def _trust(front: Front) -> str:
    counts: Sequence[int] = [p.seeds for p in front.pruned]
    if counts and max(counts) == 1:
        return "There is one seed only, so no spread is known: small differences may be chance."
    return ""


def _named(point: Point) -> str:
    return f"{point.method} at {sparsity_percent(round(point.sparsity, 4))} sparsity"
