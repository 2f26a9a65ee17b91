"""The command line: every command parses, calls one function of the library, prints.

Results go to stdout and progress to stderr.  Nothing heavy is imported before a command runs,
so ``thrifty --help`` answers at once.
"""

import signal
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError

from thrifty import __version__
from thrifty.benching import bench
from thrifty.distilling import distill
from thrifty.endings import end
from thrifty.errors import UserError
from thrifty.exports import export
from thrifty.listings import (
    allocations,
    criteria,
    datasets,
    gates,
    methods,
    nets,
    recipes_app,
    sources,
)
from thrifty.looks import look_app, look_recipe, run_look
from thrifty.packings import pack
from thrifty.running import (
    MANY,
    SHOWN,
    Device,
    Json,
    Out,
    Silent,
    Threads,
    Whole,
    Workers,
    given,
    is_trained,
    reported,
    run_and_show,
)
from thrifty.sensitivities import sensitivity
from thrifty.shown import to_json
from thrifty.surgeries import groups, shrink
from thrifty.trainings import train
from thrifty.zoos import run_zoo, zoo_app, zoo_recipe_of

app = App(
    name="thrifty",
    help="""Make neural networks thrifty, and measure what it cost.

    To see it work: `thrifty demo`.  On your own network and data:
    `thrifty prune MODEL --data DATA --sparsity .5 .9`.""",
    version=__version__,
    help_on_error=False,
    suppress_keyboard_interrupt=False,
    result_action="return_value",
)


@app.command
def demo(
    *,
    out: Path = Path("runs/demo"),
    workers: Workers = None,
    json: Json = False,
    quiet: Silent = False,
) -> None:
    """Train, prune and retrain a small network on embedded digits; a few minutes.

    Prints the table and writes a run folder with ``report.html``.

    Parameters
    ----------
    out
        Folder of the run.
    """
    from thrifty.lab.recipe import read

    said = [] if workers is None else [f"machine.workers={workers}"]
    run_and_show(read("demo", said), out, json, quiet)


PRUNE = ("method", "sparsity", "budget", "threshold", "allocation", "keep")

OPTIONS = {
    "model": "MODEL",
    "data": "--data",
    "seeds": "--seeds",
    "weights": "--weights",
    "train.epochs": "--train-epochs",
    "train.lr": "--lr",
    "retrain.epochs": "--epochs",
    **{f"prune.{k}": f"--{k}" for k in PRUNE},
    **{f"machine.{k}": f"--{k}" for k in ("threads", "workers", "device")},
}
"""What ``thrifty prune`` calls the keys of a recipe."""


@app.command
def prune(
    model: str,
    /,
    *,
    data: str,
    method: Annotated[list[str], MANY, SHOWN] = ["magnitude"],  # noqa: B006
    sparsity: Annotated[list[float] | None, MANY] = None,
    seeds: Whole = 3,
    epochs: Whole = 5,
    train_epochs: Whole | None = None,
    weights: str | None = None,
    lr: float | None = None,
    budget: Annotated[list[str] | None, MANY] = None,
    threshold: Annotated[list[float] | None, MANY] = None,
    allocation: str | None = None,
    keep: Annotated[list[str] | None, MANY] = None,
    set: Annotated[list[str] | None, MANY] = None,
    out: Out = None,
    threads: Threads = None,
    workers: Workers = None,
    device: Device = None,
    json: Json = False,
    quiet: Silent = False,
) -> None:
    """Prune MODEL to several sparsities, retrain what is left, and show the front.

    With ``--method l1_filter --budget macs=.5`` channels are really removed.

    Example: ``thrifty prune lenet --data mnist:DIR --sparsity .5 .9 .99 --epochs 3``

    Parameters
    ----------
    model
        One of ``thrifty nets`` with options (``resnet20?width=2``), ``torchvision:NAME``,
        ``timm:NAME``, ``package.module:factory``, or a network or run that thrifty saved.
    data
        ``digits``, ``mnist:DIR``, ``fashion_mnist:DIR``, ``parquet:FILE|DIR``, ``folder:DIR``,
        ``npz:FILE``, ``module:package.module:callable`` or ``hf:ID``.
    method
        One or more of ``thrifty methods``.
    sparsity
        Shares of the prunable weights that become zero or are removed: 90 % is .9.  If nothing
        else is said: .5 .8 .9 .95.
    budget
        Instead of sparsity, what is kept, for methods that remove channels: ``macs=.5``,
        ``params=100k``, ``bytes=1MB``, ``latency=.7``; several amounts of one kind.
    threshold
        Instead of sparsity, for methods with gates: what a gate must say of a unit for it to stay.
    seeds
        How many times everything is repeated, for the spread.
    epochs
        Epochs of retraining at each sparsity.
    train_epochs
        Epochs of training before the first cut; 20, or 0 if MODEL comes with its weights.
    weights
        File of weights to start from (.pt, .pth, .th, .safetensors).
    lr
        Highest learning rate of the training before the first cut.
    allocation
        How the budget is shared among layers: one of ``thrifty allocations``.
    keep
        Patterns of layers not to prune, such as ``conv1``.
    set
        Any other key of a recipe, such as ``train.batch=128 retrain.distill=.5``.
    """
    from thrifty.lab.recipe import make, overridden

    if train_epochs is None and is_trained(model, weights):
        train_epochs = 0
    values: dict[str, Any] = {
        "model": model,
        "weights": weights,
        "data": data,
        "seeds": seeds,
        "train": given(epochs=train_epochs, lr=lr),
        "prune": given(method=method, allocation=allocation, keep=keep)
        | _levels(sparsity, budget, threshold),
        "retrain": {"epochs": epochs},
        "machine": given(threads=threads, workers=workers, device=device),
    }
    run_and_show(make(overridden(values, set or ()), "thrifty prune", OPTIONS), out, json, quiet)


