"""The jobs of a zoo in training: a stack of its models, from their first weights to their last."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thrifty.data import Data
from thrifty.population.stack import born
from thrifty.population.training import choose
from thrifty.zoo.courses import Checkpoint, Course, follow
from thrifty.zoo.folder import Folder
from thrifty.zoo.recipe import Batch, ZooRecipe, roster
from thrifty.zoo.sets import sets_of
from thrifty.zoo.shards import write_shard

Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Work:
    """A stack to be trained, as a job for an executor."""

    recipe: ZooRecipe
    root: Path
    number: int
    threads: int = 1
    most: int | None = None

    @property
    def data(self) -> tuple[str, float]:
        """The spec of its data, and the share that is kept aside."""
        return self.recipe.data, self.recipe.validation

    @property
    def label(self) -> str:
        """What it is called in progress lines."""
        return f"stack {self.number}"


def train_stack(work: Work, tell: Tell) -> int:
    """Train what is not trained yet of a stack; returns the number of segments done."""
    folder, recipe = Folder(work.root), work.recipe
    batch = roster(recipe, work.most)[work.number]
    with folder.working():
        sets = sets_of(*work.data)
        course = course_of(recipe, batch, sets.data, work.label)
        return follow(course, work.root, sets, work.threads, tell)


def check_fits(recipe: ZooRecipe, data: Data, models: int | None = None) -> None:
    """Refuse a recipe whose networks are not to be had, or cannot be trained as stacks.

    Raises:
        UserError: the message says which network and why.
    """
    seen = set()
    for batch in roster(recipe, models):
        one = batch.members[0]
        kind = (one.act, one.init, one.optimizer, one.dropout > 0)
        if kind not in seen:
            seen.add(kind)
            alone = batch.model_copy(update={"members": batch.members[:1]})
            course = course_of(recipe, alone, data, batch.name)
            choose(course.start, data, course.plan)


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
