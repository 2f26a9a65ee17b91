"""``thrifty pack``: a network in a small file, and what it cost."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from thrifty.shown import printable, text_table, to_json
from thrifty.subjects import size_of

if TYPE_CHECKING:
    from thrifty.pack.packing import Packed

_output = Group("Output")
_flag = Parameter(negative="", show_default=False)


def pack(
    model: str,
    /,
    *,
    out: Annotated[Path, Parameter(["--out", "-o"], group=_output)],
    values: str = "f32",
    masks: Path | None = None,
    weights: str | None = None,
    data: str | None = None,
    shape: str | None = None,
    per_layer: Annotated[bool, _flag, Parameter(group=_output)] = False,
    json: Annotated[
        bool, _flag, Parameter("--json", help="Results as JSON.", group=_output)
    ] = False,
) -> None:
    """Write MODEL to a small file, without its zeros, and print the bytes.

    ``thrifty.load`` gives the network back, bit for bit unless ``--values`` says otherwise.  Of a
    RUN its dense parent is packed; ``thrifty pick RUN --save net.thrifty`` packs the best of it.

    Example: ``thrifty pack net.safetensors -o net.thrifty --values bf16 --data mnist:DIR``

    Parameters
    ----------
    model
        A network, as for ``thrifty prune``.
    out
        Write it there; a name that ends in ``.thrifty``.
    values
        What weights of two and more dimensions are stored as: ``f32`` (as they are), ``bf16``,
        ``f16``, or ``int8`` with a scale for each output channel.
    masks
        File of masks, as ``thrifty.pruning.masks.save`` writes; what they cut is written as zero.
    weights
        File that fills the network (.safetensors, .xz, .pt, .pth, .th, .npz, .thrifty).
    data
        Data, as for ``thrifty prune``; the accuracy before and after packing is measured on it.
    shape
        Shape of one input, such as ``3x224x224``, for networks that do not say what they take;
        the file can then be run by ``thrifty.engine``.
    per_layer
        Show the bytes of every tensor.
    """
    import torch

    from thrifty.data import load_data
    from thrifty.lab.measure import judge
    from thrifty.nets import resolve
    from thrifty.pack import load
    from thrifty.pack.packing import pack as pack_model
    from thrifty.pruning.masks import apply
    from thrifty.pruning.masks import load as load_masks

    loaded = None if data is None else load_data(data)
    net = resolve(
        model,
        weights=weights,
        classes=None if loaded is None else loaded.classes,
        shape=loaded.shape if loaded is not None else None if shape is None else size_of(shape),
    )
    if masks is not None:
        apply(net, load_masks(masks))
    example = None
    if loaded is not None:
        example = loaded.prepare(loaded.test.inputs[:2])
    elif shape is not None:
        example = torch.zeros(2, *size_of(shape))
    done = pack_model(net, out, values=values, example=example)
    accuracy = None
    if loaded is not None:
        nets = {"before": net, "after": load(out)}
        accuracy = {name: judge(each, loaded).accuracy for name, each in nets.items()}
    if json:
        return print(to_json(_told(done, accuracy, per_layer)))
    return print(_text(done, accuracy, per_layer))


def _told(done: "Packed", accuracy: dict[str, float] | None, per_layer: bool) -> dict[str, Any]:
    told: dict[str, Any] = {"path": done.path} | {n: round(b) for n, b in _totals(done).items()}
    told["operations"], told["by_torch"] = done.operations, done.by_torch
    if done.why:
        told["no_program"] = done.why
    if accuracy is not None:
        told["accuracy"] = accuracy
    if per_layer:
        told["tensors"] = done.to_rows()
    return told


def _totals(done: "Packed") -> dict[str, float]:
    return {
        "dense": done.total("dense"),
        "zstd of dense": done.total("zstd"),
        "packed": done.nbytes,
        "of it header": done.header,
        "order-0 bound": done.total("bound"),
    }


def _text(done: "Packed", accuracy: dict[str, float] | None, per_layer: bool) -> str:
    totals = _totals(done)
    dense = max(1.0, totals["dense"])
    lines = []
    if per_layer:
        lines += [text_table([_row(row) for row in done.to_rows()]), ""]
    rows = [
        {"": name, "bytes": f"{bytes_:,.0f}", "of dense": f"{bytes_ / dense:.2%}"}
        for name, bytes_ in totals.items()
    ]
    lines += [text_table(rows), ""]
    elements = max(1.0, done.total("elements"))
    lines.append(
        f"{done.path}: {done.nbytes:,} bytes, {totals['dense'] / done.nbytes:.1f} times smaller "
        f"than dense; {1 - done.total('nonzero') / elements:.2%} of {elements:,.0f} numbers are "
        f"zero"
    )
    if done.why:
        lines.append(f"the file holds weights and no program for the engine: {printable(done.why)}")
    else:
        torch = f", {done.by_torch} of them by torch" if done.by_torch else ", without torch"
        lines.append(f"thrifty.engine runs it: {done.operations} operations{torch}")
    if accuracy is not None:
        before, after = accuracy["before"], accuracy["after"]
        change = 100 * (after - before)
        said = "as before" if after == before else f"{change:+.2f} points"
        lines.append(f"accuracy {before:.2%} before packing, {after:.2%} after ({said})")
    return "\n".join(lines)


def _row(row: dict[str, Any]) -> dict[str, str]:
    return {
        "tensor": printable(row["name"]),
        "elements": f"{row['elements']:,}",
        "zeros": f"{1 - row['nonzero'] / max(1, row['elements']):.2%}",
        "stored": f"{row['encoding']} {row['values']}",
        "dense": f"{row['dense']:,}",
        "zstd": f"{row['zstd']:,}",
        "packed": f"{row['packed']:,}",
        "bound": f"{row['bound']:,.0f}",
    }
