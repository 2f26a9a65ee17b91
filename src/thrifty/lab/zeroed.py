"""What zeroing costs: a row for each threshold, and the whole study of one network.

A network whose batch normalisation is taken anew differs from the intact one in that too, so what
it loses is counted against the intact network treated alike; agreement is always with the intact
network as it came.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from thrifty.census.words import percent, threshold
from thrifty.shown import Shown, html_table

if TYPE_CHECKING:
    import altair

Series = Literal["as it is", "recalibrated"]
SERIES: tuple[Series, Series] = ("as it is", "recalibrated")


@dataclass(frozen=True, kw_only=True)
class Outcome(Shown):
    """How a network with zeroed weights does on the test inputs; shares are 0 to 1."""

    accuracy: float
    loss: float
    """Mean cross entropy, in nats."""
    agreement: float
    """Share of test inputs given the same class as by the intact network as it came."""
    lost: int
    """Test inputs that the intact network, treated alike, gets right and this one wrong."""
    gained: int
    """Test inputs that the intact network, treated alike, gets wrong and this one right."""


@dataclass(frozen=True, kw_only=True)
class Zeroed(Shown):
    """One network whose weights under a threshold are zero; threshold 0 is the intact one."""

    key: str
    """The step that measured it, 12 hex digits."""
    model: str
    data: str
    threshold: float
    """Weights with abs(w) < threshold became 0; see :attr:`Zeroing.relative`."""
    seed: int
    zeros: int
    """Zeros among the prunable weights, counted; those that were there before among them."""
    weights: int
    """Prunable weights."""
    zeros_all: int
    """Zeros among all parameters, counted."""
    params: int
    plain: Outcome
    """As it is: only the weights were changed."""
    recalibrated: Outcome | None = None
    """With batch norm statistics of training inputs; ``None`` if there are none to take anew."""
    layers: dict[str, list[int]] = field(default_factory=dict)
    """Prunable tensor, or every parameter if all are compared -> [zeros, weights]."""

    @property
    def sparsity(self) -> float:
        """Share of the prunable weights that is zero."""
        return self.zeros / self.weights

    @property
    def sparsity_all(self) -> float:
        """Share of all parameters that is zero."""
        return self.zeros_all / self.params

    def outcome(self, series: Series) -> Outcome | None:
        """What was measured with the statistics as they are, or taken anew."""
        return self.plain if series == "as it is" else self.recalibrated

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Zeroed":
        """The row of a JSON object."""
        known = {f.name for f in dataclasses.fields(cls)}
        fresh = values.get("recalibrated")
        return cls(
            **{k: v for k, v in values.items() if k in known}
            | {
                "plain": Outcome(**values["plain"]),
                "recalibrated": Outcome(**fresh) if fresh is not None else None,
            }
        )


@dataclass(frozen=True, kw_only=True)
class Zeroing(Shown):
    """The curve of one network: share of the weights zeroed against accuracy."""

    model: str
    data: str
    weights: str | None
    """File of the weights, if one was given."""
    classes: int
    inputs: int
    """Test inputs."""
    relative: bool
    """Thresholds are multiples of the standard deviation of each tensor."""
    everything: bool
    """All parameters are compared with the threshold, not only the prunable weights."""
    keep: tuple[str, ...]
    """Patterns of layers that were left whole."""
    seed: int
    rows: tuple[Zeroed, ...]
    """By threshold, ascending; the first is the intact network."""
    notes: tuple[str, ...] = ()
    """What to know about the figures, in sentences."""
    conditions: dict[str, Any] = field(default_factory=dict)
    """Where and with what it was measured."""

    @property
    def intact(self) -> Zeroed:
        """The network as it came."""
        return self.rows[0]

    @property
    def cut(self) -> tuple[Zeroed, ...]:
        """The rows of thresholds above 0."""
        return self.rows[1:]

    @property
    def chance(self) -> float:
        """Accuracy of guessing: 1 / classes."""
        return 1 / self.classes

    @property
    def series(self) -> tuple[Series, ...]:
        """What was measured: the network as it is, and with its statistics taken anew."""
        return SERIES if self.intact.recalibrated is not None else SERIES[:1]

    def count(self, row: Zeroed) -> tuple[int, int]:
        """(zeros, of how many): of all parameters if all are compared, else of the weights."""
        if self.everything:
            return row.zeros_all, row.params
        return row.zeros, row.weights

    def share(self, row: Zeroed) -> float:
        """Share zeroed, of all parameters if all are compared, else of the weights."""
        zeros, of = self.count(row)
        return zeros / of

    def drop(self, row: Zeroed, series: Series = "as it is") -> float:
        """Accuracy lost against the intact network treated alike; negative is a gain."""
        found = row.outcome(series)
        return math.nan if found is None else (found.lost - found.gained) / self.inputs

    def drop_error(self, row: Zeroed, series: Series = "as it is") -> float:
        """Standard error of :meth:`drop`: both networks were given the same inputs.

        References:
            McNemar, Note on the sampling error of the difference between correlated proportions,
            1947, https://doi.org/10.1007/BF02295996
        """
        found, n = row.outcome(series), self.inputs
        if found is None:
            return math.nan
        changed, net = found.lost + found.gained, found.lost - found.gained
        return math.sqrt(max(0.0, changed - net * net / n)) / n

    def interval(self, accuracy: float) -> tuple[float, float]:
        """95 % confidence interval of an accuracy on this many test inputs, as shares.

        References:
            Wilson, Probable inference, 1927, https://doi.org/10.2307/2276774
        """
        z, n = 1.96, self.inputs
        middle = (accuracy + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n)
        half *= math.sqrt(accuracy * (1 - accuracy) / n + z * z / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)

    def named(self, t: float) -> str:
        """A threshold with its unit: ``0.01``, ``0.5 std``."""
        return f"{threshold(t)} std" if self.relative else threshold(t)

    def headline(self) -> list[str]:
        """What was found, in sentences."""
        from thrifty.report.zeroing_words import headline

        return headline(self)

    def plot(self) -> "altair.Chart":
        """Share of the weights zeroed against accuracy, as an Altair chart."""
        from thrifty.report.zeroing_charts import curve_chart

        chart: altair.Chart = curve_chart(self)
        return chart

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON could hold it, and the findings in sentences."""
        return dataclasses.asdict(self) | {
            "keep": list(self.keep),
            "notes": list(self.notes),
            "rows": [
                dataclasses.asdict(row)
                | {"sparsity": row.sparsity, "sparsity_all": row.sparsity_all}
                for row in self.rows
            ],
            "headline": self.headline(),
        }

    def to_rows(self) -> list[dict[str, Any]]:
        """A row a threshold, the outcomes side by side."""
        return [
            {
                "threshold": row.threshold,
                "sparsity": row.sparsity,
                "sparsity_all": row.sparsity_all,
                "zeros": row.zeros,
                "weights": row.weights,
                "zeros_all": row.zeros_all,
                "params": row.params,
            }
            | {
                f"{name}{suffix}": value
                for series, suffix in zip(self.series, ("", "_recalibrated"), strict=False)
                for name, value in self._outcome(row, series).items()
            }
            for row in self.rows
        ]

    def table(self) -> list[dict[str, str]]:
        """The rows people read, a column a quantity."""
        return [
            {
                "under": "intact" if row is self.intact else self.named(row.threshold),
                "zero %": _percent(row.zeros, row.weights),
                "of all %": _percent(row.zeros_all, row.params),
                **self._cells(row, "as it is", ""),
                **(self._cells(row, "recalibrated", "recal. ") if self.series[1:] else {}),
            }
            for row in self.rows
        ]

    def layer_table(self) -> list[dict[str, str]]:
        """A row a tensor: the share of it that is zero, a column a threshold."""
        return [
            {"layer": name, "weights": f"{size:,}"}
            | {
                "intact" if row is self.intact else f"< {self.named(row.threshold)}": _percent(
                    row.layers[name][0], size
                )
                for row in self.rows
            }
            for name, (_, size) in self.intact.layers.items()
        ]

    def _repr_html_(self) -> str:
        try:
            from thrifty.report.render import svg

            picture = svg(self.plot())
        except ImportError:
            picture = ""
        return picture + html_table(self.table())

    def _outcome(self, row: Zeroed, series: Series) -> dict[str, float]:
        found = row.outcome(series)
        values = dataclasses.asdict(found) if found is not None else {}
        drops = {"drop": self.drop(row, series), "drop_error": self.drop_error(row, series)}
        return values | drops

    def _cells(self, row: Zeroed, series: Series, word: str) -> dict[str, str]:
        found = row.outcome(series)
        if found is None:
            return {}
        drop, error = 100 * self.drop(row, series), 100 * self.drop_error(row, series)
        intact = row is self.intact
        return {
            f"{word}accuracy %": f"{100 * found.accuracy:.2f}",
            f"{word}drop": "" if intact else f"{drop:+.2f} +- {error:.2f}",
            f"{word}agreement %": f"{100 * found.agreement:.2f}",
            f"{word}loss": f"{found.loss:.4g}",
        }


def _percent(part: int, whole: int) -> str:
    return percent(part, whole).removesuffix(" %")
