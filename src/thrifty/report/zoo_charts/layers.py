"""Layers: where in the network the methods make their zeros."""

from collections.abc import Sequence
from typing import Any

from thrifty.report.extra import altair
from thrifty.report.look import WIDTH, finished, panel_title
from thrifty.report.zoo_charts import ZOO_REPORTS
from thrifty.report.zoo_marks import Row, color_of, counted, headed, percent_axis, picked, title_of
from thrifty.zoo.comparing import Comparison, nearest
from thrifty.zoo.levels import Level
from thrifty.zoo.statistics import quartiles

MOST_LINES = 8
"""Levels drawn for one method."""
LEAST = 0.01
"""Levels under this sparsity have no line: they would lie on the axis."""
MANY = 12
"""More layers than these are not named in full."""


@ZOO_REPORTS.entry("twins-layers")
def layers_chart(study: Comparison) -> Any:
    """Sparsity of each layer: mean and spread over the population, for each method.

    Raises:
        MissingExtra: altair is not installed.
    """
    told = [level for level in study.levels if level.layers]
    if not told:
        return None
    alt = altair()
    names = list(dict.fromkeys(name for level in told for name in level.layers))
    methods = [m for m in study.methods if any(level.method == m for level in told)]
    lines = [_levels(study, told, method, names, len(methods)) for method in methods]
    panels = [alt.hconcat(*lines, spacing=22).resolve_scale(color="independent")]
    alike = [level for level in nearest(study) if level.layers]
    if len(alike) > 1:
        panels.insert(0, _beside(study, alike, names))
    about = [
        "Mean over the population; bars: one standard deviation. Layers in network order.",
    ]
    title = title_of(f"Sparsity layer by layer, twins of {counted(study)}", about)
    chart = alt.vconcat(*panels, spacing=24).resolve_scale(color="independent")
    return finished(chart.properties(title=title))


def _beside(study: Comparison, levels: Sequence[Level], names: Sequence[str]) -> Any:
    """The methods side by side, at the levels of about one sparsity."""
    alt = altair()
    rows = [row for level in levels for row in _rows(level, names)]
    x = _layer_axis(names)
    y = percent_axis((0, 100), "sparsity of the layer, %")
    offset = alt.XOffset("method:N", sort=study.methods)
    base = alt.Chart(alt.Data(values=tuple(rows))).encode(
        x=x, xOffset=offset, color=color_of(study)
    )
    bars = base.mark_bar(opacity=0.3).encode(y=y("mean"))
    spread = base.mark_rule(strokeWidth=1.4).encode(y=y("low"), y2="high:Q")
    dot = base.mark_point(filled=True, size=42, opacity=1).encode(y=y("mean"), tooltip=_tips())
    said = " and ".join(
        f"{level.method} at {100 * quartiles(level.sparsity).median:.1f} %" for level in levels
    )
    return alt.layer(bars, spread, dot).properties(
        width=WIDTH - 30, height=220, title=panel_title(f"at about one sparsity: {said}")
    )


def _levels(
    study: Comparison, told: Sequence[Level], method: str, names: Sequence[str], panels: int
) -> Any:
    """All levels of one method, a line each."""
    alt = altair()
    path = [
        level
        for level in study.path(method)
        if any(level is one for one in told) and quartiles(level.sparsity).median > LEAST
    ] or [level for level in study.path(method) if level.layers][-1:]
    path = [path[i] for i in picked(len(path), MOST_LINES)]
    rows = [row for level in path for row in _rows(level, names)]
    order = [level.name for level in reversed(path)]  # as the lines lie: the sparsest on top
    y = percent_axis((0, 100), "sparsity of the layer, %")
    shade = alt.Color(
        "level:N",
        sort=order,
        scale=alt.Scale(domain=order, range=_shades(len(order))[::-1]),
        legend=alt.Legend(title="asked" if path[0].chosen else "after", orient="right"),
    )
    base = alt.Chart(alt.Data(values=tuple(rows))).encode(x=_layer_axis(names), color=shade)
    line = base.mark_line(strokeWidth=1.5).encode(y=y("mean"), detail="level:N")
    spread = base.mark_rule(strokeWidth=1, opacity=0.6).encode(y=y("low"), y2="high:Q")
    dot = base.mark_point(filled=True, size=26, opacity=1).encode(y=y("mean"), tooltip=_tips())
    width = max(180, (WIDTH - 30 - 110 * panels) // panels)
    return headed([line, spread, dot], method).properties(width=width, height=200)


def _rows(level: Level, names: Sequence[str]) -> list[Row]:
    found = []
    for name in names:
        spread = quartiles(level.layers.get(name, []))
        if not spread.count:
            continue
        low, high = spread.mean - spread.std, spread.mean + spread.std
        found.append(
            {
                "layer": short(name),
                "method": level.method,
                "level": level.name,
                "mean": 100 * spread.mean,
                "low": 100 * max(0.0, low),
                "high": 100 * min(1.0, high),
                "sparsity": f"{100 * spread.mean:.1f} +- {100 * spread.std:.1f} %".replace(
                    "+-", "\u00b1"
                ),
            }
        )
    return found


def short(name: str) -> str:
    """The name of a layer without its ``weight``."""
    return name.removesuffix(".weight")


def _layer_axis(names: Sequence[str]) -> Any:
    alt = altair()
    angle = -40 if len(names) > MANY else 0
    axis = alt.Axis(labelAngle=angle, labelLimit=110, labelOverlap="greedy", grid=False)
    return alt.X("layer:N", title=None, sort=[short(name) for name in names], axis=axis)


def _shades(count: int) -> list[str]:
    """From light to dark, yellow-green to blue: read in grey too."""
    ramp = ("#c2b53c", "#93b53f", "#5fae62", "#33a182", "#248f92", "#2b7596", "#35588f", "#3a3a7d")
    return [ramp[i] for i in picked(len(ramp), count)] if count > 1 else [ramp[-1]]


def _tips() -> list[Any]:
    return [altair().Tooltip(f"{name}:N") for name in ("method", "level", "layer", "sparsity")]
