"""Which networks a recipe asks for: chains of levels, and the folder that each lies in.

The folder of a network is named by a key made from what decides the network: the start of the
chain, the cuts before it, the retraining.  The same network of two recipes is made once.
"""

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path

from thrifty import files
from thrifty.errors import UserError
from thrifty.lab.distilling import teacher_digest
from thrifty.lab.gating import Unit, unit_of
from thrifty.lab.recipe import Recipe, identity
from thrifty.lab.records import CONTROL, DENSE
from thrifty.lab.rules import RULES
from thrifty.lab.store import Step, Store
from thrifty.nets import file_of
from thrifty.pruning.allocation import Budget
from thrifty.pruning.methods import METHODS
from thrifty.pruning.pruning import Cut
from thrifty.pruning.schedules import Schedule, schedule
from thrifty.pruning.structured import ChannelCut
from thrifty.training.plan import Plan

FURTHER = "control-further"
"""The dense parent, trained on before the first level of the control."""


@dataclass(frozen=True)
class Chains:
    """The networks of one recipe in one store."""

    recipe: Recipe
    store: Store

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods of the recipe and, where asked for, the control."""
        control = self.recipe.control and self.recipe.prune.method
        return self.recipe.methods + ((CONTROL,) if control else ())

    @property
    def leader(self) -> str | None:
        """The method whose cuts the control measures once they are made, ``None`` if it chooses
        the same on its own: what gates choose, no network without them shows."""
        if self.recipe.prune.method:
            first = self.recipe.prune.method[0]
            if self.recipe.prune.threshold is not None or self.unit(first) == "own":
                return first
        return None

    def levels(self, method: str) -> tuple[float, ...]:
        """What the levels of a method's chain are called: the share that goes, where it is one."""
        return tuple(
            b.amount
            if b.of in ("sparsity", "threshold") or b.amount > 1
            else round(1 - b.amount, 6)
            for b in self.budgets(method)
        )

    def budgets(self, method: str) -> tuple[Budget, ...]:
        """The budgets of a method's chain; ``explicit`` has one, which its layers decide."""
        found = self.recipe.prune.budgets
        return found[:1] if self._allocation(method).startswith("explicit") else found

    def removes(self, method: str) -> bool:
        """Whether a method removes channels; the control does as the first method."""
        name = self.recipe.prune.method[0] if method == CONTROL else method
        return METHODS.get(name).removes == "channels"

    def channel_cut(self, method: str) -> ChannelCut:
        """How a method chooses channels, with the recipe's overrides."""
        said = self.recipe.prune
        mine = method != "random_filter"
        return ChannelCut.of(
            said.method[0] if method == CONTROL else method,
            criterion=said.criterion if mine else None,
            allocation=said.allocation if mine or said.allocation == "explicit" else None,
            keep=said.keep or None,
            layers=said.layers,
            round=said.round,
        )

    def gate(self, method: str) -> str | None:
        """The gate that a method learns by, with the recipe's options."""
        if method == CONTROL or METHODS.get(method).gate is None:
            return None
        return self.recipe.prune.gate or METHODS.get(method).gate

    def unit(self, method: str) -> Unit | None:
        """What the gate of a method scores, ``None`` if it has no gate."""
        spec = self.gate(method)
        return None if spec is None else unit_of(spec)

    def gated(self, seed: int, method: str) -> Step | None:
        """The folder of the parent that a method trains with gates before its cuts, if it does.

        A network that has its gates anyway is trained again only to give them an incentive: not
        if the dense parent had one, or comes with its weights.
        """
        if self.gate(method) is None or not self.gate_epochs(method):
            return None
        train = self.recipe.train
        asked = self.recipe.prune.gate_epochs is not None or self.unit(method) != "own"
        if not asked and (not train.epochs or train.gate is not None):
            return None
        key = identity("gated", self.key(seed), method, self._gate(method))
        return self.store.step(f"seed{seed}-{method}-gated", key)

    def starts_anew(self, method: str) -> bool:
        """Whether the parent with gates is trained from the first weights, as the dense one was."""
        train, own = self.recipe.train, self.unit(method) == "own"
        return train.epochs > 0 and not (own and train.gate is not None)

    def goes_on(self, method: str) -> bool:
        """Whether what a method cuts is the dense parent, trained on with gates."""
        trained = self.unit(method) in ("own", "weight") and not self.starts_anew(method)
        return trained and self.gated(self.recipe.seeds[0], method) is not None

    def further(self, seed: int) -> Step | None:
        """The folder of the dense parent, trained on without gates for as long as by the first
        method with them, if that method does so: what the control goes on from."""
        first = self.recipe.prune.method[:1]
        if not first or not self.goes_on(first[0]):
            return None
        how = [self.gate_epochs(first[0]), self.gate_train(first[0])]
        return self.store.step(f"seed{seed}-{FURTHER}", identity("further", self.key(seed), how))

    def gate_epochs(self, method: str) -> int:
        """Epochs of training with gates: as many as the dense parent's, or as a level's."""
        said = self.recipe.prune.gate_epochs
        return said if said is not None else self.recipe.train.epochs or self.recipe.retrain.epochs

    def gate_plan(self, method: str) -> Plan:
        """How a method trains with its gates."""
        changes = self.gate_train(method) | {"epochs": self.gate_epochs(method), "gate": None}
        return self.recipe.train.model_copy(update=changes)

    def gate_train(self, method: str) -> dict[str, object]:
        """Where training with gates differs from ``train``: by the method, then by the recipe."""
        said, theirs = self.recipe.prune.gate_train, dict(METHODS.get(method).gate_train)
        if theirs.get("optimizer") == self.recipe.train.optimizer:
            theirs = {}
        return theirs | (said.model_dump(exclude_none=True) if said is not None else {})

    def _gate(self, method: str) -> list[object]:
        keep, changes = sorted(self.recipe.prune.keep), self.gate_train(method)
        return [self.gate(method), self.gate_epochs(method), keep, *([changes] if changes else [])]

    def _allocation(self, method: str) -> str:
        cut = self.channel_cut(method) if self.removes(method) else self.cut(method)
        return cut.allocation

    def cut(self, method: str) -> Cut:
        """How a method cuts, with the recipe's overrides; ``random`` keeps drawing lots.

        The control measures the same cuts as the first method, without making them.
        """
        said = self.recipe.prune
        mine = method != "random"
        return Cut.of(
            said.method[0] if method == CONTROL else method,
            criterion=said.criterion if mine else None,
            granularity=said.granularity,
            allocation=said.allocation if mine or said.allocation == "explicit" else None,
            keep=said.keep or None,
            layers=said.layers,
        )

    def schedule(self, method: str) -> Schedule:
        """When a method cuts; the control goes level by level, as long as the longest chain, or
        as its leader does."""
        return schedule(self._schedule(method))

    def turn(self, method: str, number: int) -> int:
        """What counts as the number of a level in the seed of its retraining.

        A level that is cut from one parent is the same whatever other levels there are.  Where
        nothing of gates is in play levels are counted all the same, as they were from the first.
        """
        lead = self.leader if method == CONTROL else method
        late = lead is not None and self.unit(lead) in ("own", "weight")
        late = late or self.recipe.prune.threshold is not None
        return 0 if late and self.schedule(method).start == "dense" else number

    def dense(self, seed: int) -> Step:
        """The folder of a dense parent."""
        return self.store.step(f"seed{seed}-dense", self.key(seed))

    def level(self, seed: int, method: str, number: int) -> Step:
        """The folder of a method's level, counted from 0."""
        name = f"seed{seed}-{method}-{self.levels(method)[number]:g}"
        return self.store.step(name, self.key(seed, method, number))

    def all(self) -> list[Step]:
        """Every folder of the recipe, in the order of the front's table."""
        return [self.dense(seed) for seed in self.recipe.seeds] + [
            self.level(seed, method, number)
            for method in self.methods
            for number in range(len(self.levels(method)))
            for seed in self.recipe.seeds
        ]

    def all_gated(self) -> list[Step]:
        """Every folder of a parent that the recipe trains with gates, or on for the control."""
        found = [self.gated(seed, m) for m in self.methods for seed in self.recipe.seeds]
        if CONTROL in self.methods:
            found += [self.further(seed) for seed in self.recipe.seeds]
        return [step for step in found if step is not None]

    def of(self, seed: int, method: str) -> list[Step]:
        """The folders of one job: a dense parent, or a chain of levels."""
        if method == DENSE:
            return [self.dense(seed)]
        return [self.level(seed, method, n) for n in range(len(self.levels(method)))]

    def key(self, seed: int, method: str = DENSE, number: int = 0) -> str:
        """12 hex digits that name a network by what decides it."""
        said = self.recipe.differences()
        begin = {k: said[k] for k in ("model", "data", "train") if k in said}
        parent = identity("dense", begin, self.weights_digest, seed, *self._teacher("train"))
        if method == DENSE:
            return parent
        if method == CONTROL and (further := self.further(seed)) is not None:
            parent = further.key
        if method == CONTROL and self.leader is not None:
            chained = self.schedule(method).start == "previous"
            made = [self.key(seed, self.leader, n) for n in range(number + 1)]
            return identity("control", parent, made if chained else made[-1:])
        if self.removes(method):
            return self._channel_key(parent, seed, method, number)
        how, levels = self.cut(method), self.levels(method)
        chained = self.schedule(method).start == "previous"
        gated = self.gated(seed, method)
        return identity(
            "level",
            gated.key if gated is not None else parent,
            CONTROL if method == CONTROL else "",
            [how.criterion, how.granularity, how.allocation, sorted(how.keep), how.layers],
            self._schedule(method),
            levels[: number + 1] if chained else levels[number : number + 1],
            said.get("retrain", {}),
            *(["threshold"] if self.recipe.prune.threshold is not None else []),
            *self._teacher("retrain"),
        )

    def _channel_key(self, parent: str, seed: int, method: str, number: int) -> str:
        """The key of a level of a method that removes channels."""
        how, said = self.channel_cut(method), self.recipe.differences()
        budgets = [[b.of, b.amount] for b in self.budgets(method)]
        chained = self.schedule(method).start == "previous"
        gated = self.gated(seed, method)
        return identity(
            "channels",
            gated.key if gated is not None else parent,
            method if method == CONTROL else "",
            said_of(how),
            self._schedule(method),
            budgets[: number + 1] if chained else budgets[number : number + 1],
            said.get("retrain", {}),
            said.get("prune", {}).get("rules") if method == RULES else None,
            *([self._gate(method)] if self.unit(method) == "own" else []),
            *self._teacher("retrain"),
        )

    @functools.cached_property
    def weights_digest(self) -> str | None:
        """SHA-256 of the file of weights that the recipe starts from, if it does."""
        weights = self.recipe.weights
        place = Path(weights) if weights is not None else file_of(self.recipe.model)
        if place is not None and not place.is_file():
            if place.is_dir():
                raise UserError(f"weights: {place} is a folder; give a file, or {place} as MODEL")
            raise UserError(f"weights: {place}: there is no such file")
        return files.digest(place) if place is not None else None

    def _teacher(self, when: str) -> list[str]:
        """SHA-256 of the file of a teacher that ``train`` or ``retrain`` names, if there is one."""
        found = self._teachers[when]
        return [] if found is None else [found]

    @functools.cached_property
    def _teachers(self) -> dict[str, str | None]:
        said = {"train": self.recipe.train.distill, "retrain": self.recipe.retrain.taught}
        return {when: teacher_digest(table) for when, table in said.items()}

    def _schedule(self, method: str) -> str:
        if method == CONTROL:
            return "iterative" if self.leader is None else self._schedule(self.leader)
        if self.recipe.prune.schedule is not None and method not in ("random", "random_filter"):
            return self.recipe.prune.schedule
        return METHODS.get(method).schedule


def said_of(how: ChannelCut) -> dict[str, object]:
    """What a cut says other than the defaults, so that a new field orphans no older network."""
    plain, values = dataclasses.asdict(ChannelCut()), dataclasses.asdict(how)
    return {
        name: sorted(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value != plain[name]
    }