def _levels(
    sparsity: list[float] | None, budget: list[str] | None, threshold: list[float] | None
) -> dict[str, Any]:
    """Sparsities, the amounts of a budget by its kind, or thresholds."""
    options = {"--sparsity": sparsity, "--budget": budget, "--threshold": threshold}
    said = [name for name, values in options.items() if values is not None]
    if len(said) > 1:
        raise UserError(f"{' and '.join(said)} each say how much goes; give one of them")
    if not budget:
        return given(sparsity=sparsity, threshold=threshold)
    amounts: dict[str, list[str]] = {}
    for text in budget:
        of, mark, amount = text.partition("=")
        if not mark or not amount:
            raise UserError(f"--budget {text}: write it as macs=.5, params=100k or bytes=1MB")
        amounts.setdefault(of, []).append(amount)
    return {"budget": amounts}


@app.command
def run(
    recipe: str,
    /,
    *overrides: str,
    out: Out = None,
    threads: Threads = None,
    workers: Workers = None,
    device: Device = None,
    json: Json = False,
    quiet: Silent = False,
) -> None:
    """Run a RECIPE file, or go on with it where it was stopped.

    Example: ``thrifty run recipe.yaml prune.sparsity=.95 --out runs/mine``

    Parameters
    ----------
    recipe
        A YAML file, or a name of ``thrifty recipes``.
    overrides
        Keys to change: ``train.epochs=3 prune.sparsity='[.5, .9]'``.
    """
    from thrifty.lab.recipe import make, values_of

    machine = given(threads=threads, workers=workers, device=device)
    said = [*overrides, *(f"machine.{k}={v}" for k, v in machine.items())]
    values, where = values_of(recipe, said)
    if "look" in values:
        return run_look(values, where, out or Path("runs") / Path(recipe).stem, json)
    if "zoo" in values:
        return run_zoo(values, where, out or Path("runs") / Path(recipe).stem, quiet)
    return run_and_show(make(values, where), out, json, quiet)


@app.command
def validate(recipe: str, /, *overrides: str) -> None:
    """Check a RECIPE and print it in full; every mistake is named at once.

    Example: ``thrifty validate recipe.yaml train.epochs=3``

    Parameters
    ----------
    recipe
        A YAML file, or a name of ``thrifty recipes``.
    overrides
        Keys to change, as for ``thrifty run``.
    """
    from thrifty.lab.recipe import make, values_of

    values, where = values_of(recipe, overrides)
    kinds = {"look": look_recipe, "zoo": zoo_recipe_of}
    read = next((kinds[key] for key in kinds if key in values), make)
    found: Any = read(values, where)
    print(found.to_yaml(), end="")
    print(f"{recipe} is a good recipe, {found.identity}", file=sys.stderr)


@app.command
def report(runs: Annotated[list[Path], MANY], /, *, out: Path | None = None) -> None:
    """Write ``report.html``, SVG and PNG for one RUN, or for several together.

    Example: ``thrifty report runs/one runs/two --out both``

    Parameters
    ----------
    runs
        Run folders.
    out
        Folder of the report; that of the run, or ``report`` for several.
    """
    from thrifty.lab.store import Store, read_front

    front = read_front(*runs)
    folder = out or (runs[0] if len(runs) == 1 else Path("report"))
    for path in reported(front, Store(runs[0]), folder):
        print(path)


@app.command
def pick(
    run: Path,
    /,
    *,
    max_drop: float = 0.5,
    of: str | None = None,
    save: Path | None = None,
    json: Json = False,
) -> None:
    """Name the smallest network of RUN that loses at most so much accuracy, or say none does.

    Exits with 1 if none does.  Example: ``thrifty pick RUN --max-drop .5 --save net.safetensors``

    Parameters
    ----------
    run
        A run folder.
    max_drop
        Points of accuracy that may be lost against the dense parent: .5 is half a percent point.
    of
        What smallest means: packed_bytes (if not given), bytes, sparsity, sparsity_conv, params,
        nonzero, macs, macs_nonzero, engine_ms or latency_us.
    save
        Write that network there (.safetensors, .safetensors.zst or .thrifty), of its best seed.
    """
    from thrifty.lab.pick import pick_from

    if not 0 <= max_drop <= 100:
        raise UserError(
            f"--max-drop is {max_drop:g}; it is in points of accuracy, 0 to 100, so half a percent "
            "point is .5"
        )
    found = pick_from(run, max_drop / 100, of, save)
    print(to_json(found.to_dict()) if json else found.text())


_listings = (criteria, methods, gates, allocations, nets, datasets, sources, recipes_app)
for _command in (
    train,
    distill,
    groups,
    shrink,
    pack,
    export,
    bench,
    sensitivity,
    *_listings,
    look_app,
    zoo_app,
):
    app.command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; whatever ends it early is told in a line, see ``thrifty.endings``."""
    said = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, TextIOWrapper):  # it may be closed, or know few letters
        sys.stdout.reconfigure(errors="backslashreplace")
    stopped: list[int] = []

    def stop(number: int, _: object) -> None:
        stopped.append(number)
        raise KeyboardInterrupt(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as it is for a job in the background
            signal.signal(number, stop)
    try:
        app(arguments, exit_on_error=False, print_error=False)
        print(end="", flush=True)
    except (CycloptsError, KeyboardInterrupt, UserError, OSError) as error:
        end(error, said)
    except Exception:  # what an import makes of being stopped
        if not stopped:
            raise
        end(KeyboardInterrupt(stopped[0]), said)
