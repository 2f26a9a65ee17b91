"""Our engine and dense runtimes on one network: answers compared first, then times in turns."""

import copy
import datetime
import importlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thrifty.cores import cores
from thrifty.errors import MissingExtra, UserError
from thrifty.lab import measure
from thrifty.lab.paired import SETTLE, Ratio, Taken, paired, ratio
from thrifty.pack.operations import outputs_of, relative_difference, resized
from thrifty.rivals import RIVALS, Array, Run
from thrifty.rivals.eager import single
from thrifty.shown import Shown

OURS = "thrifty"
TOLERANCES = {"f32": 1e-4, "bf16": 0.15}
"""Largest difference from float32 torch, relative to the largest output, by precision.  Bfloat16
keeps 8 bits, and a pruned ResNet-20 lost 8 % of its largest logit to it."""


class Differs(UserError):
    """Our engine gives other answers than torch: no mistake of whoever asked."""

    code = 1


@dataclass(frozen=True, kw_only=True)
class Row(Shown):
    """One contender at one batch and number of threads; times in milliseconds a batch."""

    contender: str
    precision: str
    batch: int
    threads: int
    difference: float
    """From the outputs of torch in float32, relative to the largest."""
    equal: bool
    """Whether that is within the tolerance of the precision; if not, it was not timed."""
    least: float | None = None
    median: float | None = None
    ratio: Ratio | None = None
    """Its time over that of ``base``: above 1, ``base`` is faster."""
    base: str | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison(Shown):
    """All rows, with where and with what they were measured."""

    rows: list[Row]
    conditions: dict[str, Any]
    left_out: dict[str, str] = field(default_factory=dict)
    """Contender -> why it did not run."""

    def to_rows(self) -> list[dict[str, Any]]:
        """A row a contender, batch and number of threads."""
        return [row.to_dict() for row in self.rows]


def ours(source: str | Path | nn.Module, example: Tensor, threads: int) -> Any:
    """Our engine on ``source``: ``engine(x)`` and ``engine.profile(x)``.

    Raises:
        ImportError: this thrifty has no engine.
    """
    compiled = _engine()
    if compiled is None:
        raise ImportError("this thrifty has no engine: thrifty.compile is not there")
    return compiled(source, example, threads=threads)


def _engine() -> Any:
    return getattr(importlib.import_module("thrifty"), "compile", None)


def compare(
    model: nn.Module,
    example: Tensor,
    *,
    source: str | Path | None = None,
    against: Sequence[str] | None = None,
    batches: Sequence[int] = (1,),
    threads: Sequence[int] = (1,),
    rounds: int = 20,
) -> Comparison:
    """Run ``model`` in our engine and in rivals; ratios are within rounds.

    Args:
        model: one tensor in, (batch, ...), and one out.
        example: float32 inputs; the first of them make each batch, again where it has fewer.
        source: a file of ours that is given to our engine in place of ``model``.
        against: names of rivals; those that are installed and run here if ``None``.
        batches: sizes of a batch.
        threads: numbers of threads.
        rounds: how often each contender has its turn.

    Raises:
        UnknownName: there is no such rival.
        MissingExtra: a rival that is named is not installed.
        UserError: a number is out of range, or a rival that is named cannot run the network.
    """
    _check(batches, threads)
    names = RIVALS.names() if against is None else list(dict.fromkeys(against))
    for name in names:
        RIVALS.get(name)
    model = copy.deepcopy(model).cpu().float().eval()
    before = torch.get_num_threads()
    rows: list[Row] = []
    left_out: dict[str, str] = {}
    started = measure_conditions(names)
    try:
        for batch in batches:
            x = resized(example.float(), batch)
            expected = single(outputs_of(model, x)).numpy()
            for count in threads:
                runs = dict(_runs(model, x, source, names, count, against is None, left_out))
                rows += _rows(expected, x, runs, count, rounds)
    finally:
        torch.set_num_threads(before)
    return Comparison(rows=rows, conditions=started | {"rounds": rounds}, left_out=left_out)


