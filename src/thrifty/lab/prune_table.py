"""What a recipe says under ``prune``: methods, how far they go, and what is done where."""

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
from thrifty.training.plan import Positive, known_gate

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


AllocationName = Annotated[str, AfterValidator(_known_allocation)]


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


SPARSITY = (0.5, 0.8, 0.9, 0.95)


def _levels(value: Any) -> Any:
    """Null is as if nothing were said."""
    return SPARSITY if value is None else listed(value)


Sparsity = Annotated[float, AfterValidator(_sparsity)]


class Table(BaseModel):
    """A part of a recipe: frozen, and a key it does not know is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Rule(Table):
    """What is done to some layers."""

    method: Annotated[str, AfterValidator(_known_method)] = "magnitude"
    sparsity: Sparsity | None = None
    """Share of the channels or weights that goes; that of the level if not given."""


class GateTrain(Table):
    """Where training with gates differs from ``train``; as there, if not given."""

    optimizer: Literal["sgd", "adam", "adamw"] | None = None
    lr: Positive | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    schedule: Literal["cosine", "step", "one_cycle", "linear", "constant"] | None = None
    batch: Annotated[int, Field(ge=1)] | None = None


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
    ] = ("magnitude",)
    """Methods, each with a chain of levels of its own (``thrifty methods``); with none, the dense
    parents are all there is."""
    sparsity: Annotated[
        tuple[Sparsity, ...],
        BeforeValidator(_levels),
        AfterValidator(_rising),
        Field(min_length=1),
    ] = SPARSITY
    """Levels: shares of the prunable weights that become zero, in rising order."""
    criterion: Annotated[str, AfterValidator(_known_criterion)] | None = None
    """Instead of the methods' own (``thrifty criteria``)."""
    granularity: Annotated[str, AfterValidator(_known_granularity)] | None = None
    allocation: AllocationName | None = None
    schedule: Annotated[str, AfterValidator(_known_schedule)] | None = None
    keep: Annotated[tuple[str, ...], BeforeValidator(listed)] = ()
    """Patterns of layers that are not pruned."""
    layers: dict[str, Sparsity] | None = None
    """For the allocation ``explicit``: patterns of layers to sparsities."""
    budget: Annotated[dict[str, Amounts], AfterValidator(_one_budget)] | None = None
    """Instead of ``sparsity``: what is kept, such as ``{macs: [.5, .3]}``; params, macs, bytes,
    latency, as shares of the dense network or as numbers."""
    threshold: (
        Annotated[
            tuple[Annotated[float, Field(allow_inf_nan=False)], ...],
            BeforeValidator(listed),
            AfterValidator(_rising),
            Field(min_length=1),
        ]
        | None
    ) = None
    """Instead of ``sparsity``, for methods with gates: what a unit must score to stay, in the
    words of the gate; one trained network, cut at each."""
    round: Annotated[int, Field(ge=1)] = 8
    """Channels of a layer stay a multiple of this, or of an eighth of a narrower layer; at a
    threshold they are as many as it leaves."""
    gate: Annotated[str, AfterValidator(known_gate)] | None = None
    """Gates to train with, instead of the method's own: ``bn_scale?strength=1e-5``."""
    gate_epochs: Annotated[int, Field(ge=0)] | None = None
    """Epochs of training with gates; those of ``train`` if not given, or of ``retrain``."""
    gate_train: GateTrain | None = None
    """Where training with gates differs from ``train``, instead of where the method says so."""
    rules: dict[str, Rule | Literal["keep"]] | None = None
    """For the method ``rules``: ``conv``, ``linear`` or patterns of layers to what is done there;
    of several that match, the last one given counts."""

    @model_validator(mode="after")
    def _methods_fit(self) -> "Prune":
        from thrifty.pruning.methods import METHODS

        found = {name: METHODS.get(name) for name in self.method}
        mistakes = self._gates_fit() + (self._thresholds_fit() if self.threshold else [])
        if mistakes:
            raise UserError("; ".join(mistakes))
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

    def _gates_fit(self) -> list[str]:
        """What is wrong with the gate that is given for the methods that have one."""
        from thrifty.lab.gating import unit_of
        from thrifty.pruning.methods import METHODS

        if self.gate is None:
            return []
        weights = unit_of(self.gate) == "weight"
        return [
            f"gate: {self.gate} scores {'weights' if weights else 'channels'}, and {name} takes "
            f"{METHODS.get(name).removes}; leave it out, or give {name} a recipe of its own"
            for name in self.method
            if METHODS.get(name).gate and weights != (METHODS.get(name).removes == "weights")
        ]

    def _thresholds_fit(self) -> list[str]:
        """What is wrong with thresholds, for these methods and beside the other keys."""
        from thrifty.lab.gating import wrong_thresholds
        from thrifty.pruning.methods import METHODS
        from thrifty.pruning.schedules import schedule

        found = {name: METHODS.get(name) for name in self.method}
        specs = {name: m.gate and (self.gate or m.gate) for name, m in found.items()}
        others = {
            "budget": self.budget is not None,
            "sparsity": self.sparsity != SPARSITY,
            "allocation": self.allocation is not None,
            "granularity": self.granularity is not None,
            "layers": self.layers is not None,
        }
        mistakes = [
            f"threshold and {name} both say how much goes; leave one out ({name}: null)"
            for name, given in others.items()
            if given
        ]
        if any(schedule(self.schedule or m.schedule).ramp(0.0) < 1 for m in found.values()):
            mistakes.append("a threshold is one cut; the schedule cubic goes from share to share")
        return mistakes + [
            f"threshold: {text}" for text in wrong_thresholds(specs, self.threshold or ())
        ]

    @property
    def budgets(self) -> "tuple[Budget, ...]":
        """The levels, from gentle to hard."""
        from thrifty.pruning.allocation import Budget

        if self.threshold is not None:
            return tuple(Budget(t, of="threshold") for t in self.threshold)
        if self.budget is None:
            return tuple(Budget(s) for s in self.sparsity)
        ((of, amounts),) = self.budget.items()
        return tuple(Budget(a, of=of) for a in sorted(amounts, reverse=True))  # type: ignore[arg-type]
