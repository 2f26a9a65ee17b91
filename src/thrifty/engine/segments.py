"""A program cut into stretches that the compiled engine runs, and operations that it does not."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from thrifty.engine.building import Builder, Net, image, native
from thrifty.engine.folding import Array, Tensors
from thrifty.engine.program import Op, Program
from thrifty.native import targets

_engine: ModuleType | None
try:
    _engine = importlib.import_module("thrifty.native._engine")
except ImportError:  # installed where there was no compiler
    _engine = None


@dataclass
class Segment:
    """Operations that follow each other, and which values they take and give to others.

    ``net`` runs them, or None: they are run one at a time by someone else, for ``reason``.
    """

    ops: list[Op]
    inputs: list[str]
    outputs: list[str]
    net: Net = None
    numbers: list[int] = field(default_factory=list)
    """Of each operation of ``net``, its place in ``ops``."""
    reason: str = ""


def segments(program: Program, tensors: Tensors) -> list[Segment]:
    """The stretches of ``program``, in order, compiled where they can be."""
    found: list[Segment] = []
    compiled = _engine is not None and targets.target() != "numpy"
    stretch: list[Op] = []
    for op in program.ops:
        if compiled and native(op, program.values):
            stretch.append(op)
            continue
        if stretch:
            found.append(Segment(stretch, [], []))
            stretch = []
        reason = (
            "the engine was not compiled"
            if not compiled
            else _named(op)
            if op.kind == "fallback"
            else "values that are no images"
        )
        found.append(Segment([op], [], [], reason=reason))
    if stretch:
        found.append(Segment(stretch, [], []))
    for number, segment in enumerate(found):
        _connect(segment, found[number + 1 :], program)
        if not segment.reason:
            try:
                _compile(segment, program, tensors)
            except ValueError as error:
                segment.net, segment.reason = None, str(error)
    return found


def _named(op: Op) -> str:
    return str(op.attrs["target"])


def _connect(segment: Segment, later: Sequence[Segment], program: Program) -> None:
    made = [op.output for op in segment.ops]
    needed = dict.fromkeys(name for op in segment.ops for name in op.inputs)
    segment.inputs = [name for name in needed if name not in made]
    wanted = {name for other in later for op in other.ops for name in op.inputs}
    wanted.update(program.outputs)
    segment.outputs = [name for name in made if name in wanted]


def _compile(segment: Segment, program: Program, tensors: Tensors) -> None:
    assert _engine is not None
    names = [*segment.inputs, *(op.output for op in segment.ops)]
    index = {name: number for number, name in enumerate(names)}
    shapes = [image(program.values[name]) for name in names]
    net = _engine.Net(
        targets.target(),
        shapes,
        [index[name] for name in segment.inputs],
        [index[name] for name in segment.outputs],
    )
    build = Builder(net, program.values, index)
    build.add(segment.ops, tensors, segment.outputs)
    net.prepare()
    segment.net, segment.numbers = net, build.numbers


def run(
    segment: Segment, values: Mapping[str, Array], program: Program, count: int, threads: int
) -> list[Array]:
    """The outputs of a compiled segment for ``count`` images."""
    given = [np.ascontiguousarray(values[name], np.float32) for name in segment.inputs]
    made = [np.empty((count, *program.values[name]), np.float32) for name in segment.outputs]
    segment.net.run(given, made, count, threads)
    return made


def profile(
    segment: Segment, values: Mapping[str, Array], program: Program, count: int
) -> tuple[list[Array], list[tuple[int, str, float]]]:
    """The outputs, and of each task the operation (-1: none), how it was done, and seconds."""
    given = [np.ascontiguousarray(values[name], np.float32) for name in segment.inputs]
    made: list[Any] = [
        np.empty((count, *program.values[name]), np.float32) for name in segment.outputs
    ]
    times = segment.net.profile(given, made, count)
    return made, [(-1 if n < 0 else segment.numbers[n], how, s) for n, how, s in times]
