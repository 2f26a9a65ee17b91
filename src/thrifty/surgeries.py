"""``thrifty groups`` and ``thrifty shrink``: what of a network may go, and making it go."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from thrifty.endings import whole
from thrifty.errors import UserError
from thrifty.shown import columns, text_table, to_json
from thrifty.subjects import subject

if TYPE_CHECKING:
    from torch import nn

    from thrifty.channels.groups import Groups
    from thrifty.channels.removal import Surgery

_output = Group("Output")
_flag = Parameter(negative="", show_default=False)
_many = Parameter(consume_multiple=True, negative="", show_default=False)

Json = Annotated[bool, _flag, Parameter("--json", help="Results as JSON.", group=_output)]
Keep = Annotated[list[str] | None, _many]
Whole = Annotated[int, Parameter(converter=whole)]


def groups(
    model: str,
    /,
    *,
    data: str | None = None,
    shape: str | None = None,
    weights: str | None = None,
    keep: Keep = None,
    json: Json = False,
) -> None:
    """Show which channels of MODEL live and die together, which stay whole, and why.

    Example: ``thrifty groups resnet20``, ``thrifty groups torchvision:resnet50 --shape 3x64x64``

    Parameters
    ----------
    model
        A network, as for ``thrifty prune``.
    data
        Data, as for ``thrifty prune``; two of its inputs are an example.
    shape
        Or the shape of one input, such as ``3x32x32``; it is drawn at random.
    weights
        File that fills the network (.safetensors, .xz, .pt, .pth, .th, .npz).
    keep
        Patterns of layers that stay whole, such as ``conv1 'layer4.*'``.
    """
    from thrifty.channels.costs import Costs
    from thrifty.channels.finding import groups as find_groups

    net, example = subject(model, data, shape, weights)
    size = tuple(example.shape[1:])
    found = find_groups(net, example, keep or ())
    rows = Costs(net, found, size).to_rows()
    if json:
        said = {"model": model, "shape": list(size), "groups": rows, "notes": list(found.notes)}
        return print(to_json(said))
    _print_groups(rows)
    return print("\n" + "\n".join(found.notes)) if found.notes else None


def _print_groups(rows: list[dict[str, Any]]) -> None:
    free = [row for row in rows if not row["whole"]]
    stay = {row["group"]: row["whole"] for row in rows if row["whole"]}
    if not rows:
        return print("no layer of this network makes channels")
    if free:
        print("What one unit of each group costs:")
        names = ("group", "units", "channels", "params", "macs", "bytes")
        print(text_table([{name: _number(row[name]) for name in names} for row in free]))
        print("\nWhat moves together, and what ties it:")
        print(columns({row["group"]: _together(row) for row in free}))
    if stay:
        print(("\n" if free else "") + "What stays whole, and why:")
        print(columns(stay))
    return None


def _together(row: dict[str, Any]) -> str:
    text = _some(row["layers"])
    if row["read by"]:
        text += f" -> {_some(row['read by'])}"
    return f"{text}  ({_some(row['because'], '; ')})" if row["because"] else text


def _some(text: str, mark: str = ", ", most: int = 4) -> str:
    parts = text.split(mark)
    more = len(parts) - most
    return text if more <= 1 else f"{mark.join(parts[:most])} and {more} more"


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def shrink(
    model: str,
    /,
    *,
    masks: Path | None = None,
    data: str | None = None,
    shape: str | None = None,
    weights: str | None = None,
    keep: Keep = None,
    round: Whole = 8,
    dry_run: Annotated[bool, _flag] = False,
    out: Annotated[Path | None, Parameter(["--out", "-o"], group=_output)] = None,
    json: Json = False,
) -> None:
    """Remove from MODEL the channels whose weights are zero: a smaller network, equal outputs.

    Example: ``thrifty shrink net.safetensors --masks masks.safetensors -o small.safetensors``

    Parameters
    ----------
    model
        A network, as for ``thrifty prune``.
    masks
        File of masks, as ``thrifty.pruning.masks.save`` writes; without it the zeros of the
        weights count.
    data
        Data, as for ``thrifty prune``; two of its inputs are the example for which outputs are
        compared.
    shape
        Or the shape of one input, such as ``3x32x32``; it is drawn at random.
    weights
        File that fills the network (.safetensors, .xz, .pt, .pth, .th, .npz).
    keep
        Patterns of layers that stay whole, such as ``conv1 'layer4.*'``.
    round
        The channels of a layer stay a multiple of this, which suits CPUs; 1 removes all that is
        zero.
    dry_run
        Say what would become of the network, and write nothing.
    out
        Write the smaller network there (.safetensors or .safetensors.zst).
    """
    from thrifty.channels.finding import groups as find_groups
    from thrifty.channels.shrinking import odd_widths, surgery
    from thrifty.pack import save
    from thrifty.pruning.masks import load

    if (out is None) is not dry_run:
        raise UserError(
            "say where the network goes, -o FILE.safetensors, or --dry-run to write none"
            if out is None
            else "--dry-run writes nothing; leave out -o, or --dry-run"
        )
    if round < 1:
        raise UserError(f"--round is {round}; it is a number of channels, 1 or more")
    net, example = subject(model, data, shape, weights)
    chosen = load(masks) if masks is not None else None
    found = find_groups(net, example, keep or ())
    done = surgery(net, chosen, example, groups=found, round=round)
    told = _told(net, done, found, tuple(example.shape[1:]))
    slow = odd_widths(round) if done.kept else None
    told["notes"] = [*found.notes, *([slow] if slow else [])]
    if out is not None:
        told["file"] = {"path": str(out), "bytes": save(done.model, out)}
    print(to_json(told) if json else _text(told))


def _told(
    net: "nn.Module", done: "Surgery", found: "Groups", size: tuple[int, ...]
) -> dict[str, Any]:
    from thrifty.nets import count_macs

    def costs(module: "nn.Module") -> dict[str, int]:
        parameters = list(module.parameters())
        tensors = [*parameters, *module.buffers()]
        return {
            "params": sum(p.numel() for p in parameters),
            "macs": count_macs(module, size),
            "bytes": sum(x.numel() * x.element_size() for x in tensors),
        }

    kept = {name: [int(keep.sum()), found[name].units] for name, keep in done.kept.items()}
    return {
        "before": costs(net),
        "after": costs(done.model),
        "kept": kept,
        "difference": done.difference,
        "border": done.border,
    }


def _text(told: dict[str, Any]) -> str:
    from thrifty.channels.removal import TOLERANCE

    rows = [
        {
            "": name,
            "before": f"{told['before'][name]:,}",
            "after": f"{told['after'][name]:,}",
            "left": f"{told['after'][name] / max(1, told['before'][name]):.1%}",
        }
        for name in told["before"]
    ]
    lines = [text_table(rows), ""]
    if told["kept"]:
        lines.append(columns({n: f"{a} of {b} units kept" for n, (a, b) in told["kept"].items()}))
    else:
        lines.append("no channel could go: none has only zeros, or none that need not stay")
    lines.append(f"outputs differ by {told['difference']:.2g} of the largest")
    if told["border"] > TOLERANCE:
        lines.append(
            f"at borders padded with zeros, constants that removed channels sent are missing: "
            f"outputs differ by {told['border']:.2g} of the largest from those under the masks"
        )
    lines += told["notes"]
    if "file" in told:
        lines.append(f"{told['file']['path']}  {told['file']['bytes']:,} bytes")
    return "\n".join(lines)
