"""How sensitive each layer is: what its network does with that layer alone cut, and no other.

A layer is a prunable tensor where weights become zero, and a group of channels that live and die
together where channels are removed.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from thrifty.errors import UserError
from thrifty.registry import suggest
from thrifty.shown import Shown, html_table

if TYPE_CHECKING:
    import altair

MAX_DROP = 0.01
"""Share of accuracy that a layer may cost by itself, if nothing is said."""


@dataclass(frozen=True, kw_only=True)
class Tried(Shown):
    """The network with one layer, or several, cut to a sparsity; shares are 0 to 1."""

    sparsity: float
    """As asked for."""
    gone: float
    """Share of the layer's weights that became zero, or of its channels that went; channels are
    rounded to multiples."""
    removed: int
    """Prunable weights of the network that became zero or are gone, in neighbours too."""
    accuracy: float
    loss: float
    """Mean cross entropy, in nats."""
    lost: int
    """Inputs that the intact network gets right and this one wrong."""
    gained: int
    """Inputs that the intact network gets wrong and this one right."""


@dataclass(frozen=True, kw_only=True)
class Sensitive(Shown):
    """One layer at each sparsity."""

    layer: str
    """Name of the tensor, or of the group of channels."""
    units: int
    """What may go by itself: weights, filters, channels."""
    weights: int
    """Prunable weights that its units hold, in the layers that read them too."""
    makes: tuple[str, ...] = ()
    """Of a group of channels: the layers that make them, which lose them together."""
    tried: tuple[Tried, ...] = ()
    """By sparsity, ascending."""

    @property
    def label(self) -> str:
        """The name, and how many layers share its channels."""
        others = len(self.makes) - 1
        return f"{self.layer} (+{others})" if others > 0 else self.layer


@dataclass(frozen=True, kw_only=True)
class Sensitivity(Shown):
    """Accuracy against sparsity, layer by layer: one layer cut at a time, nothing retrained."""

    model: str
    data: str
    weights: str | None
    """File of the weights, if one was given."""
    method: str
    removes: Literal["weights", "channels"]
    keep: tuple[str, ...]
    """Patterns of layers that were left whole."""
    round: int
    """Channels of a layer stay a multiple of this."""
    seed: int
    classes: int
    test: bool
    """Measured on test inputs; else on training inputs."""
    inputs: int
    """How many inputs it was measured on."""
    recalibrate: bool
    """Batch normalisation was measured anew for every network, the intact one too."""
    accuracy: float
    """Of the intact network, on the same inputs."""
    loss: float
    prunable: int
    """Prunable weights of the whole network."""
    rows: tuple[Sensitive, ...]
    """A layer each, in the order of the network."""
    whole: dict[str, str] = field(default_factory=dict)
    """Layers that were not tried, and why."""
    max_drop: float = MAX_DROP
    """Share of accuracy that a layer may cost by itself, for :meth:`layers`."""
    together: Tried | None = None
    """All layers of ``layers()`` cut at once; its sparsity is that of the prunable weights."""
    named: bool = True
    """``model`` is a name or a path that thrifty resolves."""
    trained: bool = True
    """The network came with its weights."""
    notes: tuple[str, ...] = ()
    """What to know about the figures, in sentences."""
    conditions: dict[str, Any] = field(default_factory=dict)
    """Where and with what it was measured."""

    @property
    def sparsities(self) -> tuple[float, ...]:
        """Every sparsity that was tried, ascending."""
        return tuple(sorted({t.sparsity for row in self.rows for t in row.tried}))

    def __getitem__(self, layer: str) -> Sensitive:
        for row in self.rows:
            if row.layer == layer:
                return row
        raise UserError(
            f"no layer is called {layer!r}; {suggest(layer, [row.layer for row in self.rows])}"
        )

    def drop(self, tried: Tried) -> float:
        """Accuracy lost against the intact network; negative is a gain."""
        return (tried.lost - tried.gained) / self.inputs

    def drop_error(self, tried: Tried) -> float:
        """Standard error of :meth:`drop`: both networks were given the same inputs.

        References:
            McNemar, Note on the sampling error of the difference between correlated proportions,
            1947, https://doi.org/10.1007/BF02295996
        """
        changed, net = tried.lost + tried.gained, tried.lost - tried.gained
        return math.sqrt(max(0.0, changed - net * net / self.inputs)) / self.inputs

    def limit(self, row: Sensitive, max_drop: float | None = None) -> float:
        """The highest sparsity up to which a layer never loses more than ``max_drop``, or 0."""
        most = self._most(max_drop)
        found = 0.0
        for tried in row.tried:
            if self.drop(tried) > most + 1e-12:
                break
            found = tried.sparsity if tried.gone else found
        return found

    def layers(self, max_drop: float | None = None) -> dict[str, float]:
        """The sparsity that each layer bears, for the allocation ``explicit``.

        Args:
            max_drop: share of accuracy that a layer may cost by itself: 0.01 is a point.  Cut all
                at once they cost more, which :attr:`together` says for ``self.max_drop``.

        Returns:
            Layer -> highest sparsity tried; layers that bear none are left out, and stay whole.
        """
        limits = {row.layer: self.limit(row, max_drop) for row in self.rows}
        return {layer: sparsity for layer, sparsity in limits.items() if sparsity}

    def recipe(self, max_drop: float | None = None) -> dict[str, Any]:
        """What a recipe has to say to cut every layer as :meth:`layers` does, and retrain.

        Raises:
            UserError: no layer bears any of the sparsities.
        """
        layers = self.layers(max_drop)
        if not layers:
            raise UserError(
                f"no layer bears a sparsity of {min(self.sparsities):g} at a drop of at most "
                f"{100 * self._most(max_drop):g} points; try smaller sparsities or a larger drop"
            )
        prune: dict[str, Any] = {"method": [self.method], "allocation": "explicit"}
        if max_drop in (None, self.max_drop) and self.together is not None:
            prune["sparsity"] = min(0.999, round(self.together.sparsity, 3))
        if self.keep:
            prune["keep"] = list(self.keep)
        if self.removes == "channels" and self.round != 8:
            prune["round"] = self.round
        found: dict[str, Any] = {"model": self.model} if self.named else {}
        found |= {"weights": self.weights} if self.weights is not None else {}
        found |= {"data": self.data}
        found |= {"train": {"epochs": 0}} if self.trained else {}
        return found | {"prune": prune | {"layers": layers}}

    def headline(self) -> list[str]:
        """What was found, in sentences."""
        from thrifty.report.sensitivity_words import headline

        return headline(self)

    def plot(self) -> "altair.Chart":
        """A map of layers and sparsities, as an Altair chart."""
        from thrifty.report.sensitivity_charts import map_chart

        chart: altair.Chart = map_chart(self)
        return chart

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON could hold it, and the findings in sentences."""
        return dataclasses.asdict(self) | {
            "keep": list(self.keep),
            "notes": list(self.notes),
            "rows": [
                dataclasses.asdict(row)
                | {
                    "makes": list(row.makes),
                    "tried": [dataclasses.asdict(t) | {"drop": self.drop(t)} for t in row.tried],
                    "limit": self.limit(row),
                }
                for row in self.rows
            ],
            "layers": self.layers(),
            "headline": self.headline(),
        }

    def to_rows(self) -> list[dict[str, Any]]:
        """A row a layer and sparsity."""
        return [
            {"layer": row.layer, "units": row.units, "weights": row.weights}
            | dataclasses.asdict(tried)
            | {"drop": self.drop(tried), "drop_error": self.drop_error(tried)}
            for row in self.rows
            for tried in row.tried
        ]

    def table(self) -> list[dict[str, str]]:
        """A row a layer that people read: accuracy in percent at each sparsity."""
        bears = f"bears, {100 * self.max_drop:g} pt"
        found = []
        for row in self.rows:
            cells = {t.sparsity: f"{100 * t.accuracy:.2f}" for t in row.tried}
            limit = self.limit(row)
            found.append(
                {"layer": row.label}
                | ({"channels": f"{row.units:,}"} if self.removes == "channels" else {})
                | {"weights": f"{row.weights:,}"}
                | {f"{s:g}": cells.get(s, "") for s in self.sparsities}
                | {bears: f"{limit:g}" if limit else "-"}
            )
        return found

    def _most(self, max_drop: float | None) -> float:
        most = self.max_drop if max_drop is None else max_drop
        check_drop(most)
        return most

    def _repr_html_(self) -> str:
        try:
            from thrifty.report.render import svg

            picture = svg(self.plot())
        except ImportError:
            picture = ""
        return picture + html_table(self.table())


def check_drop(max_drop: float) -> None:
    """Refuse what is no share of accuracy.

    Raises:
        UserError: it is not in 0 to 1.
    """
    if not 0 <= max_drop <= 1:
        hint = f"; {max_drop:g} points are {max_drop / 100:g}" if 1 < max_drop <= 100 else ""
        raise UserError(
            f"max_drop is {max_drop}; it is the share of accuracy that a layer may cost, 0 to 1"
            f"{hint}"
        )
