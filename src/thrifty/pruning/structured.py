"""Choose the channels that go: score the units of every group, and meet a budget exactly.

Scores, allocations and criteria are those of single weights; what is new is that a unit has
several tensors, and that a budget is met by asking what is left would cost, after every change.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from thrifty.channels.costs import Costs, Sizes
from thrifty.channels.finding import groups as find_groups
from thrifty.channels.groups import Group, Groups, Kept, Member
from thrifty.channels.shrinking import surgery
from thrifty.channels.trace import tensors_in
from thrifty.errors import UserError
from thrifty.pruning.allocation import Budget, allocate, matching
from thrifty.pruning.criteria import CRITERIA
from thrifty.pruning.evidence import Batch, gather
from thrifty.pruning.gates import has_own_units
from thrifty.pruning.gates.units import by_slice
from thrifty.pruning.layers import EVIDENCE, Layer, prunable
from thrifty.pruning.masks import Masks
from thrifty.pruning.methods import METHODS, Method
from thrifty.pruning.select import top
from thrifty.registry import parse_spec

if TYPE_CHECKING:
    from thrifty.data import Data

ROUND = 8
"""Channels of a layer stay a multiple of this: vectors of a CPU hold 8 or 16 numbers."""


class Whole(NamedTuple):
    """What a network takes before anything is cut."""

    params: int
    macs: int
    bytes: int
    prunable: int
    """Weights that may be pruned."""


@dataclass(frozen=True, kw_only=True)
class ChannelCut:
    """Everything that decides which channels go but the network and the budget."""

    criterion: str = "magnitude"
    allocation: str = "uniform"
    members: tuple[str, ...] = ("out",)
    """Roles of the tensors of a unit that are scored (:class:`thrifty.Group`)."""
    relative: bool = False
    """Compare a score with the mean of those that its group keeps (:func:`relative`)."""
    tied: bool = True
    """Cut channels that several layers make together, as those along residual sums; False
    spares them as long as the budget can be met without."""
    keep: tuple[str, ...] = ()
    """Patterns of groups that stay whole."""
    layers: Mapping[str, float] | None = None
    """For the allocation ``explicit``: patterns of groups to shares of units that go."""
    round: int = ROUND

    @classmethod
    def of(cls, method: str | Method, **overrides: Any) -> "ChannelCut":
        """The cut of a method, with the fields that are given and not ``None`` replaced."""
        found = METHODS.get(method) if isinstance(method, str) else method
        base = cls(
            criterion=found.criterion,
            allocation=found.allocation,
            members=found.members,
            relative=found.relative,
            tied=found.tied,
        )
        return replace(base, **{k: v for k, v in overrides.items() if v is not None})


def scores(
    model: nn.Module,
    groups: Groups,
    how: ChannelCut,
    *,
    data: "Iterable[Batch] | Data | None" = None,
    seed: int = 0,
    given: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Score of every unit of every free group that has such members; higher is worth keeping.

    A member's score of a unit is the sum of the criterion over its slice, the mean where it has
    several slices; a unit's is the mean over its members.

    Args:
        given: scores by the name of a tensor, (out,), as trained gates give; instead of a
            criterion.

    Raises:
        UserError: a score is NaN.
    """
    from thrifty.pruning.pruning import batches

    rule = CRITERIA.get(how.criterion)
    exempt = set(matching(how.keep, [g.name for g in groups])) if how.keep else set()
    chosen = [g for g in groups.free if g.name not in exempt]
    members = [m for g in chosen for m in _scored(g, how, given)]
    parameters = dict(model.named_parameters())
    names = dict.fromkeys(m.tensor for m in members)
    evidence: Mapping[str, Layer] = {}
    if given is None:
        only = {name: parameters[name] for name in names}
        evidence = gather(model, rule.needs, batches(data, model), seed, only)
    slices: dict[tuple[str, int], Tensor] = {}
    for m in members:
        if (m.tensor, m.dim) not in slices:
            found = by_slice(model, m, given) if given is not None else _sums(rule, evidence, m)
            slices[m.tensor, m.dim] = found.detach().float().cpu()
    out = {}
    for group in chosen:
        values = [
            _pooled(m, slices[m.tensor, m.dim], group.units) for m in _scored(group, how, given)
        ]
        if not values:
            continue
        score = torch.stack(values).mean(0)
        if bool(torch.isnan(score).any()):
            raise UserError(
                f"{group.name} cannot be scored: {how.criterion} gave NaN; mend the network before "
                f"pruning it"
            )
        out[group.name] = relative(score) if how.relative else score
    return out


