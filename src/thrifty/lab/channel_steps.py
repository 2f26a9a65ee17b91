"""Steps of methods that remove channels: choose them to a budget, take them out, retrain the rest.

What is trained on is the smaller network itself, which is why its retraining is faster than one
under masks.  Budgets are shares of the dense parent, whatever was cut before.
"""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from thrifty.channels.finding import groups as find_groups
from thrifty.channels.groups import Groups, Kept
from thrifty.channels.removal import removed
from thrifty.channels.shrinking import surgery
from thrifty.data import Data
from thrifty.files import written
from thrifty.lab.measure import costs, judge, latency_ratio
from thrifty.lab.rules import RULES, ruled
from thrifty.lab.store import Step
from thrifty.pruning import masks as _masks
from thrifty.pruning.allocation import Budget
from thrifty.pruning.gates import Gate, gate
from thrifty.pruning.gates.group_growth import GroupGrowth
from thrifty.pruning.layers import prunable
from thrifty.pruning.masks import Masks
from thrifty.pruning.methods import METHODS
from thrifty.pruning.structured import ChannelCut, Whole, as_masks, asked, choose, scores
from thrifty.registry import Spec, parse_spec
from thrifty.training.loop import derive, train
from thrifty.training.recovery import course, damage, recalibrate

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


def example_of(data: Data, device: torch.device) -> Tensor:
    """Two inputs as the network takes them."""
    return data.prepare(data.test.inputs[:2].to(device))


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
) -> tuple[Groups, Kept]:
    """The groups of ``model`` and the units that stay under ``budget``.

    Args:
        given: scores of trained gates by the name of a weight.

    Raises:
        UserError: the budget cannot be met, or nothing can be cut.
    """
    device = next(model.parameters()).device
    found = groups or find_groups(model, example_of(data, device), how.keep)
    how = dataclasses.replace(how, keep=())
    scored = scores(model, found, how, data=data, seed=seed, given=given)
    cost, most, name = _asked(model, dense, budget, data, found)
    return found, choose(found, scored, cost, most, how, name)


def _asked(
    model: nn.Module, dense: Dense, budget: Budget, data: Data, groups: Groups
) -> tuple[Callable[[Kept], float], float, str]:
    """What is asked of a network, how much of it there may be, and what it is called."""
    if budget.of != "latency":
        whole = Whole(dense.params, dense.macs, dense.bytes, dense.prunable)
        return asked(model, groups, budget, data.shape, whole)

    def latency(kept: Kept) -> float:
        return latency_ratio(removed(model, groups, kept)[0], model, data, seconds=0.3)

    return latency, budget.amount, "latency as a share of the network's before the cut"


def channel_level(lab: "Lab", seed: int, method: str, number: int) -> int:
    """Cut the network before to a level, retrain what is left, and measure it."""
    chains, data = lab.chains, lab.data
    step, parent = chains.level(seed, method, number), chains.dense(seed)
    if step.done:
        return 0
    gated = chains.gated(seed, method)
    chained = chains.schedule(method).start == "previous" and number > 0
    start = chains.level(seed, method, number - 1) if chained else gated or parent
    if gated is not None:
        lab.gate(seed, method)
    dense = Dense.of(lab.build(parent.model), data.shape)
    model = lab.build(start.model)
    if method == RULES:
        small, taken, held = ruled(model, lab.recipe.prune, number, data, seed=lab.lots(seed))
    else:
        given = read_scores(gated)
        how, budget = chains.channel_cut(method), chains.budgets(method)[number]
        groups, kept = chosen(model, dense, how, budget, data, seed=lab.lots(seed), given=given)
        small = surgery(model, example=example_of(data, lab.device), kept=kept, groups=groups).model
        taken, held = as_masks(model, groups, kept), None
    hurt = damage(dict(model.named_parameters()), None, taken)
    if lab.recipe.retrain.recalibrate:
        recalibrate(small, data, augmented=lab.recipe.train.augment)
    accuracy_cut = judge(small, data).accuracy
    if held is None:
        held = _masks.of_zeros(small) if _masks.of_zeros(small).sparsity else None
    lab.retrain_level(small, step, seed, method, number, held, hurt, accuracy_cut, taken, dense)
    return 1


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
    if METHODS.get(method).gate is not None:
        found = find_groups(model, example_of(data, lab.device), lab.recipe.prune.keep)
        trial = gate_of(lab.recipe.prune.gate or METHODS.get(method).gate or "", found)
        gated = copy.deepcopy(model)
        trial.attach(gated)  # its scales, not trained yet, show which channels it can score
        given = None if isinstance(trial, GroupGrowth) else trial.scores(gated)
    for budget in chains.budgets(method):
        if budget.of != "latency":
            groups, kept = chosen(model, dense, how, budget, data, given=given, groups=groups)
    if groups is not None:
        surgery(model, example=example_of(data, lab.device), kept=kept, groups=groups)


