"""How many units each layer keeps: exact counts that add up to the budget.

An allocation sees the scores of all layers and the number of units to keep in all of them, and
answers with a number a layer.  Units that are pruned already have the score -inf and are never
kept before others; every layer keeps at least one unit, so no layer dies.
"""

import fnmatch
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from thrifty.errors import UserError
from thrifty.pruning.select import count_together, top
from thrifty.registry import call_spec, parse_spec, suggest

Scores = Mapping[str, Tensor]
Counts = dict[str, int]
BUDGETS = ("sparsity", "params", "macs", "bytes", "latency", "threshold")


@dataclass(frozen=True)
class Budget:
    """How much is kept, and of what: what "90 %" means is never implicit.

    - ``sparsity``: the share of prunable weights (or units) that is removed, 0 <= amount < 1.
    - ``params``: the share (below 1) or number (1 and more) of all parameters that is kept.
    - ``macs``, ``bytes``, ``latency``: the share (at most 1) of the dense network's that is kept,
      or the number of multiply-adds or bytes; for methods that remove channels.
    - ``threshold``: units whose score is at least ``amount`` are kept, however many they are; in
      a recipe, those that a gate keeps at the threshold ``amount``, in the words of its source.
    """

    amount: float
    of: Literal["sparsity", "params", "macs", "bytes", "latency", "threshold"] = "sparsity"

    def __post_init__(self) -> None:
        if self.of not in BUDGETS:
            raise UserError(f"a budget of {self.of!r} is not known; {suggest(self.of, BUDGETS)}")
        if not math.isfinite(self.amount):
            raise UserError(f"the budget is {self.amount}; it must be a finite number")
        if self.of == "sparsity":
            check_sparsity(self.amount)
        elif self.amount <= 0 and self.of != "threshold":  # scores may be below 0
            raise UserError(f"the budget of {self.of} is {self.amount}; it must be above 0")


def check_sparsity(value: float) -> None:
    """Refuse what is not a sparsity, saying what is."""
    if not 0 <= value < 1:
        hint = ""
        if 1 < value < 100:
            hint = f"; {value:g} % is written {value / 100:g}"
        elif value == 1:
            hint = "; 1 would leave no weight at all"
        raise UserError(
            f"a sparsity of {value:g} cannot be reached: it is the share of weights that become "
            f"zero, 0 <= sparsity < 1{hint}"
        )


Allocation = Callable[..., Counts]
"""(scores, units to keep, **options) -> units that each layer keeps, adding up."""

ALLOCATIONS: dict[str, Allocation] = {}


def allocation(name: str) -> Callable[[Allocation], Allocation]:
    """Register a function as the allocation ``name``."""

    def register(fn: Allocation) -> Allocation:
        ALLOCATIONS[name] = fn
        return fn

    return register


def allocate(
    scores: Scores, keep: int, how: str = "lamp", layers: Mapping[str, float] | None = None
) -> Counts:
    """Units that each layer keeps under the allocation spec ``how``, adding up to ``keep``.

    Args:
        scores: units of each layer, any shape, higher is more worth keeping, -inf is pruned.
        keep: units to keep in all layers together (``explicit`` takes its own instead).
        how: a name with options, such as ``"global?floor=0.02"``.
        layers: for ``explicit``: patterns of layer names to their sparsity.

    Raises:
        UserError: an unknown name or option, or fewer units than there are layers.
    """
    spec = parse_spec(how)
    if spec.name == "explicit":
        return explicit(scores, layers or {})
    if spec.name not in ALLOCATIONS:
        known = [*ALLOCATIONS, "explicit"]
        raise UserError(f"no allocation is called {spec.name!r}; {suggest(spec.name, known)}")
    live = alive(scores)
    total = sum(s.numel() for s in scores.values())
    if keep < len(scores):
        raise UserError(
            f"{keep} of {total} units cannot be shared by {len(scores)} layers, each of which "
            f"keeps at least one; the highest sparsity of this network is "
            f"{1 - len(scores) / total:.6f}"
        )
    if keep > sum(live.values()):
        raise UserError(
            f"{keep} units cannot be kept: {total - sum(live.values())} of {total} are pruned "
            f"already; ask for a sparsity of at least {1 - sum(live.values()) / total:.6f}"
        )
    return call_spec("allocation", spec, ALLOCATIONS[spec.name], scores, keep)


