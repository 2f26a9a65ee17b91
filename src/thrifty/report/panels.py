"""Panels that draw a share (accuracy, agreement) against a cost, a line a method.

The share axis is zoomed to where networks are still useful.  What falls below, a method that
collapses or the accuracy before retraining, is drawn in a second, lower panel of the whole range:
one axis for both would press the useful differences, tenths of a point, into a few pixels.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thrifty.lab.front import SPARSITIES, Cost, Front
from thrifty.report.extra import altair
from thrifty.report.look import WIDTH, note, panel_title
from thrifty.report.parts import (
    CONTROL_COLOR,
    CONTROL_NAME,
    DENSE_COLOR,
    method_colors,
    method_shapes,
    methods,
    pair_name,
)
from thrifty.report.rows import (
    NEAR,
    Row,
    Share,
    domain,
    point_rows,
    reference_rows,
    seed_rows,
    zoomed,
)
from thrifty.report.units import label_expression, log_domain, percent, ticks

X_TITLES: dict[str, str] = {
    "sparsity": "sparsity of the prunable weights (log scale of the weights kept)",
    "sparsity_conv": "sparsity of the weights of convolutions (log scale of the weights kept)",
    "packed_bytes": "size of the packed file (log scale, less is better)",
    "bytes": "size on disk, compressed (log scale, less is better)",
    "engine_ms": "latency of one input in thrifty's engine, one thread (log scale, less is better)",
    "latency_us": "latency of one input in eager torch (log scale, less is better)",
    "macs": "multiply-adds of a dense runtime (log scale, less is better)",
    "macs_nonzero": "multiply-adds whose weight is not zero (log scale, less is better)",
    "params": "parameters, zeros among them (log scale, less is better)",
    "nonzero": "parameters that are not zero (log scale, less is better)",
}


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel: which part of the share axis it shows, and how."""

    ends: tuple[float, float]
    height: int = 300
    title: str = ""
    cuts: bool = False
    """Whether the accuracy before retraining is drawn."""
    zoomed: bool = False
    """Whether marks may lie outside."""
    last: bool = True
    """Whether it carries the title of the cost axis and the legend's selection."""


