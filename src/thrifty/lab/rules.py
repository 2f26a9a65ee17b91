"""Rules by layer: channels go where a rule says so, then weights of what is left become zero."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from thrifty.channels.finding import groups as find_groups
from thrifty.channels.shrinking import surgery
from thrifty.data import Data
from thrifty.errors import UserError
from thrifty.pruning import masks as _masks
from thrifty.pruning.allocation import Budget, matching
from thrifty.pruning.layers import prunable
from thrifty.pruning.masks import Masks
from thrifty.pruning.methods import METHODS
from thrifty.pruning.pruning import Cut, cut
from thrifty.pruning.structured import ChannelCut, as_masks, choose, scores

if TYPE_CHECKING:
    from thrifty.lab.prune_table import Prune, Rule

RULES = "rules"

KINDS = {
    "conv": (nn.modules.conv._ConvNd,),
    "linear": (nn.Linear, nn.Bilinear, nn.MultiheadAttention),
    "recurrent": (nn.RNNBase,),
}
"""Words for all layers of a kind."""


def assigned(model: nn.Module, said: "Prune") -> dict[str, "Rule"]:
    """Prunable tensor -> its rule; tensors without one, or to keep, are left out.

    Raises:
        UserError: a pattern matches no layer.
    """
    assert said.rules is not None
    names = prunable(model)
    found: dict[str, Rule] = {}
    for pattern, rule in said.rules.items():
        for name in _matched(model, pattern, names):
            if rule == "keep":
                found.pop(name, None)
            else:
                found[name] = rule
    return {name: found[name] for name in names if name in found}


def _matched(model: nn.Module, pattern: str, names: Mapping[str, nn.Parameter]) -> list[str]:
    if pattern in KINDS:
        holders = dict(model.named_modules())
        return [n for n in names if isinstance(holders[n.rpartition(".")[0]], KINDS[pattern])]
    return matching([pattern], names)


def ruled(
    model: nn.Module, said: "Prune", number: int, data: Data, seed: int = 0
) -> tuple[nn.Module, Masks, Masks | None]:
    """``model`` with the channels of level ``number`` gone and the weights cut.

    Returns:
        The smaller network, what was taken from the weights of ``model``, and the masks that
        the smaller network is to be retrained under.

    Raises:
        UserError: a rule fits no layer, or nothing can be removed there.
    """
    rules, budget = assigned(model, said), said.budgets[number]
    if budget.of != "sparsity":
        raise UserError("rules have sparsities of their own; give prune.sparsity and no budget")
    example = data.prepare(data.test.inputs[:2].to(next(model.parameters()).device))
    groups = find_groups(model, example, said.keep)
    kept: dict[str, torch.Tensor] = {}
    for rule in dict.fromkeys(r for r in rules.values() if _removes(r)):
        mine = [n.rpartition(".")[0] for n, r in rules.items() if r == rule]
        named = [g.name for g in groups.free if g.name in mine]
        if not named:
            raise UserError(
                f"the rule {rule.method} for {', '.join(mine[:3])} finds no channels that may go; "
                f"thrifty groups says why they stay"
            )
        share = budget.amount if rule.sparsity is None else rule.sparsity
        others = tuple(g.name for g in groups if g.name not in named)
        how = ChannelCut.of(
            rule.method,
            allocation="explicit",
            keep=others,
            round=said.round,
            layers=dict.fromkeys(named, share),
        )
        found = scores(model, groups, how, data=data, seed=seed)
        kept |= choose(groups, found, lambda _: 0.0, 0.0, how)
    small = surgery(model, example=example, kept=kept, groups=groups).model
    held = _weights(small, rules, budget.amount, data, seed)
    return small, as_masks(model, groups, kept), held


def _removes(rule: "Rule") -> bool:
    return METHODS.get(rule.method).removes == "channels"


def _weights(
    small: nn.Module, rules: Mapping[str, "Rule"], level: float, data: Data, seed: int
) -> Masks | None:
    """In place: the rules that make weights zero; returns their masks."""
    masks: dict[str, torch.Tensor] = {}
    names = prunable(small)
    for rule in dict.fromkeys(r for r in rules.values() if not _removes(r)):
        mine = [n for n, r in rules.items() if r == rule and n in names]
        how = Cut.of(rule.method, keep=tuple(n for n in names if n not in mine) or None)
        share = level if rule.sparsity is None else rule.sparsity
        masks |= cut(small, how, Budget(share), data=data, seed=seed)
    found = Masks(masks, small)
    if masks:
        _masks.apply(small, found)
    return found if masks else None
