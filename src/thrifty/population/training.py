"""Train a population: one call, whatever does the work."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from thrifty.data import Data
from thrifty.errors import UserError
from thrifty.native.lanes import Noise
from thrifty.population import lanes_engine
from thrifty.population.engines import Engine, Learned, Moments
from thrifty.population.plan import Plan
from thrifty.population.stack import Stack
from thrifty.population.stacked_engine import StackedEngine, unstackable

Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Chosen:
    """Which engine trains a stack, and why."""

    name: str
    why: str


def choose(stack: Stack, data: Data, plan: Plan) -> Chosen:
    """The engine for a stack: the lanes where the network fits, stacked tensors otherwise.

    Raises:
        UserError: the plan names one that cannot do it; the message says why.
    """
    not_lanes = lanes_engine.unfit(stack, data)
    not_stacked = unstackable(stack)
    if plan.engine == "lanes" and not_lanes:
        raise UserError(f"engine=lanes does not fit: {not_lanes}; use engine=auto")
    if plan.engine == "stacked" and not_stacked:
        raise UserError(f"engine=stacked does not fit: {not_stacked}; use engine=auto")
    if plan.engine in ("lanes", "stacked"):
        return Chosen(plan.engine, "asked for")
    if not_lanes is None:
        return Chosen("lanes", f"a chain of small layers, {stack.parameters:,} parameters a model")
    if not_stacked is None:
        return Chosen("stacked", f"not in lanes: {not_lanes}")
    raise UserError(
        f"this population cannot be trained as a stack: {not_lanes}; {not_stacked}; train its "
        f"models one by one with thrifty train"
    )


def engine_of(
    stack: Stack,
    data: Data,
    plan: Plan,
    *,
    noise: Noise | None = None,
    moments: Moments | None = None,
    threads: int = 1,
) -> tuple[Engine, Chosen]:
    """The engine that :func:`choose` says, ready to train."""
    if len(stack) == 0:
        raise UserError("the population has no models; give one at least")
    if (stack.spread is None) != (noise is None):
        raise UserError("variational dropout needs both spread in the stack and its noise")
    chosen = choose(stack, data, plan)
    if chosen.name == "lanes":
        made: Engine = lanes_engine.LanesEngine(
            stack, data, plan, noise=noise, moments=moments, threads=threads
        )
        return made, chosen
    return StackedEngine(stack, data, plan, noise=noise, moments=moments), chosen


@dataclass(frozen=True)
class Trained:
    """A trained stack, what its optimizer carries, and what was learned epoch by epoch."""

    stack: Stack
    moments: Moments
    history: tuple[Learned, ...]
    engine: Chosen

    @property
    def diverged(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """(k,) models whose weights or last loss are not finite."""
        bad = np.zeros(len(self.stack), np.bool_)
        for tensor in self.stack.tensors.values():
            flat = tensor.reshape(len(self.stack), -1)
            bad |= ~flat.isfinite().all(1).numpy()
        if self.history:
            bad |= ~np.isfinite(self.history[-1].loss)
        return bad


def train_population(
    stack: Stack,
    data: Data,
    plan: Plan,
    *,
    first: int = 0,
    last: int | None = None,
    moments: Moments | None = None,
    noise: Noise | None = None,
    threads: int = 1,
    tell: Tell | None = None,
) -> Trained:
    """Train the models of a stack from epoch ``first`` to ``last``, all of ``plan`` by default.

    Two calls, of which the second goes on with the stack and the moments of the first, end where
    one would have, bit for bit.  A model that diverges keeps its NaN to itself.

    Args:
        first: epochs that are done.
        last: where to stop, not included.
        moments: of the optimizer, of the call before.
        noise: variational dropout; the stack then has ``spread``.
        threads: blocks of models at once.
        tell: called with a dictionary of figures after each epoch.

    Raises:
        UserError: no engine can train the stack.
    """
    engine, chosen = engine_of(stack, data, plan, noise=noise, moments=moments, threads=threads)
    history = []
    for number in range(first, plan.epochs if last is None else min(last, plan.epochs)):
        history.append(engine.epoch(number))
        if tell is not None:
            tell({"epoch": number + 1, "models": len(stack), "engine": chosen.name})
    return Trained(engine.stack(), engine.moments(), tuple(history), chosen)
