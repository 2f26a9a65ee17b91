"""Cut by what gates say: at a threshold, or by a gate that removes units of its own."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from thrifty.channels.groups import Kept
from thrifty.channels.trace import tensors_in
from thrifty.errors import UserError
from thrifty.pruning.allocation import Budget
from thrifty.pruning.evidence import Batch
from thrifty.pruning.gates import Gate, gate
from thrifty.pruning.pruning import batches
from thrifty.pruning.structured import ChannelCut, asked, choose, scores

if TYPE_CHECKING:
    from thrifty.data import Data


def above(scored: Mapping[str, Tensor], cutoff: float, least: int = 1) -> Kept:
    """Group name -> which units score strictly above ``cutoff``.

    Args:
        scored: group name -> (units,).
        cutoff: as a gate's ``cutoff`` gives it; scores are compared as real numbers.
        least: units that a group keeps, its best; 0 where a group may lose all.

    Example:
        >>> {n: k.tolist() for n, k in above({"a": torch.tensor([0.25, 0.5])}, 0.25).items()}
        {'a': [False, True]}
    """
    kept = {}
    for name, score in scored.items():
        keep = score.double() > cutoff
        if int(keep.sum()) < least:
            keep = torch.zeros_like(keep)
            keep[score.double().argsort(descending=True, stable=True)[:least]] = True
        kept[name] = keep
    return kept


def check_priced(found: Gate, spec: str, budget: Budget) -> None:
    """Refuse a budget for units that have no size.

    Raises:
        UserError: it is one.
    """
    if budget.of != "threshold" and not found.priced:
        raise UserError(
            f"the units of the gate {spec} are single numbers, which take next to nothing, so that "
            f"no {budget.of} can be met with them; give a threshold, such as 0.2, or use a method "
            f"that removes channels, such as l1_filter"
        )


def prune_own(
    model: nn.Module,
    spec: str,
    how: ChannelCut,
    budget: Budget,
    example: Any,
    data: "Iterable[Batch] | Data | None",
    keep: Sequence[str] = (),
) -> nn.Module:
    """:func:`thrifty.prune_channels` for a gate with units of its own, which a network has anyway.

    Raises:
        UserError: there are no data to read it on, or as of :func:`thrifty.prune_channels`.
    """
    whole, found = copy.deepcopy(model), gate(spec)
    check_priced(found, spec, budget)
    ready = batches(data, whole)
    if ready is None:
        raise UserError(f"the gate {spec} is read on inputs, and there are none; give data=...")
    found.attach(whole)
    found.measure(whole, ready)
    groups = found.own_units(whole, keep)
    assert groups is not None
    scored = scores(whole, groups, how, given=found.scores(whole))
    if budget.of == "threshold":
        return found.removed(whole, groups, above(scored, found.cutoff(budget.amount), least=0))
    shape = next(tuple(x.shape[1:]) for x in tensors_in([example]))
    cost, most, name = asked(whole, groups, budget, shape)
    return found.removed(whole, groups, choose(groups, scored, cost, most, how, name))
