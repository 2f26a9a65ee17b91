"""Programs that lie: mutants of sound ones are refused with a UserError, or run and answer.

    python tests/engine/fuzz.py --count 200000 --seed 1

A mutant has some numbers, names or operations replaced by others, and half of them have shapes
that are made to fit again, so that they come further.  Every mutant that is accepted runs with
several batches; an image must have the same answer in each.  A crash is the end of the process, and
its last line tells the mutant; under an AddressSanitizer build of the engine so is a wild read.
"""

import argparse
import contextlib
import copy
import json
import math
import random
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from thrifty.engine import Engine, Program
from thrifty.engine.kinds import out_side
from thrifty.engine.shapes import _RULES, kernel_shape
from thrifty.errors import UserError

Json = dict[str, Any]
Tensors = dict[str, np.ndarray]

GRID = {"stride": [1, 1], "padding": [1, 1, 1, 1], "dilation": [1, 1]}
RELU = {"do": "relu"}
MEMORY = 64 << 20
ODD = (-1, 0, 1, 2, 3, 5, 8, 15, 16, 17, 31, 64, 255, 4095, 4096, 4097, 65535, 1 << 20, 1 << 27)
STRANGE = (
    None,
    True,
    "",
    "x",
    [],
    {},
    1.5,
    -0.0,
    1e-45,
    3e38,
    math.nan,
    math.inf,
    1 << 40,
    "\ud800",
)
STEPS = (
    RELU,
    {"do": "clamp", "low": -1.0, "high": 6.0},
    {"do": "gelu"},
    {"do": "elu", "alpha": 0.5},
    {"do": "scale", "by": -2.0},
    {"do": "add", "input": 1},
    {"do": "mul", "input": 1},
    {"do": "blend", "h": 1, "x": 1},
    {"do": "add_scaled", "input": 1, "by": 0.5},
)


SPOILT = (TypeError, KeyError, IndexError, ValueError, AttributeError)


def sound() -> list[tuple[Json, Tensors]]:
    """Programs in which every kind occurs, and their tensors."""
    return [
        _chain(
            (3, 9, 11),
            ("conv", (6, 9, 11), {"weight": "w"}, {**GRID, "groups": 1, "then": [RELU]}),
            ("max_pool", (6, 5, 6), {}, {"kernel": [3, 3], **GRID, "stride": [2, 2]}),
            ("conv", (6, 5, 6), {"weight": "depth", "bias": "b"}, {**GRID, "groups": 6}),
            ("affine", (6, 5, 6), {"scale": "b", "shift": "b"}, {"then": [STEPS[1]]}),
            ("channel_shuffle", (6, 5, 6), {}, {"groups": 3}),
            ("global_pool", (6,), {}, {"how": "avg"}),
            ("linear", (4,), {"weight": "head"}, {"then": [STEPS[2]]}),
            ("softmax", (4,), {}, {"axis": 0}),
        ),
        _chain(
            (8, 6, 6),
            ("pixel_shuffle", (2, 12, 12), {}, {"factor": 2}),
            ("pad", (2, 15, 15), {}, {"padding": [1, 2, 2, 1], "value": -1.5}),
            ("slice", (2, 10, 15), {}, {"axis": 1, "start": 3, "stop": 13}),
            ("avg_pool", (2, 5, 7), {}, _average()),
            ("reshape", (7, 10, 1), {}, {}),
            ("slice", (4, 10, 1), {}, {"axis": 0, "start": 1, "stop": 5}),
            ("map", (4, 10, 1), {}, {"then": [STEPS[2], STEPS[3], STEPS[4]]}),
            ("softmax", (4, 10, 1), {}, {"axis": 1}),
            ("global_pool", (4, 1, 1), {}, {"how": "max"}),
            ("conv", (5, 1, 1), {"weight": "one"}, {**GRID, "groups": 1, "padding": [0] * 4}),
        ),
        _branches(),
    ]


def _average() -> Json:
    grid = {"stride": [2, 2], "padding": [0, 0, 0, 0]}
    return {"kernel": [2, 2], **grid, "count_include_pad": False, "divisor": None}


