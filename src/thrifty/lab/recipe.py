"""A recipe says everything that decides a result; every mistake in it is reported at once.

Recipe files are YAML.  Fields that are not given have their defaults, and only what differs
from a default enters the identity of a step, so a new option never orphans old results; when a
default or a meaning changes, ``EDITION`` is raised, so old results never pass for new ones.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from thrifty.errors import UserError
from thrifty.lab.prune_table import Prune, Table, distinct
from thrifty.registry import suggest
from thrifty.training.distillation import TEMPERATURE, Distillation
from thrifty.training.plan import Plan, Positive, Share

EDITION = 1

T = TypeVar("T", bound=BaseModel)


def _seeds(value: Any) -> Any:
    """A number of seeds counts from 0."""
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise UserError(f"seeds is {value}; give the number of seeds (1 or more) or a list")
        return tuple(range(value))
    return value


def _form(value: Any) -> str:
    """Whether something is said as a number or as a table; :data:`FORMS` keeps messages free."""
    return "table" if isinstance(value, Mapping | BaseModel) else "number"


FORMS = ("number", "table")
"""Tags of forms, no part of the place of a key."""


class Retrain(Table):
    """How a network recovers after each cut; the rest is as in ``train``."""

    epochs: Annotated[int, Field(ge=0)] = 5
    policy: Literal["allr", "rewind", "finetune"] = "allr"
    """Learning rate: by the damage of the cut, replayed from the end of ``train``, or its last."""
    lr: Positive | None = None
    """Highest learning rate, instead of the policy's."""
    distill: Annotated[
        Annotated[Share, Tag("number")] | Annotated[Distillation, Tag("table")],
        Discriminator(_form),
    ] = 0.0
    """Weight of staying close to the dense parent, against the task; or a table that says who
    teaches (the dense parent if not given) and how, as in ``train``: ``{kind: dkd}``."""
    temperature: Positive = 4.0
    """Of ``distill`` where that is a number."""
    recalibrate: bool = True
    """Measure batch normalisation statistics anew after retraining."""

    @property
    def taught(self) -> Distillation | None:
        """What is said of a teacher, a number as a table; ``None`` without one."""
        if isinstance(self.distill, Distillation):
            return self.distill
        if not self.distill:
            return None
        return Distillation(weight=self.distill, temperature=self.temperature)

    @model_validator(mode="after")
    def _one_temperature(self) -> "Retrain":
        if isinstance(self.distill, Distillation) and self.temperature != TEMPERATURE:
            raise UserError(
                f"temperature is {self.temperature:g} beside a table distill, which has its own; "
                f"write distill: {{temperature: {self.temperature:g}, ...}}"
            )
        return self


class Machine(Table):
    """Where it runs; no part of what is run, so it may change when a run is resumed."""

    device: str = "auto"
    threads: Annotated[int, Field(ge=1)] = 1
    """Threads a worker; for small networks more of them are slower."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Processes; by the number of cores if not given."""
    distributed: bool = False
    """Train each network by all processes that torchrun started: torchrun --nproc-per-node 2 -m
    thrifty run RECIPE machine.distributed=true.  Networks are then trained one after another."""
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 20.0
    """Least time between two checkpoints of a network in training."""


class Recipe(Table):
    """One experiment, from a network and data to a front."""

    model: str = "three_methods_cnn"
    weights: str | None = None
    """A file of weights to start from, instead of random ones."""
    data: str = "digits"
    seeds: Annotated[
        tuple[int, ...], BeforeValidator(_seeds), AfterValidator(distinct), Field(min_length=1)
    ] = (0, 1, 2)
    """A number of seeds, or a list of them."""
    train: Plan = Plan()
    prune: Prune = Prune()
    retrain: Retrain = Retrain()
    random: bool = True
    """Put random pruning, with equal epochs, on the front; at thresholds there is none."""
    control: bool = True
    """Put the dense network, trained on for equal epochs, on the front."""
    latency: bool = True
    """Time one input through every network, after all training."""
    machine: Machine = Machine()

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods of ``prune``, and ``random`` where asked for."""
        from thrifty.pruning.methods import METHODS

        if not self.random or self.prune.threshold is not None:
            return self.prune.method
        kinds = [METHODS.get(n).removes for n in self.prune.method if not self._own(n)]
        lots = {"weights": "random", "channels": "random_filter"}
        extra = dict.fromkeys(lots[kind] for kind in kinds)
        return self.prune.method + tuple(n for n in extra if n not in self.prune.method)

    def _own(self, method: str) -> bool:
        """Whether a method has units of its own, that no lot is drawn of."""
        from thrifty.lab.gating import unit_of
        from thrifty.pruning.methods import METHODS

        gate = METHODS.get(method).gate
        return gate is not None and unit_of(self.prune.gate or gate) == "own"

    @property
    def identity(self) -> str:
        """12 hex digits that name what this recipe decides."""
        return identity("recipe", self.differences())

    def differences(self) -> dict[str, Any]:
        """What differs from the defaults and decides a result."""
        said: dict[str, Any] = self.model_dump(
            mode="json", exclude_defaults=True, exclude={"machine"}
        )
        return said

    def to_yaml(self) -> str:
        """The whole recipe as YAML, defaults included."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        return text


