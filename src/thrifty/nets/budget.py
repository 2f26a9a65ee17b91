"""What a ThriftyNet costs in parameters, in closed form, and the filters that a budget pays for.

    parameters = convolution + 2 f T + T (h + 1) + (f + 1) classes (+ stem)
    convolution = 9 f f (classic), 9 f + f f / m (mb1, mb2, mb4 with m = 1, 2, 4)

for f filters, T iterations and a history of h.  A coefficient of an output that is not there yet
counts, as it does in the published numbers: it is stored.  Running statistics are no parameters.

References:
    Coiffier, Boukli Hacene, Gripon, ThriftyNets, 2020, https://arxiv.org/abs/2007.10106
"""

import inspect
import math
import re

from thrifty.errors import UserError
from thrifty.nets.architecture import NETS

MODES = {"classic": 1, "mb1": 1, "mb2": 2, "mb4": 4}
"""Kinds of the shared convolution, and the number that divides their filters."""
MOST_FILTERS = 16384
STEM = (64, 128)
"""Channels of the first and the second half of the stem."""

_POWERS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}


def parameters(
    filters: int, iterations: int, history: int, classes: int, mode: str = "mb1", stem: int = 0
) -> int:
    """Parameters of a ThriftyNet.

    Args:
        filters: channels of its stream; a multiple of ``MODES[mode]``.
        iterations: of its convolution, each with its own batch norm.
        history: outputs that an iteration reads.
        classes: outputs.
        mode: one of ``MODES``.
        stem: parameters of what comes before it.

    Example:
        >>> parameters(163, 30, 5, 10)
        39636
    """
    taps = 9 * filters
    kernel = taps * filters if mode == "classic" else taps + filters * filters // MODES[mode]
    own = iterations * (2 * filters + history + 1)
    return stem + kernel + own + (filters + 1) * classes


def stem_parameters(channels: int, sizes: tuple[int, int] = STEM) -> int:
    """Parameters of the residual stem: a 7x7 convolution and two blocks, with their norms.

    Args:
        channels: of the input.
        sizes: channels of the first block and of the second, which has a projection.

    Example:
        >>> stem_parameters(3)
        313664
    """
    one, two = sizes
    begin = 49 * channels * one + 2 * one
    return begin + 18 * one * one + 4 * one + 10 * one * two + 9 * two * two + 6 * two


def filters_within(
    budget: int,
    iterations: int,
    history: int,
    classes: int,
    mode: str = "mb1",
    stem: int = 0,
    least: int = 1,
) -> int:
    """The most filters with which a ThriftyNet has at most ``budget`` parameters.

    Args:
        budget: parameters.
        least: filters that the input needs; the other arguments are those of
            :func:`parameters`.

    Raises:
        UserError: no network is so small; the message says how small the smallest is.

    Example:
        >>> filters_within(40_000, 30, 5, 10)
        163
    """

    def cost(steps: int) -> int:
        return parameters(steps * step, iterations, history, classes, mode, stem)

    step = MODES[mode]
    low, high = -(-least // step), MOST_FILTERS // step
    if cost(low) > budget:
        raise UserError(
            f"a budget of {budget:,} parameters is too small for any thriftynet of "
            f"{iterations} iterations with history={history}, mode={mode} and {classes} classes"
            f"{' behind a stem' if stem else ''}: at {low * step}, the fewest filters that take "
            f"this input, it has {cost(low):,}; give a budget of that or more, or fewer iterations"
        )
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cost(middle) <= budget else (low, middle - 1)
    return low * step


def amount(text: object) -> int:
    """A number of parameters as people write it, ``40k``, ``4.15M`` or ``40000``.

    Raises:
        UserError: it is none.

    Example:
        >>> amount("4.15M")
        4150000
    """
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(?:e(\d{1,2}))?([kmg]?)", str(text).strip().lower())
    if isinstance(text, bool) or not found:
        raise UserError(
            f"a budget of {text!r} is no number of parameters; write it as 40k, 600k, 4.15M or "
            f"40000"
        )
    number = float(found[1]) * 10.0 ** int(found[2] or 0) * _POWERS[found[3]]
    return math.floor(min(number, 1e15) + 1e-6)


def takes_budget(name: str) -> bool:
    """Whether a built-in network can be as large as a budget allows."""
    return name in NETS and "budget" in inspect.signature(NETS.get(name)).parameters