def alive(scores: Scores) -> Counts:
    """Units of each layer that are not pruned yet."""
    return {name: int((s != -math.inf).sum()) for name, s in scores.items()}


@allocation("uniform")
def uniform(scores: Scores, keep: int) -> Counts:
    """The same share of units in every layer."""
    total = sum(s.numel() for s in scores.values())
    return fit({name: s.numel() * keep / total for name, s in scores.items()}, keep, scores)


@allocation("uniform_plus")
def uniform_plus(scores: Scores, keep: int, last: float = 0.8) -> Counts:
    """Uniform, but the first layer stays whole and the last loses at most the share ``last``.

    References:
        Gale et al., The State of Sparsity, 2019, https://arxiv.org/abs/1902.09574
    """
    names = list(scores)
    wanted: dict[str, float] = {names[0]: float(scores[names[0]].numel())}
    rest = names[1:]
    share = _share(rest, scores, keep - wanted[names[0]])
    if len(rest) > 1 and 1 - share > last:
        final = rest.pop()
        wanted[final] = scores[final].numel() * (1 - last)
        share = _share(rest, scores, keep - sum(wanted.values()))
    wanted.update({name: scores[name].numel() * max(share, 0.0) for name in rest})
    return fit({name: wanted[name] for name in names}, keep, scores)


def _share(names: list[str], scores: Scores, keep: float) -> float:
    return keep / max(1, sum(scores[n].numel() for n in names))


@allocation("global")
def global_(scores: Scores, keep: int, floor: float = 0.01) -> Counts:
    """The best units of the whole network, wherever they are, above a floor in every layer.

    Args:
        floor: share of its units that a layer keeps whatever their scores; lowered in
            proportion where the budget is smaller than all floors together.  With 0 a layer
            still keeps one unit.
    """
    total = sum(s.numel() for s in scores.values())
    floor = min(floor, 0.5 * keep / total)
    live = alive(scores)
    lowest = {n: min(live[n], max(1, int(floor * s.numel()))) for n, s in scores.items()}
    if sum(lowest.values()) > keep:
        return fit({n: float(v) for n, v in lowest.items()}, keep, scores)
    counts = dict(zip(scores, count_together(list(scores.values()), keep), strict=True))
    if all(counts[n] >= lowest[n] for n in scores):
        return counts
    raised = [
        torch.where(top(s, lowest[n]), torch.inf, s.to(torch.float32)) for n, s in scores.items()
    ]
    return dict(zip(scores, count_together(raised, keep), strict=True))


@allocation("lamp")
def lamp(scores: Scores, keep: int) -> Counts:
    """Global over each unit's share of what is left when all smaller ones of its layer are gone.

    With scores s in ascending order the LAMP score is s_u^2 / sum over v >= u of s_v^2.  The
    largest of a layer has 1, so no layer is emptied.

    References:
        Lee et al., Layer-adaptive Sparsity for the Magnitude-based Pruning, 2021,
        https://arxiv.org/abs/2010.07611 (equation 4)
    """
    return dict(
        zip(scores, count_together([lamp_scores(s) for s in scores.values()], keep), strict=True)
    )


def lamp_scores(scores: Tensor) -> Tensor:
    """LAMP score of every unit of one layer, flat, float32; -inf where the unit is pruned."""
    flat = scores.detach().flatten().to("cpu", torch.float32)
    dead = flat == -torch.inf
    squares = flat.masked_fill(dead, 0.0)
    peak = squares.abs().max()
    if peak > 0:
        squares = squares / peak
    squares = squares.double().square()
    order = squares.argsort(stable=True)
    tail = squares[order].flip(0).cumsum(0).flip(0)
    out = torch.empty_like(flat)
    out[order] = torch.where(tail > 0, squares[order] / tail, 0.0).float()
    if peak <= 0 and bool((~dead).any()):
        out[int((~dead).nonzero()[0])] = 1.0
    out[dead] = -torch.inf
    return out


