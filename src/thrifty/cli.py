"""The command line: every command parses, calls one function of the library, prints.

Results go to stdout and progress to stderr.  Nothing heavy is imported before a command runs,
so ``thrifty --help`` answers at once.
"""

import json
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from cyclopts import App, Group, Parameter

from thrifty import __version__
from thrifty.errors import UserError

if TYPE_CHECKING:
    from thrifty.lab.front import Front
    from thrifty.lab.recipe import Recipe

app = App(
    name="thrifty",
    help="Make neural networks thrifty, and measure what it cost.",
    version=__version__,
    help_on_error=False,
)
recipes_app = App(name="recipes", help="List the recipes that come with thrifty, or copy one.")
app.command(recipes_app)

_output = Group("Output")
_machine = Group("Machine")

Out = Annotated[
    Path | None, Parameter(help="Folder of the run; runs/<name> if not given.", group=_output)
]
Json = Annotated[
    bool, Parameter("--json", negative="", help="Results as JSON, for programs.", group=_output)
]
Silent = Annotated[
    bool, Parameter(["--quiet", "-q"], negative="", help="No progress.", group=_output)
]
Many = Parameter(consume_multiple=True, negative="")
Threads = Annotated[
    int | None, Parameter(help="Threads a worker; 1 is fastest for small networks.", group=_machine)
]
Workers = Annotated[
    int | None, Parameter(help="Processes; by the number of cores.", group=_machine)
]
Device = Annotated[str | None, Parameter(help="cpu, cuda, ...; by what is there.", group=_machine)]


@app.command
def demo(
    *,
    out: Path = Path("runs/demo"),
    workers: Workers = None,
    json: Json = False,
    quiet: Silent = False,
) -> None:
    """Train, prune and retrain a small network on embedded digits; under two minutes.

    Writes a run folder with ``report.html`` and prints the table of it.
    """
    from thrifty.lab.recipe import read

    said = [] if workers is None else [f"machine.workers={workers}"]
    _run(read("demo", said), out, json, quiet)


@app.command
def prune(
    model: str,
    /,
    *,
    data: str,
    method: Annotated[list[str], Many] = ["magnitude"],  # noqa: B006
    sparsity: Annotated[list[float], Many] = [0.5, 0.8, 0.9, 0.95],  # noqa: B006
    seeds: int = 3,
    epochs: int = 5,
    train_epochs: int | None = None,
    weights: str | None = None,
    lr: float | None = None,
    allocation: str | None = None,
    keep: Annotated[list[str] | None, Many] = None,
    set: Annotated[list[str] | None, Many] = None,
    out: Out = None,
    threads: Threads = None,
    workers: Workers = None,
    device: Device = None,
    json: Json = False,
    quiet: Silent = False,
) -> None:
    """Prune MODEL to several sparsities, retrain each with the zeros held, and show the front.

    Example: ``thrifty prune lenet --data mnist:DIR --sparsity .5 .9 .99 --epochs 3``

    Parameters
    ----------
    model
        A built-in network with options (``resnet20?width=2``), ``torchvision:NAME``,
        ``timm:NAME``, ``package.module:factory``, or a network or run that thrifty saved.
    data
        ``digits``, ``mnist:DIR``, ``fashion_mnist:DIR``, ``parquet:FILE|DIR``, ``folder:DIR``,
        ``npz:FILE``, ``module:package.module:callable`` or ``hf:ID``.
    method
        One or more of ``thrifty methods``.
    sparsity
        Shares of the prunable weights that become zero: 90 % is .9.
    seeds
        How many times everything is repeated, for the spread.
    epochs
        Epochs of retraining at each sparsity.
    train_epochs
        Epochs of training before the first cut; 20, or 0 for weights that are given.
    weights
        File of weights to start from (.pt, .pth, .th, .safetensors).
    lr
        Highest learning rate.
    allocation
        How the budget is shared among layers, such as lamp, global, erk, uniform.
    keep
        Patterns of layers not to prune, such as ``conv1``.
    set
        Any other key of a recipe, such as ``train.batch=128 retrain.distill=.5``.
    """
    from thrifty.lab.recipe import make, overridden
    from thrifty.nets import file_of

    if train_epochs is None and (weights or file_of(model) or "weights=" in model):
        train_epochs = 0
    values: dict[str, Any] = {
        "model": model,
        "weights": weights,
        "data": data,
        "seeds": seeds,
        "train": _given(epochs=train_epochs, lr=lr),
        "prune": _given(method=method, sparsity=sparsity, allocation=allocation, keep=keep),
        "retrain": {"epochs": epochs},
        "machine": _given(threads=threads, workers=workers, device=device),
    }
    _run(make(overridden(values, set or ()), "thrifty prune"), out, json, quiet)


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
    from thrifty.lab.recipe import read

    machine = _given(threads=threads, workers=workers, device=device)
    said = [*overrides, *(f"machine.{k}={v}" for k, v in machine.items())]
    _run(read(recipe, said), out, json, quiet)


@app.command
def validate(recipe: str, /, *overrides: str) -> None:
    """Check a RECIPE and print it in full; every mistake is named at once.

    Parameters
    ----------
    recipe
        A YAML file, or a name of ``thrifty recipes``.
    overrides
        Keys to change, as for ``thrifty run``.
    """
    from thrifty.lab.recipe import read

    found = read(recipe, overrides)
    print(found.to_yaml(), end="")
    print(f"{recipe} is a good recipe, {found.identity}", file=sys.stderr)


