"""Two networks side by side, layer by layer: which weights are zero in both, how far apart.

Both are read in step, piece by piece.  Tensors are paired by name; a prefix that every name of one
side has is taken off.  A pair of different shapes is listed and not compared.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from thrifty.census.looking import place_of
from thrifty.census.roles import Convention, counts_in, role_of
from thrifty.census.transform import dequantised
from thrifty.census.words import percent
from thrifty.errors import UserError
from thrifty.native import decode
from thrifty.shown import Shown, html_table, printable
from thrifty.sources import Source, Stored
from thrifty.sources.opening import Place, expand

if TYPE_CHECKING:
    from torch import nn

STEP = 1 << 17
WHOLE = "(all)"
PREFIXES = ("module.", "model.", "_orig_mod.")


@dataclass(frozen=True)
class Pair:
    """How a tensor differs between two networks, A and B.

    Args:
        name: in A.
        shape_a: its shape in A.
        shape_b: its shape in B; another than ``shape_a`` cannot be compared.
        count: elements compared; 0 if the shapes differ.
        density_a: share of A's elements that are not zero.
        density_b: share of B's.
        jaccard: of the elements that are not zero in A or B, the share that is in both.
        cosine: of the angle between A and B as vectors; NaN if one is zero.
        distance: L2 norm of A - B.
        relative: that distance over the norm of A; NaN if A is zero.
        signs: of the elements that are not zero in both, the share of other sign.
    """

    name: str
    shape_a: tuple[int, ...]
    shape_b: tuple[int, ...]
    count: int
    density_a: float
    density_b: float
    jaccard: float
    cosine: float
    distance: float
    relative: float
    signs: float


@dataclass(frozen=True)
class Comparison(Shown):
    """What :func:`thrifty.compare` found.

    Args:
        label_a: the first network.
        label_b: the second.
        pairs: tensors of one name, in the order of A.
        whole: all pairs of equal shape as one.
        only_a: names that only A has.
        only_b: names that only B has.
    """

    label_a: str
    label_b: str
    pairs: tuple[Pair, ...]
    whole: Pair
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()

    def to_rows(self) -> list[dict[str, Any]]:
        """A row a tensor, and one for all."""
        return [vars(p) for p in (*self.pairs, self.whole)]

    @property
    def only(self) -> dict[str, tuple[str, ...]]:
        """Names that only one side has."""
        return {"A": self.only_a, "B": self.only_b}

    def table(self) -> list[dict[str, str]]:
        """Cells of the table that shows this."""
        return [_cells(p) for p in (*self.pairs, self.whole)]

    def _repr_html_(self) -> str:
        return html_table(self.table())


def compare(
    a: "str | Path | nn.Module",
    b: "str | Path | nn.Module",
    *,
    counted: Convention = "weights",
) -> Comparison:
    """Set two networks side by side, tensor by tensor.

    Args:
        a: a source, as for :func:`thrifty.look`; of one network.
        b: another.
        counted: which tensors are compared.

    Raises:
        UserError: a source cannot be read or is several networks, or no tensor of one has the
            name of one of the other.

    Example:
        >>> compare("lenet_300_100", "lenet_300_100").whole.count
        266200
    """
    one, other = _places(a, b)
    with one.open() as first, other.open() as second:
        ours, theirs = _named(first, counted), _named(second, counted)
        shared = [name for name in ours if name in theirs]
        if not shared:
            raise UserError(
                f"{first.label} and {second.label} have no {counted} of one name; the first has "
                f"{_few(ours)}, the second {_few(theirs)}"
            )
        sums = {n: _sums(ours[n], theirs[n]) for n in shared if _alike(ours[n], theirs[n])}
        return Comparison(
            first.label,
            second.label,
            tuple(_pair(n, ours[n].shape, theirs[n].shape, sums.get(n)) for n in shared),
            _pair(WHOLE, (), (), sum(sums.values(), np.zeros(len(SUMS)))),
            tuple(n for n in ours if n not in theirs),
            tuple(n for n in theirs if n not in ours),
        )


def _places(a: Any, b: Any) -> tuple[Place, Place]:
    """Where both are, with labels that differ if they are files of one name."""
    one, other = place_of(a), place_of(b)
    named = isinstance(a, str | Path) and isinstance(b, str | Path)
    if named and one.label == other.label and str(a) != str(b):
        one, other = expand(a, b)
    return one, other


SUMS = ("count", "a", "b", "both", "either", "flipped", "aa", "bb", "ab", "dd")


def _sums(a: Stored, b: Stored) -> NDArray[np.float64]:
    """What adds up over pieces: counts (exact to 2^53) and dot products."""
    total = np.zeros(len(SUMS))
    for x, y in _in_step(_numbers(a), _numbers(b)):
        p, q = x != 0, y != 0
        both = p & q
        with np.errstate(all="ignore"):
            d = x - y
            total += [
                len(x),
                p.sum(),
                q.sum(),
                both.sum(),
                (p | q).sum(),
                (both & ((x < 0) != (y < 0))).sum(),
                x @ x,
                y @ y,
                x @ y,
                d @ d,
            ]
    return total


def _pair(
    name: str, a: tuple[int, ...], b: tuple[int, ...], sums: NDArray[np.float64] | None
) -> Pair:
    s = dict(zip(SUMS, [0.0] * len(SUMS) if sums is None else sums.tolist(), strict=True))
    return Pair(
        name,
        a,
        b,
        int(s["count"]),
        _ratio(s["a"], s["count"]),
        _ratio(s["b"], s["count"]),
        _ratio(s["both"], s["either"]),
        _ratio(s["ab"], math.sqrt(s["aa"] * s["bb"])),
        math.sqrt(s["dd"]) if s["count"] else math.nan,
        _ratio(math.sqrt(s["dd"]), math.sqrt(s["aa"])),
        _ratio(s["flipped"], s["both"]),
    )


def _numbers(stored: Stored) -> Iterator[NDArray[np.float64]]:
    seen = dequantised(stored)
    for piece in seen.read():
        for start in range(0, len(piece), STEP):
            yield decode(piece[start : start + STEP], seen.dtype).astype(np.float64)


def _in_step(
    a: Iterator[NDArray[np.float64]], b: Iterator[NDArray[np.float64]]
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """The elements of both in arrays of equal length, whatever the lengths of their pieces."""
    x = y = np.empty(0)
    while True:
        while not len(x):
            piece = next(a, None)
            if piece is None:
                return
            x = piece
        while not len(y):
            piece = next(b, None)
            if piece is None:
                return
            y = piece
        n = min(len(x), len(y))
        yield x[:n], y[:n]
        x, y = x[n:], y[n:]


def _named(source: Source, counted: Convention) -> Mapping[str, Stored]:
    names = {t.name for t in source.tensors}
    prefix = next((p for p in PREFIXES if all(n.startswith(p) for n in names)), "")
    return {
        printable(t.name[len(prefix) :]): t
        for t in source.tensors
        if counts_in(t, role_of(t, names), counted)
    }


def _alike(a: Stored, b: Stored) -> bool:
    return a.shape == b.shape


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan


def _few(names: Mapping[str, Stored]) -> str:
    return ", ".join(list(names)[:3]) or "none"


def _cells(pair: Pair) -> dict[str, str]:
    same = pair.shape_a == pair.shape_b

    def figure(value: float, form: str = ".4f") -> str:
        return "" if math.isnan(value) else f"{value:{form}}"

    def share(value: float) -> str:
        return "" if math.isnan(value) else percent(round(value * pair.count), pair.count)

    shapes = [_shape(pair.shape_a)] + ([] if same else [_shape(pair.shape_b)])
    return {
        "tensor": pair.name,
        "shape": " / ".join(filter(None, shapes)),
        "density A": share(pair.density_a),
        "density B": share(pair.density_b),
        "overlap": figure(pair.jaccard),
        "cosine": figure(pair.cosine),
        "distance": figure(pair.distance, ".4g"),
        "of norm A": figure(pair.relative),
        "signs changed": figure(pair.signs),
    }


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
