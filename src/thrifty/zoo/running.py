"""Train a zoo: the mark of its folder, the jobs that are left, whoever does them, the index."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from thrifty.errors import Unfinished, UserError
from thrifty.lab.executor import Executor, Failed, InProcess
from thrifty.zoo.folder import Folder
from thrifty.zoo.index import rebuild
from thrifty.zoo.recipe import ZooRecipe, roster, zoo_recipe
from thrifty.zoo.segments import Work, check_fits, train_stack
from thrifty.zoo.sets import sets_of
from thrifty.zoo.twinning import rehearse, train_twins
from thrifty.zoo.twins import TwinRecipe, twin_jobs
from thrifty.zoo.zoo import Zoo

Tell = Callable[[dict[str, Any]], None]


def train_zoo(
    recipe: ZooRecipe,
    out: Path | str,
    *,
    models: int | None = None,
    executor: Executor | None = None,
    threads: int = 1,
    tell: Tell = lambda _: None,
) -> Zoo:
    """Train the models of a recipe in the folder ``out``, or go on where it was stopped.

    Args:
        models: only the first so many; the same folder may grow to more of them later.
        executor: how stacks are done; one after another in this process if ``None``.
        threads: of a stack in this process, 16 models each.
        tell: called with a dictionary of figures as it goes on.

    Raises:
        UserError: the folder holds something else, the recipe does not fit the data, or no models
            are asked for.
        Unfinished: some stacks failed; the message says which and why.
    """
    if models is not None and models < 1:
        raise UserError(f"a zoo of {models} models is asked for; it has 1 at least")
    folder = Folder(out)
    sets = sets_of(recipe.data, recipe.validation)
    check_fits(recipe, sets.data, models)
    with folder.lock():
        folder.prepare(mark_of(recipe, sets.data.digest, sets.data.shape, sets.data.classes),
                       yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))  # fmt: skip
        batches = roster(recipe, models)
        last = recipe.train.epochs
        left = [n for n, b in enumerate(batches) if not folder.done(b.name, last)]
        jobs = [Work(recipe, folder.root.resolve(), n, threads, models) for n in left]
        count = sum(len(batches[n].members) for n in left)
        tell({"stacks": len(batches), "left": len(left), "models": count, "epochs": last})
        failed = run_jobs(train_stack, jobs, executor or InProcess(), Pace(count * last, tell))
        forget_states(folder, {batch.name: last for batch in batches})
        rebuild(folder.root)
    if failed:
        many = "a stack" if len(failed) == 1 else f"{len(failed)} stacks"
        raise Unfinished(f"{many} of {folder.root} failed:\n" + "\n".join(failed))
    return Zoo(folder.root)


def make_twins(
    recipe: TwinRecipe,
    parents: Zoo,
    out: Path | str,
    *,
    models: int | None = None,
    executor: Executor | None = None,
    threads: int = 1,
    tell: Tell = lambda _: None,
) -> Zoo:
    """Make the sparse twins of a zoo in the folder ``out``, or go on where it was stopped.

    The same folder may be given more methods and sparsities later.

    Args:
        parents: a zoo that :func:`train_zoo` made; its recipe says the data.
        models: only of the first so many that are trained to the end; the folder may grow to
            more of them later.

    Raises:
        UserError: the zoo is of twins or was imported, or the folder holds something else, or no
            models are asked for.
        Unfinished: some twins failed; the message says which and why.
    """
    if models is not None and models < 1:
        raise UserError(f"twins of {models} models are asked for; it is 1 at least")
    said = recipe_of(parents)
    folder = Folder(out)
    source = (said.data, said.validation)
    jobs = twin_jobs(recipe, parents, folder.root.resolve(), source, said.train, threads, models)
    for job in {job.method: job for job in jobs}.values():
        rehearse(job, parents)
    with folder.lock():
        mark = {
            "kind": "twins",
            "recipe": recipe.identity,
            "data": parents.about["data"],
            "networks": parents.about["networks"],
            "parent": {"path": str(parents.folder.root.resolve()), "recipe": said.identity},
        }
        text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
        folder.prepare(mark, text)
        left = [job for job in jobs if not folder.done(job.name, job.epochs)]
        epochs = sum(len(job.models) * job.epochs * len(job.steps) for job in left)
        count = sum(len(job.models) for job in left)
        tell({"stacks": len(jobs), "left": len(left), "models": count, "epochs": epochs})
        failed = run_jobs(train_twins, left, executor or InProcess(), Pace(epochs, tell))
        forget_states(folder, {step.name: step.epochs for job in jobs for step in job.steps})
        rebuild(folder.root)
    if failed:
        raise Unfinished(f"some twins in {folder.root} failed:\n" + "\n".join(failed))
    return Zoo(folder.root)


def recipe_of(zoo: Zoo) -> ZooRecipe:
    """The recipe that a zoo was trained by.

    Raises:
        UserError: it was not trained here, or its recipe is damaged.
    """
    if zoo.kind != "models":
        raise UserError(f"{zoo.folder.root} is a zoo of twins; twins are made of a zoo of models")
    path = zoo.folder.recipe
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"{path} cannot be read ({str(error)[:100]}): twins need the recipe of the zoo, which "
            f"a zoo that was imported lacks"
        ) from None
    return zoo_recipe(values, str(path))


def run_jobs(
    function: Callable[[Any, Tell], Any], jobs: list[Any], executor: Executor, tell: Tell
) -> list[str]:
    """Do the jobs; returns what failed, a line each."""
    failed = []
    for job, outcome in executor.run(function, jobs, tell) if jobs else ():
        if isinstance(outcome, Failed):
            failed.append(f"{job.label}: {outcome.message}")
    return failed


def forget_states(folder: Folder, ends: Mapping[str, int]) -> None:
    """Remove what optimizers carried of stacks that are finished, which a kill may have left.

    Args:
        ends: name of a stack -> epoch after which it is finished.
    """
    for path in (folder.root / "state").glob("*.safetensors"):
        stack = path.stem.rpartition("-")[0]
        if stack in ends and folder.done(stack, ends[stack]):
            path.unlink(missing_ok=True)


def mark_of(recipe: ZooRecipe, digest: str, shape: tuple[int, ...], classes: int) -> dict[str, Any]:
    """What the mark of a zoo's folder says."""
    return {
        "kind": "models",
        "recipe": recipe.identity,
        "data": digest,
        "networks": [{"spec": recipe.net, "shape": list(shape), "classes": classes}],
    }


class Pace:
    """Adds to each event how many models x epochs are done a second, and the time left.

    What was done before, and what a worker that died had done, counts once.
    """

    def __init__(self, whole: int, tell: Tell):
        self.whole, self._tell, self._done, self._began = whole, tell, 0, time.monotonic()
        self._reached: dict[str, int] = {}

    def __call__(self, event: dict[str, Any]) -> None:
        """Pass an event on."""
        if "epoch" not in event:
            return self._tell(event)
        models = int(event.get("models", 1))
        self._done += models
        self._reached[event["job"]] = models * int(event["epoch"])
        pace = self._done / max(1e-9, time.monotonic() - self._began)
        reached = sum(self._reached.values())
        left = max(0, self.whole - reached) / pace if pace else 0.0
        share = reached / max(1, self.whole)
        self._tell(event | {"pace": pace, "left_seconds": left, "progress": share})
        return None
