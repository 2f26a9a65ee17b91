"""Steps of methods with gates: train a parent with them, read them, and cut by what they say.

A gate scores channels, single weights, or units that it removes in its own way.  Whichever, the
network is trained once with the gate, its scores are written beside it, the gate is taken out, and
all levels are cut by the same scores.
"""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from thrifty.errors import UserError
from thrifty.lab.distilling import teacher_of
from thrifty.lab.gating import (
    GATE_SCORES,
    cutoff_of,
    gate_beside,
    gate_for,
    read_scores,
    save_scores,
    unit_of,
    unmeasured,
)
from thrifty.lab.naming import titled
from thrifty.lab.records import CONTROL, DENSE
from thrifty.lab.store import Step
from thrifty.nets import file_of
from thrifty.pruning.allocation import Budget
from thrifty.pruning.gates import Gate
from thrifty.pruning.gates.group_growth import GroupGrowth
from thrifty.pruning.gates.highway import HighwayGate, collapsed
from thrifty.pruning.masks import Masks, born
from thrifty.pruning.pruning import batches, cut
from thrifty.training.loop import Held, derive, train
from thrifty.training.recovery import course

if TYPE_CHECKING:
    from thrifty.lab.steps import Lab

INPUTS = 1024
"""Training inputs that gates are read on."""


def gated_parent(lab: "Lab", step: Step, seed: int, method: str) -> int:
    """Train the network that a method cuts, with its gates; gates that learn from a network as it
    is (those that put it back, and growing regularisation) begin at the dense parent."""
    chains, data, recipe = lab.chains, lab.data, lab.recipe
    torch.manual_seed(derive(seed, "init"))
    model = lab.build(recipe.weights)
    spec, plan = chains.gate(method) or "", chains.gate_plan(method)
    found = gate_for(spec, model, data, recipe.prune.keep, plan.epochs)
    grows, weights = isinstance(found, GroupGrowth), unit_of(spec) == "weight"
    fresh = chains.starts_anew(method) and not found.restores and not grows
    if not fresh:
        model = lab.build(chains.dense(seed).model)
    held = None if fresh or not weights else born(model)
    found.attach(model)
    log = train(
        model,
        data,
        plan,
        masks=held,
        seed=derive(seed, "gated"),
        teacher=teacher_of(lab, recipe.train.distill, plan),
        gate=found,
        lr_of=_rate(lab, method),
        checkpoint=step.checkpoint,
        checkpoint_seconds=recipe.machine.checkpoint_seconds,
        tell=lab.events(method, 0.0),
    )
    if found.restores or not grows:
        _written(lab, found, model, step, spec, method, seed)
    found.fold(model)
    lab.finish(model, step, log, None, seed=seed, method=f"{method} gated", level=0.0)
    return 1


def trained_on(lab: "Lab", step: Step, seed: int, method: str) -> None:
    """Train the dense parent on as a method does with its gates, but without them."""
    plan = lab.chains.gate_plan(method)
    model = lab.build(lab.chains.dense(seed).model)
    log = train(
        model,
        lab.data,
        plan,
        masks=born(model),
        seed=derive(seed, "gated"),
        teacher=teacher_of(lab, lab.recipe.train.distill, plan),
        lr_of=_rate(lab, method),
        checkpoint=step.checkpoint,
        checkpoint_seconds=lab.recipe.machine.checkpoint_seconds,
        tell=lab.events(CONTROL, 0.0),
    )
    lab.finish(model, step, log, None, seed=seed, method="control, trained on", level=0.0)


def _rate(lab: "Lab", method: str) -> Callable[[float], float] | None:
    """The learning rate of training with gates: that of the plan, or low for a trained network."""
    chains, train = lab.chains, lab.recipe.train
    if train.epochs or chains.unit(method) == "weight" or chains.gate_train(method):
        return None
    return course("finetune", train, chains.gate_epochs(method))


def read(lab: "Lab", found: Gate, model: nn.Module, inputs: int = INPUTS) -> dict[str, Tensor]:
    """What an attached gate scores, having seen training inputs."""
    ready = batches(lab.data, model, inputs)
    assert ready is not None
    found.measure(model, ready)
    return found.scores(model)


