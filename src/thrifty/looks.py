"""``thrifty look``: the census of weights, what zeroing them costs, two networks side by side."""

import re
import sys
from json import loads
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Group, Parameter

from thrifty.endings import whole
from thrifty.errors import Unfinished, UserError
from thrifty.shown import columns, filled, text_table, to_json

look_app = App(
    name="look",
    help="""Count the weights of networks: shares under thresholds, zeros, layer by layer.

    Sources that are called `zero` or `compare` are written `./zero`.""",
    result_action="return_value",
)

_output = Group("Output")
_flag = Parameter(negative="", show_default=False)
_many = Parameter(consume_multiple=True, negative="", show_default=False)
_shown = Parameter(show_default=lambda many: " ".join(f"{one:g}" for one in many))

Json = Annotated[bool, _flag, Parameter("--json", help="Results as JSON.", group=_output)]
Html = Annotated[
    Path | None, Parameter(help="Write a page with charts there, and pictures.", group=_output)
]
Silent = Annotated[bool, _flag, Parameter(["--quiet", "-q"], help="No progress.", group=_output)]
Out = Annotated[Path | None, Parameter(group=_output)]
Flag = Annotated[bool, _flag]
Under = Annotated[list[float], _many, _shown]
Whole = Annotated[int, Parameter(converter=whole)]


@look_app.default
def look(
    *sources: str,
    under: Under = [1.0, 0.1, 0.01, 0.001, 0.0001],  # noqa: B006
    per_layer: Flag = False,
    weights_only: Flag = False,
    all: Flag = False,
    fold_bn: Flag = False,
    relative: Flag = False,
    raw: Flag = False,
    threads: Whole | None = None,
    html: Html = None,
    json: Json = False,
) -> None:
    """Count the weights of SOURCES: shares under thresholds, zeros, layer by layer.

    Example: ``thrifty look resnet20 weights.safetensors --under .1 .01 --html look.html``

    Parameters
    ----------
    sources
        Files (.safetensors, .pt, .pth, .th, .h5, .keras, .onnx, .tflite, .npz, ...), folders of
        them, ``hf:ORG/REPO@REV``, ``torchvision:alexnet?weights=DEFAULT``, ``timm:NAME``,
        ``keras:NAME``, one of ``thrifty nets``, ``package.module:factory``.
    under
        Thresholds t: a weight is under t if abs(w) < t.
    per_layer
        A row a tensor.
    weights_only
        Count only tensors of two axes or more; both ways are shown if nothing is said.
    all
        Count every tensor, running statistics too.
    fold_bn
        Fold each batch normalisation into the weights before it first.
    relative
        Count under t times the standard deviation of each tensor as well.
    raw
        Count quantised integers as they are stored.
    threads
        As many as cores if not given.
    """
    from thrifty.census import look as look_at

    check_page(html)
    if weights_only and all:
        raise UserError("--weights-only and --all exclude each other; leave one out")
    census = look_at(
        *sources,
        under=under,
        counted="weights" if weights_only else "all" if all else "both",
        fold_bn=fold_bn,
        relative=relative,
        spread=json,
        curves=json or html is not None,
        raw_integers=raw,
        threads=threads,
        tell=_tell,
    )
    show(census, per_layer, html, json)


def _tell(event: dict[str, Any]) -> None:
    """Say what is being read, to whoever watches a terminal."""
    if sys.stderr.isatty():
        print(f"looking at {event['source']}", file=sys.stderr)


def check_page(html: Path | None) -> None:
    """Refuse a page called otherwise: it could be written over the network that is looked at."""
    if html is not None and html.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--html is {str(html)!r}; name a page, such as look.html")


def show(census: Any, per_layer: bool, html: Path | None, json: bool) -> None:
    """Print a census, write its page, and end with 1 if a source could not be read."""
    if json:
        print(to_json(census.to_dict()))
    else:
        print(text_table(filled(census.layer_table() if per_layer else census.table())))
        for network in census.networks:
            for note in network.notes:
                print(f"{network.label}: {note}")
        print(f"\n{census.says()}")
    if html is not None:
        from thrifty.report.census_page import write_census

        written = write_census(census, html)
        beside = f", and {len(written) - 1} pictures beside it" if written[1:] else ""
        print(f"{written[0]}{beside}", file=sys.stderr if json else sys.stdout)
    if census.failed:
        print(end="", flush=True)
        reasons = "\n".join(f"{label}: {why}" for label, why in census.failed)
        raise Unfinished(f"not read:\n{reasons}")


