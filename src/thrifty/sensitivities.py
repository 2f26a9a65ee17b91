"""``thrifty sensitivity``: accuracy against sparsity, layer by layer."""

import sys
from pathlib import Path
from typing import Annotated

import yaml
from cyclopts import Parameter

from thrifty.errors import UserError
from thrifty.looks import Flag, Html, Json, Out, Silent, Whole, check_page, slug
from thrifty.shown import filled, text_table, to_json

_many = Parameter(consume_multiple=True, negative="", show_default=False)
_shown = Parameter(show_default=lambda many: " ".join(f"{one:g}" for one in many))


def sensitivity(
    model: str,
    /,
    *,
    data: str,
    weights: str | None = None,
    method: str = "magnitude",
    sparsity: Annotated[list[float], _many, _shown] = [0.1, 0.3, 0.5, 0.7, 0.9],  # noqa: B006
    max_drop: float = 1.0,
    inputs: Whole = 2000,
    test: Flag = False,
    recalibrate: Flag = False,
    keep: Annotated[list[str] | None, _many] = None,
    round: Whole = 8,
    seed: Whole = 0,
    threads: Whole | None = None,
    device: str | None = None,
    out: Out = None,
    html: Html = None,
    json: Json = False,
    quiet: Silent = False,
) -> None:
    """Measure MODEL with one layer pruned at a time: accuracy against sparsity, layer by layer.

    Nothing is retrained.  ``OUT/layers.yaml`` is a recipe that prunes every layer as far as it
    bears.  Example: ``thrifty sensitivity resnet20 --weights resnet20.th --data parquet:DIR``,
    then ``thrifty run OUT/layers.yaml``

    Parameters
    ----------
    model
        A network, as for ``thrifty prune``, or a run: ``runs/demo``.
    data
        Data, as for ``thrifty prune``.
    weights
        File that fills the network (.safetensors, .xz, .pt, .pth, .th, .npz).
    method
        One of ``thrifty methods``.  Those that make weights zero are tried on every tensor,
        those that remove channels on every group of channels that live and die together.
    sparsity
        Shares of a layer's weights or channels that go.
    max_drop
        Points of accuracy that a layer may lose by itself: .5 is half a percent point.
    inputs
        How many inputs to measure on; training inputs, so that test inputs stay untouched.
    test
        Measure on test inputs instead.
    recalibrate
        Take batch normalisation statistics anew after each cut.
    keep
        Patterns of layers to leave whole, such as ``conv1``.
    round
        Channels of a layer stay a multiple of this.
    seed
        Draws the inputs.
    threads
        1 for small networks and all cores for large ones, if not given.
    device
        cpu, cuda, ...; a GPU if there is one.
    out
        Folder of the study; it may be killed and run again, or with more sparsities.
    """
    from thrifty.lab.sensitivity import sensitivity as measured
    from thrifty.progress import view
    from thrifty.report.sensitivity import write_page, write_sensitivity

    check_page(html)
    if not 0 <= max_drop <= 100:
        raise UserError(
            f"--max-drop is {max_drop:g}; it is in points of accuracy, 0 to 100, so half a percent "
            "point is .5"
        )
    name = f"sensitivity-{method}-{model}-{data.partition('?')[0]}"
    folder = out or Path("runs") / slug(name)
    with view(quiet) as tell:
        found = measured(
            model,
            data,
            weights=weights,
            method=method,
            sparsity=sparsity,
            max_drop=max_drop / 100,
            inputs=inputs,
            test=test,
            recalibrate=recalibrate,
            keep=keep or (),
            round=round,
            out=folder,
            seed=seed,
            threads=threads,
            device=device,
            tell=tell,
        )
    print(to_json(found.to_dict()) if json else text_table(filled(found.table())), flush=True)
    written = write_sensitivity(found, folder)
    if html is not None:
        write_page(found, html)
        print(html, file=sys.stderr if json else sys.stdout)
    if json:
        return
    print()
    for sentence in found.headline():
        print(sentence)
    if found.layers():
        print(f"\n{yaml.safe_dump({'layers': found.layers()}, sort_keys=False)}")
        print(folder / "layers.yaml")
    beside = f", and {len(written) - 1} pictures beside it" if written[1:] else ""
    print(f"{written[0]}{beside}")