@dataclass(frozen=True)
class Scene:
    """What the panels of one front share: rows, the scale of methods, the cost axis."""

    points: list[Row]
    seeds: list[Row]
    references: list[Row]
    share: Share
    of: Cost
    colors: dict[str, str]
    shapes: dict[str, str]
    picked: Any
    """The selection a click on the legend makes."""

    @classmethod
    def of_front(
        cls, front: Front, share: Share, of: Cost, colors: Mapping[str, str] | None
    ) -> "Scene":
        """The scene of a front of one model and data set."""
        given = method_colors(front) if colors is None else colors
        references = reference_rows(front, share, of)
        found = {name: given[name] for name in methods(front)}
        greys = {"dense": DENSE_COLOR, CONTROL_NAME: CONTROL_COLOR}
        found |= {row["method"]: greys[row["method"]] for row in references}
        name = f"picked_{zlib.crc32(pair_name(front).encode()):08x}"
        picked = altair().selection_point(name=name, fields=["method"], bind="legend")
        return cls(
            points=point_rows(front, share, of),
            seeds=seed_rows(front, share, of),
            references=references,
            share=share,
            of=of,
            colors=found,
            shapes=method_shapes(given) | {row["method"]: "stroke" for row in references},
            picked=picked,
        )

    def panels(self) -> list[Any]:
        """One panel, or two if the useful part is small beside the whole range."""
        useful = [r["y"] for r in self.points if r["y"] is not None]
        cuts = [r["cut"] for r in self.points if r["cut"] is not None and self.lines]
        fixed = [r[end] for r in self.references for end in ("low", "high") if r[end] is not None]
        ends = [r[end] for r in self.points for end in ("low", "high") if r[end] is not None]
        best = max((r["y"] for r in self.references if r["y"] is not None), default=1.0)
        if not zoomed(useful, cuts, best):
            return [self._draw(Panel(ends=domain([*ends, *cuts, *fixed]), cuts=bool(cuts)))]
        near = [s for s in ends if s >= best - NEAR]
        floor = [best - NEAR] if min(useful) < best - NEAR else []
        title = f"{self.share}, whole range" + (" (dotted: before retraining)" if cuts else "")
        top = domain([*near, *floor, *fixed])
        if not self.lines:
            title = f"from {percent(top[0], 1)} upwards"
            return [self._draw(Panel(ends=top, title=title, zoomed=True))]
        upper = Panel(ends=top, title=f"{self.share}, near the top", zoomed=True, last=False)
        whole = domain([*useful, *cuts, *fixed])
        lower = Panel(ends=whole, height=150, title=title, cuts=bool(cuts))
        return [self._draw(upper), self._draw(lower)]

    @property
    def lines(self) -> bool:
        """Whether a method's points are joined: in torch latency is noise, it knows no zeros."""
        return self.of != "latency_us"

    def _draw(self, panel: Panel) -> Any:
        alt = altair()
        layers = [
            *self._references(panel),
            *self._spreads(panel),
            *([self._cuts(panel)] if panel.cuts else []),
            *self._means(panel),
            *self._parents(panel),
        ]
        chart = alt.layer(*layers).properties(width=WIDTH, height=panel.height)
        return chart.properties(title=panel_title(panel.title)) if panel.title else chart

    def _y(self, panel: Panel, field: str = "y") -> Any:
        alt = altair()
        axis = alt.Axis(labelExpr="format(100 * datum.value, '.4~g')", tickCount=panel.height // 45)
        scale = alt.Scale(domain=list(panel.ends), zero=False, nice=False)
        return alt.Y(f"{field}:Q", title=f"{self.share}, %", scale=scale, axis=axis)

    def _references(self, panel: Panel) -> list[Any]:
        alt = altair()
        rows = alt.Data(values=tuple(self.references))
        base = alt.Chart(rows).encode(
            y=self._y(panel), color=self._color(), tooltip=self._tooltip()
        )
        band = base.mark_rect(opacity=1, fillOpacity=0.10, clip=panel.zoomed).encode(
            y=self._y(panel, "low"), y2="high:Q"
        )
        names = list(self.colors)
        dashes = [[4, 3] if name == CONTROL_NAME else [1, 0] for name in names]
        dash = alt.StrokeDash("method:N", title=None, scale=alt.Scale(domain=names, range=dashes))
        line = base.mark_rule(strokeWidth=1.5, clip=panel.zoomed).encode(strokeDash=dash)
        return [band, line]

    def _parents(self, panel: Panel) -> list[Any]:
        """Diamonds where the references lie; by definition all lie at sparsity 0."""
        if self.of in SPARSITIES:
            return []
        alt = altair()
        base = alt.Chart(alt.Data(values=tuple(self.references))).encode(
            x=self._x(panel.last), y=self._y(panel), color=self._color(), tooltip=self._tooltip()
        )
        return [
            base.mark_point(shape="diamond", size=110, filled=True, clip=panel.zoomed, opacity=1)
        ]

    def _spreads(self, panel: Panel) -> list[Any]:
        alt = altair()
        band = (
            alt.Chart(alt.Data(values=tuple(self.points)))
            .mark_area(clip=panel.zoomed, opacity=1)
            .encode(
                x=self._x(panel.last),
                y=self._y(panel, "low"),
                y2="high:Q",
                color=self._color(),
                fillOpacity=self._shown(0.16, 0.02),
            )
        )
        dots = (
            alt.Chart(alt.Data(values=tuple(self.seeds)))
            .mark_circle(size=12, clip=panel.zoomed, opacity=1)
            .encode(
                x=self._x(panel.last),
                y=self._y(panel),
                color=self._color(),
                fillOpacity=self._shown(0.45, 0.03),
                tooltip=["method:N", "seed:O", "sparsity:N", f"{self.share}:N"],
            )
        )
        return [band, dots] if self.lines else [dots]

    def _cuts(self, panel: Panel) -> Any:
        alt = altair()
        rows = [row for row in self.points if row["cut"] is not None]
        return (
            alt.Chart(alt.Data(values=tuple(rows)))
            .mark_line(strokeWidth=1.2, strokeDash=[1, 3], strokeCap="round", clip=panel.zoomed)
            .encode(
                x=self._x(panel.last),
                y=self._y(panel, "cut"),
                color=self._color(),
                order="level:Q",
                opacity=self._shown(0.9, 0.05),
            )
        )

    def _means(self, panel: Panel) -> list[Any]:
        alt = altair()
        base = alt.Chart(alt.Data(values=tuple(self.points))).encode(
            x=self._x(panel.last), y=self._y(panel), color=self._color()
        )
        line = base.mark_line(strokeWidth=1.8, clip=panel.zoomed).encode(
            order="level:Q", opacity=self._shown(1, 0.08)
        )
        names = list(self.colors)
        shape = alt.Shape(
            "method:N",
            title=None,
            scale=alt.Scale(domain=names, range=[self.shapes[n] for n in names]),
        )
        inside = base.transform_filter(alt.datum.y >= panel.ends[0])
        point = inside.mark_point(filled=True, size=62, clip=panel.zoomed).encode(
            shape=shape, tooltip=self._tooltip(), opacity=self._shown(1, 0.08)
        )
        hollow = (
            inside.transform_filter("datum.beaten")
            .mark_point(filled=True, size=18, clip=panel.zoomed)
            .encode(
                shape=shape,
                color=alt.value("white"),
                tooltip=self._tooltip(),
                opacity=self._shown(1, 0),
            )
        )
        marks = [point.add_params(self.picked) if panel.last else point]
        if not self.lines:
            return marks
        return [line, *marks, *([hollow] if self.share == "accuracy" else [])]

    def _x(self, titled: bool) -> Any:
        alt = altair()
        density = self.of in SPARSITIES
        rows = [*self.points, *([] if density else self.references)]
        values = [r["x"] for r in [*rows, *self.seeds] if r["x"] is not None] or [0.5]
        ends = log_domain(values, most=1.0 if density else None)
        return alt.X(
            "x:Q",
            title=X_TITLES[self.of] if titled else None,
            scale=alt.Scale(type="log", domain=list(ends), reverse=density, nice=False),
            axis=alt.Axis(
                values=ticks(*ends), labelExpr=label_expression(self.of), labelOverlap="parity"
            ),
        )

    def _color(self) -> Any:
        alt = altair()
        names = list(self.colors)
        scale = alt.Scale(domain=names, range=[self.colors[n] for n in names])
        return alt.Color("method:N", title=None, scale=scale)

    def _shown(self, picked: float, other: float) -> Any:
        alt = altair()
        return alt.when(self.picked).then(alt.value(picked)).otherwise(alt.value(other))

    def _tooltip(self) -> list[Any]:
        alt = altair()
        texts: dict[str, None] = {}
        for row in [*self.points, *self.references]:
            texts |= dict.fromkeys(key for key in row if key not in _DRAWN)
        return [alt.Tooltip("method:N"), *(alt.Tooltip(f"{key}:N") for key in texts)]


_DRAWN = {"method", "level", "x", "y", "low", "high", "cut", "beaten"}


def draw(
    front: Front, share: Share, of: Cost, colors: Mapping[str, str] | None, about: Sequence[str]
) -> Any:
    """The panels of a front of one model and data set, one above the other, with a title."""
    alt = altair()
    scene = Scene.of_front(front, share, of, colors)
    if not scene.points and not scene.references:
        return note(f"no {share} of a pruned network was measured", about[0])
    return (
        alt.vconcat(*scene.panels(), spacing=12)
        .resolve_scale(color="shared", shape="shared")
        .properties(title=alt.TitleParams(about[0], subtitle=list(about[1:])))
    )
