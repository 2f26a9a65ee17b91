"""What a network takes in use: bytes of its ``.thrifty`` file, milliseconds in the engine.

The file that is weighed is the file that is run, and its answers are compared with torch's before
the clock starts.  Files are written to a temporary folder and not kept; ``thrifty pick --save``
writes the one that is wanted.

Following a network costs more than all the rest, so networks whose tensors have the same shapes,
as those under masks have, share the program of the first; one that does not answer as torch does
with it gets its own.  Whatever prevents a figure is told in the record, and no run fails for it.
"""

import importlib.util
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from thrifty.compiling import compile as compiled
from thrifty.engine import Engine
from thrifty.errors import UserError
from thrifty.lab.contenders import TOLERANCES
from thrifty.lab.paired import Taken, paired, ratio
from thrifty.lab.records import DENSE
from thrifty.lab.store import Step
from thrifty.native import targets
from thrifty.pack.contents import contents
from thrifty.pack.operations import relative_difference
from thrifty.pack.programs import Programmed, programmed
from thrifty.pack.saving import save
from thrifty.shown import printable

if TYPE_CHECKING:
    from thrifty.lab.steps import Lab

ROUNDS = 9
TURN = 0.001
"""Seconds of a turn; a network and its dense parent have :data:`ROUNDS` each."""
NOT_COMPILED = "it was not compiled where thrifty was installed"


@dataclass(frozen=True)
class Deployed:
    """A packed network.

    Args:
        nbytes: of its file; None if it could not be packed.
        engine: that runs the file; None if that cannot be had.
        why: what prevents it, empty if nothing does.
    """

    nbytes: int | None
    engine: Engine | None
    why: str = ""


class Deployer:
    """Packs networks with inputs of one shape, and opens them in the engine."""

    def __init__(self, example: Tensor):
        """``example`` is an input as networks take it, float32, with its batch dimension."""
        self.example = example
        self._programs: dict[tuple[Any, ...], Programmed] = {}

    def deploy(self, model: nn.Module, run: bool = True) -> Deployed:
        """Pack ``model``, and open the file in the engine.

        Args:
            model: on the CPU, in evaluation; it is not touched.
            run: whether an engine is wanted.
        """
        there = engine_there()
        try:
            with tempfile.TemporaryDirectory(prefix="thrifty-") as folder:
                found = self._deployed(model, run and there, Path(folder) / "net.thrifty")
            return found if there or not run else replace(found, why=NOT_COMPILED)
        except Exception as error:  # of a network or a machine that nobody foresaw
            return Deployed(None, None, f"it cannot be packed: {_line(error)}")

    def _deployed(self, model: nn.Module, run: bool, path: Path) -> Deployed:
        shapes = tuple((name, tuple(x.shape)) for name, x in model.state_dict().items())
        shared = self._programs.get(shapes)
        if shared is not None:
            found = self._opened(model, shared, run, path)
            if not found.why or shared.program is None:
                return found
        made = self._programmed(model)
        if not made.constants:  # they are computed from the weights, and so of one network alone
            self._programs[shapes] = made
        return self._opened(model, made, run, path)

    def _programmed(self, model: nn.Module) -> Programmed:
        return programmed(model, {}, contents(model, {}, {}, "").tensors, self.example)

    def _opened(self, model: nn.Module, made: Programmed, run: bool, path: Path) -> Deployed:
        nbytes = save(model, path, program=made.program, constants=made.constants)
        if not run or made.program is None:
            return Deployed(nbytes, None, made.why)
        try:
            engine = compiled(path)
        except ValueError as error:  # tensors that do not fit a shared program
            return Deployed(nbytes, None, _line(error))
        return Deployed(nbytes, *self._checked(model, engine))

    def _checked(self, model: nn.Module, engine: Engine) -> tuple[Engine | None, str]:
        names = [op.name or op.output for op in engine.program.ops]
        if set(names) <= engine.fallbacks.keys():
            return None, f"it knows no operation of this network ({engine.fallbacks[names[0]]})"
        with torch.inference_mode():
            expected = model(self.example).numpy()
        difference = relative_difference(engine(self.example.numpy()), expected)
        if not difference <= TOLERANCES["f32"]:
            return None, f"its answers differ from torch's by {difference:.2g} of the largest"
        return engine, ""


class Timer:
    """Weighs and times the networks of a run, each in turns with its dense parent."""

    def __init__(self, lab: "Lab"):
        self.lab = lab
        self._deployer: Deployer | None = None
        self._parent: tuple[str, Deployed] | None = None

    def measure(self, step: Step, parent: Step) -> None:
        """Add to a step's times the bytes of the packed file and, if asked for, the engine's."""
        timed = self.lab.recipe.latency
        found = self._deploy(step, timed)
        figures: dict[str, Any] = {"packed_bytes": found.nbytes}
        if timed:
            if step.key == parent.key:
                self._parent = parent.key, found
            figures |= self._engine(found, step, parent)
        step.time(**figures)

    def _engine(self, found: Deployed, step: Step, parent: Step) -> dict[str, Any]:
        if self._parent is None or self._parent[0] != parent.key:
            self._parent = parent.key, self._deploy(parent, True)
        dense = self._parent[1]
        if found.engine is None or dense.engine is None:
            why = found.why or f"it does not run the dense parent: {dense.why}"
            return {"engine_ms": None, "engine_speedup": None, "engine_why": why}
        x = self._example().numpy()
        whole = parent.timing().get("engine_ms")
        if whole is None:
            whole = _taken({DENSE: dense.engine}, x)[DENSE].median * 1e3
        share = 1.0
        if step.key != parent.key:
            taken = _taken({"own": found.engine, DENSE: dense.engine}, x)
            share = ratio(taken["own"], taken[DENSE]).middle
        return {"engine_ms": whole * share, "engine_speedup": 1 / share, "engine_why": None}

    def _example(self) -> Tensor:
        data = self.lab.data
        return data.prepare(data.test.inputs[:1]).float().contiguous()

    def _deploy(self, step: Step, run: bool) -> Deployed:
        if self._deployer is None:
            self._deployer = Deployer(self._example())
        return self._deployer.deploy(self.lab.build(step.model).cpu().eval(), run)


def _taken(engines: Mapping[str, Engine], x: NDArray[Any]) -> dict[str, Taken]:
    calls = {name: partial(engine, x) for name, engine in engines.items()}
    return paired(calls, ROUNDS, turn=TURN, collect=False)


def lacking(timing: Mapping[str, Any], timed: bool) -> bool:
    """Whether figures of this module are not among the times of a step.

    An engine that was not compiled then and is there now has not had its turn.
    """
    if "packed_bytes" not in timing or (timed and "engine_ms" not in timing):
        return True
    return timed and timing.get("engine_why") == NOT_COMPILED and engine_there()


def engine_there() -> bool:
    """Whether the engine was compiled, and numpy is not asked for in its place."""
    there = importlib.util.find_spec("thrifty.native._engine") is not None
    return there and targets.target() != "numpy"


def engine_conditions() -> str:
    """How times in the engine are taken, for ``run.json``."""
    if not engine_there():
        return f"not timed: {NOT_COMPILED}"
    return (
        f"thrifty's ({targets.target()}), batch 1, 1 thread, from the packed file: the dense "
        f"parent's median time, times the median ratio to it of turns in the same engine"
    )


def _line(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return printable(kind + lines[0])