def _written(
    lab: "Lab", found: Gate, model: nn.Module, step: Step, spec: str, method: str, seed: int
) -> None:
    """Write what an attached gate scores, and tell of a collapse."""
    scored = read(lab, found, model)
    title = titled(lab.recipe.model, lab.recipe.data)
    about = {"gate": spec, "method": method, "seed": str(seed), "title": title}
    save_scores(scored, step.folder, about)
    shut = collapsed(scored) if isinstance(found, HighwayGate) else []
    if shut:
        lab.note(
            f"{len(shut)} of {len(scored)} highway blocks collapsed to the identity, their gates "
            f"shut on all inputs: {', '.join(shut[:3])}{', ...' if shut[3:] else ''}; lower the "
            f"strength of the gate, or warm it up for longer"
        )


def dense_gate(lab: "Lab", model: nn.Module) -> Gate | None:
    """In place: put the gate under which the dense parent is trained into ``model``, if any.

    Raises:
        UserError: it cannot be put into this network, or nothing it does there lasts.
    """
    spec, epochs = lab.recipe.train.gate, lab.recipe.train.epochs
    if spec is None:
        return None
    found = gate_for(spec, model, lab.data, epochs=epochs)
    if found.restores:
        raise UserError(
            f"train.gate: {spec} puts the network back as it was before training; give it as "
            f"prune.gate, where it only chooses"
        )
    if not epochs and unit_of(spec) != "own":
        raise UserError(f"train.gate: {spec} learns in training, and train.epochs is 0")
    found.attach(model)
    return found


def settle(lab: "Lab", found: Gate, model: nn.Module, step: Step, seed: int) -> None:
    """In place: write what the gate of a dense parent says, and take it out."""
    spec = lab.recipe.train.gate or ""
    said = spec if lab.recipe.train.epochs else _origin(lab) or unmeasured(spec)
    if not isinstance(found, GroupGrowth):
        _written(lab, found, model, step, said, DENSE, seed)
    found.fold(model)


def read_dense(lab: "Lab", seed: int, method: str) -> None:
    """Write what the gates of a dense parent say that was trained without an incentive."""
    step, spec = lab.chains.dense(seed), unmeasured(lab.chains.gate(method) or "")
    if (step.folder / GATE_SCORES).is_file():
        return
    model = lab.build(step.model)
    found = gate_for(spec, model, lab.data)
    found.attach(model)
    _written(lab, found, model, step, _origin(lab) or spec, DENSE, seed)


def by_gates(
    lab: "Lab", seed: int, method: str, budget: Budget
) -> Callable[[nn.Module, Held], Masks]:
    """How a method with gates on weights cuts to a budget: (network, masks it has) -> masks."""
    chains, given = lab.chains, read_scores(lab.chains.gated(seed, method))
    if budget.of == "threshold":
        lowest = math.nextafter(cutoff_of(chains.gate(method) or "", budget.amount), math.inf)
        budget = Budget(lowest, of="threshold")
    return lambda model, within: cut(model, chains.cut(method), budget, within=within, given=given)


def rehearse_gates(lab: "Lab", model: nn.Module, method: str) -> dict[str, Tensor] | None:
    """What the gates of a method score in an untrained network; it is a trial whether they can.

    Raises:
        UserError: the network has no place for them, or they would never be trained.
    """
    chains, spec = lab.chains, lab.chains.gate(method) or ""
    unit = unit_of(spec)
    thresholds = lab.recipe.prune.threshold is not None
    if (unit == "weight" or (unit == "channel" and thresholds)) and not chains.gate_epochs(method):
        raise UserError(
            f"{method} learns in training with its gate {spec}, for which there are no epochs; "
            f"give prune.gate_epochs, train.epochs or retrain.epochs"
        )
    trial = copy.deepcopy(model)
    found = gate_for(spec, trial, lab.data, lab.recipe.prune.keep, chains.gate_epochs(method))
    found.attach(trial)  # its scales, not trained yet, show what it can score
    return None if isinstance(found, GroupGrowth) else found.scores(trial)


def rehearse_weights(lab: "Lab", model: nn.Module, method: str) -> None:
    """Cut the weights of an untrained network to every level, to show what cannot work."""
    chains, gated = lab.chains, lab.chains.gate(method) is not None
    given = rehearse_gates(lab, model, method) if gated else None
    for budget in chains.budgets(method):
        if budget.of != "threshold":
            how = chains.cut(method)
            cut(model, how, budget, data=lab.data, within=born(model), given=given)


def _origin(lab: "Lab") -> str | None:
    """The gate that a network which comes with its weights was trained with, if that is told."""
    weights = lab.recipe.weights
    return gate_beside(Path(weights) if weights is not None else file_of(lab.recipe.model))
