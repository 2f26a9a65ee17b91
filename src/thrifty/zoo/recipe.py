"""What a zoo is made of: a network, a grid of hyper-parameters, seeds, and how all are trained."""

import inspect
import itertools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
)

from thrifty.errors import UserError
from thrifty.lab.prune_table import distinct, listed
from thrifty.lab.recipe import identity, validated
from thrifty.nets import NETS
from thrifty.nets.zoo_cnn import ACTIVATIONS, INITS
from thrifty.population.plan import Plan
from thrifty.registry import parse_spec, suggest

Share = Annotated[float, Field(ge=0, lt=1)]
OPTIONS = ("act", "init", "dropout")
"""Columns of a grid that are options of the network."""


def _many(value: Any) -> Any:
    return tuple(distinct(listed(value)))


def _known(what: str, known: Mapping[str, object]) -> Any:
    def check(value: str) -> str:
        if value not in known:
            raise UserError(f"no {what} is called {value!r}; {suggest(value, known)}")
        return value

    return AfterValidator(check)


_LISTED = BeforeValidator(_many)
_SOME = Field(min_length=1)
Acts = Annotated[tuple[Annotated[str, _known("activation", ACTIVATIONS)], ...], _LISTED, _SOME]
Inits = Annotated[tuple[Annotated[str, _known("initialisation", INITS)], ...], _LISTED, _SOME]
Optimizers = Annotated[tuple[Literal["sgd", "adam", "adamw"], ...], _LISTED, _SOME]
Shares = Annotated[tuple[Share, ...], _LISTED, _SOME]
Rates = Annotated[tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...], _LISTED, _SOME]
Decays = Annotated[tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...], _LISTED, _SOME]


class Table(BaseModel):
    """A part of a recipe: frozen, and a key it does not know is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Grid(Table):
    """Every combination of these is trained with every seed."""

    act: Acts = ("tanh",)
    init: Inits = ("kaiming_uniform",)
    dropout: Shares = (0.0,)
    optimizer: Optimizers = ("adam",)
    lr: Rates = (1e-3,)
    weight_decay: Decays = (0.0,)

    def points(self) -> Iterator[dict[str, Any]]:
        """Each combination, in order; the last varies fastest."""
        names = list(type(self).model_fields)
        for values in itertools.product(*(getattr(self, name) for name in names)):
            yield dict(zip(names, values, strict=True))


class Published(Table):
    """What a paper says of such a zoo, for a report to stand beside."""

    accuracy: float | None = None
    models: int | None = None
    source: str = ""


class ZooRecipe(Table):
    """One zoo."""

    net: str = "zoo_cnn_s"
    """The network; act, init and dropout of the grid are given to it as options."""
    data: str = "digits"
    grid: Grid = Grid()
    seeds: Annotated[int, Field(ge=1)] = 10
    """Models of each combination."""
    fixed_seeds: bool = True
    """The same seeds at every combination; otherwise every model has one of its own."""
    validation: Share = 0.0
    """Share of the training inputs that is kept aside, the same for all models."""
    train: Plan = Plan()
    checkpoints: Annotated[int, Field(ge=1)] = 1
    """Epochs from one checkpoint to the next; the first weights and the last are always kept."""
    stack: Annotated[int, Field(ge=1, le=1024)] = 64
    """Models that are trained together: the unit of work that a kill may cost an epoch of."""
    published: Published | None = None

    @property
    def models(self) -> int:
        """How many models there are in all."""
        return len(list(self.grid.points())) * self.seeds

    @property
    def identity(self) -> str:
        """12 hex digits of what decides the models; how they are stacked does not."""
        said = self.model_dump(mode="json", exclude_defaults=True)
        for name in ("stack", "published"):
            said.pop(name, None)
        said.get("train", {}).pop("engine", None)
        return identity("zoo", said)

    def to_yaml(self) -> str:
        """The whole recipe as YAML, defaults included."""
        said = {"zoo": self.model_dump(mode="json", exclude_none=True)}
        text: str = yaml.safe_dump(said, sort_keys=False)
        return text

    def epochs(self) -> tuple[int, ...]:
        """Epochs of which the models are kept: 0 is before any training."""
        last = self.train.epochs
        return tuple(sorted({0, last, *range(self.checkpoints, last, self.checkpoints)}))


class Member(BaseModel):
    """One model to be: its number, combination and seed."""

    model_config = ConfigDict(frozen=True)

    model: int
    seed: int
    act: str
    init: str
    dropout: float
    optimizer: str
    lr: float
    weight_decay: float

    def spec(self, net: str) -> str:
        """What :func:`thrifty.resolve` builds it from: ``net`` with the options that it takes."""
        given = {"act": self.act, "init": self.init}
        if self.dropout:
            given["dropout"] = f"{self.dropout:g}"
        taken = taken_by(net)
        options = "&".join(f"{k}={v}" for k, v in given.items() if k in taken)
        mark = "&" if "?" in net else "?"
        return f"{net}{mark}{options}" if options else net


def taken_by(net: str) -> tuple[str, ...]:
    """Which of :data:`OPTIONS` a network takes; of networks that are not built in, all."""
    name = parse_spec(net).name
    if name not in NETS:
        return () if name.startswith(("torchvision:", "timm:")) else OPTIONS
    known = inspect.signature(NETS.get(name)).parameters
    return tuple(option for option in OPTIONS if option in known)


class Batch(BaseModel):
    """Models that are trained together, of one architecture and optimizer."""

    model_config = ConfigDict(frozen=True)

    name: str
    """By the first model and how many: a zoo that grows finds the stacks that were full."""
    members: tuple[Member, ...]


def roster(recipe: ZooRecipe, most: int | None = None) -> tuple[Batch, ...]:
    """Every model of a zoo, sorted into stacks; the same for the same recipe.

    Args:
        most: only the first so many models.
    """
    members = []
    untaken = {o: "" for o in ("act", "init") if o not in taken_by(recipe.net)}
    for number, point in enumerate(recipe.grid.points()):
        point |= untaken
        for repeat in range(recipe.seeds):
            model = number * recipe.seeds + repeat
            seed = repeat if recipe.fixed_seeds else model
            members.append(Member(model=model, seed=seed, **point))
    kinds: dict[tuple[Any, ...], list[Member]] = {}
    for member in members[:most]:
        key = (member.act, member.optimizer, member.dropout > 0)
        kinds.setdefault(key, []).append(member)
    batches: list[Batch] = []
    for found in kinds.values():
        for at in range(0, len(found), recipe.stack):
            some = tuple(found[at : at + recipe.stack])
            batches.append(Batch(name=f"{some[0].model:06d}n{len(some)}", members=some))
    return tuple(batches)


def zoo_recipe(values: Mapping[str, Any], where: str = "recipe") -> ZooRecipe:
    """The recipe that ``values`` say, every mistake reported at once.

    Raises:
        UserError: with every mistake, its place and what is allowed there.
    """
    found = validated(ZooRecipe, values, where, {})
    untaken = [o for o in OPTIONS if o not in taken_by(found.net)]
    for option in untaken:
        given = getattr(found.grid, option)
        if len(given) > 1 or (option == "dropout" and any(given)):  # the same models again
            raise UserError(
                f"{where}: grid.{option} is {list(given)}, and {parse_spec(found.net).name} has "
                f"no option {option!r}; leave it out"
            )
    return found
