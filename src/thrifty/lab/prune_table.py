"""What a recipe says under ``prune``: methods, levels or budgets, and what is done where."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from thrifty.errors import UserError
from thrifty.registry import parse_spec, suggest

if TYPE_CHECKING:
    from thrifty.pruning.allocation import Budget


def listed(value: Any) -> Any:
    """One value stands for a list of one."""
    return value if isinstance(value, list | tuple) else [value]


def _known_method(name: str) -> str:
    from thrifty.pruning.methods import METHODS

    METHODS.get(name)
    return name


def _known_criterion(name: str) -> str:
    from thrifty.pruning.criteria import CRITERIA

    CRITERIA.get(name)
    return name


def _known_allocation(how: str) -> str:
    from thrifty.pruning.allocation import ALLOCATIONS

    name = parse_spec(how).name
    if name not in ALLOCATIONS and name != "explicit":
        known = [*ALLOCATIONS, "explicit"]
        raise UserError(f"no allocation is called {name!r}; {suggest(name, known)}")
    return how


def _known_schedule(name: str) -> str:
    from thrifty.pruning.schedules import schedule

    schedule(name)
    return name


def _known_granularity(name: str) -> str:
    from thrifty.pruning.granularity import granularity

    granularity(name)
    return name


def _sparsity(value: float) -> float:
    from thrifty.pruning.allocation import check_sparsity

    check_sparsity(value)
    return value


def _known_gate(name: str) -> str:
    from thrifty.pruning.gates import GATES

    GATES.get(parse_spec(name).name)
    return name


def _amount(value: Any) -> Any:
    """``1MB`` and ``200k`` are numbers too."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower().removesuffix("b")
    powers = {"k": 1e3, "m": 1e6, "g": 1e9}
    if text and text[-1] in powers and text[:-1].replace(".", "", 1).isdigit():
        return float(text[:-1]) * powers[text[-1]]
    return text


def _one_budget(value: dict[str, Any]) -> dict[str, Any]:
    allowed = ("params", "macs", "bytes", "latency")
    for name in value:
        if name not in allowed:
            raise UserError(f"no budget is called {name!r}; {suggest(name, allowed)}")
    if len(value) != 1:
        raise UserError(f"give one budget, not {len(value)}; it may be of {', '.join(allowed)}")
    return value


def distinct(values: Sequence[Any]) -> Sequence[Any]:
    """The values, none of them twice."""
    if len(set(values)) != len(values):
        raise UserError(f"{list(values)} has a value twice; give each once")
    return values


def _rising(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(sorted(distinct(values)))


Sparsity = Annotated[float, AfterValidator(_sparsity)]


class Table(BaseModel):
    """A part of a recipe: frozen, and a key it does not know is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Rule(Table):
    """What is done to some layers."""

    method: Annotated[str, AfterValidator(_known_method)] = "magnitude"
    sparsity: Sparsity | None = None
    """Share of the channels or weights that goes; that of the level if not given."""


Amounts = Annotated[
    tuple[Annotated[float, BeforeValidator(_amount), Field(gt=0, allow_inf_nan=False)], ...],
    BeforeValidator(listed),
    AfterValidator(distinct),
    Field(min_length=1),
]


class Prune(Table):
    """What is cut, how far, and from where."""

    method: Annotated[
        tuple[Annotated[str, AfterValidator(_known_method)], ...],
        BeforeValidator(listed),
        AfterValidator(distinct),
        Field(min_length=1),
    ] = ("magnitude",)
    """Methods, each with a chain of levels of its own (``thrifty methods``)."""
    sparsity: Annotated[
        tuple[Sparsity, ...],
        BeforeValidator(listed),
        AfterValidator(_rising),
        Field(min_length=1),
    ] = (0.5, 0.8, 0.9, 0.95)
    """Levels: shares of the prunable weights that become zero, in rising order."""
    criterion: Annotated[str, AfterValidator(_known_criterion)] | None = None
    """Instead of the methods' own (``thrifty criteria``)."""
    granularity: Annotated[str, AfterValidator(_known_granularity)] | None = None
    allocation: Annotated[str, AfterValidator(_known_allocation)] | None = None
    schedule: Annotated[str, AfterValidator(_known_schedule)] | None = None
    keep: Annotated[tuple[str, ...], BeforeValidator(listed)] = ()
    """Patterns of layers that are not pruned."""
    layers: dict[str, Sparsity] | None = None
    """For the allocation ``explicit``: patterns of layers to sparsities."""
    budget: Annotated[dict[str, Amounts], AfterValidator(_one_budget)] | None = None
    """Instead of ``sparsity``: what is kept, such as ``{macs: [.5, .3]}``; params, macs, bytes,
    latency, as shares of the dense network or as numbers."""
    round: Annotated[int, Field(ge=1)] = 8
    """Channels of a layer stay a multiple of this, or of an eighth of a narrower layer."""
    gate: Annotated[str, AfterValidator(_known_gate)] | None = None
    """Gates to train with, instead of the method's own: ``bn_scale?strength=1e-5``."""
    gate_epochs: Annotated[int, Field(ge=0)] | None = None
    """Epochs of training with gates; those of ``train`` if not given, or of ``retrain``."""
    rules: dict[str, Rule | Literal["keep"]] | None = None
    """For the method ``rules``: ``conv``, ``linear`` or patterns of layers to what is done there;
    of several that match, the last one given counts."""

    @model_validator(mode="after")
    def _methods_fit(self) -> "Prune":
        from thrifty.pruning.methods import METHODS

        found = {name: METHODS.get(name) for name in self.method}
        if self.budget is not None:
            for name, method in found.items():
                when = self.schedule or method.schedule
                if method.removes == "weights" and ("params" not in self.budget or when == "cubic"):
                    raise UserError(
                        f"{name} makes weights zero, which saves no {', '.join(self.budget)}; give "
                        f"sparsity, or a method that removes channels, such as l1_filter"
                    )
        if ("rules" in self.method) != (self.rules is not None):
            raise UserError(
                "the method rules and the table rules go together: method: [rules] and rules: "
                "{conv: {method: l1_filter}, linear: {method: magnitude}}"
            )
        return self

    @property
    def budgets(self) -> "tuple[Budget, ...]":
        """The levels, from gentle to hard."""
        from thrifty.pruning.allocation import Budget

        if self.budget is None:
            return tuple(Budget(s) for s in self.sparsity)
        ((of, amounts),) = self.budget.items()
        return tuple(Budget(a, of=of) for a in sorted(amounts, reverse=True))  # type: ignore[arg-type]
