"""When a cut happens and from which network: the start of a level, and the ramp inside it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from thrifty.errors import UserError
from thrifty.registry import suggest


@dataclass(frozen=True)
class Schedule:
    """How a level of sparsity is reached.

    ``start`` is the network that is cut: the dense parent, or the retrained level before.
    ``ramp`` maps the share of the level's training that is over, 0..1, to the share of the way
    from the sparsity at the start to the sparsity asked for, 0..1; it never falls.
    """

    about: str
    start: Literal["dense", "previous"]
    ramp: Callable[[float], float]


def at_once(progress: float) -> float:
    """All of the cut before the first step of training."""
    return 1.0


def cubic(progress: float, end: float = 0.7) -> float:
    """1 - (1 - progress / end)^3 until ``end``, then 1: fast while much is left, then slower.

    ``end`` leaves the last part of training to the network as it will stay.

    References:
        Zhu & Gupta, To prune, or not to prune, 2017, https://arxiv.org/abs/1710.01878 (eq. 1)
    """
    return float(1.0 - (1.0 - min(max(progress / end, 0.0), 1.0)) ** 3)


SCHEDULES = {
    "one_shot": Schedule("one cut from the dense parent", "dense", at_once),
    "iterative": Schedule("one cut from the retrained level before", "previous", at_once),
    "cubic": Schedule("many small cuts during training, from the dense parent", "dense", cubic),
}


def schedule(name: str) -> Schedule:
    """The schedule called ``name``.

    Raises:
        UserError: there is none; the message offers the closest names.
    """
    if name not in SCHEDULES:
        raise UserError(f"no schedule is called {name!r}; {suggest(name, SCHEDULES)}")
    return SCHEDULES[name]


def sparsity_at(
    progress: float, start: float, target: float, ramp: Callable[[float], float]
) -> float:
    """Sparsity asked for when the share ``progress`` of the training is over."""
    return start + (target - start) * ramp(progress)
