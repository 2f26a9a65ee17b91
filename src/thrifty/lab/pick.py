"""Choose a network of a run: the cheapest that loses no more than is allowed."""

from dataclasses import dataclass
from pathlib import Path

from thrifty.errors import UserError
from thrifty.lab.chains import Chains
from thrifty.lab.front import COSTS
from thrifty.lab.recipe import read
from thrifty.lab.records import Point, Record
from thrifty.lab.store import Step, Store
from thrifty.pack import load, save
from thrifty.pack.packing import SUFFIX, pack
from thrifty.registry import suggest
from thrifty.shown import Shown


@dataclass(frozen=True)
class Pick(Shown):
    """The point that was chosen, and the most accurate of its networks."""

    point: Point
    record: Record
    folder: str
    saved: str | None = None
    saved_bytes: int | None = None

    def text(self) -> str:
        """What was chosen, in sentences."""
        p = self.point
        spread = "" if p.accuracy_std is None else f" +- {100 * p.accuracy_std:.2f}"
        drop = "" if p.drop_std is None else f" +- {100 * p.drop_std:.2f}"
        seeds = f"{p.seeds} seeds" if p.seeds > 1 else "1 seed"
        side = "below" if p.drop >= 0 else "above"
        lines = [
            f"{p.method} at sparsity {p.sparsity:.4g}: accuracy {100 * p.accuracy:.2f}{spread} % "
            f"over {seeds}, {100 * abs(p.drop):.2f}{drop} points {side} its dense parents",
            f"{p.params:,} parameters, {p.nonzero:,.0f} not zero, {_size(p)} "
            f"(dense and plain {p.bytes_dense:,.0f}), agreement {100 * p.agreement:.2f} %",
            *_engine(p),
            f"best seed {self.record.seed}, {100 * self.record.accuracy:.2f} %: {self.folder}",
        ]
        if self.saved is not None:
            lines.append(f"saved as {self.saved}, {self.saved_bytes:,} bytes")
        return "\n".join(lines)


def pick_from(
    run: Path | str, max_drop: float = 0.005, of: str | None = None, to: Path | None = None
) -> Pick:
    """The cheapest point of a run that loses at most ``max_drop``, and its best network.

    Args:
        run: a run folder.
        max_drop: share of accuracy that may be lost: 0.005 is half a point.
        of: what cheapest means, a key of ``thrifty.lab.front.COSTS``; the size of the packed file
            if ``None``, or of the compressed one where not all networks were packed.
        to: where to save that network; the suffix decides the format.  A ``.thrifty`` file gets a
            program, and is run by ``thrifty.engine`` without torch.

    Raises:
        UserError: no run, an unknown cost, or no point loses so little.
    """
    if of is not None and of not in COSTS:
        raise UserError(f"no cost is called {of!r}; {suggest(of, COSTS)}")
    store = Store(run)
    point = store.front().pick(max_drop, of)  # type: ignore[arg-type]
    wanted = (point.method, point.level, point.threshold)
    same = [r for r in store.front().records if (r.method, r.level, r.threshold) == wanted]
    record = max(same, key=lambda r: (r.accuracy, -r.seed))
    step = _step(store, record)
    if to is None:
        return Pick(point, record, str(step.folder))
    packs = to.name.lower().endswith(SUFFIX)
    size = pack(load(step.model), to).nbytes if packs else save(load(step.model), to)
    return Pick(point, record, str(step.folder), str(to), size)


def _size(point: Point) -> str:
    if point.packed_bytes is None:
        return f"{point.bytes:,.0f} bytes compressed"
    return f"{point.packed_bytes:,.0f} bytes packed"


def _engine(point: Point) -> list[str]:
    if point.engine_ms is None:
        return []
    from thrifty.report.units import quantity

    text = f"{quantity(point.engine_ms, 'engine_ms')} for one input on a thread of thrifty's engine"
    if point.engine_speedup is not None:
        text += f", {point.engine_speedup:.2f} times as fast as its dense parents there"
    return [text]


def _step(store: Store, record: Record) -> Step:
    chains = Chains(read(store.recipe), store)
    number = chains.levels(record.method).index(record.level)
    return chains.level(record.seed, record.method, number)
