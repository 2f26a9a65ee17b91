"""Gates: how far open each channel's gate is, block by block."""

from collections.abc import Sequence
from typing import Any

from thrifty.lab.front import Front
from thrifty.report import REPORTS
from thrifty.report.extra import altair
from thrifty.report.gate_maps import Grid, Ink, heat_map, marks, widths
from thrifty.report.gate_states import CLOSED, State, closed, left_out, states, what
from thrifty.report.look import finished, note
from thrifty.report.parts import pair_name, pairs

COLUMNS = 3
CARRY = ", so what is given to them is passed on as it is"
WIDTHS = {1: 320, 2: 320, 3: 232}
"""Networks side by side, and the width of the map of each."""


@REPORTS.entry("gates")
def gates_chart(front: Front, *, seed: int | None = None) -> Any:
    """How open the gate of each channel is: maps of blocks by channels, in order and sorted.

    All maps have one scale of colours, so networks trained with and without an incentive to close
    gates, of one run or of several, can be compared.  Lines show what thresholds would leave.

    Args:
        front: what was measured; several models and data sets give a picture each.
        seed: whose channels are drawn; the first that was read if not given.

    Returns:
        An Altair chart.

    Raises:
        MissingExtra: altair is not installed.
    """
    alt = altair()
    parts = [part for part in pairs(front) if part.readings]
    if not parts:
        return finished(note("no gates of channels were trained or measured"))
    drawn = [_maps(part, seed) for part in parts]
    if len(drawn) == 1:
        return finished(drawn[0])
    apart = {"color": "independent", "strokeDash": "independent"}
    return finished(alt.vconcat(*drawn, spacing=36).resolve_scale(**apart))


def _maps(front: Front, seed: int | None) -> Any:
    alt = altair()
    title, found = f"Gates of the channels: {pair_name(front)}", states(front, seed)
    if not found:
        return note(" ".join(left_out(front)), title)
    grid, color = Grid.of(found), Ink.of(found).color(what(front))
    common = {"grid": grid, "color": color, "thresholds": marks(front)}
    if len(found) == 1:
        chart = _alone(found[0], common)
    else:
        columns = 2 if len(found) == 4 else min(len(found), COLUMNS)
        width = WIDTHS[columns]
        rows = [found[i : i + columns] for i in range(0, len(found), columns)]
        bands = [_beside(row, common, width) for row in rows]
        chart = bands[0] if len(bands) == 1 else alt.vconcat(*bands, spacing=24)
    title = alt.TitleParams(title, subtitle=_about(front, found, grid))
    return chart.resolve_scale(color="shared", strokeDash="shared").properties(title=title)


def _alone(state: State, common: dict[str, Any]) -> Any:
    """Both maps of one network side by side."""
    left = heat_map(state, **common, width=WIDTHS[1], ordered=False, last=False, titled=True)
    right = heat_map(state, **common, width=WIDTHS[1], ordered=True, first=False)
    return altair().hconcat(left, right, spacing=18)


def _beside(row: Sequence[State], common: dict[str, Any], width: int) -> Any:
    """The maps of several networks, a column each: in order above, sorted below."""
    alt = altair()
    columns = []
    for number, state in enumerate(row):
        ends: dict[str, Any] = {
            "width": width,
            "first": number == 0,
            "last": number == len(row) - 1,
        }
        above = heat_map(state, **common, **ends, ordered=False, titled=True)
        below = heat_map(state, **common, **ends, ordered=True)
        columns.append(alt.vconcat(above, below, spacing=10))
    return alt.hconcat(*columns, spacing=18)


def _about(front: Front, found: Sequence[State], grid: Grid) -> list[str]:
    """The sentences under the title."""
    lines = ["Rows: layers in network order, all drawn equally wide. Columns: their channels."]
    if max(widths(found).values()) > grid.most:
        lines[0] += f" Of more than {grid.most} channels, cells are means of neighbours."
    for state in found:
        shut = closed(state)
        if shut:
            whose = f"{state.title}: " if len(found) > 1 else ""
            are = "is" if len(shut) == 1 else "are"
            lines.append(
                f"{whose}{len(shut)} of {len(state.values)} rows {are} closed (mean under "
                f"{CLOSED:g}){CARRY if state.carries else ''}."
            )
    return lines + left_out(front)