def _tensors() -> Tensors:
    draw = np.random.default_rng(0)
    shapes = {"w": (6, 3, 3, 3), "depth": (6, 1, 3, 3), "b": (6,), "head": (4, 6)}
    shapes |= {"one": (5, 4, 1, 1), "line": (6, 6, 3)}
    made = {name: draw.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    made["w"][made["w"] < 0.5] = 0
    return made


def _chain(shape: tuple[int, ...], *ops: Any) -> tuple[Json, Tensors]:
    values, made = {"v0": list(shape)}, []
    for number, (kind, out, tensors, attrs) in enumerate(ops):
        values[f"v{number + 1}"] = list(out)
        made.append(_op(kind, [f"v{number}"], f"v{number + 1}", tensors, attrs))
    last = f"v{len(ops)}"
    return {"version": 1, "inputs": ["v0"], "outputs": [last], "values": values, "ops": made}, (
        _tensors()
    )


def _op(kind: str, inputs: list[str], output: str, tensors: Json, attrs: Json) -> Json:
    attrs = copy.deepcopy(attrs)
    named = {"kind": kind, "name": output, "inputs": inputs, "output": output}
    return {**named, "tensors": dict(tensors), "attrs": attrs}


def _branches() -> tuple[Json, Tensors]:
    image, line = [6, 4, 4], [6, 1, 16]
    values = {"a": image, "b": [6, 1, 1], "c": image, "d": image, "e": [12, 4, 4], "f": image}
    values |= {"g": line, "h": line, "i": image, "j": image}
    conv = {**GRID, "groups": 1}
    along = {**conv, "padding": [0, 1, 0, 1]}
    ops = [
        _op("mul", ["a", "b"], "c", {}, {"then": [RELU]}),
        _op("sub", ["c", "b"], "d", {}, {}),
        _op("concat", ["c", "d"], "e", {}, {"axis": 0}),
        _op("slice", ["e"], "f", {}, {"axis": 0, "start": 3, "stop": 9}),
        _op("reshape", ["f"], "g", {}, {}),
        _op("conv", ["g", "g"], "h", {"weight": "line"}, {**along, "then": [STEPS[5]]}),
        _op("reshape", ["h"], "i", {}, {}),
        _op("add", ["i", "d"], "j", {}, {"then": [STEPS[7], RELU]}),
    ]
    program = {"version": 1, "inputs": ["a", "b"], "outputs": ["j", "a", "j"]}
    return {**program, "values": values, "ops": ops}, _tensors()


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to everything in nested JSON."""
    found = [path] if path else []
    if isinstance(data, dict | list):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            found += places(value, (*path, key))
    return found


def mutate(dice: random.Random, program: Json, tensors: Tensors) -> None:
    """In place: change one thing."""
    kind = dice.random()
    if kind < 0.08 and tensors:
        name = dice.choice(sorted(tensors))
        shape = [dice.choice((0, 1, 2, 3, 6)) for _ in range(dice.randint(0, 5))]
        fill = dice.choice((0.0, 1.0, -1.0, math.nan, math.inf, 3e38))
        tensors[name] = np.full(shape or tensors[name].shape, fill, np.float32)
        return
    if kind < 0.25 and program["ops"]:
        ops = program["ops"]
        at = dice.randrange(len(ops))
        change: Callable[[], Any] = dice.choice(
            (
                lambda: ops.pop(at),
                lambda: ops.insert(at, copy.deepcopy(dice.choice(ops))),
                lambda: ops[at].update(kind=dice.choice(ops)["kind"]),
                lambda: ops[at]["attrs"].update(
                    then=copy.deepcopy(dice.choices(STEPS, k=dice.randint(0, 40)))
                ),
                lambda: ops[at]["inputs"].append(dice.choice(sorted(program["values"]))),
                lambda: program["outputs"].append(dice.choice(sorted(program["values"]))),
            )
        )
        change()
        return
    path = dice.choice(places(program))
    at, key = program, path[-1]
    for step in path[:-1]:
        at = at[step]
    old = at[key]
    if isinstance(old, str) and dice.random() < 0.7:
        at[key] = dice.choice([*program["values"], *tensors, "avg", "max"])
    elif isinstance(old, int | float) and dice.random() < 0.9:
        at[key] = dice.choice([*ODD, old + 1, old - 1, old * 2])
    elif dice.random() < 0.3:
        at[key] = dice.choice(STRANGE)


def repair(program: Json, tensors: Mapping[str, np.ndarray]) -> None:
    """In place: the shapes of values as the operations give them, where that can be told."""
    values = program["values"]
    for op in program["ops"]:
        with contextlib.suppress(UserError, ArithmeticError, *SPOILT):
            ins, attrs = [tuple(values[name]) for name in op["inputs"]], op["attrs"]
            if op["kind"] == "conv":
                weight = kernel_shape(tensors[op["tensors"]["weight"]].shape)
                pad, step = attrs["padding"], attrs["stride"]
                sides = [
                    out_side(ins[0][i + 1], weight[i + 2], step[i], pad[i], pad[i + 2], dilation)
                    for i, dilation in enumerate(attrs["dilation"])
                ]
                values[op["output"]] = [weight[0], *sides]
            elif op["kind"] == "linear":
                values[op["output"]] = [*ins[0][:-1], len(tensors[op["tensors"]["weight"]])]
            elif op["kind"] != "reshape":
                out = tuple(values[op["output"]])
                values[op["output"]] = list(_RULES[op["kind"]](attrs, ins, out, ""))


def stand(op: Any, arrays: Any, tensors: Any, shape: tuple[int, ...]) -> np.ndarray:
    """What is not compiled gives zeros."""
    return np.zeros((len(arrays[0]), *shape), np.float32)


def try_one(program: Json, tensors: Tensors) -> bool:
    """Whether the program was accepted; raises what must not happen."""
    try:
        engine = Engine(Program.from_json(program), tensors, stand=stand, memory=MEMORY)
        shapes = [engine.program.values[name] for name in engine.program.inputs]
        draw = np.random.default_rng(1)
        given = [draw.standard_normal((5, *shape)).astype(np.float32) for shape in shapes]
        several = _called(engine, [x[:5] for x in given])
        alone = _called(engine, [x[:1] for x in given])
        _called(engine, [x[:0] for x in given])
    except UserError:
        return False
    for first, second in zip(several, alone, strict=True):
        a, b = first[:1], second
        fine = np.isfinite(a) & np.isfinite(b) & (abs(a) < 1e4)
        assert np.allclose(a[fine], b[fine], rtol=1e-2, atol=1e-2), "batches differ"
    return True


def _called(engine: Engine, given: list[np.ndarray]) -> list[np.ndarray]:
    found = engine(*given)
    return list(found) if isinstance(found, tuple) else [found]


def fuzz(count: int, seed: int, tell: bool = False) -> int:
    """Try ``count`` mutants; how many were accepted."""
    seeds, accepted = sound(), 0
    for program, tensors in seeds:
        assert try_one(program, tensors), "a sound program is refused"
    for number in range(count):
        dice = random.Random(seed * 1_000_000_007 + number)
        program, tensors = copy.deepcopy(dice.choice(seeds))
        for _ in range(dice.choice((1, 1, 1, 2, 3))):
            with contextlib.suppress(*SPOILT):  # by the mutation before
                mutate(dice, program, tensors)
        if dice.random() < 0.5:
            with contextlib.suppress(*SPOILT):
                repair(program, tensors)
        if tell:
            sys.stderr.write(f"\r{number} {accepted} {json.dumps(program)[:3000]}\n")
        accepted += try_one(program, tensors)
    return accepted


def main() -> None:
    """Fuzz from the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tell", action="store_true", help="every mutant before it is tried")
    args = parser.parse_args()
    accepted = fuzz(args.count, args.seed, args.tell)
    sys.stdout.write(f"{args.count} mutants, {accepted} accepted\n")


if __name__ == "__main__":
    main()
