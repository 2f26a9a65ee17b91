"""What a look at weights found: a census of tensors, networks, and several networks."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from thrifty.census.counts import Counts, empty, together
from thrifty.census.curves import decades, energy
from thrifty.census.roles import CONVENTIONS, Convention
from thrifty.census.words import amount, exact, percent, share_text, threshold
from thrifty.shown import Shown, html_table

MANY = 12
"""More networks than this are a population: their spread is shown, not each of them."""


@dataclass(frozen=True)
class Tensor:
    """The census of one tensor.

    Args:
        name: as in its source.
        shape: as in its source.
        dtype: as stored, such as ``"F32"``.
        role: weight, bias, scale, shift, statistic or other.
        counts: of its numbers.
        conventions: those in which it counts.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: str
    counts: Counts
    conventions: tuple[Convention, ...]


@dataclass(frozen=True)
class Network:
    """The census of one network.

    Args:
        label: what it is called.
        kind: of what format it is.
        file_bytes: size of its file or files, ``None`` if it is in none.
        tensors: those that were looked at.
        notes: what the reader must know: what was folded, left out, or claimed.
    """

    label: str
    kind: str
    file_bytes: int | None
    tensors: tuple[Tensor, ...]
    notes: tuple[str, ...] = ()

    def counted(self, convention: Convention) -> Counts:
        """The counts of all its tensors that count by that convention."""
        return together([t.counts for t in self.tensors if convention in t.conventions])

    def dtypes(self, convention: Convention) -> str:
        """The dtypes of those tensors, the one with most bytes first."""
        sizes: dict[str, int] = {}
        for t in self.tensors:
            if convention in t.conventions:
                sizes[t.dtype] = sizes.get(t.dtype, 0) + t.counts.nbytes
        return " ".join(sorted(sizes, key=lambda d: -sizes[d]))


