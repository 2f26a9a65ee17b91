"""thrifty: 30 % of the units of every group that may be cut, the lowest L1 norm first.

Compared with the network in which everything that makes the removed units is zero: filters,
biases, scales, shifts, and what multiplies or adds to them one by one.  Run by compare.py.
"""

import copy
from collections import Counter

import torch
from networks import build, example
from torch import Tensor, nn
from trial import LIMIT_S, SHARE, Outcome, count, judge, limited, main, run, timed

from thrifty import Groups, groups
from thrifty.channels.shrinking import surgery

MADE_BY = ("out", "scale", "shift", "each")


def scores(model: nn.Module, found: Groups) -> dict[str, Tensor]:
    """(units,) for every free group, the L1 norm of the rows that make a unit."""
    tensors = dict(model.named_parameters())
    out = {}
    for group in found.free:
        total = torch.zeros(group.units + 1)  # the last is of indices with no unit, which are -1
        for member in group.of("out"):
            rows = tensors[member.tensor].detach().movedim(member.dim, 0).flatten(1)
            total.index_add_(0, member.unit % (group.units + 1), rows.abs().sum(1))
        out[group.name] = total[:-1]
    return out


def lowest(score: Tensor) -> Tensor:
    """(units,) bool, False at the 30 % lowest, one at least."""
    gone = max(1, len(score) - int(len(score) * (1 - SHARE)))
    keep = torch.ones(len(score), dtype=torch.bool)
    keep[score.argsort(stable=True)[:gone]] = False
    return keep


@torch.no_grad()
def masked(model: nn.Module, found: Groups, kept: dict[str, Tensor]) -> nn.Module:
    """A copy in which the units that go are made by zeros."""
    copied = copy.deepcopy(model)
    tensors = dict(copied.named_parameters()) | dict(copied.named_buffers())
    for name, keep in kept.items():
        for member in found[name].members:
            if member.role in MADE_BY:
                gone = (member.unit >= 0) & ~keep[member.unit.clamp_min(0)]
                tensors[member.tensor].index_fill_(member.dim, gone.nonzero()[:, 0], 0.0)
    return copied


def attempt(outcome: Outcome) -> None:
    """Cut, run, compare."""
    model, images = build(outcome.network), example(outcome.network, 10)
    given = example(outcome.network, 11)
    before = run(model, images)
    outcome.before = count(model)
    with limited(LIMIT_S):
        with timed(outcome, "groups"):
            found = groups(model, given)
        kept = {name: lowest(score) for name, score in scores(model, found).items()}
        reference = masked(model, found, kept)
        del model
        whole = Counter(g.whole for g in found if g.whole is not None)
        outcome.groups = {"cut": len(kept), "whole": dict(whole.most_common())}
        with timed(outcome, "cut"):
            done = surgery(reference, None, given, kept=kept, groups=found)
        outcome.after = count(done.model)
        outcome.groups["border"] = done.border
        with timed(outcome, "run"):
            after = run(done.model, images)
    judge(outcome, before, run(reference, images), after)
    if not kept:
        outcome.outcome, outcome.reason = "uncut", "no group may be cut"


main("thrifty", attempt)