def identity(*said: Any) -> str:
    """12 hex digits decided by ``said``, which JSON can hold, and by the edition."""
    text = json.dumps([EDITION, *said], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def make(
    values: Mapping[str, Any], where: str = "recipe", names: Mapping[str, str] | None = None
) -> Recipe:
    """The recipe that ``values`` say, defaults filling the rest.

    Args:
        values: keys of a recipe.
        where: what holds them, for messages.
        names: what keys such as ``prune.sparsity`` are called there, if not so.

    Raises:
        UserError: with every mistake, its place and what is allowed there.
    """
    return validated(Recipe, values, where, names or {})


def validated(kind: type[T], values: Mapping[str, Any], where: str, names: Mapping[str, str]) -> T:
    """``values`` as a table of that kind; see :func:`make`."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError("\n".join(_mistakes(error, kind, where, names))) from None


def recipe(**values: Any) -> Recipe:
    """A recipe from keywords; tables are dictionaries, and what is not given has its default.

    Example:
        >>> recipe(model="lenet", prune={"sparsity": [0.9]}).prune.sparsity
        (0.9,)

    Raises:
        UserError: with every mistake, its place and what is allowed there.
    """
    return make(values)


def read(path: Path | str, overrides: Iterable[str] = ()) -> Recipe:
    """The recipe of a YAML file, or of a name of ``thrifty recipes``, with ``a.b=c`` overrides.

    Raises:
        UserError: no such file, not YAML, or any mistake in it.
    """
    values, where = values_of(path, overrides)
    return make(values, where)


def values_of(path: Path | str, overrides: Iterable[str] = ()) -> tuple[dict[str, Any], str]:
    """The keys of a recipe file, or of a name of ``thrifty recipes``, and what to call it.

    Raises:
        UserError: no such file, not YAML, or an override that is none.
    """
    text, where = _text(Path(path))
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not YAML: {error}") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise UserError(
            f"{where}: a recipe is a table of key: value, this is {type(values).__name__}"
        )
    return overridden(values, overrides), where


def overridden(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """``values`` with ``a.b=c`` applied; c is read as YAML."""
    out: dict[str, Any] = json.loads(json.dumps(values, default=str))
    for text in overrides:
        key, mark, value = text.partition("=")
        if not mark or not key:
            raise UserError(f"{text!r} is no override; write key=value, such as prune.sparsity=.95")
        *parents, last = key.split(".")
        table = out
        for parent in parents:
            table = table.setdefault(parent, {})
            if not isinstance(table, dict):
                raise UserError(f"{text!r}: {parent} is not a table; it is {table!r}")
        try:
            table[last] = yaml.safe_load(value)
        except yaml.YAMLError:
            table[last] = value
    return out


def shipped() -> dict[str, str]:
    """Recipes that come with thrifty: name -> YAML text."""
    folder = resources.files("thrifty.recipes")
    return {
        file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8")
        for file in sorted(folder.iterdir(), key=lambda f: f.name)
        if file.name.endswith(".yaml")
    }


def _text(path: Path) -> tuple[str, str]:
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8"), str(path)
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: no text in UTF-8 ({error}); a recipe is YAML") from None
    recipes = shipped()
    if str(path) in recipes:
        return recipes[str(path)], f"recipe {path}"
    raise UserError(
        f"{path}: there is no such file, nor a recipe of that name; "
        f"{suggest(str(path).removesuffix('.yaml'), recipes)}"
    )


def _mistakes(
    error: ValidationError, kind: type[BaseModel], where: str, names: Mapping[str, str]
) -> list[str]:
    lines = []
    for item in error.errors(include_url=False):
        loc = _place(item["loc"])
        key = ".".join(part for part in loc if isinstance(part, str))
        place = ".".join(map(str, loc))
        lines.append(f"{names.get(key) or f'{where}: {place}'}: {_told(item, kind)}")
    return lines


def _place(loc: Sequence[int | str]) -> list[int | str]:
    """Where something is, without the form in which it is given."""
    return [p for n, p in enumerate(loc) if not (n and loc[n - 1] == "distill" and p in FORMS)]


def _tables(annotation: Any) -> list[type[BaseModel]]:
    """The kinds of table that a type allows, also as one of several or in a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [table for part in get_args(annotation) for table in _tables(part)]


def _known(kind: type[BaseModel], parents: Sequence[int | str]) -> list[str]:
    """The keys that the table at a place may have."""
    tables = [kind]
    for part in parents:
        inside = [
            f.annotation for t in tables for name, f in t.model_fields.items() if name == part
        ]
        if inside:  # else the key of a mapping, or the form of a value
            tables = [table for annotation in inside for table in _tables(annotation)]
    return [name for table in tables for name in table.model_fields]


def _told(item: Any, kind: type[BaseModel]) -> str:
    if item["type"] == "extra_forbidden":
        *parents, name = item["loc"]
        return f"there is no such key; {suggest(str(name), _known(kind, parents))}"
    if item["type"] == "missing":
        return "it has to be given"
    message = str(item["msg"]).removeprefix("Value error, ")
    given = item.get("input")
    if item["type"] == "too_short":
        return "give one at least"
    if item["type"] in ("model_type", "model_attributes_type"):
        return f"it is a table of key: value; {given!r} was given"
    if item["type"] == "value_error" or isinstance(given, dict | list):
        return message[0].lower() + message[1:]
    return f"{message[0].lower() + message[1:]}; {given!r} was given"