def gated_parent(lab: "Lab", step: Step, seed: int, method: str) -> int:
    """Train the network that a method cuts, with its gates; gates that learn from a network as it
    is (those that put it back, and growing regularisation) begin at the dense parent."""
    chains, data, recipe = lab.chains, lab.data, lab.recipe
    torch.manual_seed(derive(seed, "init"))
    model = lab.build(recipe.weights)
    groups = find_groups(model, example_of(data, lab.device), recipe.prune.keep)
    found = gate_of(recipe.prune.gate or METHODS.get(method).gate or "", groups)
    fresh = recipe.train.epochs > 0 and not found.restores and not isinstance(found, GroupGrowth)
    if not fresh:
        model = lab.build(chains.dense(seed).model)
    found.attach(model)
    plan = recipe.train.model_copy(update={"epochs": chains.gate_epochs(method)})
    log = train(
        model,
        data,
        plan,
        seed=derive(seed, "gated"),
        gate=found,
        lr_of=None if recipe.train.epochs else course("finetune", recipe.train, plan.epochs),
        checkpoint=step.checkpoint,
        checkpoint_seconds=recipe.machine.checkpoint_seconds,
        tell=lab.events(method, 0.0),
    )
    scored = found.scores(model)
    found.fold(model)
    if found.restores or not isinstance(found, GroupGrowth):
        save_scores(scored, step.folder)
    lab.finish(model, step, log, None, seed=seed, method=f"{method} gated", level=0.0)
    return 1


def gate_of(spec: str, groups: Groups) -> Gate:
    """The gate of that name and options for a network with those groups.

    ``bn_scale`` becomes ``channel_scale`` where no channel has a scale of its own.
    """
    asked = parse_spec(spec)
    if asked.name == "bn_scale" and not any(g.of("scale") for g in groups.free):
        asked = Spec("channel_scale", asked.options)
    return gate(asked, groups=groups)


GATE_SCORES = "gates.safetensors"
"""Scores of trained gates, in the folder of the gated parent."""


def save_scores(found: Mapping[str, Tensor], folder: Path) -> None:
    """Write the scores of gates beside the network they were trained in."""
    with written(folder / GATE_SCORES) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in found.items()}, temporary)


def read_scores(gated: Step | None) -> dict[str, Tensor] | None:
    """What :func:`save_scores` wrote, if it did."""
    if gated is None or not (gated.folder / GATE_SCORES).is_file():
        return None
    return load_file(gated.folder / GATE_SCORES)


def removing(model: nn.Module, data: Data, how: ChannelCut, budget: Budget, seed: int) -> Masks:
    """The weights that a cut of that kind would take, as masks; the network stays as it is."""
    dense = Dense.of(model, data.shape)
    groups, kept = chosen(model, dense, how, budget, data, seed=seed)
    return as_masks(model, groups, kept)
