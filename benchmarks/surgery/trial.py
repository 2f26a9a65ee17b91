"""One network and one tool in a process of its own: limits, comparison, and what is written down.

Time is that of the processor, so that a busy machine does not make a tool slow.
"""

import contextlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from torch import Tensor, nn

SHARE = 0.3
"""Of the units of every group that go."""

LIMIT_S = 60
TOLERANCE = 1e-4
"""Largest difference of outputs that is rounding, as a share of the largest output, at least 1."""

NOTICED = 0.01
"""And as a share of what the cut does to the outputs: they must not pass because little happens."""

MARK = "outcome: "


@dataclass
class Outcome:
    """What became of a network."""

    network: str
    tool: str
    outcome: str = "failed"
    """equal, other (it runs, with other outputs), runs (outputs could not be compared), uncut
    (nothing could be removed), failed, slow."""
    reason: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    """Of the processor, by step."""
    before: int = 0
    """Parameters."""
    after: int = 0
    difference: float | None = None
    """Largest, as a share of the largest output, at least of 1."""
    effect: float | None = None
    """What the cut itself does to the outputs, in the same unit."""
    groups: dict[str, Any] = field(default_factory=dict)
    memory_mb: int = 0
    """Largest resident memory of the process."""


class Slow(BaseException):
    """No Exception: tools catch these."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise :class:`Slow` after that many seconds of processor time."""

    def stop(*_: object) -> None:
        raise Slow

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


@contextlib.contextmanager
def timed(outcome: Outcome, step: str) -> Iterator[None]:
    """Write down what a step takes."""
    start = time.process_time()
    try:
        yield
    finally:
        outcome.seconds[step] = round(time.process_time() - start, 3)


def count(model: nn.Module) -> int:
    """Parameters."""
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def run(model: nn.Module, images: Tensor) -> Tensor:
    """Outputs in float64."""
    return torch.as_tensor(model.eval()(images)).double()


def judge(outcome: Outcome, whole: Tensor, masked: Tensor, small: Tensor) -> None:
    """In place: whether the smaller network gives the outputs of the masked one.

    Args:
        whole: outputs of the network as it was.
        masked: outputs with the channels at zero.
        small: outputs with the channels gone.
    """
    if masked.shape != small.shape:
        outcome.outcome, outcome.reason = "other", f"outputs {tuple(small.shape)}"
        return
    unit = max(1.0, float(masked.abs().max()))
    outcome.difference = float((small - masked).abs().max()) / unit
    outcome.effect = float((whole - masked).abs().max()) / unit
    limit = min(TOLERANCE, NOTICED * outcome.effect)
    equal = outcome.difference <= limit and outcome.effect > 0  # NaN is not
    outcome.outcome = "equal" if equal else "other"
    if not outcome.effect:
        outcome.reason = "the cut does nothing to the outputs"


def main(tool: str, attempt: Callable[[Outcome], None]) -> None:
    """Try the network that the command line names, and print the outcome as the last line."""
    outcome = Outcome(sys.argv[1], tool)
    torch.set_num_threads(1)
    try:
        attempt(outcome)
    except Slow:
        step = next(reversed(outcome.seconds), "start")
        outcome.outcome, outcome.reason = (
            "slow",
            f"more than {LIMIT_S} s of the processor in {step}",
        )
    except Exception as error:
        outcome.outcome, outcome.reason = "failed", _said(error)
    outcome.memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(MARK + json.dumps(asdict(outcome)))


def _said(error: Exception) -> str:
    """Kind, message and place, in one line."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{os.path.basename(frame.filename)}:{frame.lineno} {frame.name}"
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text} ({place})"