@app.command
def report(runs: Annotated[list[Path], Many], /, *, out: Out = None) -> None:
    """Write ``report.html``, SVG and PNG for one RUN, or for several together.

    Parameters
    ----------
    runs
        Run folders.
    """
    from thrifty.lab.store import Store, read_front

    if not runs:
        raise UserError("thrifty report needs a run folder, such as runs/demo")
    front = read_front(*runs)
    folder = out or (runs[0] if len(runs) == 1 else Path("report"))
    for path in _report(front, Store(runs[0]), folder):
        print(path)


@app.command
def pick(
    run: Path,
    /,
    *,
    max_drop: float = 0.5,
    of: str = "bytes",
    save: Path | None = None,
    json: Json = False,
) -> None:
    """Name the smallest network of RUN that loses at most so much accuracy, or say none does.

    Parameters
    ----------
    run
        A run folder.
    max_drop
        Points of accuracy that may be lost against the dense parent: .5 is half a percent point.
    of
        What smallest means: bytes, sparsity, nonzero, macs_nonzero or latency_us.
    save
        Write that network there (.safetensors or .safetensors.zst), of its best seed.
    """
    from thrifty.lab.pick import pick_from

    found = pick_from(run, max_drop / 100, of, save)
    print(_dumps(found.to_dict()) if json else found.text())


@app.command
def criteria(*, where: bool = False) -> None:
    """List the criteria that score weights.

    Parameters
    ----------
    where
        The file that defines each.
    """
    from thrifty.pruning.criteria import CRITERIA

    _list(CRITERIA, where)


@app.command
def methods(*, where: bool = False) -> None:
    """List the methods that prune.

    Parameters
    ----------
    where
        The file that defines each.
    """
    from thrifty.pruning.methods import METHODS

    _list(METHODS, where)


@app.command
def nets(*, where: bool = False) -> None:
    """List the built-in networks.

    Parameters
    ----------
    where
        The file that defines each.
    """
    from thrifty.nets import NETS

    _list(NETS, where)


@app.command
def datasets(*, where: bool = False) -> None:
    """List the kinds of data sets.

    Parameters
    ----------
    where
        The file that defines each.
    """
    from thrifty.data import DATASETS

    _list(DATASETS, where)


@recipes_app.default
def recipes() -> None:
    """List the recipes that come with thrifty."""
    from thrifty.lab.recipe import shipped

    for name, text in shipped().items():
        first = text.splitlines()[0] if text else ""
        print(f"{name:20}{first.lstrip('# ')}")


@recipes_app.command(name="copy")
def copy_recipe(name: str, to: Path | None = None, /) -> None:
    """Copy the recipe NAME to a file, to change and run.

    Parameters
    ----------
    name
        A name of ``thrifty recipes``.
    to
        The file; NAME.yaml here if not given.  A file that exists is not replaced.
    """
    from thrifty.errors import UnknownName
    from thrifty.files import write_text
    from thrifty.lab.recipe import shipped
    from thrifty.registry import suggest

    known = shipped()
    if name not in known:
        raise UnknownName(f"no recipe is called {name!r}; {suggest(name, known)}")
    path = to or Path(f"{name}.yaml")
    if path.exists():
        raise UserError(
            f"{path} exists already; name another file: thrifty recipes copy {name} FILE"
        )
    write_text(path, known[name])
    print(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; mistakes are told without a traceback and end with 2."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app(arguments, exit_on_error=True)
    except KeyboardInterrupt:
        again = shlex.join(["thrifty", *(sys.argv[1:] if arguments is None else arguments)])
        _end(f"stopped; what is done is kept.  To go on: {again}", 130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except UserError as error:
        from thrifty.errors import Unfinished

        _end(f"thrifty: {error}", 1 if isinstance(error, Unfinished) else 2)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _end(f"thrifty: {place}{error.strerror or error}; what was done before is kept", 2)


def _run(recipe: "Recipe", out: Path | None, as_json: bool, quiet: bool) -> None:
    from thrifty.lab.run import run as run_recipe
    from thrifty.lab.store import Store
    from thrifty.progress import view

    folder = out or Path("runs") / _name(recipe)
    with view(quiet) as tell:
        front = run_recipe(recipe, folder, tell=tell)
    written = _report(front, Store(folder), folder)
    if as_json:
        print(_dumps(front.to_dict() | {"run": str(folder)}))
        return
    print(aligned(front.table()))
    print(f"\n{folder}: {', '.join(p.name for p in written)}")


def _report(front: "Front", store: Any, folder: Path) -> list[Path]:
    from thrifty.lab.records import titled
    from thrifty.report.write import write_report

    about = store.conditions()
    shown = dict(about["conditions"]) | {"recipe": store.recipe.read_text()}
    title = titled(about["model"], about["data"])
    return write_report(front, folder, title=title, conditions=shown)


def _name(recipe: "Recipe") -> str:
    text = f"{recipe.model}-{recipe.data.partition('?')[0]}"
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text)[:60].strip("-.") + "-" + recipe.identity[:6]


def _list(registry: Any, where: bool) -> None:
    for name in registry.names():
        print(f"{name:20}{registry.where(name) if where else registry.summary(name)}")


def _given(**values: Any) -> dict[str, Any]:
    return {k: v for k, v in values.items() if v is not None}


def _dumps(value: Any) -> str:
    return json.dumps(value, indent=2)


def aligned(rows: Sequence[dict[str, str]]) -> str:
    """Rows as text with columns aligned: the first to the left, numbers to the right."""
    if not rows:
        return "nothing was measured"
    columns = list(rows[0])
    widths = [max(len(c), *(len(r[c]) for r in rows)) for c in columns]
    lines = [dict(zip(columns, columns, strict=True)), *rows]
    return "\n".join(
        "  ".join(
            line[c].ljust(w) if i == 0 else line[c].rjust(w)
            for i, (c, w) in enumerate(zip(columns, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _end(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(code)
