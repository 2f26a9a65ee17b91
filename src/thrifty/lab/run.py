"""Run a recipe: dense parents first, then every method's chain of levels, then the times."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from thrifty import files
from thrifty.errors import Unfinished, UserError
from thrifty.lab import measure
from thrifty.lab.executor import Executor, Failed, best
from thrifty.lab.front import Front
from thrifty.lab.recipe import Recipe
from thrifty.lab.records import CONTROL, DENSE, Record
from thrifty.lab.steps import Job, Lab, do
from thrifty.lab.store import Step, Store
from thrifty.nets import resolve

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
    with store.lock():
        _begin(recipe, store)
        lab = Lab(recipe, store)
        methods = [*recipe.methods, *([CONTROL] if recipe.control else [])]
        phases = [[DENSE], methods]
        total = len(recipe.seeds) * (1 + sum(len(lab.levels(m)) for m in methods))
        tell({"total": total, "ready": sum(s.done for _, s in _steps(lab, methods))})
        failed: list[str] = []
        for phase in phases:
            jobs = [Job(recipe, store.root, s, m) for m in phase for s in recipe.seeds]
            jobs = [j for j in jobs if not _done(lab, j)]
            if not jobs or failed:
                continue
            _preflight(lab)
            hand = executor or best(recipe.machine.workers, recipe.machine.threads, len(jobs))
            with _threads(recipe.machine.threads):
                for job, outcome in hand.run(do, jobs, tell):
                    if isinstance(outcome, Failed):
                        failed.append(f"{job.label}: {outcome.message}")
                    store.write_records(_records(lab, methods))
        if recipe.latency and not failed:
            _time(lab, methods, tell)
        records = _records(lab, methods)
        store.write_records(records)
    if failed:
        raise Unfinished(f"{len(failed)} jobs of {store.root} failed:\n" + "\n".join(failed))
    return Front(tuple(records), str(store.root))


def _begin(recipe: Recipe, store: Store) -> None:
    """Mark the folder; refuse one that holds another network's run."""
    about = store.conditions() if store.about.exists() else {}
    now = {"model": recipe.model, "data": recipe.data, "weights": recipe.weights}
    other = [k for k, v in now.items() if about and about.get(k) != v]
    if other:
        said = "; ".join(f"{k} is {about.get(k)!r} there and {now[k]!r} here" for k in other)
        raise UserError(f"{store.root} holds another run: {said}; give --out another folder")
    lab = Lab(recipe, store)
    first = lab.dense_step(recipe.seeds[0])
    about = now | {
        "identity": recipe.identity,
        "dense": str(first.model.relative_to(store.root)),
        "conditions": measure.conditions(recipe.machine.threads, str(lab.device)),
    }
    files.write_text(store.recipe, recipe.to_yaml())
    files.write_json(store.about, about)


def _preflight(lab: Lab) -> None:
    """Show what cannot work before any training: build, cut and run the network once."""
    recipe, data = lab.recipe, lab.data
    torch.manual_seed(0)
    model = resolve(recipe.model, weights=recipe.weights, classes=data.classes, shape=data.shape)
    model = model.to(lab.device).eval()
    with torch.no_grad():
        measure.run(model, data.prepare(data.test.inputs[:2].to(lab.device)), data)
    from thrifty.prune.allocation import Budget
    from thrifty.prune.pruning import cut

    for method in recipe.methods:
        cut(model, lab.cut(method), Budget(lab.levels(method)[-1]), data=data)


def _steps(lab: Lab, methods: Sequence[str]) -> list[tuple[str, Step]]:
    recipe = lab.recipe
    out = [(DENSE, lab.dense_step(seed)) for seed in recipe.seeds]
    out += [
        (method, lab.level_step(seed, method, number))
        for method in methods
        for number in range(len(lab.levels(method)))
        for seed in recipe.seeds
    ]
    return out


def _done(lab: Lab, job: Job) -> bool:
    if job.method == DENSE:
        return lab.dense_step(job.seed).done
    return all(
        lab.level_step(job.seed, job.method, n).done for n in range(len(lab.levels(job.method)))
    )


def _records(lab: Lab, methods: Sequence[str]) -> list[Record]:
    return [step.record() for _, step in _steps(lab, methods) if step.done]


def _time(lab: Lab, methods: Sequence[str], tell: Tell) -> None:
    """Time every network, alone on the machine as far as this run can see to it."""
    steps = [s for _, s in _steps(lab, methods) if s.done and "latency_us" not in s.timing()]
    if not steps:
        return
    with _threads(lab.recipe.machine.threads):
        for number, step in enumerate(steps, 1):
            tell({"job": "latency", "progress": number / len(steps)})
            lab.time(step)


class _threads:
    """Torch's threads set for a block, and put back."""

    def __init__(self, threads: int):
        self.threads = threads

    def __enter__(self) -> None:
        self._before = torch.get_num_threads()
        torch.set_num_threads(self.threads)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._before)
