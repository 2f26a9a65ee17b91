"""What the commands that run a recipe share: their options, and how a run is shown."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from thrifty.endings import whole
from thrifty.errors import UserError
from thrifty.registry import parse_spec
from thrifty.shown import text_table, to_json

if TYPE_CHECKING:
    from thrifty.lab.front import Front
    from thrifty.lab.recipe import Recipe

_output = Group("Output")
_machine = Group("Machine")

FLAG = Parameter(negative="", show_default=False)

Out = Annotated[
    Path | None, Parameter(help="Folder of the run; one in runs/ if not given.", group=_output)
]
Json = Annotated[bool, FLAG, Parameter("--json", help="Results as JSON.", group=_output)]
Silent = Annotated[bool, FLAG, Parameter(["--quiet", "-q"], help="No progress.", group=_output)]
MANY = Parameter(consume_multiple=True, negative="", show_default=False)
SHOWN = Parameter(show_default=lambda many: " ".join(map(str, many)))
Whole = Annotated[int, Parameter(converter=whole)]
Threads = Annotated[
    Whole | None,
    Parameter(help="Threads a worker: 1 unless said; fastest for small networks.", group=_machine),
]
Workers = Annotated[
    Whole | None, Parameter(help="Processes; as many as cores if not given.", group=_machine)
]
Device = Annotated[
    str | None, Parameter(help="cpu, cuda, ...; a GPU if there is one.", group=_machine)
]
Distributed = Annotated[
    bool,
    FLAG,
    Parameter(help="Train by all processes of the torchrun that started this.", group=_machine),
]


def run_and_show(recipe: "Recipe", out: Path | None, as_json: bool, quiet: bool) -> None:
    """Run a recipe and print its table, or all there is as JSON; write its report.

    Of several processes the first does all that, and the others train with it.

    Raises:
        UserError: one of several processes, and the recipe does not say that they belong together.
    """
    from thrifty.training import distributed

    if recipe.machine.distributed:
        distributed.together(
            lambda: _run_and_show(recipe, out, as_json, quiet), recipe.machine.device
        )
    elif distributed.started():
        raise UserError(
            "torchrun started several processes, and each would do the same run; give "
            "--distributed (machine.distributed=true) to train together, or start one process"
        )
    else:
        _run_and_show(recipe, out, as_json, quiet)


def _run_and_show(recipe: "Recipe", out: Path | None, as_json: bool, quiet: bool) -> None:
    from thrifty.lab.executor import InProcess
    from thrifty.lab.run import run as run_recipe
    from thrifty.lab.store import Store
    from thrifty.progress import view

    folder = out or Path("runs") / run_name(recipe)
    with view(quiet) as tell:
        alone = InProcess() if recipe.machine.distributed else None
        front = run_recipe(recipe, folder, executor=alone, tell=tell)
    if as_json:
        print(to_json(front.to_dict() | {"run": str(folder)}), flush=True)
    else:
        print(text_table(front.table()), flush=True)
    written = reported(front, Store(folder), folder)
    if not as_json:
        beside = f", and {len(written) - 1} pictures beside it" if written[1:] else ""
        print(f"\n{written[0]}{beside}")


def reported(front: "Front", store: Any, folder: Path) -> list[Path]:
    """Write the report of a front into a folder; the files that were written."""
    from thrifty.lab.naming import title_of
    from thrifty.report.write import write_report

    about = store.conditions()
    shown = dict(about["conditions"]) | {"recipe": store.recipe.read_text()}
    title = title_of((r.model, r.data) for r in front.records)
    title = title or title_of([(about["model"], about["data"])])
    return write_report(front, folder, title=title, conditions=shown)


def run_name(recipe: "Recipe") -> str:
    """What the folder of a run is called, if nobody says."""
    text = f"{recipe.model}-{recipe.data.partition('?')[0]}"
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text)[:60].strip("-.") + "-" + recipe.identity[:6]


def is_trained(model: str, weights: str | None) -> bool:
    """Whether a network comes with weights of some training."""
    from thrifty.nets import file_of

    options = parse_spec(model).options
    return bool(
        weights or options.get("weights") or options.get("pretrained") or file_of(model) is not None
    )


def given(**values: Any) -> dict[str, Any]:
    """What is not ``None``."""
    return {k: v for k, v in values.items() if v is not None}
