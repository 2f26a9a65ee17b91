"""Times of programs that do the same: taken in turns within rounds, compared within rounds.

What else a machine does falls on all programs of a round alike, so ratios of a round hold where
two times taken one after the other do not.  The order changes from round to round, for each
program finds the caches as the one before left them.  A turn begins with calls that do not count:
one to warm the caches, and with several threads as many as it takes until those of the program
before have stopped spinning.
"""

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thrifty.errors import UserError

TURN = 0.01
"""Seconds of counted calls in a turn; one call at least."""
MOST_CALLS = 200
SETTLE = 0.005
"""Seconds of calls that do not count, where several threads are used."""
LEAST = 6
"""Rounds for an interval: of fewer, the true median lies outside all of them too often."""
RESAMPLES = 2000
LEVEL = 0.95


class Taken(NamedTuple):
    """What the calls of one program took, in seconds."""

    rounds: NDArray[np.float64]
    """The median call of each round."""
    least: float
    """The fastest call of all: noise only ever adds time."""

    @property
    def median(self) -> float:
        """The median over rounds."""
        return float(np.median(self.rounds))


@dataclass(frozen=True)
class Ratio:
    """How many times as long one program takes as another."""

    middle: float
    """Median over rounds of the ratio within the round."""
    low: float
    high: float
    """Where that median lies at 95 %, by resampling rounds; NaN of fewer than :data:`LEAST`."""

    @property
    def certain(self) -> bool:
        """Whether the interval leaves no doubt which of the two is faster."""
        return self.low > 1.0 or self.high < 1.0


def paired(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    settle: float = 0.0,
    turn: float = TURN,
    collect: bool = True,
) -> dict[str, Taken]:
    """Time every one of ``calls`` in each of ``rounds`` rounds.

    Args:
        calls: what is timed, by name.
        rounds: how often each has its turn, 1 or more.
        settle: seconds of calls before those that count; one call at least.
        turn: seconds of those that count; one call at least.
        collect: collect garbage first, which takes 0.2 s in a process with torch.

    Raises:
        UserError: there are no rounds.
    """
    if rounds < 1:
        raise UserError(f"{rounds} rounds are asked for; it takes 1 or more, 20 for an interval")
    names = list(calls)
    times: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
    with _no_collection(collect):
        counts = {name: _calls_a_turn(calls[name], turn) for name in names}
        for number in range(rounds):
            for name in turns(names, number):
                _settled(calls[name], settle)
                times[name].append(_timed(calls[name], counts[name]))
    return {
        name: Taken(np.array([np.median(t) for t in taken]), min(float(t.min()) for t in taken))
        for name, taken in times.items()
    }


def turns(names: Sequence[str], number: int) -> list[str]:
    """The order of round ``number``: from each one on in turn, forwards and then backwards.

    Example:
        >>> [turns("abc", n) for n in range(4)]
        [['a', 'b', 'c'], ['c', 'b', 'a'], ['b', 'c', 'a'], ['a', 'c', 'b']]
    """
    start = number // 2 % len(names)
    order = [*names[start:], *names[:start]]
    return order if number % 2 == 0 else order[::-1]


@contextmanager
def _no_collection(first: bool) -> Iterator[None]:
    """A collection of garbage would fall on whoever has the turn."""
    was = gc.isenabled()
    if first:
        gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _calls_a_turn(call: Callable[[], object], turn: float) -> int:
    call()
    once = float(_timed(call, 3 if turn else 1).min())
    return int(np.clip(turn / max(once, 1e-7), 1, MOST_CALLS))


def _settled(call: Callable[[], object], seconds: float) -> None:
    end = time.perf_counter() + seconds
    call()
    while time.perf_counter() < end:
        call()


def _timed(call: Callable[[], object], count: int) -> NDArray[np.float64]:
    times = np.empty(count)
    for i in range(count):
        start = time.perf_counter()
        call()
        times[i] = time.perf_counter() - start
    return times


def ratio(over: Taken, under: Taken) -> Ratio:
    """How many times as long ``over`` takes as ``under``, with its interval.

    Args:
        over, under: of the same rounds.

    Example:
        >>> one = Taken(np.arange(1.0, 7.0), 1.0)
        >>> ratio(Taken(one.rounds * 2, 2.0), one)
        Ratio(middle=2.0, low=2.0, high=2.0)
    """
    within = over.rounds / under.rounds
    if len(within) < LEAST:
        return Ratio(float(np.median(within)), math.nan, math.nan)
    drawn = np.random.default_rng(0).integers(0, len(within), (RESAMPLES, len(within)))
    medians = np.median(within[drawn], axis=1)
    low, high = np.quantile(medians, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Ratio(float(np.median(within)), float(low), float(high))
