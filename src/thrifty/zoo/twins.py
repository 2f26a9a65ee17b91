"""Sparse twins of a zoo: every model pruned and retrained, by magnitude or variational dropout.

``magnitude`` cuts each model to the sparsities asked for, from its last checkpoint, and trains it
on with its own optimizer and the zeros held.  ``variational`` trains each model on under noise on
its weights, which chooses the sparsity itself, and is kept epoch by epoch.

References:
    Honegger et al., Sparsified Model Zoo Twins: Investigating Populations of Sparsified Neural
    Network Models, 2023, https://arxiv.org/abs/2304.13718
    Molchanov et al., Variational Dropout Sparsifies Deep Neural Networks, 2017,
    https://arxiv.org/abs/1701.05369
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator, Field
from torch import Tensor

from thrifty.data import Data
from thrifty.errors import UserError
from thrifty.lab.prune_table import AllocationName, Sparsity, distinct, listed
from thrifty.lab.recipe import identity
from thrifty.native.lanes import Noise
from thrifty.population.plan import Plan
from thrifty.population.stack import Stack
from thrifty.population.training import engine_of
from thrifty.pruning.allocation import Budget
from thrifty.pruning.layers import prunable
from thrifty.pruning.pruning import Cut, cut
from thrifty.zoo.courses import Checkpoint, Course, follow
from thrifty.zoo.recipe import Table
from thrifty.zoo.segments import Tell
from thrifty.zoo.sets import sets_of
from thrifty.zoo.shards import write_sparse_shard
from thrifty.zoo.statistics import agreement, cohen_kappa, error_agreement
from thrifty.zoo.zoo import Zoo

Method = Literal["magnitude", "variational"]
FIRST_SPREAD = -10.0
"""log sigma^2 of every weight before variational dropout."""


class Variational(Table):
    """Variational dropout of a whole population."""

    preset: Literal["zoo", "elbo"] = "zoo"
    """zoo: weight of the divergence min(1, 0.01 e / epochs) in epoch e beside a mean loss, noise
    on the biases of convolutions, weight decay on log sigma^2, as published; elbo: 1 / inputs,
    rising over the first half, and neither."""
    epochs: Annotated[int, Field(ge=1)] = 25
    cut: float = 3.0
    """log alpha from which a weight is zero."""


class TwinRecipe(Table):
    """How twins are made of a zoo."""

    method: Annotated[
        tuple[Method, ...], BeforeValidator(listed), AfterValidator(distinct), Field(min_length=1)
    ] = ("magnitude", "variational")
    sparsity: Annotated[
        tuple[Sparsity, ...], BeforeValidator(listed), AfterValidator(distinct), Field(min_length=1)
    ] = (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
    epochs: Annotated[int, Field(ge=0)] = 15
    """Of training after a cut by magnitude."""
    allocation: AllocationName = "lamp"
    """How a sparsity is shared among layers; ``uniform`` cuts every layer alike."""
    variational: Variational = Variational()
    batch: Annotated[int, Field(ge=1)] | None = None
    """Inputs a step; that of the zoo if not given."""
    stack: Annotated[int, Field(ge=1, le=1024)] = 64

    @property
    def identity(self) -> str:
        """12 hex digits of what decides the twins; which methods and sparsities are there, and how
        they are stacked, does not."""
        said = self.model_dump(mode="json", exclude_defaults=True)
        for name in ("stack", "method", "sparsity"):
            said.pop(name, None)
        return identity("twins", said)


@dataclass(frozen=True)
class TwinWork:
    """The twins of some models by one method at one sparsity, as a job for an executor."""

    recipe: TwinRecipe
    parents: Path
    root: Path
    data: tuple[str, float]
    """The spec of the data, and the share that is kept aside."""
    plan: Plan
    models: tuple[int, ...]
    """Numbers of the parents, rising."""
    name: str
    method: Method
    sparsity: float | None
    threads: int = 1

    @property
    def label(self) -> str:
        """What it is called in progress lines."""
        level = "" if self.sparsity is None else f" {self.sparsity:g}"
        return f"{self.method}{level}, models {self.models[0]} to {self.models[-1]}"


def train_twins(work: TwinWork, tell: Tell) -> int:
    """Make what is not made yet of some twins; returns the number of segments done."""
    from thrifty.zoo.folder import Folder

    with Folder(work.root).working():
        sets = sets_of(*work.data)
        parents = Zoo(work.parents)
        every = parents.at()["model"]
        parents = parents.some(np.flatnonzero(np.isin(every, work.models)).tolist())
        course = course_of(work, parents, sets.data)
        return follow(course, work.root, sets, work.threads, tell)


def course_of(work: TwinWork, parents: Zoo, data: Data) -> Course:
    """How the twins of a stack of parents come to be."""
    table, stack = parents.at(), parents.stack()
    past = int(table["epoch"].max())
    batch = work.recipe.batch or work.plan.batch
    plan = work.plan.model_copy(
        update={"optimizer": str(table["optimizer"][0]), "batch": batch, "schedule": "constant"}
    )
    engine, _ = engine_of(stack, data, plan, threads=work.threads)
    before = engine.judge(data.test)
    noise: Callable[[int], Noise] | None = None
    if work.method == "magnitude":
        assert work.sparsity is not None
        start = replace(stack, masks=masks_of(stack, work.sparsity, work.recipe.allocation))
        marks: tuple[int, ...] = tuple(sorted({0, work.recipe.epochs}))
    else:
        said, count = work.recipe.variational, len(data.train)
        spread = {n: torch.full_like(x, FIRST_SPREAD) for n, x in stack.tensors.items()}
        start, marks = replace(stack, spread=spread), tuple(range(said.epochs + 1))
        noise = noise_of(said, count)
    own = {n: list(table[n]) for n in HYPER if n in table}
    rows: dict[str, Any] = {
        "model": [int(m) for m in table["model"]],
        "method": work.method,
        "asked": work.sparsity,
        "parent_accuracy": before.accuracy,
    } | own

    def shard(path: Path, epoch: int, seen: Checkpoint) -> object:
        said = {"stack": work.name, "epoch": epoch, "first": rows["model"][0], "model": stack.model}
        kept = alive(seen.stack, work.recipe.variational)
        return write_sparse_shard(path, cleared(seen.stack.tensors, kept), kept, said)

    def about(seen: Checkpoint) -> Mapping[str, Any]:
        kept = alive(seen.stack, work.recipe.variational)
        a, b, labels = before.classes, seen.test.classes, data.test.labels.numpy()
        return {
            **rows,
            **counted(kept),
            "agreement": agreement(a, b),
            "kappa": cohen_kappa(a, b, data.classes),
            "error_agreement": error_agreement(a, b, labels),
        }

    return Course(work.name, work.label, start, plan, marks, shard, about, offset=past, noise=noise)


HYPER = ("net", "act", "init", "dropout", "optimizer", "lr", "weight_decay", "seed", "batch")
"""Columns of the parents that their twins have too."""


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


def masks_of(stack: Stack, sparsity: float, allocation: str) -> dict[str, Tensor]:
    """Masks that cut each model of a stack by magnitude, exactly as :func:`thrifty.prune` would."""
    how = Cut.of("magnitude", allocation=allocation)
    found = [cut(model, how, Budget(sparsity)) for model in stack.modules()]
    return {name: torch.stack([masks[name] for masks in found]) for name in found[0]}


def alive(stack: Stack, said: Variational) -> dict[str, Tensor]:
    """Which weights are kept, by masks or, under noise, by log alpha; biases have no mask."""
    if stack.spread is None:
        return dict(stack.masks)
    weights = list(prunable(stack.template()))
    found = {}
    for name in weights:
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


def twin_jobs(
    recipe: TwinRecipe,
    parents: Zoo,
    root: Path,
    data: tuple[str, float],
    plan: Plan,
    threads: int,
) -> list[TwinWork]:
    """A job for every stack of parents that are trained to the end, method and sparsity.

    Args:
        plan: that the parents were trained by.

    Raises:
        UserError: the zoo has no such model, or all diverged.
    """
    table = parents.at()
    table = table.take(table["epoch"] == plan.epochs) if len(table) else table
    if not len(table):
        raise UserError(
            f"{parents.folder.root} has no model that is trained to epoch {plan.epochs}; go on "
            f"with thrifty zoo train first"
        )
    kinds: dict[tuple[Any, ...], list[int]] = {}
    diverged = table["diverged"] if "diverged" in table else np.zeros(len(table), bool)
    for place in range(len(table)):
        if not diverged[place]:
            key = tuple(str(table[n][place]) for n in ("net", "act", "optimizer"))
            kinds.setdefault((*key, table["dropout"][place] > 0), []).append(place)
    if not kinds:
        raise UserError(
            f"every model of {parents.folder.root} diverged; there are no twins of them"
        )
    jobs = []
    for found in kinds.values():
        for at in range(0, len(found), recipe.stack):
            models = tuple(int(m) for m in table["model"][found[at : at + recipe.stack]])
            first = f"{models[0]:06d}n{len(models)}"
            levels: list[tuple[Method, float | None]] = []
            for method in recipe.method:
                asked = recipe.sparsity if method == "magnitude" else (None,)
                levels += [(method, level) for level in asked]
            for method, level in levels:
                name = f"{first}-{method}" + ("" if level is None else f"-{level:g}")
                jobs.append(
                    TwinWork(
                        recipe, parents.folder.root.resolve(), root, data, plan,
                        models, name, method, level, threads,
                    )
                )  # fmt: skip
    return jobs
