"""The report of a zoo whose models were not measured: a census of their weights.

Such is a zoo of weight files from anywhere, of which nobody said how good they are.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from thrifty.census.looking import look
from thrifty.errors import UserError
from thrifty.report.census_page import write_census
from thrifty.report.write import Format
from thrifty.sources import PIECE, Source, Stored
from thrifty.zoo.reading import Array
from thrifty.zoo.shards import DTYPES

if TYPE_CHECKING:
    from thrifty.zoo.zoo import Member, Zoo

MOST_MODELS = 1000
"""Models that are counted, each with a row of its own on the page."""
_KINDS = {name: kind for kind, name in DTYPES.items()}


def write_weights_report(zoo: "Zoo", out: Path, formats: Sequence[Format]) -> list[Path]:
    """Write ``report.html`` on the weights of the first models of a zoo, and its charts.

    Args:
        zoo: its models need no accuracy; shards are read.
        out: the folder; made if it is not there.
        formats: pictures are written if svg or png is among them.

    Raises:
        UserError: there are no models, or no shard can be read.
    """
    if not len(zoo):
        raise UserError(f"{zoo.folder.root}: there are no models to report")
    chosen = zoo.some(range(min(len(zoo), MOST_MODELS)))
    census = look(*(source_of(member) for member in chosen), curves=True)
    out.mkdir(parents=True, exist_ok=True)
    return write_census(
        census, out / "report.html", pictures={"svg", "png"} & set(formats) != set()
    )


def source_of(member: "Member") -> Source:
    """The tensors of a model as a census reads them."""
    tensors = tuple(_stored(name, x) for name, x in member.tensors().items())
    label = str(member.row().get("source") or f"model {member.id}")
    return Source(label, "zoo", tensors, sum(t.nbytes for t in tensors))


def _stored(name: str, x: Array) -> Stored:
    flat = np.ascontiguousarray(x).reshape(-1)
    step = max(1, PIECE // x.dtype.itemsize)

    def read() -> Iterator[Array]:
        return (flat[at : at + step] for at in range(0, len(flat), step))

    return Stored(name, np.shape(x), _KINDS[x.dtype.name], read)
