"""What a comparison of contenders comes to, in one plain sentence each: also where dense wins."""

from collections.abc import Sequence
from itertools import groupby

from thrifty.lab.contenders import OURS, Row

PRECISIONS = ("f32", "bf16")


def verdicts(rows: Sequence[Row]) -> list[str]:
    """A sentence for each batch, number of threads and precision of the rivals."""
    said = []
    for (batch, threads), group in groupby(rows, key=lambda row: (row.batch, row.threads)):
        said += _of_one(list(group), _place(batch, threads))
    return said


def _place(batch: int, threads: int) -> str:
    return f"batch {batch}, {threads} thread{'s' if threads > 1 else ''}"


def _of_one(rows: list[Row], place: str) -> list[str]:
    said = [
        f"{place}: {row.contender} gives other answers, {row.difference:.2g} of the largest "
        f"output away, so it was not timed"
        for row in rows
        if not row.equal
    ]
    timed = [row for row in rows if row.equal and row.median is not None]
    rivals = [row for row in timed if row.contender != OURS]
    if not any(row.contender == OURS for row in timed):
        return said + _without_ours(rivals, place)
    for precision in PRECISIONS:
        those = [row for row in rivals if row.precision == precision]
        if those:
            said.append(_against(_fastest(those), precision, place))
    return said


def _without_ours(rivals: list[Row], place: str) -> list[str]:
    if not rivals:
        return []
    best = _fastest(rivals)
    return [f"{place}: dense {best.contender} is the fastest rival, {best.median:.3g} ms"]


def _fastest(rows: list[Row]) -> Row:
    return min(rows, key=lambda row: row.ratio.middle if row.ratio else float("inf"))


def _against(best: Row, precision: str, place: str) -> str:
    ratio = best.ratio
    if ratio is None or not ratio.certain:
        return f"{place}: no difference between {OURS} and dense {best.contender} is certain"
    if ratio.middle < 1:
        return f"{place}: dense {best.contender} is {times(1 / ratio.middle)} faster here"
    return (
        f"{place}: {OURS} is {times(ratio.middle)} faster than {best.contender}, the best dense "
        f"runtime in {precision}"
    )


def times(ratio: float) -> str:
    """A ratio as people say it.

    Example:
        >>> times(1.049), times(12.34)
        ('1.05x', '12.3x')
    """
    return f"{ratio:.2f}x" if ratio < 2 else f"{ratio:.1f}x"
