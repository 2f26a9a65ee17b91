"""Train a population: one call, whatever does the work."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from thrifty.data import Data
from thrifty.errors import UserError
from thrifty.native.lanes import Noise
from thrifty.population import lanes_engine
from thrifty.population.batches import immovable
from thrifty.population.engines import Engine, Learned, Moments
from thrifty.population.gating import Gating
from thrifty.population.plan import Plan
from thrifty.population.single_engine import SingleEngine
from thrifty.population.stack import Stack
from thrifty.population.stacked_engine import StackedEngine, unstackable

Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Chosen:
    """Which engine trains a stack, and why."""

    name: str
    why: str


MOST_STACKED = 50_000
"""Parameters from which on torch computes models one by one faster than mapped over a stack.

On one core, samples x models a second, stacked and one by one: 756 and 448 (resnet20?width=0.25,
17,326 parameters, batch 10), 593 and 1,004 (zoo_cnn_l?width=3, 93,307, batch 10).
"""


def choose(stack: Stack, data: Data, plan: Plan, gating: Gating | None = None) -> Chosen:
    """The engine for a stack: lanes where the network fits, else stacked tensors, else one by one.

    Raises:
        UserError: the plan names one that cannot do it; the message says why.
    """
    wrong = {
        "lanes": lanes_engine.unfit(stack, data, plan),
        "stacked": unstackable(stack, gating) or _slower(plan),
        "single": _not_single(stack),
    }
    if (still := immovable(data, plan)) is not None:
        raise UserError(f"the population cannot be trained so: {still}; leave them out")
    if plan.engine != "auto":
        why = wrong[plan.engine]
        if why is not None:
            fit = ", ".join(name for name, reason in wrong.items() if reason is None)
            other = f"use engine=auto ({fit})" if fit else "no engine can train it"
            raise UserError(f"engine={plan.engine} does not fit: {why}; {other}")
        return Chosen(plan.engine, "asked for")
    numbers = f"{stack.parameters:,} parameters a model"
    if wrong["lanes"] is None:
        return Chosen("lanes", f"a chain of small layers, {numbers}")
    small = stack.parameters <= MOST_STACKED
    if wrong["stacked"] is None and small:
        return Chosen("stacked", f"not in lanes: {wrong['lanes']}")
    if wrong["single"] is None:
        large = f"{numbers}, more than {MOST_STACKED:,}: each fills a core by itself"
        return Chosen("single", f"not stacked: {wrong['stacked'] if small else large}")
    raise UserError(
        f"this population cannot be trained: {wrong['lanes']}; {wrong['stacked']}; "
        f"{wrong['single']}"
    )


def _slower(plan: Plan) -> str | None:
    return "precision=bf16 is for models one by one" if plan.precision == "bf16" else None


def _not_single(stack: Stack) -> str | None:
    if stack.spread is not None:
        return "spread is what the lanes learn; give the gate variational instead"
    return None


def engine_of(
    stack: Stack,
    data: Data,
    plan: Plan,
    *,
    noise: Noise | None = None,
    moments: Moments | None = None,
    gating: Gating | None = None,
    threads: int = 1,
) -> tuple[Engine, Chosen]:
    """The engine that :func:`choose` says, ready to train."""
    if len(stack) == 0:
        raise UserError("the population has no models; give one at least")
    if (stack.spread is None) != (noise is None):
        raise UserError("variational dropout needs both spread in the stack and its noise")
    if bool(stack.gates) != (gating is not None):
        raise UserError("a gate needs both what it learns in the stack (begun) and the gate itself")
    chosen = choose(stack, data, plan, gating)
    if chosen.name == "lanes":
        made: Engine = lanes_engine.LanesEngine(
            stack, data, plan, noise=noise, moments=moments, threads=threads
        )
    elif chosen.name == "stacked":
        made = StackedEngine(stack, data, plan, moments=moments, gating=gating)
    else:
        made = SingleEngine(stack, data, plan, moments=moments, gating=gating, threads=threads)
    return made, chosen


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
    gating: Gating | None = None,
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
        noise: variational dropout in lanes; the stack then has ``spread``.
        gating: a gate on every model; the stack then has ``gates``.
        threads: blocks of models, or models, at once.
        tell: called with a dictionary of figures after each epoch.

    Raises:
        UserError: no engine can train the stack.
    """
    engine, chosen = engine_of(
        stack, data, plan, noise=noise, moments=moments, gating=gating, threads=threads
    )
    history = []
    for number in range(first, plan.epochs if last is None else min(last, plan.epochs)):
        history.append(engine.epoch(number))
        if tell is not None:
            tell({"epoch": number + 1, "models": len(stack), "engine": chosen.name})
    return Trained(engine.stack(), engine.moments(), tuple(history), chosen)
