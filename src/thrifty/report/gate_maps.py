"""Heat maps of gates: where each row and channel lies, and on which scale its colour is.

All rows are as wide as the map, whatever their channels, so a channel of a block of 64 is four
times as wide as one of 256; how many there are is told beside the rows.  A row begins at a whole
pixel, and a cell reaches under the next one, so that no seams show.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from statistics import fmean
from typing import Any

from thrifty.lab.front import Front
from thrifty.report.extra import altair
from thrifty.report.gate_states import State
from thrifty.report.look import INK

HEIGHT, LEAST, MOST = 200, 6, 20
"""Pixels of a map's height, about, and of the height of a row."""
GROUP_GAP = 5
COUNT_LEAST = 11
"""Pixels of height that the number of channels needs beside its rows."""
MARKS, USUAL = 3, (0.01, 0.1, 0.5)
"""How many thresholds are marked at most, and which, where nothing was cut by thresholds."""
LOW = 1e-3
"""The lower end of a logarithmic scale of colours: what is less open is as good as closed."""
LABEL = 12
"""Pixels of height that the name of a row needs."""
SCHEME = "yellowgreenblue"
CELLS, CELLS_LEAST = 24_000, 1_500
"""Cells of all maps of a chart, and of one map at the least; wider rows are drawn in stretches."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Grid:
    """Where the rows of a map lie, in pixels from its top: for all maps of a chart alike."""

    names: tuple[str, ...]
    tops: tuple[int, ...]
    row: int
    """Height of a row."""
    groups: tuple[int, ...]
    """Of each row, the number of its group; between groups there is a gap."""
    most: int
    """How many cells a row may have."""

    @property
    def height(self) -> int:
        """Of the whole map."""
        return self.tops[-1] + self.row if self.tops else self.row

    @classmethod
    def of(cls, states: Sequence[State]) -> "Grid":
        """A row a layer; a gap where the number of channels changes, if that is seldom."""
        sizes = widths(states)
        row = min(max(round(HEIGHT / max(len(sizes), 1)), LEAST), MOST)
        counts = list(sizes.values())
        changes = [i for i in range(1, len(counts)) if counts[i] != counts[i - 1]]
        gap = GROUP_GAP if 3 * len(changes) <= len(counts) else 0
        groups = tuple(sum(c <= i for c in changes) if gap else 0 for i in range(len(counts)))
        tops = tuple(i * row + gap * group for i, group in enumerate(groups))
        cells = max(CELLS // (2 * max(len(states), 1)), CELLS_LEAST)
        return cls(tuple(sizes), tops, row, groups, max(cells // max(len(sizes), 1), 16))


@dataclass(frozen=True)
class Ink:
    """The one scale of colours of all maps of a chart; its ends depend on nothing that is drawn.

    So not only the maps of a chart, but those of two reports can be compared, if both are
    logarithmic or both are not.
    """

    log: bool

    @classmethod
    def of(cls, states: Sequence[State]) -> "Ink":
        """Linear, or logarithmic where one gate of ten is open less than a linear one shows."""
        found = sorted(v for state in states for row in state.values.values() for v in row)
        return cls(log=bool(found) and found[len(found) // 10] < 0.05)

    def color(self, title: str) -> Any:
        """The encoding of the field ``t``, with its legend."""
        alt = altair()
        scale = alt.Scale(
            type="log" if self.log else "linear",
            domain=[LOW if self.log else 0, 1],
            scheme=SCHEME,
            clamp=True,
        )
        legend = alt.Legend(
            title=_lines(title),
            gradientLength=120,
            values=[0.001, 0.01, 0.1, 1] if self.log else [0, 0.25, 0.5, 0.75, 1],
            labelExpr=f"(datum.value == {LOW} ? '\u2264 ' : '') + format(datum.value, '~g')",
        )
        return alt.Color("t:Q", scale=scale, legend=legend)


def widths(states: Sequence[State]) -> dict[str, int]:
    """Layer -> its channels, of all states together, in the order of the first that has it."""
    found: dict[str, int] = {}
    for state in states:
        for name, values in state.values.items():
            found[name] = max(found.get(name, 0), len(values))
    return found


def short(names: Sequence[str]) -> tuple[str, list[str]]:
    """What all names share, with a star, and what is left of each.

    Example:
        >>> short(["blocks.0.h.weight", "blocks.10.h.weight"])
        ('blocks.*.h', ['0', '10'])
    """
    parts = [name.removesuffix(".weight").split(".") for name in names]
    if len(parts) < 2:
        return "", [".".join(p) for p in parts]
    before = len(commonprefix(parts))
    after = min(len(commonprefix([p[::-1] for p in parts])), min(map(len, parts)) - before)
    left = [".".join(p[before : len(p) - after]) for p in parts]
    if not before + after or not all(left):
        return "", [".".join(p) for p in parts]
    first = parts[0]
    return ".".join([*first[:before], "*", *first[len(first) - after :]]), left


def marks(front: Front) -> tuple[float, ...]:
    """The thresholds to mark: the lowest, middle and highest of those the front was cut at."""
    used = sorted({r.threshold for r in front.records if r.threshold and 0 < r.threshold < 1})
    if not used:
        return USUAL
    places = [round(i * (len(used) - 1) / (MARKS - 1)) for i in range(MARKS)]
    return tuple(dict.fromkeys(used[place] for place in places))


def cell_rows(state: State, grid: Grid, ordered: bool) -> list[Row]:
    """A row a layer: the scores ``t``, largest first if ``ordered``, and their places ``i``.

    A row of too many channels has means of stretches of ``step`` neighbours.
    """
    rows = []
    for name, top in zip(grid.names, grid.tops, strict=True):
        found = state.values.get(name, ())
        places = list(range(len(found)))
        order = sorted(places, key=lambda i: -found[i]) if ordered else places
        step = math.ceil(max(len(found), 1) / grid.most)
        cells = [order[i : i + step] for i in places[::step]]
        rows.append(
            {
                "layer": name.removesuffix(".weight"),
                "top": top,
                "bottom": top + grid.row - (1 if grid.row > LEAST else 0),
                "n": max(len(found), 1),
                "step": step,
                "i": places[::step],
                "channel": [str(c[0]) if step == 1 else f"mean of {len(c)}" for c in cells],
                "t": [float(f"{fmean(found[i] for i in c):.4g}") for c in cells],
            }
        )
    return rows


def mark_rows(state: State, grid: Grid, thresholds: Sequence[float]) -> list[Row]:
    """Two points a layer and threshold: the share of its channels above, at top and bottom."""
    rows = []
    for threshold in thresholds:
        for number, (name, top) in enumerate(zip(grid.names, grid.tops, strict=True)):
            found = state.values.get(name, ())
            share = sum(v > threshold for v in found) / max(len(found), 1)
            for end, y in enumerate((top, top + grid.row)):
                order = {"order": 2 * number + end, "group": grid.groups[number]}
                place = {"x": share, "y": y, **order}
                rows.append({"threshold": f"{threshold:g}", **place})
    return rows


def heat_map(
    state: State,
    grid: Grid,
    color: Any,
    *,
    width: int,
    ordered: bool,
    thresholds: Sequence[float] = (),
    titled: bool = False,
    first: bool = True,
    last: bool = True,
) -> Any:
    """One map: rows are layers, columns channels, in their order or from the most open on.

    Args:
        state: whose scores.
        grid: where its rows lie.
        color: of :meth:`Ink.color`.
        width: in pixels.
        ordered: whether the channels of each row are sorted.
        thresholds: where lines are drawn, in a map that is sorted.
        titled: whether it is told above whose it is.
        first: whether it is the first of its row, which names the layers.
        last: whether it is the last of its row, which tells the number of channels.
    """
    alt = altair()
    height = grid.height
    y_scale = alt.Scale(domain=[0, height], reverse=True, nice=False, zero=False)
    shared, labels = short(grid.names)
    axis = _row_axis(grid, labels, shared) if first else None

    def place(field: str) -> Any:  # a layer that said less about the axis would undo it
        return alt.Y(f"{field}:Q", scale=y_scale, axis=axis)

    quarters = alt.Axis(values=[0, 0.25, 0.5, 0.75, 1], format=".0%", grid=False, labelFlush=True)
    said = "channels by score, share of each row" if ordered else "channels in their order"
    x = alt.X(
        "x:Q",
        scale=alt.Scale(domain=[0, 1], nice=False),
        title=said,
        axis=quarters if ordered else alt.Axis(labels=False, ticks=False, grid=False),
    )
    cells = (
        alt.Chart(alt.Data(values=tuple(cell_rows(state, grid, ordered))))
        .transform_flatten(["i", "channel", "t"])
        .transform_calculate(
            x="datum.i / datum.n", x2="min(1, (datum.i + 1.6 * datum.step) / datum.n)"
        )
        .mark_rect(strokeWidth=0, opacity=1)
        .encode(
            x=x,
            x2="x2:Q",
            y=place("top"),
            y2="bottom:Q",
            color=color,
            tooltip=[
                alt.Tooltip("layer:N"),
                alt.Tooltip("channel:N"),
                alt.Tooltip("t:Q", title="score", format=".3~g"),
            ],
        )
    )
    layers = [cells]
    if ordered and thresholds:
        layers += _lines_at(mark_rows(state, grid, thresholds), thresholds, place("y"))
    if last:
        layers += _counts(widths([state]), grid, width, place("y"))
    chart = alt.layer(*layers, view=alt.ViewConfig(stroke=None))
    chart = chart.properties(width=width, height=height)
    return chart.properties(title=_title(state)) if titled else chart


def _title(state: State) -> Any:
    return altair().TitleParams(
        state.title,
        subtitle=[state.about],
        fontSize=12,
        fontWeight=600,
        subtitleFontSize=11,
        subtitlePadding=2,
        anchor="start",
        frame="group",
        offset=6,
    )


def _row_axis(grid: Grid, labels: Sequence[str], title: str) -> Any:
    every = math.ceil(LABEL / grid.row)
    middles = [top + grid.row / 2 for top in grid.tops][::every]
    names = "[" + ", ".join(_quoted(label) for label in labels[::every]) + "]"
    return altair().Axis(
        title=title or None,
        values=middles,
        labelExpr=f"{names}[indexof({middles}, datum.value)]",
        labelFontSize=10,
        labelOverlap=False,
        labelLimit=190,
        ticks=False,
        domain=False,
        grid=False,
    )


def _lines_at(rows: list[Row], thresholds: Sequence[float], y: Any) -> list[Any]:
    """Lines through the rows where the score falls below each threshold, light around dark."""
    alt = altair()
    names = [f"{t:g}" for t in thresholds]
    dashes = [[1, 0], [5, 3], [1.5, 2.5]]
    base = alt.Chart(alt.Data(values=tuple(rows))).encode(
        x=alt.X("x:Q"),
        y=y,
        order="order:Q",
        detail=["threshold:N", "group:N"],
    )
    dash = alt.StrokeDash(
        "threshold:N",
        title=["left of the line:", "above the threshold"],
        scale=alt.Scale(domain=names, range=dashes[: len(names)]),
        legend=alt.Legend(symbolType="stroke", symbolStrokeColor=INK, symbolSize=250),
    )
    halo = base.mark_line(color="white", strokeWidth=3.6, strokeOpacity=0.85)
    return [halo, base.mark_line(color="#111111", strokeWidth=1.5).encode(strokeDash=dash)]


def _counts(sizes: Mapping[str, int], grid: Grid, width: int, y: Any) -> list[Any]:
    """How many channels rows have, beside each stretch of rows that have equally many."""
    alt = altair()
    stretches: list[list[int]] = []
    counts = [sizes.get(name, 0) for name in grid.names]
    for number, count in enumerate(counts):
        if not stretches or counts[stretches[-1][0]] != count:
            stretches.append([number])
        stretches[-1].append(number)
    rows: list[Row] = [
        {
            "y": (grid.tops[s[0]] + grid.tops[s[-1]] + grid.row) / 2,
            "text": f"{counts[s[0]]} ch.",
            "high": grid.tops[s[-1]] + grid.row - grid.tops[s[0]],
        }
        for s in stretches
    ]
    if min(row["high"] for row in rows) < COUNT_LEAST:
        return []
    return [
        alt.Chart(alt.Data(values=tuple(rows)))
        .mark_text(align="left", fontSize=10, color="#555555", clip=False)
        .encode(x=alt.value(width + 6), y=y, text="text:N")
    ]


def _lines(text: str) -> list[str]:
    """A title in two lines, broken near its middle."""
    words = text.split()
    half = (len(words) + 1) // 2
    return [" ".join(part) for part in (words[:half], words[half:]) if part]


def _quoted(text: str) -> str:
    """A string of the Vega language."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", " ") + "'"