def relative(score: Tensor) -> Tensor:
    """Scores by which one cut takes what cutting unit by unit would, (units,).

    Before each unit that goes, every group's scores are divided by the mean of those it still has:
    the weakest of all by that measure is next.  In a group the order is that of its scores, and a
    unit waits for those before it, so its measure is the largest up to it.

    Example:
        >>> relative(torch.tensor([1.0, 3.0, 2.0])).tolist()
        [0.5, 1.0, 0.800000011920929]
    """
    ascending, order = torch.sort(score.double())
    count = torch.arange(len(score), 0, -1)
    means = ascending.flip(0).cumsum(0).flip(0) / count
    measure = torch.where(means > 0, ascending / means.clamp_min(1e-300), 0.0)
    # Of units that wait for the same one the weaker still goes first: each is at least the next
    # number after the one before it, and numbers from 0 on are in the order of their bits.
    rank = torch.arange(len(score))
    bits = measure.float().view(torch.int32).long() - rank
    waited = (torch.cummax(bits, 0).values + rank).int().view(torch.float32)
    return torch.empty_like(waited).scatter_(0, order, waited)


def _scored(group: Group, how: ChannelCut, given: Mapping[str, Tensor] | None) -> list[Member]:
    if given is not None:
        return [m for m in group.members if m.role in ("out", "scale") and m.tensor in given]
    return [m for m in group.members if m.role in how.members]


def _sums(rule: Callable[[Layer], Tensor], evidence: Mapping[str, Layer], m: Member) -> Tensor:
    """(size of the dimension,) the scores of its slices."""
    layer = evidence[m.tensor]
    turned = {
        name: x.movedim(m.dim, 0) for name in EVIDENCE if (x := getattr(layer, name)) is not None
    }
    found = rule(Layer(layer.weight.movedim(m.dim, 0), **turned))
    return found.reshape(len(found), -1).sum(1)


def _pooled(member: Member, values: Tensor, units: int) -> Tensor:
    """(units,) the mean over the slices of each unit."""
    there = member.unit >= 0
    total = torch.zeros(units).index_add_(0, member.unit[there], values[there])
    count = torch.zeros(units).index_add_(0, member.unit[there], torch.ones(int(there.sum())))
    return total / count.clamp_min(1)


def choose(
    groups: Groups,
    scored: Mapping[str, Tensor],
    cost: Callable[[Kept], float],
    most: float,
    how: ChannelCut,
    name: str = "the cost",
) -> Kept:
    """The units that stay: as many as ``cost`` allows, shared as ``how`` says.

    The number of units is found by bisection, the cost being asked anew for every try, so the
    budget is met to within the last unit, or multiple of channels, of one group.

    Args:
        scored: of :func:`scores`.
        cost: what a network with those units takes.
        most: what it may take.
        name: of the cost, for errors.

    Raises:
        UserError: nothing can be cut, or even the smallest network takes more.
    """
    if not scored:
        whole = "; ".join(f"{g.name}: {g.whole}" for g in groups if g.whole)
        raise UserError(
            f"this method finds no channels to remove: none of {len(groups.free)} groups that may "
            f"be cut has what it scores ({', '.join(how.members)}); "
            + (f"these stay whole: {whole}" if whole else "use another method, such as l1_filter")
        )

    made_once = {n: s for n, s in scored.items() if len(groups[n].of("out")) == 1}
    named = parse_spec(how.allocation).name == "explicit"  # its layers say what goes, tied or not
    if not how.tied and not named and made_once and len(made_once) < len(scored):
        found, _ = _most_units(groups, made_once, cost, most, how)
        if found is not None:
            return found
    found, least = _most_units(groups, scored, cost, most, how)
    if found is None:
        raise UserError(
            f"{name} of {most:,.6g} cannot be met: with one unit of each of {len(scored)} groups "
            f"(rounded to multiples) it is {least:,.6g}, for "
            f"{sum(g.whole is not None for g in groups)} groups stay whole "
            f"(thrifty groups says why); ask for at least {least:,.6g}"
        )
    return found


def _most_units(
    groups: Groups,
    scored: Mapping[str, Tensor],
    cost: Callable[[Kept], float],
    most: float,
    how: ChannelCut,
) -> tuple[Kept | None, float]:
    """As many units of these groups as the budget allows, or None and the least that can be."""

    def kept(total: int) -> Kept:
        counts = allocate(scored, total, how.allocation, how.layers)
        return {n: top(s, _multiple(groups[n], counts[n], how.round)) for n, s in scored.items()}

    low, high = len(scored), sum(len(s) for s in scored.values())
    if parse_spec(how.allocation).name == "explicit" or cost(kept(high)) <= most:
        return kept(high), most
    least = cost(kept(low))
    if least > most:
        return None, least
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(kept(middle)) <= most else (low, middle)
    return _filled(groups, scored, kept(low), cost, most, how.round), most


def _filled(
    groups: Groups,
    scored: Mapping[str, Tensor],
    kept: Kept,
    cost: Callable[[Kept], float],
    most: float,
    multiple: int,
) -> Kept:
    """``kept`` with a multiple of channels more where the budget still has room, the group that
    lost the largest share first, each once."""
    order = sorted(kept, key=lambda n: float(kept[n].float().mean()))
    for name in order:
        count = int(kept[name].sum())
        more = _multiple(groups[name], count + 1, multiple)
        wider = {**kept, name: top(scored[name], more)}
        if more > count and cost(wider) <= most:
            kept = wider
    return kept


