"""How the twins of a stack of parents come to be: what they begin with, and how they are trained.

The course of a method that cuts holds masks, all at once or more of them epoch by epoch; that of
a method with a gate trains what the gate learns.  Variational dropout runs in vector lanes where
the network fits them, and as a gate elsewhere.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thrifty.data import Data
from thrifty.native.lanes import Noise
from thrifty.population import lanes_engine
from thrifty.population.cutting import cut_stack
from thrifty.population.gating import Gating, begun, folded
from thrifty.population.plan import Plan
from thrifty.population.stack import Stack
from thrifty.population.training import engine_of
from thrifty.pruning.allocation import Budget
from thrifty.pruning.gates import Gate, gate
from thrifty.pruning.layers import prunable
from thrifty.pruning.pruning import Cut, cut
from thrifty.pruning.schedules import schedule
from thrifty.registry import Spec, parse_spec
from thrifty.zoo.courses import Checkpoint, Course, follow
from thrifty.zoo.folder import Folder
from thrifty.zoo.reading import Shard
from thrifty.zoo.segments import Tell
from thrifty.zoo.sets import sets_of
from thrifty.zoo.shards import write_sparse_shard
from thrifty.zoo.statistics import agreement, cohen_kappa, error_agreement
from thrifty.zoo.twins import TwinWork, Variational, method_of
from thrifty.zoo.zoo import Zoo

FIRST_SPREAD = -10.0
"""log sigma^2 of every weight before variational dropout."""
HYPER = ("net", "act", "init", "dropout", "optimizer", "lr", "weight_decay", "seed", "batch")
"""Columns of the parents that their twins have too."""
Kept = tuple[dict[str, Tensor], dict[str, Tensor]]
"""Tensors, and masks of some of them."""


@dataclass(frozen=True)
class Way:
    """What twins begin with, and what is done to them on the way."""

    start: Stack
    plan: Plan
    marks: tuple[int, ...]
    noise: Callable[[int], Noise] | None = None
    gating: Gating | None = None
    ramp: Callable[[int, Stack], Stack] | None = None


def train_twins(work: TwinWork, tell: Tell) -> int:
    """Make what is not made yet of some twins; returns the number of segments done."""
    with Folder(work.root).working():
        sets = sets_of(*work.data)
        parents = Zoo(work.parents)
        every = parents.at()["model"]
        parents = parents.some(np.flatnonzero(np.isin(every, work.models)).tolist())
        done = 0
        for step in work.steps:
            course = course_of(step, parents, sets.data)
            done += follow(course, work.root, sets, work.threads, tell)
        return done


def course_of(work: TwinWork, parents: Zoo, data: Data) -> Course:
    """How the twins of a stack of parents come to be."""
    table, stack = parents.at(), parents.stack()
    past = int(table["epoch"].max()) + work.level * work.epochs
    batch = work.recipe.batch or work.plan.batch
    # A schedule goes on from where the parents stand, as its last part over a longer training.
    said = {"optimizer": str(table["optimizer"][0]), "batch": batch}
    plan = work.plan.model_copy(update=said)
    engine, _ = engine_of(stack, data, plan, threads=work.threads)
    before = engine.judge(data.test)
    by_gate = method_of(work.method).gate is not None
    way = (gated if by_gate else cut_down)(work, stack, data, plan, past)
    own = {n: list(table[n]) for n in HYPER if n in table}
    rows: dict[str, Any] = {
        "model": [int(m) for m in table["model"]],
        "method": work.method,
        "asked": work.sparsity,
        "parent_accuracy": before.accuracy,
    } | own
    known: list[tuple[Checkpoint, Kept]] = []

    def kept(seen: Checkpoint) -> Kept:
        if not known or known[-1][0] is not seen:
            known[:] = [(seen, kept_of(seen.stack, work.recipe.variational, way.gating, data))]
        return known[-1][1]

    def shard(path: Path, epoch: int, seen: Checkpoint) -> object:
        said = {"stack": work.name, "epoch": epoch, "first": rows["model"][0], "model": stack.model}
        tensors, masks = kept(seen)
        return write_sparse_shard(path, tensors, masks, said)

    def about(seen: Checkpoint) -> Mapping[str, Any]:
        a, b, labels = before.classes, seen.test.classes, data.test.labels.numpy()
        return {
            **rows,
            **counted(kept(seen)[1]),
            "agreement": agreement(a, b),
            "kappa": cohen_kappa(a, b, data.classes),
            "error_agreement": error_agreement(a, b, labels),
        }

    return Course(
        work.name, work.label, way.start, way.plan, way.marks, shard, about,
        offset=past, noise=way.noise, gating=way.gating, ramp=way.ramp,
    )  # fmt: skip


def rehearse(work: TwinWork, parents: Zoo) -> None:
    """Cut or gate an untrained network as the twins will be, to show what cannot work.

    Raises:
        UserError: a pattern matches no layer, a sparsity cannot be reached, or the gate has no
            such option or no place.
    """
    stack = parents.some([0]).stack()
    model = stack.template()
    if method_of(work.method).gate is not None:
        gate_of(work, 1).attach(model)
        return
    how = replace(how_of(work), criterion="magnitude")  # which needs no data
    for step in work.steps:
        assert step.sparsity is not None
        cut(model, how, Budget(step.sparsity))


def how_of(work: TwinWork) -> Cut:
    """What is cut, and how it is shared."""
    recipe = work.recipe
    return Cut.of(
        method_of(work.method),
        criterion=recipe.criterion,
        granularity=recipe.granularity,
        allocation=recipe.allocation,
        keep=recipe.keep or None,
    )


def gate_of(work: TwinWork, inputs: int) -> Gate:
    """The gate of a method, with what the recipe says of it.

    Args:
        inputs: of the training data.
    """
    said, spec = work.recipe.variational, parse_spec(work.method)
    given: dict[str, Any] = {"inputs": inputs, "epochs": said.epochs}
    if spec.name == "variational":
        given |= {"preset": said.preset, "threshold": said.cut}
        given |= {"warmup": 0.5} if said.preset == "elbo" else {}
    if work.recipe.keep:
        given["keep"] = work.recipe.keep
    return gate(Spec(str(method_of(work.method).gate), dict(spec.options)), **given)


def cut_down(work: TwinWork, stack: Stack, data: Data, plan: Plan, past: int) -> Way:
    """The way of a method that cuts to a sparsity."""
    assert work.sparsity is not None
    recipe, sparsity = work.recipe, work.sparsity
    how = how_of(work)
    seeds = [int(s) for s in stack.columns["seed"].tolist()]

    def masked(now: Stack, share: float) -> Stack:
        return replace(now, masks=cut_stack(now, how, Budget(share), data=data, seeds=seeds))

    marks = tuple(sorted({0, recipe.epochs}))
    said = schedule(recipe.schedule_of(work.method))
    if work.before is not None:
        stack = finished(work.before, stack)
    if said.ramp(0.0) == 1.0 or not recipe.epochs:
        return Way(masked(stack, sparsity), plan, marks)

    def ramp(done: int, now: Stack) -> Stack:
        return masked(now, sparsity * said.ramp((done + 1) / recipe.epochs))

    return Way(masked(stack, 0.0), plan, marks, ramp=ramp)


def finished(work: TwinWork, like: Stack) -> Stack:
    """The twins of a work that is done, as a stack of the same models as ``like``."""
    shard = Shard(Folder(work.root).shard(work.name, work.epochs))
    tensors = {n: torch.from_numpy(np.array(shard.tensor(n))) for n in like.tensors}
    masks = {n: shard.mask(n) for n in shard.sparse}
    found = {n: torch.from_numpy(m.copy()) for n, m in masks.items() if m is not None}
    return replace(like, tensors=tensors, masks=found)


def gated(work: TwinWork, stack: Stack, data: Data, plan: Plan, past: int) -> Way:
    """The way of a method whose gate chooses the sparsity."""
    said = work.recipe.variational
    marks = tuple(range(said.epochs + 1))
    spec = parse_spec(work.method)
    plain = spec.name == "variational" and not spec.options and not work.recipe.keep
    lanes = plain and plan.engine in ("auto", "lanes")
    if lanes and lanes_engine.unfit(stack, data, plan) is None:
        spread = {n: torch.full_like(x, FIRST_SPREAD) for n, x in stack.tensors.items()}
        return Way(
            replace(stack, spread=spread), plan, marks, noise=noise_of(said, len(data.train))
        )
    gating = Gating(gate_of(work, len(data.train)), said.epochs, past)
    if plan.engine == "lanes":
        plan = plan.model_copy(update={"engine": "auto"})
    return Way(begun(stack, gating), plan, marks, gating=gating)


def noise_of(said: Variational, inputs: int) -> Callable[[int], Noise]:
    """The noise of each epoch, counted from 0.

    Args:
        inputs: of the training data, which the weight of the divergence depends on.
    """

    def of(epoch: int) -> Noise:
        if said.preset == "zoo":
            scale = min(1.0, 0.01 * epoch / said.epochs)
            return Noise(
                divergence=scale, clip_conv=8.0, clip_linear=10.0, cut=said.cut, biases=True,
                decayed=True,
            )  # fmt: skip
        rise = min(1.0, 2 * epoch / said.epochs)
        return Noise(divergence=rise / inputs, clip_conv=40.0, clip_linear=40.0, cut=said.cut)

    return of


def kept_of(stack: Stack, said: Variational, gating: Gating | None, data: Data) -> Kept:
    """The tensors of a stack with exactly 0.0 where nothing is kept, and what is kept.

    Masks say it, or log alpha under noise, or the gate; biases have no mask.
    """
    if gating is not None:
        return folded(stack, gating, data)
    masks = dict(stack.masks) if stack.spread is None else alive(stack, said)
    return cleared(stack.tensors, masks), masks


def alive(stack: Stack, said: Variational) -> dict[str, Tensor]:
    """Which weights noise leaves, by log alpha."""
    assert stack.spread is not None
    found = {}
    for name in prunable(stack.template()):
        size = stack.tensors[name].abs().double() + 1e-15
        alpha = stack.spread[name].double() - 2.0 * size.log()
        found[name] = alpha < said.cut
    return found


def cleared(tensors: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` with exactly 0.0 where nothing is kept."""
    zero = torch.zeros(())
    return {n: torch.where(kept[n], x, zero) if n in kept else x for n, x in tensors.items()}


def counted(kept: Mapping[str, Tensor]) -> dict[str, Any]:
    """Sparsity of each model, and what is kept of each layer as JSON."""
    counts: dict[str, NDArray[np.int64]] = {
        name: mask.reshape(len(mask), -1).sum(1).numpy() for name, mask in kept.items()
    }
    sizes = {name: mask[0].numel() for name, mask in kept.items()}
    whole = sum(sizes.values())
    left = np.sum(list(counts.values()), axis=0)
    layers = [
        json.dumps({n.removesuffix(".weight"): [int(counts[n][k]), sizes[n]] for n in kept})
        for k in range(len(left))
    ]
    return {"sparsity": (1 - left / whole).tolist(), "layers": layers}
