"""Whether a zoo is whole: every shard there, of the size that it says, and as the index says."""

from typing import TYPE_CHECKING

import numpy as np

from thrifty.errors import UserError
from thrifty.zoo.index import read_rows
from thrifty.zoo.table import Column, Table

if TYPE_CHECKING:
    from thrifty.zoo.zoo import Zoo

Segment = tuple[str, int]


def problems(zoo: "Zoo") -> list[str]:
    """A sentence for each thing that is wrong; empty if all is well."""
    found = list(zoo.unread)
    if zoo.doubled:
        found.append(
            f"{zoo.folder.root}: the index has {zoo.doubled:,} rows of models that it has at that "
            f"epoch already; of such rows the first counts"
        )
    found += unsound(zoo).values()
    stale = _stale(zoo)
    return [*found, stale] if stale else found


def unsound(zoo: "Zoo") -> dict[Segment, str]:
    """Segments whose shard cannot be read or disagrees with the index, and why."""
    found = {}
    for (stack, epoch), rows in _segments(zoo.index).items():
        try:
            _check(zoo, stack, epoch, zoo.index.take(rows))
        except UserError as error:
            found[stack, epoch] = str(error)
    return found


def _segments(table: Table) -> dict[Segment, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    found: dict[Segment, list[int]] = {}
    if len(table):
        keys = zip(table["stack"].tolist(), table["epoch"].tolist(), strict=True)
        for row, key in enumerate(keys):
            found.setdefault(key, []).append(row)
    return {key: np.array(rows, np.int64) for key, rows in found.items()}


def _check(zoo: "Zoo", stack: str, epoch: int, table: Table) -> None:
    shard = zoo.shard(stack, epoch)
    rows = table["row"]
    if int(rows.max()) >= shard.about.count:
        raise UserError(
            f"{shard.path} has {shard.about.count} models, and the index has one in its row "
            f"{int(rows.max())}; one of them is of another zoo"
        )
    first = table["model"][rows == 0].tolist()
    if first and first[0] != shard.about.first:
        raise UserError(
            f"{shard.path} says that its first model is {shard.about.first}, and the index says "
            f"{first[0]}; one of them is of another zoo"
        )
    for name in shard.names:
        shard.mask(name)


def _stale(zoo: "Zoo") -> str | None:
    """Whether what was read, perhaps from the cache, differs from the rows themselves."""
    for (stack, epoch), rows in _segments(zoo.index).items():
        try:
            truth = read_rows(zoo.folder.rows(stack, epoch))
        except UserError:
            continue  # told of already, or removed since
        if _differ(truth, zoo.index.take(rows)):
            return (
                f"{zoo.folder.index} disagrees with {zoo.folder.rows(stack, epoch)}; remove it, "
                f"for it is made anew from such files"
            )
    return None


def _differ(truth: Table, read: Table) -> bool:
    """Whether rows of a segment are not those that its file has."""
    at = {row: place for place, row in enumerate(truth["row"].tolist())}
    places = [at.get(row, -1) for row in read["row"].tolist()]
    if min(places) < 0 or any(name not in read for name in truth.columns):
        return True
    own = truth.take(np.array(places, np.int64))
    return any(not _equal(own[name], read[name]) for name in truth.columns)


def _equal(a: Column, b: Column) -> bool:
    if a.dtype.kind == "f" or b.dtype.kind == "f":
        return bool(np.array_equal(a.astype(np.float64), b.astype(np.float64), equal_nan=True))
    return bool(np.array_equal(a, b))