def profiled(
    source: str | Path | nn.Module,
    example: Tensor,
    batches: Sequence[int] = (1,),
    threads: Sequence[int] = (1,),
) -> list[dict[str, Any]]:
    """What each operation takes in our engine: name, kind, how it was run, us, density.

    Raises:
        UserError: this thrifty has no engine, or a number is out of range.
    """
    _check(batches, threads)
    rows = []
    for batch in batches:
        x = resized(example.float(), batch)
        for count in threads:
            try:
                engine = ours(source, x, count)
            except MissingExtra:
                raise
            except ImportError as error:
                raise UserError(f"{error}; leave out --profile to time the others") from None
            for op in engine.profile(np.ascontiguousarray(x.numpy())):
                said = {k: getattr(op, k) for k in ("name", "kind", "how", "us", "density")}
                rows.append({"batch": batch, "threads": count, **said})
    return rows


def _check(batches: Iterable[int], threads: Iterable[int]) -> None:
    most = cores()
    for batch in batches:
        if not 1 <= batch <= 1 << 16:
            raise UserError(f"a batch of {batch} is asked for; it is 1 to {1 << 16:,} inputs")
    for count in threads:
        if not 1 <= count <= most:
            raise UserError(
                f"{count} threads are asked for; it is 1 to {most}, the cores that may be used here"
            )


def _runs(
    model: nn.Module,
    x: Tensor,
    source: str | Path | None,
    names: Sequence[str],
    threads: int,
    lenient: bool,
    left_out: dict[str, str],
) -> Iterator[tuple[str, Run]]:
    """Every contender that can run; in place: ``left_out`` gains those that cannot."""
    try:
        yield OURS, _numpy(ours(model if source is None else source, x, threads))
    except MissingExtra:
        raise
    except ImportError as error:
        left_out[OURS] = str(error)
    for name in names:
        if name in left_out:
            continue
        try:
            yield name, RIVALS.get(name).load(model, x, threads)
        except UserError as error:  # MissingExtra among them
            if not lenient:
                raise
            left_out[name] = str(error)


def _numpy(engine: Any) -> Run:
    def run(x: Array) -> Array:
        return engine(x)  # type: ignore[no-any-return]

    return run


def _rows(expected: Array, x: Tensor, runs: dict[str, Run], threads: int, rounds: int) -> list[Row]:
    given = np.ascontiguousarray(x.numpy())
    apart = {name: relative_difference(run(given), expected) for name, run in runs.items()}
    equal = {name: apart[name] <= TOLERANCES[precision_of(name)] for name in runs}
    calls = {name: _call(run, given) for name, run in runs.items() if equal[name]}
    taken = paired(calls, rounds, settle=SETTLE if threads > 1 else 0.0) if calls else {}
    base = _base(taken)
    return [
        Row(
            contender=name,
            precision=precision_of(name),
            batch=len(x),
            threads=threads,
            difference=apart[name],
            equal=equal[name],
            least=taken[name].least * 1e3 if name in taken else None,
            median=taken[name].median * 1e3 if name in taken else None,
            ratio=ratio(taken[name], taken[base]) if base and name in taken else None,
            base=base,
        )
        for name in runs
    ]


def _call(run: Run, x: Array) -> Any:
    return lambda: run(x)


def _base(taken: dict[str, Taken]) -> str | None:
    """Ours, or without it the fastest in float32, or the fastest of all."""
    if OURS in taken or not taken:
        return OURS if taken else None
    pool = [name for name in taken if precision_of(name) == "f32"] or list(taken)
    return min(pool, key=lambda name: taken[name].median)


def precision_of(name: str) -> str:
    """What a contender computes in."""
    return "f32" if name == OURS else RIVALS.get(name).precision


def measure_conditions(names: Iterable[str]) -> dict[str, Any]:
    """Machine, load, versions and date; the load is that before anything was timed."""
    found = measure.conditions(0, "cpu")
    for key in ("latency", "threads", "device"):
        del found[key]
    versions = []
    for name in names:
        try:
            versions.append(RIVALS.get(name).version())
        except MissingExtra:
            continue
    load = " ".join(f"{x:.2f}" for x in os.getloadavg()) if hasattr(os, "getloadavg") else "?"
    return found | {
        "cores": cores(),
        "load": load,
        "runtimes": ", ".join(sorted({v for v in versions if not v.startswith("torch ")})),
        "date": datetime.date.today().isoformat(),
    }
