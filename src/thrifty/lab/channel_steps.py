"""Steps of methods that remove channels: choose them to a budget, take them out, retrain the rest.

What is trained on is the smaller network itself, which is why its retraining is faster than one
under masks.  Budgets are shares of the dense parent, whatever was cut before.
"""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn

from thrifty.channels.finding import groups as find_groups
from thrifty.channels.groups import Groups, Kept
from thrifty.channels.removal import removed
from thrifty.channels.shrinking import surgery
from thrifty.data import Data
from thrifty.lab.gate_steps import INPUTS, read, read_dense, rehearse_gates
from thrifty.lab.gating import cutoff_of, example_of, gate_for, read_scores
from thrifty.lab.measure import costs, judge, latency_ratio
from thrifty.lab.rules import RULES, ruled
from thrifty.pruning import masks as _masks
from thrifty.pruning.allocation import Budget
from thrifty.pruning.layers import prunable
from thrifty.pruning.learned import above, check_priced
from thrifty.pruning.masks import Masks
from thrifty.pruning.structured import ChannelCut, Whole, as_masks, asked, choose, scores
from thrifty.training.recovery import damage, recalibrate

if TYPE_CHECKING:
    from thrifty.lab.steps import Lab


@dataclass(frozen=True)
class Dense:
    """What the dense parent takes: what shares of a budget are shares of."""

    params: int
    macs: int
    prunable: int
    bytes: int
    layers: Mapping[str, int]
    """Prunable tensor -> weights."""
    convolutions: frozenset[str]
    """The tensors among them that are weights of convolutions."""

    @classmethod
    def of(cls, model: nn.Module, shape: tuple[int, ...]) -> "Dense":
        """Counted on the parent itself."""
        found = costs(model, shape)
        return cls(
            found["params"],
            found["macs"],
            found["prunable"],
            sum(x.numel() * x.element_size() for x in model.state_dict().values()),
            {name: total for name, (_, total) in found["layers"].items()},
            frozenset(name for name, p in prunable(model).items() if p.dim() > 2),
        )

    def record(self, model: nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
        """The fields of a record that a smaller network has, its sparsity against the parent."""
        found = costs(model, shape)
        kept = {name: found["layers"].get(name, [0, 0])[0] for name in self.layers}
        there = sum(self.layers[name] for name in self.convolutions)
        left = sum(kept[name] for name in self.convolutions)
        return found | {
            "sparsity_conv": 1 - left / there if there else None,
            "sparsity": 1 - sum(kept.values()) / self.prunable,
            "sparsity_all": 1 - found["nonzero"] / self.params,
            "prunable": self.prunable,
            "layers": {name: [kept[name], total] for name, total in self.layers.items()},
        }


def chosen(
    model: nn.Module,
    dense: Dense,
    how: ChannelCut,
    budget: Budget,
    data: Data,
    *,
    seed: int = 0,
    given: Mapping[str, Tensor] | None = None,
    groups: Groups | None = None,
    lowest: float | None = None,
) -> tuple[Groups, Kept]:
    """The groups of ``model`` and the units that stay under ``budget``.

    Args:
        given: scores of trained gates by the name of a weight.
        lowest: keep the units that score more, instead of meeting the budget.

    Raises:
        UserError: the budget cannot be met, or nothing can be cut.
    """
    device = next(model.parameters()).device
    found = groups or find_groups(model, example_of(data, device), how.keep)
    how = dataclasses.replace(how, keep=())
    scored = scores(model, found, how, data=data, seed=seed, given=given)
    if lowest is not None:
        return found, above(scored, lowest)
    cost, most, name = _asked(
        model, dense, budget, data, found, lambda k: removed(model, found, k)[0]
    )
    return found, choose(found, scored, cost, most, how, name)


def _asked(
    model: nn.Module,
    dense: Dense,
    budget: Budget,
    data: Data,
    groups: Groups,
    smaller: Callable[[Kept], nn.Module],
) -> tuple[Callable[[Kept], float], float, str]:
    """What is asked of a network, how much of it there may be, and what it is called."""
    if budget.of != "latency":
        whole = Whole(dense.params, dense.macs, dense.bytes, dense.prunable)
        return asked(model, groups, budget, data.shape, whole)

    def latency(kept: Kept) -> float:
        return latency_ratio(smaller(kept), model, data, seconds=0.3)

    return latency, budget.amount, "latency as a share of the network's before the cut"


def channel_level(lab: "Lab", seed: int, method: str, number: int) -> int:
    """Cut the network before to a level, retrain what is left, and measure it."""
    chains, data = lab.chains, lab.data
    step = chains.level(seed, method, number)
    if step.done:
        return 0
    if chains.gated(seed, method) is not None:
        lab.gate(seed, method)
    dense = Dense.of(lab.build(chains.dense(seed).model), data.shape)
    model, small, taken, held, remark = cut_channels(lab, seed, method, number)
    if remark:
        lab.note(f"level {chains.levels(method)[number]:g} leaves {remark}")
    hurt = damage(dict(model.named_parameters()), None, taken)
    if lab.recipe.retrain.recalibrate:
        recalibrate(small, data, augmented=lab.recipe.train.augment)
    accuracy_cut = judge(small, data).accuracy
    if held is None:
        held = _masks.born(small)
    lab.retrain_level(small, step, seed, method, number, held, hurt, accuracy_cut, taken, dense)
    return 1


class Channels(NamedTuple):
    """A level that removes channels, before and after the cut."""

    model: nn.Module
    small: nn.Module
    taken: Masks
    """What went, of the weights of ``model``."""
    held: Masks | None
    """What is to stay zero in ``small``; None if that is what is zero."""
    remark: str = ""
    """What a person should know that it leaves."""


def cut_channels(lab: "Lab", seed: int, method: str, number: int) -> Channels:
    """The network that a level cuts, and what is left of it; nothing is retrained."""
    chains, data = lab.chains, lab.data
    gated, parent = chains.gated(seed, method), chains.dense(seed)
    chained = chains.schedule(method).start == "previous" and number > 0
    start = chains.level(seed, method, number - 1) if chained else gated or parent
    dense = Dense.of(lab.build(parent.model), data.shape)
    model, budget = lab.build(start.model), chains.budgets(method)[number]
    if method == RULES:
        return Channels(model, *ruled(model, lab.recipe.prune, number, data, seed=lab.lots(seed)))
    if chains.unit(method) == "own":
        read_dense(lab, seed, method)
        groups, kept, small = cut_own(lab, model, dense, method, budget)
    else:
        how, lots, given = chains.channel_cut(method), lab.lots(seed), read_scores(gated)
        lowest = None
        if budget.of == "threshold":
            lowest = cutoff_of(chains.gate(method) or "", budget.amount)
        groups, kept = chosen(
            model, dense, how, budget, data, seed=lots, given=given, lowest=lowest
        )
        small = surgery(model, example=example_of(data, lab.device), kept=kept, groups=groups).model
    return Channels(model, small, as_masks(model, groups, kept), None, _remark(groups, kept))


def _remark(groups: Groups, kept: Kept) -> str:
    """What is left of single numbers, which no size tells, and which groups have no channel."""
    numbers = [name for name in kept if all(m.dim < 0 for m in groups[name].members)]
    if numbers:
        parts = [f"{int(kept[n].sum())} of {groups[n].units} numbers of {n}" for n in numbers]
        return ", ".join(parts)
    empty = [name for name, keep in kept.items() if not bool(keep.any())]
    if not empty:
        return ""
    return (
        f"no channel of {', '.join(empty)}, {len(empty)} groups in all; they pass on what they are "
        f"given"
    )


def cut_own(
    lab: "Lab",
    model: nn.Module,
    dense: Dense,
    method: str,
    budget: Budget,
    inputs: int = INPUTS,
) -> tuple[Groups, Kept, nn.Module]:
    """In place: measure ``model`` with a gate that has units of its own; remove some of them.

    Args:
        inputs: training inputs that the gate is read on.

    Returns:
        The units, those that are kept, and the smaller network.
    """
    how, keep = lab.chains.channel_cut(method), lab.recipe.prune.keep
    spec = lab.chains.gate(method) or ""
    found = gate_for(spec, model, lab.data)
    found.attach(model)
    check_priced(found, spec, budget)
    given = read(lab, found, model, inputs)
    groups = found.own_units(model, keep)
    assert groups is not None
    scored = scores(model, groups, dataclasses.replace(how, keep=()), given=given)
    if budget.of == "threshold":
        kept = above(scored, found.cutoff(budget.amount), least=0)
    else:
        cost, most, name = _asked(
            model, dense, budget, lab.data, groups, lambda k: found.removed(model, groups, k)
        )
        kept = choose(groups, scored, cost, most, how, name)
    return groups, kept, found.removed(model, groups, kept)


def rehearse(lab: "Lab", model: nn.Module, method: str) -> None:
    """Choose and remove channels of an untrained network, to show what cannot work.

    Raises:
        UserError: nothing can be cut, a budget cannot be met, or outputs would differ.
    """
    chains, data = lab.chains, lab.data
    if method == RULES:
        for number in range(len(chains.levels(method))):
            ruled(model, lab.recipe.prune, number, data)
        return
    dense, how, groups, given = Dense.of(model, data.shape), chains.channel_cut(method), None, None
    budgets = [b for b in chains.budgets(method) if b.of not in ("latency", "threshold")]
    if chains.unit(method) == "own":
        for budget in budgets or chains.budgets(method)[-1:]:
            cut_own(lab, copy.deepcopy(model), dense, method, budget, inputs=2)
        return
    if chains.gate(method) is not None:
        groups = find_groups(model, example_of(data, lab.device), lab.recipe.prune.keep)
        given = rehearse_gates(lab, model, method)
    for budget in budgets:
        groups, kept = chosen(model, dense, how, budget, data, given=given, groups=groups)
    if groups is not None and budgets:
        surgery(model, example=example_of(data, lab.device), kept=kept, groups=groups)


def removing(model: nn.Module, data: Data, how: ChannelCut, budget: Budget, seed: int) -> Masks:
    """The weights that a cut of that kind would take, as masks; the network stays as it is."""
    dense = Dense.of(model, data.shape)
    groups, kept = chosen(model, dense, how, budget, data, seed=seed)
    return as_masks(model, groups, kept)
