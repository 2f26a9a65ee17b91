"""Numbers as people read them: bytes, microseconds, counts and shares with their units."""

import math
from collections.abc import Sequence

_COUNTS = ((1e9, " G"), (1e6, " M"), (1e3, " k"), (1, ""))
_BYTES = ((1e9, " GB"), (1e6, " MB"), (1e3, " kB"), (1, " B"))
_UNITS: dict[str, tuple[tuple[float, str], ...]] = {
    **dict.fromkeys(("bytes", "packed_bytes"), _BYTES),
    "engine_ms": ((1e3, " s"), (1, " ms"), (1e-3, " us")),
    "latency_us": ((1e6, " s"), (1e3, " ms"), (1, " us")),
    **dict.fromkeys(("macs", "macs_nonzero", "params", "nonzero"), _COUNTS),
}


def quantity(value: float, of: str) -> str:
    """``value`` with three digits and its unit.

    Example:
        >>> quantity(12_345, "bytes"), quantity(820.0, "latency_us"), quantity(0.0345, "engine_ms")
        ('12.3 kB', '820 us', '34.5 us')
    """
    last = _UNITS[of][-1][0]
    for size, unit in _UNITS[of]:
        if abs(value) >= 0.9995 * size or size == last:
            scaled = value / size
            digits = 0 if abs(scaled) >= 99.95 or unit == " B" else 1
            digits = 2 if abs(scaled) < 9.995 and size > last else digits
            return f"{scaled:.{digits}f}{unit}"
    raise AssertionError("the last unit takes what is left")  # unreachable


def percent(share: float, digits: int = 2) -> str:
    """A share as per cent, ``98.01 %``."""
    return f"{100 * share:.{digits}f} %"


def sparsity_percent(sparsity: float) -> str:
    """A sparsity as per cent with no idle digit: ``90 %``, ``99.5 %``.

    Example:
        >>> sparsity_percent(0.998)
        '99.8 %'
    """
    return f"{100 * sparsity:.5g} %"


def points_text(share: float) -> str:
    """A difference of accuracies in points, ``0.42 points``; the sign is told in words."""
    return f"{100 * abs(share):.2f} points"


def label_expression(of: str) -> str:
    """The Vega expression that writes an axis label in the unit of ``of``."""
    if of in ("sparsity", "sparsity_conv"):
        return "format(100 * (1 - datum.value), '.6~g') + ' %'"
    text = ""
    for size, unit in reversed(_UNITS[of]):
        one = f"format(datum.value / {size:g}, '.3~g') + '{unit}'"
        text = f"datum.value >= {size:g} ? {one} : {text}" if text else one
    return text


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from ``low`` to ``high``, both positive: 1, 2, 5 of every decade, or finer.

    Example:
        >>> ticks(0.04, 0.5)
        [0.05, 0.1, 0.2, 0.5]
    """
    found = _steps(low, high, ("1", "2", "5"))
    return found if len(found) > 2 else _steps(low, high, ("1", "1.5", "2", "3", "4", "5", "7"))


def _steps(low: float, high: float, digits: Sequence[str]) -> list[float]:
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = (float(f"{digit}e{exponent}") for exponent in exponents for digit in digits)
    return [value for value in values if low <= value <= high]


def log_domain(values: Sequence[float], most: float | None = None) -> tuple[float, float]:
    """Ends of a log axis around positive ``values``: some air, and a factor of 4 at the least.

    Without that factor, measurements that differ by noise alone would fill the whole width.

    Args:
        most: an end that cannot be passed, such as density 1.
    """
    low, high = min(values), max(values)
    air = (high / low) ** 0.03
    low, high = low / max(air, 1.05), high * max(air, 1.05)
    widen = max(1.0, (4 * low / high) ** 0.5)
    low, high = low / widen, high * widen
    if most is not None and high > most:
        low, high = min(low, most / 4), most
    return low, high
