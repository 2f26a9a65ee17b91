"""Networks of different kinds on one scale: what accuracy costs in each of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from thrifty.lab.front import Cost, Front
from thrifty.lab.naming import examined, short_names, titled
from thrifty.lab.records import CONTROL, DENSE, Point
from thrifty.report import REPORTS
from thrifty.report.extra import altair
from thrifty.report.look import WIDTH, finished, grid, note, panel_title
from thrifty.report.parts import COLORS, finite, method_shapes
from thrifty.report.rows import Row, domain, place, tooltip
from thrifty.report.units import label_expression, log_domain, ticks

PANELS: tuple[tuple[Cost, str], ...] = (
    ("nonzero", "parameters that are not zero"),
    ("packed_bytes", "packed size"),
    ("macs_nonzero", "multiply-adds that are not by zero"),
    ("engine_ms", "one input in thrifty's engine"),
)
NEAR = 0.2
"""What is further below the best is outside the panels."""


@REPORTS.entry("networks")
def networks_chart(front: Front, *, colors: Mapping[str, str] | None = None) -> Any:
    """Accuracy of all networks on a data set against parameters, bytes, multiply-adds and time.

    A line begins at a dense network and goes through its pruned ones; a network that was only
    trained is a point.

    Args:
        front: what was measured, of several models.
        colors: not used; a colour is here a network and its method.

    Returns:
        An Altair chart, a block of panels for each data set that has several networks.

    Raises:
        MissingExtra: altair is not installed.
    """
    alt = altair()
    found = [one for one in by_data(front) if len({p.model for p in one}) > 1]
    if not found:
        return finished(note("networks of one kind; report several runs together to compare"))
    blocks = [_block(points) for points in found]
    if len(blocks) == 1:
        return finished(blocks[0])
    apart = {"color": "independent", "shape": "independent"}
    return finished(alt.vconcat(*blocks, spacing=36).resolve_scale(**apart))


def by_data(front: Front) -> list[list[Point]]:
    """The points of each data set, dense networks and pruned ones, in first-seen order.

    However the inputs are prepared, networks that are examined on the same are shown together.
    """
    groups: dict[str, list[Point]] = {}
    for point in front.points:
        if point.method != CONTROL:
            groups.setdefault(examined(point.data), []).append(point)
    return list(groups.values())


def several(front: Front) -> bool:
    """Whether there are networks of different kinds on one data set."""
    return any(len({p.model for p in points}) > 1 for points in by_data(front))


def series_rows(points: Sequence[Point], of: Cost) -> list[Row]:
    """A row for each point that has the cost; a dense network is the first of all its lines."""
    rows = []
    names = short_names(list(dict.fromkeys(p.model for p in points)))
    for model, data in dict.fromkeys((p.model, p.data) for p in points):
        own = [p for p in points if (p.model, p.data) == (model, data)]
        dense = [p for p in own if p.method == DENSE]
        methods = list(dict.fromkeys(p.method for p in own if p.method != DENSE))
        name = names[model]
        if any(p.model == model and p.data != data for p in points):
            name += f", {data.partition('?')[2] or 'prepared as usual'}"
        for method in methods or [DENSE]:
            label = name if method == DENSE else f"{name}, {method}"
            line = dense + [p for p in own if p.method == method and method != DENSE]
            rows += [
                finite({"network": label, "level": p.level, "x": x, "y": p.accuracy} | tooltip(p))
                for p in line
                if (x := place(p, of)) is not None
            ]
    return rows


def _block(points: Sequence[Point]) -> Any:
    alt = altair()
    names = list(dict.fromkeys(row["network"] for row in series_rows(points, "params")))
    best = max(p.accuracy for p in points)
    low, high = domain([p.accuracy for p in points if p.accuracy >= best - NEAR])
    panels = [_panel(points, of, title, names, (low, high)) for of, title in PANELS]
    title = f"All networks on {titled('', points[0].data).removeprefix(' on ')}"
    about = ["Lines begin at the dense network; all cost axes are logarithmic, less is better."]
    if any(p.accuracy < low for p in points):
        about.append(f"Networks below {100 * low:g} % are left out.")
    return (
        grid(panels, 2)
        .resolve_scale(color="shared", shape="shared")
        .properties(title=alt.TitleParams(title, subtitle=about))
    )


def _panel(
    points: Sequence[Point],
    of: Cost,
    title: str,
    names: Sequence[str],
    ends: tuple[float, float],
) -> Any:
    alt = altair()
    width, height = WIDTH // 2 - 40, 240
    rows = series_rows(points, of)
    if not rows:
        empty = note(f"{title}: not measured").properties(width=width, height=height)
        return empty.properties(title=panel_title(title))
    span = log_domain([row["x"] for row in rows])
    marks = ticks(*span)
    x = alt.X(
        "x:Q",
        title=None,
        scale=alt.Scale(type="log", domain=list(span), nice=False),
        axis=alt.Axis(
            values=marks, labelExpr=label_expression(of), labelOverlap="parity", labelFlush=True
        ),
    )
    y = alt.Y(
        "y:Q",
        title="accuracy, %",
        scale=alt.Scale(domain=list(ends), zero=False, nice=False),
        axis=alt.Axis(labelExpr="format(100 * datum.value, '.4~g')", tickCount=6),
    )
    shapes = method_shapes(names)
    color = alt.Color(
        "network:N",
        title=None,
        scale=alt.Scale(
            domain=list(names), range=[COLORS[i % len(COLORS)] for i in range(len(names))]
        ),
        legend=alt.Legend(orient="bottom", columns=2, labelLimit=330),
    )
    shape = alt.Shape(
        "network:N",
        title=None,
        scale=alt.Scale(domain=list(names), range=[shapes[n] for n in names]),
    )
    texts = [alt.Tooltip(f"{key}:N") for key in rows[0] if key not in ("level", "x", "y")]
    base = alt.Chart(alt.Data(values=tuple(rows))).encode(x=x, y=y, color=color)
    line = base.mark_line(strokeWidth=1.6, clip=True).encode(order="level:Q")
    point = base.mark_point(filled=True, size=55, clip=True, opacity=1).encode(
        shape=shape, tooltip=texts
    )
    return alt.layer(line, point).properties(width=width, height=height, title=panel_title(title))