@allocation("erk")
def erk(scores: Scores, keep: int) -> Counts:
    """Density in proportion to (sum of a layer's dimensions) / (their product).

    Layers whose density would exceed 1 stay whole, and the rest is solved again.  Scores pooled
    to units keep their dimensions with size 1, so the shape counted is that of the units.

    References:
        Evci et al., Rigging the Lottery, 2020, https://arxiv.org/abs/1911.11134 (section 3)
    """
    sizes = {name: s.numel() for name, s in scores.items()}
    raw = {name: sum(s.shape) / s.numel() for name, s in scores.items()}
    whole: set[str] = set()
    while True:
        left = [n for n in scores if n not in whole]
        spread = sum(raw[n] * sizes[n] for n in left)
        eps = (keep - sum(sizes[n] for n in whole)) / spread if left else 0.0
        over = [n for n in left if eps * raw[n] > 1]
        if not over:
            break
        whole.update(over)
    wanted = {n: float(sizes[n]) if n in whole else eps * raw[n] * sizes[n] for n in scores}
    return fit(wanted, keep, scores)


def explicit(scores: Scores, layers: Mapping[str, float]) -> Counts:
    """The sparsity given for each layer; a layer that no pattern matches stays whole.

    Args:
        layers: patterns as in a shell (``fc*``) or exact names, to sparsities; of several
            patterns that match, the last one given counts.

    Raises:
        UserError: no patterns, a pattern that matches no layer, or a value outside 0 <= s < 1.
    """
    if not layers:
        raise UserError(
            "the allocation 'explicit' needs layers, such as {'fc*.weight': 0.9}; "
            f"the layers are {', '.join(scores)}"
        )
    chosen: dict[str, float] = {}
    for pattern, sparsity in layers.items():
        check_sparsity(sparsity)
        for name in matching([pattern], scores):
            chosen[name] = sparsity
    live = alive(scores)
    return {
        n: min(live[n], max(1, round(s.numel() * (1 - chosen.get(n, 0.0)))))
        for n, s in scores.items()
    }


def matching(
    patterns: "list[str] | tuple[str, ...]", names: "Mapping[str, object] | list[str]"
) -> list[str]:
    """The names that a pattern matches, with or without the ``.weight`` at their end.

    Raises:
        UserError: a pattern matches nothing; the message offers close names.
    """
    found: list[str] = []
    for pattern in patterns:
        hits = [
            n
            for n in names
            if fnmatch.fnmatchcase(n, pattern)
            or fnmatch.fnmatchcase(n.removesuffix(".weight"), pattern)
        ]
        if not hits:
            raise UserError(f"{pattern!r} matches no prunable layer; {suggest(pattern, names)}")
        found += hits
    return list(dict.fromkeys(found))


def fit(wanted: Mapping[str, float], keep: int, scores: Scores) -> Counts:
    """Whole numbers near ``wanted`` that add up to ``keep``, at least 1, at most what is alive.

    What rounding and the bounds take or leave is spread over the layers that have room, in
    proportion to what they wanted; of equal claims the first layer wins.
    """
    live = alive(scores)
    low = {n: min(1, live[n]) for n in wanted}
    fixed: Counts = {}
    free = dict(wanted)
    while True:
        left = keep - sum(fixed.values())
        claim = sum(free.values())
        scale = left / claim if claim > 0 else 0.0
        over = {n: live[n] for n, w in free.items() if w * scale >= live[n]}
        under = {n: low[n] for n, w in free.items() if w * scale < low[n]}
        excess = sum(free[n] * scale - over[n] for n in over)
        lack = sum(under[n] - free[n] * scale for n in under)
        bound = over if over and excess >= lack else under
        if not bound or not free:
            break
        fixed.update(bound)
        free = {n: w for n, w in free.items() if n not in bound}
    counts = dict(fixed) | {n: math.floor(w * scale) for n, w in free.items()}
    spare = keep - sum(counts.values())
    fraction = sorted(free, key=lambda n: math.floor(free[n] * scale) - free[n] * scale)
    for name in [*fraction, *(n for n in wanted for _ in range(live[n]))]:
        if spare <= 0:
            break
        if counts[name] < live[name]:
            counts[name] += 1
            spare -= 1
    return {n: counts[n] for n in wanted}
