"""Layers: where the weights went, layer by layer."""

from typing import Any

from thrifty.lab.front import Front
from thrifty.report import REPORTS
from thrifty.report.extra import altair
from thrifty.report.look import each_pair, grid, note, panel_title
from thrifty.report.parts import methods, pair_name

CELL_WIDTH, CELL_HEIGHT = 34, 18
WIDEST = 880
EMPTY = "#d55e00"


@REPORTS.entry("layers")
def layers_chart(front: Front) -> Any:
    """Weights kept in each layer at each level, mean over seeds: a map for each method.

    Args:
        front: what was measured; several models and data sets give a picture each.

    Returns:
        An Altair chart; layers in network order from the top, a layer with no weight left in
        orange.

    Raises:
        MissingExtra: altair is not installed.
    """
    return each_pair(front, _map)


def layer_rows(front: Front) -> list[dict[str, Any]]:
    """A row a method, level and layer: weights kept, of how many, mean over seeds."""
    sums: dict[tuple[str, float, str], list[int]] = {}
    for record in front.records:
        if record.method in methods(front):
            for layer, (kept, size) in record.layers.items():
                total = sums.setdefault((record.method, record.level, layer), [0, 0, 0])
                total[:] = total[0] + kept, total[1] + size, total[2] + 1
    cut = {(r.method, r.level) for r in front.records if r.threshold is not None}
    return [
        {
            "method": method,
            "asked": _asked(level, (method, level) in cut),
            "level": level,
            "layer": layer.removesuffix(".weight"),
            "share": kept / max(size, 1),
            "text": _short(100 * kept / max(size, 1)),
            "kept": f"{kept / count:,.0f} of {size / count:,.0f} weights",
        }
        for (method, level, layer), (kept, size, count) in sums.items()
    ]


def _asked(level: float, threshold: bool) -> str:
    return f"{level:.3g}" if threshold or level > 1 else f"{100 * level:.5g}"


def _map(front: Front) -> Any:
    alt = altair()
    title = f"Weights kept in each layer, %: {pair_name(front)}"
    rows = layer_rows(front)
    if not rows:
        return note("no pruned network says what its layers kept", title)
    found = list(dict.fromkeys(row["method"] for row in rows))
    levels = len({row["level"] for row in rows})
    columns = max(1, WIDEST // (CELL_WIDTH * levels + 14))
    panels = [_panel(rows, name, first=i % columns == 0) for i, name in enumerate(found)]
    return (
        grid(panels, columns)
        .resolve_scale(color="shared")
        .properties(title=alt.TitleParams(title, subtitle=[_about(rows, front)]))
    )


def _panel(rows: list[dict[str, Any]], method: str, first: bool) -> Any:
    """The map of one method; all maps have the layers, levels and colours of all ``rows``."""
    alt = altair()
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    levels = [level for _, level in sorted({(row["level"], row["asked"]) for row in rows})]
    low = min([row["share"] for row in rows if row["share"] > 0] + [0.5])
    bare = {"domain": False, "ticks": False, "grid": False}
    base = alt.Chart(alt.Data(values=tuple(row for row in rows if row["method"] == method))).encode(
        x=alt.X(
            "asked:O",
            title=None,
            scale=alt.Scale(domain=levels),
            axis=alt.Axis(orient="top", labelAngle=0, labelFontSize=10, **bare),
        ),
        y=alt.Y(
            "layer:N",
            title=None,
            scale=alt.Scale(domain=layers),
            axis=alt.Axis(labels=first, labelLimit=220, labelPadding=5, **bare),
        ),
        tooltip=["method:N", "layer:N", "asked:N", "kept:N"],
    )
    legend = alt.Legend(
        title="kept, %", labelExpr="format(100 * datum.value, '.3~g')", gradientLength=100
    )
    scale = alt.Scale(type="log", domain=[low, 1.0], scheme="blues", clamp=True)
    cell = base.mark_rect(stroke="white", strokeWidth=1).encode(
        color=alt.when(alt.datum.share > 0)
        .then(alt.Color("share:Q", scale=scale, legend=legend))
        .otherwise(alt.value(EMPTY))
    )
    dark = (alt.datum.share > low**0.45) | (alt.datum.share == 0)
    number = base.mark_text(fontSize=10).encode(
        text="text:N", color=alt.when(dark).then(alt.value("white")).otherwise(alt.value("#222222"))
    )
    return alt.layer(cell, number).properties(
        width=CELL_WIDTH * len(levels),
        height=CELL_HEIGHT * len(layers),
        title=panel_title(method),
    )


def _about(rows: list[dict[str, Any]], front: Front) -> str:
    budgets = any(row["level"] > 1 for row in rows)
    asked = "the budget asked for" if budgets else "the share asked to go, %"
    cut = {r.threshold is not None for r in front.records if r.method in methods(front)}
    if True in cut:
        asked = "the threshold on the gates" if cut == {True} else f"the threshold, or {asked}"
    text = f"Columns: {asked}.  Rows: layers in network order.  Means over seeds."
    gone = sum(row["share"] == 0 for row in rows)
    if gone:
        text += " Orange: no weight is left, so nothing passes through the layer itself."
    return text


def _short(percent: float) -> str:
    """Three characters or so: ``100``, ``52``, ``4.7``, ``0.31``."""
    if percent == 0 or percent >= 9.95:
        return f"{percent:.0f}"
    return f"{percent:.1f}" if percent >= 0.995 else f"{percent:.2g}"