@dataclass(frozen=True)
class Census(Shown):
    """What :func:`thrifty.look` found.

    Args:
        networks: one for each source that could be read, in the order given.
        under: the thresholds t; a weight is under t if |w| < t, strictly.
        conventions: which tensors count, see :data:`thrifty.census.roles.CONVENTIONS`.
        failed: (label, why) of each source that could not be read.
        folded: whether batch normalisation was folded into the weights first.
        relative: whether shares under ``t * std`` of each tensor were counted as well.
    """

    networks: tuple[Network, ...]
    under: tuple[float, ...]
    conventions: tuple[Convention, ...] = ("weights", "parameters")
    failed: tuple[tuple[str, str], ...] = ()
    folded: bool = False
    relative: bool = False
    _counts: dict[Any, Counts] = field(default_factory=dict, repr=False, compare=False)

    def counted(self, network: Network, convention: Convention) -> Counts:
        """The counts of ``network``; of nothing if no tensor counts."""
        key = id(network), convention
        if key not in self._counts:
            counts = network.counted(convention)
            self._counts[key] = counts if counts.count else empty(len(self.under), self.relative)
        return self._counts[key]

    def to_rows(self) -> list[dict[str, Any]]:
        """A row a network and convention; shares are 0 to 1."""
        return [
            {"network": network.label, "counted": convention}
            | self._figures(self.counted(network, convention))
            | {"dtype": network.dtypes(convention), "file_bytes": network.file_bytes}
            for network, convention in self._pairs()
        ]

    def layers(self, convention: Convention | None = None) -> list[dict[str, Any]]:
        """A row a tensor, of all networks; those of one convention if it is given."""
        wanted = convention or self.conventions[-1]
        return [
            {"network": n.label, "tensor": t.name, "shape": list(t.shape), "role": t.role}
            | self._figures(t.counts)
            | {"dtype": t.dtype}
            for n in self.networks
            for t in n.tensors
            if wanted in t.conventions
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything that was counted, as JSON could hold it."""
        return {
            "convention": self.says(),
            "under": list(self.under),
            "networks": self.to_rows(),
            "tensors": self.layers(),
            "curves": self._curves(),
            "notes": {n.label: list(n.notes) for n in self.networks if n.notes},
            "failed": dict(self.failed),
        }

    def says(self) -> str:
        """The convention in a sentence: what counts, and how."""
        what = "; ".join(f"{c}: {CONVENTIONS[c]}" for c in self.conventions)
        fold = "folded into the weights" if self.folded else "as stored, not folded"
        return f"under t: |w| < t; {what}; batch normalisation {fold}"

    def table(self) -> list[dict[str, str]]:
        """Cells of the table that shows this; for a population, of its spread."""
        if len(self.networks) > MANY:
            return self._spread()
        return [
            {"network": network.label, "counted": convention}
            | self._cells(self.counted(network, convention))
            | {"dtype": network.dtypes(convention)}
            for network, convention in self._pairs()
        ]

    def layer_table(self) -> list[dict[str, str]]:
        """Cells of the table with a row a tensor."""
        several = len(self.networks) > 1
        return [
            ({"network": n.label} if several else {})
            | {"tensor": t.name, "shape": "x".join(map(str, t.shape)) or "1", "role": t.role}
            | self._cells(t.counts)
            | {"dtype": t.dtype}
            for n in self.networks
            for t in n.tensors
            if self.conventions[-1] in t.conventions
        ]

    def plot(self) -> Any:
        """Share under each threshold, as an Altair chart.

        Raises:
            MissingExtra: altair is not installed.
        """
        from thrifty.report.census_charts.shares import shares_chart

        return shares_chart(self)

    def _repr_html_(self) -> str:
        return html_table(self.table())

    def _curves(self) -> list[dict[str, Any]]:
        """Points of the curve of energy and bins of |w| of each network, if they were counted."""
        found = []
        for network, convention in self._pairs():
            counts = self.counted(network, convention)
            if counts.octaves is None:
                continue
            kept, held = energy(counts)
            low, high, density = decades(counts)
            found.append(
                {"network": network.label, "counted": convention}
                | {"kept": kept.tolist(), "energy": held.tolist()}
                | {"from": low.tolist(), "to": high.tolist(), "share_a_decade": density.tolist()}
            )
        return found

    def _pairs(self) -> Iterator[tuple[Network, Convention]]:
        for network in self.networks:
            for convention in self.conventions:
                yield network, convention

    def _figures(self, counts: Counts) -> dict[str, Any]:
        figures: dict[str, Any] = {"count": counts.count, "bytes": counts.nbytes}
        figures |= {f"under_{exact(t)}": s for t, s in zip(self.under, counts.shares, strict=True)}
        if self.relative:
            figures |= {
                f"under_{exact(t)}_std": counts.share(n)
                for t, n in zip(self.under, counts.relative, strict=True)
            }
        return figures | {
            "zeros": counts.zeros,
            "sparsity": counts.sparsity,
            "negative_zeros": counts.negative_zeros,
            "infinite": counts.infinite,
            "nan": counts.nan,
            "largest": counts.largest,
            "mean": counts.mean,
            "std": counts.std,
        }

    def _cells(self, counts: Counts) -> dict[str, str]:
        cells = {"count": f"{counts.count:,}", "bytes": amount(counts.nbytes)}
        cells |= {
            f"< {threshold(t)}": percent(n, counts.count)
            for t, n in zip(self.under, counts.under, strict=True)
        }
        if self.relative:
            cells |= {
                f"< {threshold(t)} std": percent(n, counts.count)
                for t, n in zip(self.under, counts.relative, strict=True)
            }
        cells |= {
            "zeros": percent(counts.zeros, counts.count),
            "largest": f"{counts.largest:.4g}" if counts.count else "",
            "not finite": f"{counts.infinite + counts.nan:,}"
            if counts.infinite + counts.nan
            else "",
        }
        return cells

    def _spread(self) -> list[dict[str, str]]:
        """Quartiles over the networks of a population, by convention, and all as one."""
        rows = []
        for convention in self.conventions:
            parts = [self.counted(n, convention) for n in self.networks]
            parts = [p for p in parts if p.count]
            for name, place in QUARTILES.items():
                rows.append(
                    {"network": f"{name} of {len(parts)}", "counted": convention}
                    | self._spread_cells(parts, place)
                )
            whole = {"network": "all as one", "counted": convention}
            rows.append(whole | self._cells(together(parts)))
        return rows

    def _spread_cells(self, parts: Sequence[Counts], place: float) -> dict[str, str]:
        def at(figure: Callable[[Counts], float]) -> float:
            return quantile([figure(p) for p in parts], place)

        def share(place_of: Callable[[Counts], int]) -> str:
            return share_text(at(lambda c: c.share(place_of(c)))) if parts else ""

        cells = {
            "count": f"{at(lambda c: c.count):,.0f}",
            "bytes": amount(round(at(lambda c: c.nbytes))),
        }
        for i, t in enumerate(self.under):
            cells[f"< {threshold(t)}"] = share(lambda c, i=i: c.under[i])  # type: ignore[misc]
        if self.relative:
            for i, t in enumerate(self.under):
                cells[f"< {threshold(t)} std"] = share(
                    lambda c, i=i: c.relative[i]  # type: ignore[misc]
                )
        return cells | {
            "zeros": share(lambda c: c.zeros),
            "largest": f"{at(lambda c: c.largest):.4g}",
            "not finite": "",
        }


QUARTILES = {"least": 0.0, "first quartile": 0.25, "median": 0.5, "third quartile": 0.75, "most": 1}


def quantile(values: Sequence[float], place: float) -> float:
    """The value at ``place``, 0 to 1, of the sorted values, between neighbours in proportion.

    Example:
        >>> quantile([1.0, 3.0], 0.25)
        1.5
    """
    if len(values) < 2:
        return values[0] if values else float("nan")
    if place in (0, 1):
        return max(values) if place else min(values)
    return statistics.quantiles(values, n=100, method="inclusive")[round(100 * place) - 1]
