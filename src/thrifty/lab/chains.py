"""Which networks a recipe asks for: chains of levels, and the folder that each lies in.

The folder of a network is named by a key made from what decides the network: the start of the
chain, the cuts before it, the retraining.  The same network of two recipes is made once.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

from thrifty import files
from thrifty.errors import UserError
from thrifty.lab.recipe import Recipe, identity
from thrifty.lab.records import CONTROL, DENSE
from thrifty.lab.store import Step, Store
from thrifty.nets import file_of
from thrifty.pruning.methods import METHODS
from thrifty.pruning.pruning import Cut
from thrifty.pruning.schedules import Schedule, schedule


@dataclass(frozen=True)
class Chains:
    """The networks of one recipe in one store."""

    recipe: Recipe
    store: Store

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods of the recipe and, where asked for, the control."""
        return self.recipe.methods + ((CONTROL,) if self.recipe.control else ())

    def levels(self, method: str) -> tuple[float, ...]:
        """The sparsities of a method's chain; ``explicit`` has one, which its layers decide."""
        if self.cut(method).allocation == "explicit":
            return self.recipe.prune.sparsity[:1]
        return self.recipe.prune.sparsity

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
        """When a method cuts; the control goes level by level, as long as the longest chain."""
        return schedule(self._schedule(method))

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

    def of(self, seed: int, method: str) -> list[Step]:
        """The folders of one job: a dense parent, or a chain of levels."""
        if method == DENSE:
            return [self.dense(seed)]
        return [self.level(seed, method, n) for n in range(len(self.levels(method)))]

    def key(self, seed: int, method: str = DENSE, number: int = 0) -> str:
        """12 hex digits that name a network by what decides it."""
        said = self.recipe.differences()
        begin = {k: said[k] for k in ("model", "data", "train") if k in said}
        parent = identity("dense", begin, self.weights_digest, seed)
        if method == DENSE:
            return parent
        how, levels = self.cut(method), self.levels(method)
        chained = self.schedule(method).start == "previous"
        return identity(
            "level",
            parent,
            CONTROL if method == CONTROL else "",
            [how.criterion, how.granularity, how.allocation, sorted(how.keep), how.layers],
            self._schedule(method),
            levels[: number + 1] if chained else levels[number : number + 1],
            said.get("retrain", {}),
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

    def _schedule(self, method: str) -> str:
        if method == CONTROL:
            return "iterative"
        if self.recipe.prune.schedule is not None and method != "random":
            return self.recipe.prune.schedule
        return METHODS.get(method).schedule
