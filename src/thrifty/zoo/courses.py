"""A stack on its way from checkpoint to checkpoint, whatever is done to it.

A segment is a stack from one checkpoint to the next.  It is done when its rows are there, which
are written last; what was begun and not done is done again from the checkpoint before, and since
all randomness comes from seeds and numbers of epochs, the end is the same bit for bit.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from thrifty.errors import UserError
from thrifty.files import written
from thrifty.native.lanes import Noise
from thrifty.population.engines import Engine, Judged, Learned, Moments
from thrifty.population.gating import Gating
from thrifty.population.lanes_engine import LanesEngine
from thrifty.population.plan import Plan
from thrifty.population.stack import Stack
from thrifty.population.training import engine_of
from thrifty.zoo.folder import Folder
from thrifty.zoo.index import write_rows
from thrifty.zoo.sets import Sets

Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Checkpoint:
    """The models of a stack as they were measured at an epoch."""

    stack: Stack
    test: Judged
    learned: Learned | None
    last: bool


@dataclass(frozen=True)
class Course:
    """What is done to a stack, and what is kept of it.

    Args:
        name: of the stack.
        label: what it is called in progress lines.
        start: the stack before its first epoch.
        plan: how it is trained.
        marks: epochs of which the models are kept, rising; 0 is ``start`` itself.
        offset: added to the number of an epoch before it decides order and noise.
        noise: of each epoch, for variational dropout in lanes.
        gating: a gate that all are trained with; ``start`` then has what it begins with.
        ramp: (epochs done, the stack now) -> that stack with the masks to hold from now on.
        shard: writes the models of a checkpoint.
        about: columns of the index beside those that are always measured.
    """

    name: str
    label: str
    start: Stack
    plan: Plan
    marks: tuple[int, ...]
    shard: Callable[[Path, int, Checkpoint], object]
    about: Callable[[Checkpoint], Mapping[str, Any]]
    offset: int = 0
    noise: Callable[[int], Noise] | None = None
    gating: Gating | None = None
    ramp: Callable[[int, Stack], Stack] | None = None


def follow(
    course: Course, root: Path, sets: Sets, threads: int = 1, tell: Tell = lambda _: None
) -> int:
    """Do what is not done yet of a course; returns the number of segments."""
    folder = Folder(root)
    if all(folder.done(course.name, mark) for mark in course.marks):
        return 0
    now, stack, moments = _left(folder, course)
    plan = course.plan.model_copy(update={"epochs": course.marks[-1] + course.offset})
    noise = course.noise(now) if course.noise is not None else None
    engine, chosen = engine_of(
        stack, sets.data, plan, noise=noise, moments=moments, gating=course.gating, threads=threads
    )
    learned, done = None, 0
    for mark in (m for m in course.marks if m >= now):
        while now < mark:
            if course.noise is not None:
                assert isinstance(engine, LanesEngine)
                engine.noise(course.noise(now))
            if course.ramp is not None:
                engine.hold(course.ramp(now, engine.stack()))
            began = time.monotonic()
            learned = engine.epoch(now + course.offset)
            now += 1
            event = {"job": course.label, "models": len(stack), "epoch": now}
            tell(event | {"engine": chosen.name, "seconds": time.monotonic() - began})
        if not folder.done(course.name, mark):
            _write(folder, course, sets, engine, mark, learned)
            done += 1
    return done


def _left(folder: Folder, course: Course) -> tuple[int, Stack, Moments | None]:
    """Where to go on: epochs that are done, the stack then, and what its optimizer carries."""
    for mark in reversed(course.marks):
        state = folder.state(f"{course.name}-{mark:04d}")
        if mark and folder.done(course.name, mark) and state.is_file():
            found = read_state(state)
            stack = replace(course.start, tensors=found.pop("tensors"))
            if course.start.spread is not None:
                stack = replace(stack, spread=found.pop("spread"))
            if course.start.gates:
                stack = replace(stack, gates=found.pop("gates"))
            if course.ramp is not None:
                stack = replace(stack, masks=found.pop("masks"))
            return mark, stack, found
    return 0, course.start, None


def _write(
    folder: Folder, course: Course, sets: Sets, engine: Engine, mark: int, learned: Learned | None
) -> None:
    """Write all there is of a checkpoint, its rows last."""
    last, name = mark == course.marks[-1], course.name
    seen = Checkpoint(engine.stack(), engine.judge(sets.data.test), learned, last)
    course.shard(folder.shard(name, mark), mark, seen)
    state = folder.state(f"{name}-{mark:04d}")
    if not last and mark:
        whole = {"tensors": seen.stack.tensors} | dict(engine.moments())
        if seen.stack.spread is not None:
            whole["spread"] = seen.stack.spread
        if seen.stack.gates:
            whole["gates"] = seen.stack.gates
        if course.ramp is not None:
            whole["masks"] = seen.stack.masks
        write_state(state, whole)
    columns: dict[str, Any] = {"test_loss": seen.test.loss, "test_accuracy": seen.test.accuracy}
    if sets.validation is not None:
        held = engine.judge(sets.validation)
        columns |= {"val_loss": held.loss, "val_accuracy": held.accuracy}
    if learned is not None:
        columns |= {"train_loss": learned.loss, "train_accuracy": learned.accuracy}
    columns["diverged"] = [bool(b) for b in broken(seen)]
    if last:
        write_classes(folder.predictions(name, mark), seen.test.classes)
    write_rows(folder.root, name, mark, dict(course.about(seen)) | columns)
    for old in state.parent.glob(f"{name}-[0-9][0-9][0-9][0-9].safetensors"):
        if old != state or last:
            old.unlink(missing_ok=True)


def broken(seen: Checkpoint) -> NDArray[np.bool_]:
    """(k,) models of which a weight or the loss is not finite."""
    bad: NDArray[np.bool_] = ~np.isfinite(seen.test.loss)
    for tensor in seen.stack.tensors.values():
        bad |= ~tensor.reshape(len(seen.stack), -1).isfinite().all(1).numpy()
    return bad


def write_classes(path: Path, classes: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    """The class that each model gives each test input, (k, n)."""
    with written(path) as temporary, temporary.open("wb") as file:
        np.save(file, classes, allow_pickle=False)


def write_state(path: Path, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Groups of tensors, such as the moments of an optimizer, as ``GROUP/PARAMETER`` in a file."""
    flat = {f"{g}/{n}": x.contiguous() for g, of in groups.items() for n, x in of.items()}
    with written(path) as temporary:
        save_file(flat, temporary)


def read_state(path: Path) -> dict[str, dict[str, Tensor]]:
    """What :func:`write_state` wrote.

    Raises:
        UserError: the file is damaged.
    """
    found: dict[str, dict[str, Tensor]] = {}
    try:
        flat = load_file(path)
    except Exception as error:  # the library raises what it meets
        raise UserError(
            f"{path} cannot be read: {str(error)[:100]}; remove it, and its stack is trained anew"
        ) from None
    for name, tensor in flat.items():
        group, _, parameter = name.partition("/")
        found.setdefault(group, {})[parameter] = tensor
    return found
