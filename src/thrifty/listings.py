"""The commands that list what there is: criteria, methods, gates, networks, data, recipes, ..."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from thrifty.errors import UnknownName, UserError
from thrifty.registry import first_line, suggest
from thrifty.shown import columns, to_json

Where = Annotated[
    bool, Parameter(negative="", show_default=False, help="Show the file that defines each.")
]

recipes_app = App(name="recipes", help="List the recipes that come with thrifty, or copy one.")


def criteria(*, where: Where = False) -> None:
    """List the criteria that score weights."""
    from thrifty.pruning.criteria import CRITERIA

    _list(CRITERIA, where)


def methods(*, where: Where = False) -> None:
    """List the methods that prune."""
    from thrifty.pruning.methods import METHODS

    _list(METHODS, where)


def gates(*, where: Where = False) -> None:
    """List the gates, which learn in training what each channel or weight is worth."""
    from thrifty.pruning.gates import GATES

    _list(GATES, where)


def allocations() -> None:
    """List the ways to share the budget among layers."""
    from thrifty.pruning.allocation import ALLOCATIONS

    print(columns({name: first_line(how) for name, how in ALLOCATIONS.items()}))


def nets(
    *,
    where: Where = False,
    describe: str | None = None,
    json: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> None:
    """List the built-in networks, or describe one of them.

    Example: ``thrifty nets --describe 'thriftynet?budget=40k&mode=classic'``

    Parameters
    ----------
    describe
        A network, with options if need be: what it is, what it takes, what its layers cost.
    json
        The description as JSON.
    """
    if describe is not None:
        from thrifty.nets.describing import describe as described

        found = described(describe)
        return print(to_json(found.to_dict()) if json else found)
    if json:
        raise UserError("--json is for a description; give a network: --describe resnet20 --json")
    from thrifty.nets import NETS

    return _list(NETS, where)


def datasets(*, where: Where = False) -> None:
    """List the kinds of data sets."""
    from thrifty.data import DATASETS

    _list(DATASETS, where)


def sources(*, where: Where = False) -> None:
    """List the kinds of files and places that weights are read from."""
    from thrifty.sources import SOURCES

    if where:
        return _list(SOURCES, where)
    readers = {name: SOURCES.get(name) for name in SOURCES.names()}
    said = {n: [f"{r.prefix}:..."] if r.prefix else r.suffixes for n, r in readers.items()}
    return print(columns({n: f"{r.about} ({', '.join(said[n])})" for n, r in readers.items()}))


@recipes_app.default
def recipes() -> None:
    """List the recipes that come with thrifty."""
    from thrifty.lab.recipe import shipped

    first = {name: text.partition("\n")[0].lstrip("# ") for name, text in shipped().items()}
    print(columns(first))


@recipes_app.command(name="copy")
def copy_recipe(name: str, to: Path | None = None, /) -> None:
    """Copy the recipe NAME to a file, to change and run.

    Example: ``thrifty recipes copy demo mine.yaml``

    Parameters
    ----------
    name
        A name of ``thrifty recipes``.
    to
        The file; NAME.yaml here if not given.  A file that exists is not replaced.
    """
    from thrifty.files import write_text
    from thrifty.lab.recipe import shipped

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


def _list(registry: Any, where: bool) -> None:
    about = registry.where if where else registry.summary
    print(columns({name: about(name) for name in registry.names()}))
