"""The jobs of a zoo in training: a stack of its models, from their first weights to their last."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thrifty.data import Data, Split, load_data
from thrifty.population.stack import born
from thrifty.zoo.courses import Checkpoint, Course, Sets, follow
from thrifty.zoo.folder import Folder
from thrifty.zoo.recipe import Batch, ZooRecipe, roster
from thrifty.zoo.shards import write_shard

Tell = Callable[[dict[str, Any]], None]
SHUFFLE = 42
"""Seed of the rows that are kept aside for validation."""


@dataclass(frozen=True)
class Work:
    """A stack to be trained, as a job for an executor."""

    recipe: ZooRecipe
    root: Path
    number: int
    threads: int = 1
    most: int | None = None

    @property
    def label(self) -> str:
        """What it is called in progress lines."""
        return f"stack {self.number}"


def sets_of(recipe: ZooRecipe) -> Sets:
    """The data of a recipe, the validation inputs taken from the training ones."""
    return split_of(load_data(recipe.data), recipe.validation)


def split_of(data: Data, share: float) -> Sets:
    """``data`` with that share of its training inputs kept aside, the same for all."""
    if not share:
        return Sets(data, None)
    count = len(data.train)
    aside = round(count * share)
    turn = torch.from_numpy(np.random.RandomState(SHUFFLE).permutation(count))
    kept, held = (
        Split(data.train.inputs[rows], data.train.labels[rows])
        for rows in (turn[aside:].sort().values, turn[:aside].sort().values)
    )
    learning = Data(
        data.name, kept, data.test, data.classes, data.mean, data.std,
        class_names=data.class_names,
    )  # fmt: skip
    return Sets(learning, held)


def train_stack(work: Work, tell: Tell) -> int:
    """Train what is not trained yet of a stack; returns the number of segments done."""
    folder, recipe = Folder(work.root), work.recipe
    batch = roster(recipe, work.most)[work.number]
    with folder.working():
        sets = sets_of(recipe)
        course = course_of(recipe, batch, sets.data, work.label)
        return follow(course, work.root, sets, work.threads, tell)


def course_of(recipe: ZooRecipe, batch: Batch, data: Data, label: str) -> Course:
    """How the models of a batch come to be."""
    members = batch.members
    hyper = {n: [getattr(m, n) for m in members] for n in ("lr", "weight_decay", "dropout")}
    start = born(
        [m.spec(recipe.net) for m in members], data.shape, data.classes,
        [m.seed for m in members], **hyper,
    )  # fmt: skip
    plan = recipe.train.model_copy(update={"optimizer": members[0].optimizer})
    fields = ("seed", "act", "init", "dropout", "optimizer", "lr", "weight_decay")
    own = {f: [getattr(m, f) for m in members] for f in fields}
    rows = {"model": [m.model for m in members], "net": recipe.net, "batch": plan.batch} | own

    def shard(path: Path, epoch: int, seen: Checkpoint) -> object:
        said = {"stack": batch.name, "epoch": epoch, "first": members[0].model}
        return write_shard(path, seen.stack.tensors, said | {"model": start.model})

    def about(seen: Checkpoint) -> Mapping[str, Any]:
        return rows

    return Course(batch.name, label, start, plan, recipe.epochs(), shard, about)