@look_app.command
def compare(a: str, b: str, /, *, all: Flag = False, html: Html = None, json: Json = False) -> None:
    """Set two networks side by side, layer by layer: density, overlap, distance, signs.

    Example: ``thrifty look compare dense.safetensors pruned.safetensors``

    Parameters
    ----------
    a
        A source of one network, as for ``thrifty look``.
    b
        Another.
    all
        Compare every tensor, biases and statistics too.
    """
    from thrifty.census import compare as compare_them

    check_page(html)
    found = compare_them(a, b, counted="all" if all else "weights")
    if json:
        print(to_json(found.to_dict()))
    else:
        print(text_table(filled(found.table())))
        said = {"A": found.label_a, "B": found.label_b}
        said |= {f"only in {k}": ", ".join(v) for k, v in found.only.items() if v}
        print("\n" + columns(said))
    if html is not None:
        from thrifty.report.comparison_page import write_comparison

        print(write_comparison(found, html)[0], file=sys.stderr if json else sys.stdout)


@look_app.command
def zero(
    model: str,
    /,
    *,
    data: str,
    weights: str | None = None,
    under: Under = [1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.02, 0.03, 0.05, 0.1, 0.3, 1.0],  # noqa: B006
    relative: Flag = False,
    all: Flag = False,
    keep: Annotated[list[str] | None, _many] = None,
    out: Out = None,
    seed: Whole = 0,
    threads: Whole | None = None,
    device: str | None = None,
    json: Json = False,
    quiet: Silent = False,
) -> None:
    """Zero the weights of MODEL under each threshold, and measure what is left on DATA.

    Nothing is trained; batch normalisation is measured as it is and with fresh statistics.
    Example: ``thrifty look zero resnet20 --weights resnet20.th --data parquet:DIR``

    Parameters
    ----------
    model
        A network, as for ``thrifty prune``.
    data
        Data, as for ``thrifty prune``.
    weights
        File that fills the network (.safetensors, .xz, .pt, .pth, .th, .npz).
    under
        Thresholds t: a weight is zeroed if abs(w) < t.  The intact network is measured too.
    relative
        Thresholds are multiples of each tensor's standard deviation.
    all
        Zero biases and normalisations under t as well.
    keep
        Patterns of layers to leave whole, such as ``conv1``.
    out
        Folder of the study; it may be killed and run again, or with more thresholds.
    seed
        Draws the training inputs for fresh statistics.
    threads
        1 for small networks and all cores for large ones, if not given.
    device
        cpu, cuda, ...; a GPU if there is one.
    """
    from thrifty.lab.zeroing import zero as zero_in
    from thrifty.progress import view
    from thrifty.report.zeroing import write_zeroing
    from thrifty.report.zeroing_words import headline

    folder = out or Path("runs") / slug(f"zero-{model}-{data.partition('?')[0]}")
    with view(quiet) as tell:
        found = zero_in(
            model,
            data,
            weights=weights,
            under=under,
            relative=relative,
            everything=all,
            keep=keep or (),
            out=folder,
            seed=seed,
            threads=threads,
            device=device,
            tell=tell,
        )
    print(to_json(found.to_dict()) if json else text_table(filled(found.table())), flush=True)
    written = write_zeroing(found, folder)
    if not json:
        for sentence in headline(found):
            print(sentence)
        beside = f", and {len(written) - 1} pictures beside it" if written[1:] else ""
        print(f"\n{written[0]}{beside}")


def slug(text: str) -> str:
    """``text`` as the name of a folder."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text)[:60].strip("-.")


def look_recipe(values: dict[str, Any], where: str) -> Any:
    """The recipe of a look, checked."""
    from thrifty.census.recipe import make_look

    return make_look(values, where)


def run_look(values: dict[str, Any], where: str, out: Path, json: bool) -> None:
    """Do what the recipe of a look says: print it, write page, figures and recipe to ``out``."""
    from thrifty.census import look as look_at
    from thrifty.files import write_json, write_text

    recipe = look_recipe(values, where)
    census = look_at(*recipe.look.named(), **recipe.look.arguments(), curves=True)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "recipe.yaml", recipe.to_yaml())
    write_json(out / "census.json", loads(to_json(census.to_dict())))
    show(census, False, out / "look.html", json)
