"""Run a recipe: dense parents first, then every method's chain of levels, then bytes and times."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from thrifty import files
from thrifty.channels.shrinking import odd_widths
from thrifty.errors import Unfinished
from thrifty.lab import measure
from thrifty.lab.chains import Chains
from thrifty.lab.channel_steps import rehearse
from thrifty.lab.deployed import Timer, engine_conditions, lacking
from thrifty.lab.distilling import rehearse_teachers
from thrifty.lab.executor import Executor, Failed, best
from thrifty.lab.front import Front
from thrifty.lab.gate_steps import dense_gate, rehearse_weights
from thrifty.lab.recipe import Recipe
from thrifty.lab.records import CONTROL, DENSE, Record
from thrifty.lab.steps import Job, Lab, do
from thrifty.lab.store import Step, Store
from thrifty.nets.describing import size_of

Tell = Callable[[dict[str, Any]], None]


def run(
    recipe: Recipe,
    out: Path | str,
    *,
    executor: Executor | None = None,
    tell: Tell = lambda _: None,
) -> Front:
    """Do what ``recipe`` says in the folder ``out``, or go on with it; the same twice over.

    Steps that are done are read, not repeated, so a run may be killed anywhere, and may be
    extended with more seeds, levels or methods.

    Args:
        executor: how jobs are done; by ``recipe.machine`` if ``None``.
        tell: called with a dictionary of figures as the run goes on.

    Returns:
        The front of everything the recipe asks for.

    Raises:
        UserError: a mistake in the recipe that only the model and data can show, or a folder
            that is in use or holds another network's run.
        Unfinished: some jobs failed; the message says which and why.
    """
    store = Store(out)
    store.prepare()
    with store.lock(), torch_threads(recipe.machine.threads):
        lab = Lab(recipe, store)
        _begin(lab, tell)
        steps = lab.chains.all() + lab.chains.all_gated()
        tell({"total": len(steps), "ready": sum(s.done for s in steps)})
        failed = _jobs(lab, (DENSE,), executor, tell)
        last = (CONTROL,) if lab.chains.leader is not None else ()  # its cuts are read
        first = tuple(m for m in lab.chains.methods if m not in last)
        failed = failed or _jobs(lab, first, executor, tell)
        if last and CONTROL in lab.chains.methods:
            failed = failed or _jobs(lab, last, executor, tell)
        if recipe.latency and not failed:
            _time(lab, tell)
        if not failed:
            with torch_threads(1):
                _deploy(lab, tell)
        records = _records(lab.chains)
        store.write_records(records)
    if failed:
        jobs = "a job" if len(failed) == 1 else f"{len(failed)} jobs"
        raise Unfinished(f"{jobs} of {store.root} failed:\n" + "\n".join(failed))
    return store.front_of(records)


def _begin(lab: Lab, tell: Tell) -> None:
    """Mark the folder; refuse one that holds another network's run."""
    recipe, store = lab.recipe, lab.store
    now = {"model": recipe.model, "data": recipe.data, "weights": recipe.weights}
    store.refuse_another(now)
    dense = lab.chains.dense(recipe.seeds[0])
    about = now | {
        "identity": recipe.identity,
        "dense": str(dense.model.relative_to(store.root)),
        "conditions": measure.conditions(recipe.machine.threads, str(lab.device))
        | {"engine": engine_conditions()},
    }
    new = not all(step.done for step in lab.chains.all())
    if new:
        _preflight(lab, tell)
    files.write_text(store.recipe, recipe.to_yaml())
    files.write_json(store.about, about)
    if new:
        store.remember_data(lab.data.digest, recipe.data)


def _preflight(lab: Lab, tell: Tell) -> None:
    """Show what cannot work before any training: build, run and cut the network once."""
    data, slow = lab.data, odd_widths(lab.recipe.prune.round)
    if slow is not None and any(lab.chains.removes(method) for method in lab.recipe.methods):
        tell({"message": slow})
    torch.manual_seed(0)
    model = lab.build(lab.recipe.weights).eval()
    if (size := size_of(model)) is not None:
        tell({"message": size})
    with torch.no_grad():
        measure.run(model, data.prepare(data.test.inputs[:2].to(lab.device)), data)
    dense_gate(lab, copy.deepcopy(model))
    rehearse_teachers(lab, tell)
    for method in lab.recipe.methods:
        if lab.chains.removes(method):
            rehearse(lab, model, method)
            continue
        rehearse_weights(lab, model, method)


def _jobs(lab: Lab, methods: tuple[str, ...], executor: Executor | None, tell: Tell) -> list[str]:
    """Do what is not done of ``methods``, for every seed; returns what failed."""
    recipe, store = lab.recipe, lab.store
    jobs = [Job(recipe, store.root, seed, method) for method in methods for seed in recipe.seeds]
    jobs = [j for j in jobs if not all(s.done for s in lab.chains.of(j.seed, j.method))]
    failed: list[str] = []

    def kept(event: dict[str, Any]) -> None:
        if event.get("done"):  # so that a run killed in a chain can be reported as far as it came
            store.write_records(_records(lab.chains))
        tell(event)

    if jobs:
        hand = executor or best(recipe.machine.workers, recipe.machine.threads, len(jobs))
        for job, outcome in hand.run(do, jobs, kept):
            if isinstance(outcome, Failed):
                failed.append(f"{job.label}: {outcome.message}")
    return failed


def _records(chains: Chains) -> list[Record]:
    return [step.record() for step in chains.all() if step.done]


def _time(lab: Lab, tell: Tell) -> None:
    """Time every network, alone on the machine as far as this run can see to it."""
    todo = [pair for pair in _finished(lab.chains) if "latency_us" not in pair[0].timing()]
    for number, (step, parent) in enumerate(todo, 1):
        tell({"job": "latency", "progress": number / len(todo)})
        lab.time(step, parent)


def _deploy(lab: Lab, tell: Tell) -> None:
    """Pack every network and time it in the engine; what prevents that is told once."""
    timer, timed = Timer(lab), lab.recipe.latency
    todo = [pair for pair in _finished(lab.chains) if lacking(pair[0].timing(), timed)]
    told: dict[str, None] = {}
    for number, (step, parent) in enumerate(todo, 1):
        tell({"job": "packed files and engine", "progress": number / len(todo)})
        timer.measure(step, parent)
        why = step.timing().get("engine_why")
        if why and why not in told:
            told[why] = None
            tell({"message": f"no time in thrifty's engine: {why}"})


def _finished(chains: Chains) -> list[tuple[Step, Step]]:
    """Every step that is done, with its dense parent, parent by parent."""
    return [
        (step, chains.dense(seed))
        for seed in chains.recipe.seeds
        for method in (DENSE, *chains.methods)
        for step in chains.of(seed, method)
        if step.done
    ]


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Torch's threads set for a block, and put back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
