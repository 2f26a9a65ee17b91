"""``thrifty zoo``: train a population, make its sparse twins, report, import and export."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from thrifty.endings import whole
from thrifty.errors import UserError

if TYPE_CHECKING:
    from thrifty.lab.executor import Executor
    from thrifty.zoo.recipe import ZooRecipe
    from thrifty.zoo.table import Table

zoo_app = App(
    name="zoo",
    help="""Train, sparsify and compare populations of small networks.

    `thrifty zoo train zoo-digits --out zoo`, then `thrifty zoo twins zoo --out twins` and
    `thrifty zoo report zoo twins`.""",
)

_many = Parameter(consume_multiple=True, negative="", show_default=False)
_flag = Parameter(negative="", show_default=False)
Whole = Annotated[int, Parameter(converter=whole)]
Quiet = Annotated[bool, _flag, Parameter(["--quiet", "-q"], help="No progress.")]

EXECUTORS = ("threads", "processes", "ray")


@zoo_app.command
def train(
    recipe: str,
    /,
    *overrides: str,
    data: str | None = None,
    models: Annotated[Whole | None, Parameter(["--models", "-n"])] = None,
    out: Path = Path("zoo"),
    executor: str = "threads",
    workers: Whole | None = None,
    quiet: Quiet = False,
) -> None:
    """Train the models of a zoo RECIPE, or go on where it was stopped.

    Example: ``thrifty zoo train mnist-seed --data mnist:DIR -n 96 --out zoo``

    Parameters
    ----------
    recipe
        A YAML file, or a name: zoo-digits, mnist-seed, mnist-hyp, ...
    overrides
        Keys to change: ``train.epochs=3 grid.lr='[1e-3, 1e-4]'``.
    data
        Data, as for thrifty prune; that of the recipe if not given.
    models
        Only the first so many models; the zoo may grow later.
    out
        Folder of the zoo.
    executor
        threads (this process), processes, or ray: the cluster of RAY_ADDRESS, all nodes of which
        see the folder of the zoo at one path, or one that is started here (needs the extra ray).
    workers
        Threads or processes; as many as cores if not given.
    """
    from thrifty.lab.recipe import values_of

    values, where = values_of(recipe, overrides)
    if data is not None:
        values["data"] = data
    _train(zoo_recipe_of(values, where), out, models, _executor(executor, workers), quiet)


@zoo_app.command
def twins(
    zoo: Path,
    /,
    *,
    method: Annotated[list[str], _many] = ["magnitude", "variational"],  # noqa: B006
    sparsity: Annotated[list[float], _many] = [0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95],  # noqa: B006
    epochs: Whole = 15,
    variational_epochs: Whole = 25,
    preset: str = "zoo",
    criterion: str | None = None,
    granularity: str | None = None,
    allocation: str | None = None,
    schedule: str | None = None,
    keep: Annotated[list[str], _many] = [],  # noqa: B006
    batch: Whole | None = None,
    models: Annotated[Whole | None, Parameter(["--models", "-n"])] = None,
    out: Path = Path("twins"),
    executor: str = "threads",
    workers: Whole | None = None,
    quiet: Quiet = False,
) -> None:
    """Make sparse twins of every model of ZOO, or go on where it was stopped.

    Example: ``thrifty zoo twins zoo --method magnitude variational --sparsity .5 .8 .9``

    Parameters
    ----------
    zoo
        Folder that thrifty zoo train wrote.
    method
        Methods of thrifty methods that set weights to zero: magnitude, random, saliency, gradual,
        ...; or that learn it: variational, l0, str, with options such as l0?strength=.01.
    sparsity
        Shares of the weights that go; variational, l0 and str choose their own.
    epochs
        Of training after each cut.
    variational_epochs
        Of training under variational dropout, l0 or str.
    preset
        Of variational dropout: zoo (as published) or elbo.
    criterion
        What a weight is worth: one of thrifty criteria; that of the method if not given.
    granularity
        weight, filter, channel or kernel: what becomes zero as one piece.
    allocation
        How a sparsity is shared among layers: one of thrifty allocations; that of the method if
        not given.
    schedule
        one_shot (each sparsity from the original), iterative (from the twin of the level before)
        or cubic (a little more at every epoch).
    keep
        Patterns of layers that stay whole.
    batch
        Inputs a step; that of the zoo if not given.
    models
        Only of the first so many models; the same folder may grow later.
    out
        Folder of the twins.
    executor
        As for thrifty zoo train.
    workers
        Threads or processes; as many as cores if not given.
    """
    from thrifty.lab.recipe import validated
    from thrifty.progress import view
    from thrifty.zoo.running import make_twins
    from thrifty.zoo.twins import TwinRecipe
    from thrifty.zoo.zoo import Zoo

    values = {
        "method": method, "sparsity": sparsity, "epochs": epochs, "criterion": criterion,
        "granularity": granularity, "allocation": allocation, "schedule": schedule, "keep": keep,
        "variational": {"epochs": variational_epochs, "preset": preset}, "batch": batch,
    }  # fmt: skip
    found = validated(TwinRecipe, values, "thrifty zoo twins", {})
    how, threads = _executor(executor, workers)
    with view(quiet) as tell:
        said = shown_by(tell)
        made = make_twins(
            found, Zoo(zoo), out, models=models, executor=how, threads=threads, tell=said
        )
    print(f"{out}: {len(made):,} twins")
    last = made.at()
    for name in found.method:
        own = last.take(last["method"] == name)
        for level in sorted({float(a) for a in own["asked"]}, key=lambda a: (a != a, a)):
            some = own.take((own["asked"] == level) | (own["asked"] != own["asked"]))
            asked = "" if level != level else f" at {level:g}"
            print(f"{name}{asked}: {_spread('test accuracy', some, 'test_accuracy')}; "
                  f"{_spread('sparsity', some, 'sparsity')}")  # fmt: skip
            if level != level:
                break


@zoo_app.command
def report(zoo: Path, /, *twins: Path, out: Path | None = None) -> None:
    """Write ``report.html`` and pictures of ZOO, beside its TWINS if they are given.

    Of models whose accuracy was never measured, such as imported weight files, it is on their
    weights.  Example: ``thrifty zoo report zoo magnitude variational --out both``

    Parameters
    ----------
    zoo
        Folder of a zoo of models.
    twins
        Folders of its twins.
    out
        Folder of the report; that of the first twins, or of the zoo, if not given.
    """
    from thrifty.report.zoo_page import write_zoo_report
    from thrifty.zoo.zoo import Zoo

    made = [Zoo(folder) for folder in twins]
    for path in write_zoo_report(Zoo(zoo), made, out or (twins or (zoo,))[0]):
        print(path)


@zoo_app.command(name="import")
def import_zoo(folder: Path, /, *, out: Path = Path("zoo")) -> None:
    """Make a zoo of a FOLDER in the published layout of the Model Zoos (Ray Tune trials).

    Parameters
    ----------
    folder
        Folder of the trials.
    out
        Folder of the zoo.
    """
    from thrifty.zoo.importing import import_zoo as imported

    print(imported(folder, out))


@zoo_app.command(name="export")
def export_zoo(zoo: Path, /, *, epoch: int = -1, out: Path = Path("models")) -> None:
    """Write every model of ZOO as a safetensors file of its own.

    Parameters
    ----------
    zoo
        Folder of a zoo.
    epoch
        Of the checkpoint; -1 is the last.
    out
        Folder of the files.
    """
    from thrifty.zoo.exporting import export as exported
    from thrifty.zoo.zoo import Zoo

    print(exported(Zoo(zoo), out, epoch))


@zoo_app.command(name="join")
def join_zoo(zoo: Path, /, *, out: Path = Path("joined")) -> None:
    """Write the models of ZOO, or twins, into few large files, to be read fast.

    A layer of ten thousand models is then one view of a file instead of a copy from 160.

    Parameters
    ----------
    zoo
        Folder of a zoo.
    out
        Folder of the joined zoo.
    """
    from thrifty.zoo.joining import join
    from thrifty.zoo.zoo import Zoo

    made = join(Zoo(zoo), out)
    shards = sum(1 for _ in made.folder.shards.glob("*.safetensors"))
    print(f"{out}: {len(made):,} {made.kind}, {shards:,} shards")


def run_zoo(values: dict[str, Any], where: str, out: Path, quiet: bool) -> None:
    """What ``thrifty run`` does with the recipe of a zoo."""
    _train(zoo_recipe_of(values, where), out, None, _executor("threads", None), quiet)


def zoo_recipe_of(values: dict[str, Any], where: str) -> "ZooRecipe":
    """The recipe of a zoo; overrides beside its table ``zoo`` are for what is in it.

    Raises:
        UserError: it is no recipe of a zoo, or has mistakes, all of which are told.
    """
    from thrifty.zoo.recipe import zoo_recipe

    if not isinstance(values.get("zoo"), dict):
        raise UserError(f"{where} is no recipe of a zoo; such a recipe has a table zoo: {{...}}")
    inner = dict(values["zoo"])
    for key, value in values.items():
        if key != "zoo":
            inner[key] = {**inner.get(key, {}), **value} if isinstance(value, dict) else value
    return zoo_recipe(inner, where)


def _train(
    recipe: "ZooRecipe",
    out: Path,
    models: int | None,
    how: "tuple[Executor, int]",
    quiet: bool,
) -> None:
    from thrifty.progress import view
    from thrifty.zoo.running import train_zoo

    with view(quiet) as tell:
        zoo = train_zoo(
            recipe, out, models=models, executor=how[0], threads=how[1], tell=shown_by(tell)
        )
    said = zoo.at()
    print(f"{out}: {len(zoo):,} models, {recipe.train.epochs} epochs")
    print(_spread("test accuracy", said, "test_accuracy"))
    if recipe.published is not None and recipe.published.accuracy is not None:
        print(f"published: {100 * recipe.published.accuracy:.1f} % ({recipe.published.source})")
    if (lost := int(sum(bool(d) for d in said["diverged"]))) > 0:
        print(f"{lost} models diverged; they are flagged in the index")


def shown_by(tell: Any) -> Any:
    """Pass on what the training of a zoo tells, as lines: the pace and the time that is left."""
    import time

    last = [0.0]

    def say(event: dict[str, Any]) -> None:
        if "stacks" in event:
            if event["left"]:
                many = f"{event['left']} of {event['stacks']} stacks to do"
                tell({"message": f"{many}, {event['models']:,} models, {event['epochs']} epochs"})
        elif "pace" in event:
            now = time.monotonic()
            if now - last[0] > 10 or event["progress"] >= 1:
                last[0] = now
                done, pace = 100 * event["progress"], event["pace"]
                left = event["left_seconds"] / 60
                text = f"{done:5.1f} %  {pace:,.1f} models x epochs a second, {left:.1f} min left"
                tell({"message": f"{text}  ({event['engine']})"})
        else:
            tell(event)

    return say


def _executor(name: str, workers: int | None) -> tuple["Executor", int]:
    """Who does the jobs, and with how many threads each."""
    from thrifty.cores import cores
    from thrifty.lab.executor import InProcess, Processes
    from thrifty.registry import suggest

    if workers is not None and workers < 1:
        raise UserError(f"{workers} workers are asked for; there is 1 at least")
    count = workers or cores()
    if name == "threads":
        return InProcess(), count
    if name == "processes":
        return Processes(count), 1
    if name == "ray":
        from thrifty.zoo.cluster import OnRay

        return OnRay(workers), 1
    raise UserError(f"no executor is called {name!r}; {suggest(name, EXECUTORS)}")


def _spread(title: str, table: "Table", name: str) -> str:
    """``test accuracy 91.1 % (90.5 to 91.8)``, median and quartiles."""
    from thrifty.zoo.statistics import quartiles

    found = quartiles(table[name])
    return f"{title} {100 * found.median:.1f} % ({100 * found.q1:.1f} to {100 * found.q3:.1f})"
