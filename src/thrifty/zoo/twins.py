"""Sparse twins of a zoo: who is cut by which method to which sparsity, as jobs for an executor.

Methods that cut (``magnitude``, ``random``, ``saliency``, ...) prune each model to the sparsities
asked for, from its last checkpoint, and train it on with its own optimizer and the zeros held.
Methods with a gate (``variational``, ``l0``, ``str``) train each model on with the gate, which
chooses the sparsity itself, and are kept epoch by epoch.

References:
    Honegger et al., Sparsified Model Zoo Twins: Investigating Populations of Sparsified Neural
    Network Models, 2023, https://arxiv.org/abs/2304.13718
    Molchanov et al., Variational Dropout Sparsifies Deep Neural Networks, 2017,
    https://arxiv.org/abs/1701.05369
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field

from thrifty.errors import UserError
from thrifty.lab.prune_table import AllocationName, Sparsity, distinct, listed
from thrifty.lab.recipe import identity
from thrifty.population.plan import Plan
from thrifty.pruning.criteria import CRITERIA
from thrifty.pruning.granularity import granularity
from thrifty.pruning.methods import METHODS, Method
from thrifty.pruning.schedules import schedule
from thrifty.registry import parse_spec
from thrifty.zoo.recipe import Table
from thrifty.zoo.table import Table as IndexTable
from thrifty.zoo.zoo import Zoo

MOST_BYTES = 1 << 28
"""Bytes of the weights of a stack; of larger models fewer are trained together."""


def method_of(spec: str) -> Method:
    """The method of twins that a text names, options of a gate behind it: ``l0?strength=.01``.

    Raises:
        UserError: there is none, or twins cannot be made by it.
    """
    parsed = parse_spec(spec)
    found = METHODS.get(parsed.name)
    if found.removes != "weights":
        raise UserError(
            f"{parsed.name} removes channels, after which every twin has another architecture, "
            f"and twins of a zoo have one; use a method that sets weights to zero, such as "
            f"magnitude, whole filters with granularity=filter"
        )
    if parsed.options and found.gate is None:
        raise UserError(
            f"{spec}: {parsed.name} has no gate and takes no options; say what it cuts with "
            f"criterion, granularity, allocation and schedule"
        )
    return found


def _known(check: Any) -> AfterValidator:
    def checked(value: str) -> str:
        check(value)
        return value

    return AfterValidator(checked)


MethodName = Annotated[str, _known(method_of)]
CriterionName = Annotated[str, _known(CRITERIA.get)]
GranularityName = Annotated[str, _known(granularity)]
ScheduleName = Annotated[str, _known(schedule)]


class Variational(Table):
    """Variational dropout of a whole population; its epochs are those of other gates too."""

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
        tuple[MethodName, ...],
        BeforeValidator(listed),
        AfterValidator(distinct),
        Field(min_length=1),
    ] = ("magnitude", "variational")
    sparsity: Annotated[
        tuple[Sparsity, ...], BeforeValidator(listed), AfterValidator(distinct), Field(min_length=1)
    ] = (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
    epochs: Annotated[int, Field(ge=0)] = 15
    """Of training after a cut."""
    criterion: CriterionName | None = None
    """What weights are worth, for methods that cut; that of the method if not given."""
    granularity: GranularityName | None = None
    """What is zero as one piece; that of the method if not given."""
    allocation: AllocationName | None = None
    """How a sparsity is shared among layers, ``uniform`` cutting every layer alike; that of the
    method if not given."""
    schedule: ScheduleName | None = None
    """one_shot: every level from the original; iterative: from the twin of the level before;
    cubic: a little more at the beginning of every epoch.  cubic for the method gradual and
    one_shot for all others if not given."""
    keep: Annotated[tuple[str, ...], BeforeValidator(listed)] = ()
    """Patterns of layers that stay whole."""
    variational: Variational = Variational()
    batch: Annotated[int, Field(ge=1)] | None = None
    """Inputs a step; that of the zoo if not given."""
    stack: Annotated[int, Field(ge=1, le=1024)] = 64

    def schedule_of(self, method: str) -> str:
        """How the levels of a method that cuts follow each other."""
        return self.schedule or ("cubic" if method_of(method).schedule == "cubic" else "one_shot")

    @property
    def identity(self) -> str:
        """12 hex digits of what decides the twins; which methods and sparsities are there, and how
        they are stacked, does not, but where a level begins at the one before."""
        said = self.model_dump(mode="json", exclude_defaults=True)
        names = ["stack", "method"] + (["sparsity"] if self.schedule != "iterative" else [])
        for name in names:
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
    method: str
    sparsity: float | None
    threads: int = 1
    before: "TwinWork | None" = None
    """The twins of the level before, if these begin there; they are made first."""
    level: int = 0
    """How many levels before these."""

    @property
    def label(self) -> str:
        """What it is called in progress lines."""
        level = "" if self.sparsity is None else f" {self.sparsity:g}"
        return f"{self.method}{level}, models {self.models[0]} to {self.models[-1]}"

    @property
    def epochs(self) -> int:
        """Of training until these are finished."""
        return self.recipe.variational.epochs if self.sparsity is None else self.recipe.epochs

    @property
    def steps(self) -> tuple["TwinWork", ...]:
        """This work after those that it begins at, in order."""
        return (*(self.before.steps if self.before is not None else ()), self)


def twin_jobs(
    recipe: TwinRecipe,
    parents: Zoo,
    root: Path,
    data: tuple[str, float],
    plan: Plan,
    threads: int,
    most: int | None = None,
) -> list[TwinWork]:
    """A job for every stack of parents that are trained to the end, method and sparsity.

    Args:
        plan: that the parents were trained by.
        most: only the first so many of them.

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
    table = table.take(np.arange(len(table))[:most])
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
    each = max(1, min(recipe.stack, MOST_BYTES // max(_bytes(parents, table), 1)))
    jobs = []
    for found in kinds.values():
        for at in range(0, len(found), each):
            models = tuple(int(m) for m in table["model"][found[at : at + each]])
            for method in recipe.method:
                name = f"{models[0]:06d}n{len(models)}-{_plain(method)}"
                work = TwinWork(
                    recipe, parents.folder.root.resolve(), root, data, plan,
                    models, name, method, None, threads,
                )  # fmt: skip
                jobs += _levels(work)
    return jobs


def _levels(work: TwinWork) -> list[TwinWork]:
    """The work of a method at every sparsity; one work where each level builds on the last."""
    recipe = work.recipe
    if method_of(work.method).gate is not None:
        return [work]
    chained = recipe.schedule_of(work.method) == "iterative"
    made: list[TwinWork] = []
    for level in sorted(recipe.sparsity) if chained else recipe.sparsity:
        before = made[-1] if chained and made else None
        name = f"{work.name}-{level:g}"
        number = len(made) if chained else 0
        made.append(replace(work, name=name, sparsity=level, before=before, level=number))
    return made[-1:] if chained else made


def _plain(method: str) -> str:
    """A method as it may stand in the name of a file."""
    return "".join(c if c.isalnum() else "_" for c in method)


def _bytes(parents: Zoo, table: IndexTable) -> int:
    """Of a model."""
    shard = parents.shard(table["stack"][0], int(table["epoch"][0]))
    return sum(4 * int(np.prod(shard.shape(name), dtype=np.int64)) for name in shard.names)