def _multiple(group: Group, count: int, multiple: int) -> int:
    """``count`` units, rounded up to a multiple of channels, or of an eighth of a narrow layer."""
    channels = max(1, group.width // group.units)
    multiple = min(multiple, max(1, group.width // 8))
    step = max(1, -(-multiple // channels))
    return min(group.units, -(-count // step) * step)


def asked(
    model: nn.Module,
    groups: Groups,
    budget: Budget,
    shape: tuple[int, ...],
    whole: Whole | None = None,
) -> tuple[Callable[[Kept], float], float, str]:
    """What a budget asks of a network: the cost of some units, the most it may be, its name.

    Args:
        shape: of one input, without the batch.
        whole: the network that shares are shares of; ``model`` if not given.

    Raises:
        UserError: a budget that cannot be asked here.
    """
    names = prunable(model)
    counted = Costs(model, groups, shape if budget.of == "macs" else None)
    full = whole or Whole(*counted.of({}), sum(p.numel() for p in names.values()))
    if budget.of == "sparsity":
        sizes = Sizes(model, groups)

        def weights(kept: Kept) -> float:
            left = sizes.left(kept)
            return float(sum(left[name] for name in names))

        return weights, full.prunable * (1 - budget.amount), "the number of prunable weights left"
    if budget.of not in ("params", "macs", "bytes"):
        raise UserError(
            f"a budget of {budget.of} does not fit here; give sparsity, params, macs or bytes"
        )
    amount = budget.amount
    most = getattr(full, budget.of) * amount if amount <= 1 else amount
    return (
        lambda kept: float(getattr(counted.of(kept), budget.of)),
        most,
        f"a budget of {budget.of}",
    )


def prune_channels(
    model: nn.Module,
    method: str | Method = "l1_filter",
    budget: Budget | float = Budget(0.5, of="macs"),  # noqa: B008  (frozen)
    example: Any = None,
    *,
    data: "Iterable[Batch] | Data | None" = None,
    keep: Sequence[str] = (),
    round: int = ROUND,
    seed: int = 0,
) -> nn.Module:
    """A smaller network: the channels that ``method`` finds least worth keeping are gone.

    Nothing is trained; retrain what is returned.  Its outputs are those of ``model`` with the
    filters at zero, which is checked on ``example``.

    Args:
        model: any module; it is not changed.
        method: one of ``thrifty methods`` that removes channels, such as ``l1_filter``.
        budget: what stays: ``Budget(.5, of="macs")``, of params, macs or bytes; a plain number
            is a sparsity, the share of the prunable weights that goes.
        example: an input as the network takes it, with its batch dimension.
        data: batches or a data set, for criteria that need gradients, and for gates that a
            network has anyway, which are read on it.
        keep: patterns of layers that stay whole.
        round: channels of a layer stay a multiple of this, or of an eighth of a narrow layer.
        seed: for criteria that draw lots.

    Raises:
        UserError: the budget cannot be met, or the network cannot be followed.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))
        >>> small = prune_channels(model, "l1_filter", 0.5, torch.randn(2, 3, 8, 8))
        >>> small[0].weight.shape
        torch.Size([8, 3, 3, 3])
    """
    found = METHODS.get(method) if isinstance(method, str) else method
    if found.removes != "channels":
        raise UserError(f"{method} makes weights zero and removes no channels; use thrifty.prune")
    budget = budget if isinstance(budget, Budget) else Budget(budget)
    how = ChannelCut.of(found, round=round)
    if found.gate is not None and has_own_units(found.gate):
        from thrifty.pruning.learned import prune_own

        return prune_own(model, found.gate, how, budget, example, data, keep)
    groups = find_groups(model, example, keep)
    scored = scores(model, groups, how, data=data, seed=seed)
    shape = next(tuple(x.shape[1:]) for x in tensors_in([example]))
    cost, most, name = asked(model, groups, budget, shape)
    kept = choose(groups, scored, cost, most, how, name)
    return surgery(model, example=example, kept=kept, groups=groups).model


def as_masks(
    model: nn.Module, groups: Groups, kept: Kept, roles: Collection[str] = ("out", "in")
) -> Masks:
    """What the removal takes from the weights, as masks: filters and the columns that read them."""
    parameters = dict(model.named_parameters())
    masks: dict[str, Tensor] = {}
    for name, keep in kept.items():
        for m in groups[name].members:
            if m.role not in roles or m.tensor not in parameters:
                continue
            weight = parameters[m.tensor]
            if weight.dim() < 2:
                continue
            mask = masks.setdefault(m.tensor, torch.ones(weight.shape, dtype=torch.bool))
            dead = (m.unit >= 0) & ~keep[m.unit.clamp_min(0)]
            mask.index_fill_(m.dim, dead.nonzero()[:, 0], False)
    return Masks(masks, model)
