"""``thrifty bench``: our engine and dense runtimes on one network, answers first, then times."""

from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from thrifty.endings import whole
from thrifty.errors import UserError
from thrifty.shown import columns, printable, text_table, to_json
from thrifty.subjects import subject

if TYPE_CHECKING:
    from torch import Tensor, nn

    from thrifty.lab.contenders import Comparison, Row

ENGINE_FILE = ".thrifty"
"""Files that our engine opens by itself."""

_output = Group("Output")
_flag = Parameter(negative="", show_default=False)
_many = Parameter(consume_multiple=True, negative="", show_default=False)
_shown = Parameter(show_default=lambda many: " ".join(map(str, many)))

Json = Annotated[bool, _flag, Parameter("--json", help="Results as JSON.", group=_output)]
Whole = Annotated[int, Parameter(converter=whole)]
Numbers = Annotated[list[int], _many, _shown]


def bench(
    model: str,
    /,
    *,
    against: Annotated[list[str] | None, _many] = None,
    batch: Numbers = [1],  # noqa: B006
    threads: Numbers = [1],  # noqa: B006
    data: str | None = None,
    shape: str | None = None,
    weights: str | None = None,
    rounds: Whole = 20,
    profile: Annotated[bool, _flag] = False,
    json: Json = False,
) -> None:
    """Time MODEL in thrifty's engine and in dense runtimes, in turns, and say who is faster.

    Answers are compared first; what gives others is not timed.  Exits with 1 if that is thrifty.
    Example: ``thrifty bench net.thrifty --batch 1 64 --threads 1 2``,
    ``thrifty bench resnet20 --against onnxruntime openvino``

    Parameters
    ----------
    model
        A network, as for ``thrifty prune``, or a file that thrifty packed.
    against
        Rivals: onnxruntime, openvino, openvino_bf16, torch, torch_bf16; all that are installed
        if not given.
    batch
        Inputs at a time; several are measured one after the other.
    threads
        Threads of every contender, likewise.
    data
        Data, as for ``thrifty prune``; its test inputs are used.
    shape
        Or the shape of one input, such as ``3x32x32``; it is drawn at random.
    weights
        File that fills the network (.safetensors, .xz, .pt, .pth, .th, .npz).
    rounds
        How often each contender has its turn; fewer than 6 tell no interval, and claim nothing.
    profile
        Show instead what each operation takes in thrifty's engine, and how it was run.
    """
    from thrifty.lab.contenders import compare
    from thrifty.lab.verdicts import verdicts

    _check(batch, threads, rounds)
    net, example = subject(model, data, shape, weights, batch=max(batch))
    source = _source(model, weights)
    if profile:
        return _profile(source or net, example, batch, threads, json)
    found = compare(
        net,
        example,
        source=source,
        against=against,
        batches=batch,
        threads=threads,
        rounds=rounds,
    )
    said = verdicts(found.rows)
    if json:
        print(to_json(_told(found, said)))
    else:
        print(text_table([_cells(row) for row in found.rows]))
        print("\n" + "\n".join([*said, *_left_out(found), "", columns(_conditions(found))]))
    _check_ours(found)
    return None


def _check(batch: Sequence[int], threads: Sequence[int], rounds: int) -> None:
    for option, numbers in (("--batch", batch), ("--threads", threads), ("--rounds", [rounds])):
        for number in numbers:
            if number < 1:
                raise UserError(f"{option} is {number}; it must be 1 or more")


def _source(model: str, weights: str | None) -> Path | None:
    """The file that our engine opens by itself, None if it is given the network."""
    from thrifty.nets import file_of

    file = file_of(model)
    packed = file is not None and file.name.lower().endswith(ENGINE_FILE)
    return file if packed and weights is None else None


def _cells(row: "Row") -> dict[str, str]:
    ratio = None if row.contender == row.base else row.ratio
    unit = "base" if row.contender == row.base else ""
    return {
        "contender": row.contender,
        "batch": str(row.batch),
        "threads": str(row.threads),
        "ms": _ms(row.median),
        "least ms": _ms(row.least),
        "time / base": unit if ratio is None else f"{ratio.middle:.2f}",
        "95 %": "" if ratio is None or isnan(ratio.low) else f"{ratio.low:.2f} to {ratio.high:.2f}",
        "equal": ("yes" if row.equal else "NO") + f", {row.difference:.1e}",
    }


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _left_out(found: "Comparison") -> list[str]:
    return [f"{name} left out: {printable(why)}" for name, why in found.left_out.items()]


def _conditions(found: "Comparison") -> dict[str, str]:
    return {name: str(value) for name, value in found.conditions.items()}


def _told(found: "Comparison", said: list[str]) -> dict[str, Any]:
    return {
        "rows": found.to_rows(),
        "verdicts": said,
        "left_out": found.left_out,
        "conditions": found.conditions,
    }


def _check_ours(found: "Comparison") -> None:
    from thrifty.lab.contenders import OURS, Differs

    wrong = [row for row in found.rows if row.contender == OURS and not row.equal]
    if wrong:
        raise Differs(
            f"the engine's answers differ from torch's by {wrong[0].difference:.2g} of the largest "
            f"output at batch {wrong[0].batch}; please report this network"
        )


def _profile(
    source: "Path | nn.Module",
    example: "Tensor",
    batch: Sequence[int],
    threads: Sequence[int],
    as_json: bool,
) -> None:
    from thrifty.lab.contenders import profiled

    rows = profiled(source, example, batch, threads)
    if as_json:
        return print(to_json(rows))
    for first, last in _spans(rows):
        part = rows[first:last]
        total = sum(row["us"] for row in part)
        print(
            f"{'' if first == 0 else chr(10)}batch {part[0]['batch']}, threads "
            f"{part[0]['threads']}: {total:,.0f} us"
        )
        print(text_table([_profile_cells(row, total) for row in part]))
    return None


def _spans(rows: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """Where the rows of each batch and number of threads begin and end."""
    keys = [(row["batch"], row["threads"]) for row in rows]
    starts = [i for i, key in enumerate(keys) if i == 0 or keys[i - 1] != key]
    return list(zip(starts, [*starts[1:], len(rows)], strict=True))


def _profile_cells(row: dict[str, Any], total: float) -> dict[str, str]:
    density = row["density"]
    return {
        "operation": printable(row["name"]),
        "kind": row["kind"],
        "run": row["how"],
        "us": f"{row['us']:,.1f}",
        "share": f"{row['us'] / total:.1%}" if total else "",
        "density": "" if density is None else f"{density:.1%}",
    }
