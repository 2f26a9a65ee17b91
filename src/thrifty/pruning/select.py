"""Exactly so many of the highest scores, in a few passes and constant extra memory.

The score at the wanted rank is found by :func:`thrifty.native.place` where its kernels are
compiled, else here with numpy.  A strided sample brackets it.  One pass then counts what lies
above the bracket and gathers what lies inside it, which is little enough to be ordered.  Where
the sample misled, or ties crowd the bracket, it is halved over the representable floats until it
holds few values or one, so the answer is exact for any input.  Scores are compared as float32.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thrifty import native
from thrifty.errors import UserError

Floats = NDArray[np.float32]

_PIECE = 1 << 17  # values at a time: compared and gathered while they are in cache
_ROOM = 1 << 20  # values gathered at most: 4 MiB


class _Edge(NamedTuple):
    """The lowest score kept, how many scores of that value are, and whether those are all."""

    value: np.float32
    ties: int
    all_ties: bool = False


def top(scores: Tensor, count: int) -> Tensor:
    """True at the ``count`` highest scores; of equal scores the first in memory wins.

    The count is exact whatever the ties, which comparing with a threshold is not: a layer of
    equal weights would be kept or lost whole.

    Args:
        scores: any shape; higher is more worth keeping.  NaN is an error, not a score.
        count: units to keep, 0 <= count <= scores.numel().

    Returns:
        Bool, the shape of ``scores``, with exactly ``count`` True.

    Example:
        >>> top(torch.tensor([0.3, 0.9, 0.3]), 2).tolist()
        [True, True, False]
    """
    return top_together([scores], count)[0]


def top_together(scores: Sequence[Tensor], count: int) -> list[Tensor]:
    """Like :func:`top`, over several tensors as if they were one; ties go to the first tensor."""
    arrays = [_floats(s) for s in scores]
    edge, ties, all_ties = _edge(arrays, count)
    compare = np.greater_equal if all_ties else np.greater
    out = []
    for score, array in zip(scores, arrays, strict=True):
        kept = np.empty(array.size, dtype=np.bool_)
        for start, piece in _pieces(array):
            compare(piece, edge, out=kept[start : start + piece.size])
            if ties and not all_ties:
                tied = np.flatnonzero(piece == edge)[:ties]
                kept[start + tied] = True
                ties -= tied.size
        out.append(torch.from_numpy(kept).reshape(score.shape).to(score.device))
    return out


def count_together(scores: Sequence[Tensor], count: int) -> list[int]:
    """How many of the ``count`` highest scores lie in each tensor; no mask is made."""
    arrays = [_floats(s) for s in scores]
    edge, ties, _ = _edge(arrays, count)
    out = []
    for array in arrays:
        above = tied = 0
        for _, piece in _pieces(array):
            above += int(np.count_nonzero(piece > edge))
            tied += int(np.count_nonzero(piece == edge)) if ties > tied else 0
        taken = min(ties, tied)
        ties -= taken
        out.append(above + taken)
    return out


def _edge(arrays: Sequence[Floats], count: int) -> _Edge:
    total = sum(a.size for a in arrays)
    if not 0 <= count <= total:
        raise UserError(f"{count} of {total} scores cannot be kept; keep 0 to {total}")
    if count == 0:
        _refuse_nan(arrays)
        return _Edge(np.float32(np.inf), 0)
    if native.target() == "numpy":
        return _edge_in_numpy(arrays, count)
    try:
        found = native.place(
            arrays, total - count + 1, magnitude=False, threads=torch.get_num_threads()
        )
    except UserError:
        _refuse_nan(arrays)  # in the words of this module
        raise
    ties = count - (total - found.smaller - found.equal)
    return _Edge(np.float32(found.value), ties, ties == found.equal)


def _edge_in_numpy(arrays: Sequence[Floats], count: int) -> _Edge:
    least, most = _order(np.float32(-np.inf)), _order(np.float32(np.inf))
    low, high = _guess(arrays, count)
    while True:
        above, inside, gathered = _scan(arrays, _unorder(low), _unorder(high))
        if above >= count:
            least = high + 1
        elif above + inside < count:
            most = low - 1
        elif low == high:
            return _Edge(_unorder(low), count - above)
        elif gathered is not None:
            return _place(gathered, count - above)
        else:
            least, most = low, high
        low, high = (least + most + 1) // 2, most


def _place(values: Floats, rank: int) -> _Edge:
    """The value of that rank from the top, counted from 1, and its rank among its equals."""
    edge = np.partition(values, values.size - rank)[values.size - rank]
    return _Edge(edge, rank - int(np.count_nonzero(values > edge)))


def _scan(
    arrays: Sequence[Floats], low: np.float32, high: np.float32
) -> tuple[int, int, Floats | None]:
    """How many lie above ``high``, how many in [low, high], and those, unless they are many."""
    above = inside = 0
    gathered: list[Floats] = []
    for array in arrays:
        for _, piece in _pieces(array):
            if np.isnan(piece.max()):
                _refuse_nan(arrays)
            over = piece > high
            above += int(np.count_nonzero(over))
            within = (piece >= low) ^ over
            inside += int(np.count_nonzero(within))
            if inside <= _ROOM:
                gathered.append(piece[within])
            else:
                gathered.clear()
    return above, inside, np.concatenate(gathered) if inside <= _ROOM else None


def _guess(arrays: Sequence[Floats], count: int) -> tuple[int, int]:
    """A bracket of the score of that rank, four standard deviations of a sample either side."""
    total = sum(a.size for a in arrays)
    stride = max(1, int(total ** (1 / 3) / 2))
    sample = np.concatenate([a[::stride] for a in arrays])
    share = 1.0 - count / total
    middle = share * sample.size
    reach = 4.0 * (sample.size * share * (1.0 - share)) ** 0.5 + 2.0
    low = max(0, int(middle - reach))
    high = min(sample.size - 1, int(middle + reach))
    ends = np.partition(sample, (low, high))
    return _order(ends[low]), _order(ends[high])


def _order(value: np.float32) -> int:
    """The rank of a float among all floats: neighbours differ by one, -0.0 counts as 0.0."""
    bits = int(np.float32(value).view(np.int32))
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


def _unorder(rank: int) -> np.float32:
    """The float of that rank."""
    value: np.float32 = np.int32(abs(rank)).view(np.float32)
    return -value if rank < 0 else value


def _refuse_nan(arrays: Sequence[Floats]) -> None:
    for number, array in enumerate(arrays):
        for start, piece in _pieces(array):
            if np.isnan(piece.max()):
                nan = np.isnan(piece)
                raise UserError(
                    f"score {start + int(nan.argmax())} of tensor {number} is NaN; a NaN cannot "
                    f"be ranked: check the weights, and the data if the criterion uses it"
                )


def _pieces(array: Floats) -> Iterator[tuple[int, Floats]]:
    for start in range(0, array.size, _PIECE):
        yield start, array[start : start + _PIECE]


def _floats(scores: Tensor) -> Floats:
    flat: Floats = scores.detach().to("cpu", torch.float32).contiguous().reshape(-1).numpy()
    return flat
