"""Agreement: do twins answer as their originals do, and more than their accuracies force?"""

from collections.abc import Sequence
from typing import Any

from thrifty.report.extra import altair
from thrifty.report.look import WIDTH, finished
from thrifty.report.parts import DENSE_COLOR
from thrifty.report.zoo_charts import ZOO_REPORTS
from thrifty.report.zoo_marks import (
    Row,
    band,
    counted,
    headed,
    method_colors,
    padded,
    percent_axis,
    sparsity_axis,
    spread_row,
    spread_text,
    title_of,
)
from thrifty.zoo.comparing import Comparison
from thrifty.zoo.levels import Level
from thrifty.zoo.statistics import quartiles

ERRORS = "#7a5195"


@ZOO_REPORTS.entry("twins-agreement")
def agreement_chart(study: Comparison) -> Any:
    """Agreement of twins with their originals, plain and Cohen's kappa, in its possible range.

    Raises:
        MissingExtra: altair is not installed.
    """
    alt = altair()
    rows = {m: [r for level in study.path(m) for r in _row(level)] for m in study.methods}
    rows = {method: own for method, own in rows.items() if own}
    if not rows:
        return None
    every = [row for own in rows.values() for row in own]
    ends = padded([v for r in every for v in (r["least"], r["q1"], r["kappa"], r["errors"]) if v])
    domain = (max(0.0, min(ends[0], 90.0)), 100.0)
    width = (WIDTH - 40) // len(rows) - 30
    panels = [
        _panel(method, own, method_colors(study)[method], domain, width, first=not i)
        for i, (method, own) in enumerate(rows.items())
    ]
    about = [
        "Solid: share of test inputs given the same class (median, bars: quartiles).",
        "Grey: the range that the two accuracies allow whatever was learned (medians).",
    ]
    if any(row["kappa"] is not None for row in every):
        about.append("Diamonds: Cohen's kappa, agreement beyond that of guessers.")
    if any(row["errors"] is not None for row in every):
        about[-1] += " Crosses: same class among the inputs that both get wrong."
    title = title_of(f"Agreement of twins and originals, {counted(study)}", about)
    return finished(alt.hconcat(*panels, spacing=22).properties(title=title))


def _row(level: Level) -> list[Row]:
    """The row of a level; none where its agreement is not known."""
    agreed, sparsity = quartiles(level.agreement), quartiles(level.sparsity)
    if not agreed.count or not sparsity.count:
        return []
    low, high = (quartiles(end) for end in level.range)
    kappa, errors = quartiles(level.kappa), quartiles(level.error_agreement)
    row = spread_row(agreed) | {
        "method": level.method,
        "level": level.name,
        "x": 100 * sparsity.median,
        "order": 100 * level.asked if level.chosen else level.epoch,
        "least": 100 * low.median if low.count else None,
        "top": 100 * high.median if high.count else None,
        "kappa": 100 * kappa.median if kappa.count else None,
        "errors": 100 * errors.median if errors.count else None,
        "agreement": spread_text(agreed),
        "possible": f"{100 * low.median:.1f} to {100 * high.median:.1f}" if low.count else "-",
    }
    return [row]


def _panel(
    method: str,
    rows: Sequence[Row],
    color: str,
    domain: tuple[float, float],
    width: int,
    first: bool,
) -> Any:
    alt = altair()
    x = sparsity_axis()
    y = percent_axis(domain, "percent" if first else None)
    base = alt.Chart(alt.Data(values=tuple(rows))).encode(x=x, color=alt.value(color))
    allowed = [row for row in rows if row["least"] is not None]
    tips = [alt.Tooltip(f"{n}:N") for n in ("method", "level", "agreement", "possible", "models")]
    layers = [
        band(allowed, x, y, DENSE_COLOR, 0.16, ("least", "top")),
        base.mark_rule(strokeWidth=1.4, clip=True).encode(y=y("q1"), y2="q3:Q"),
        base.mark_line(strokeWidth=1.6, clip=True).encode(y=y("median"), order="order:Q"),
        base.mark_point(filled=True, size=34, opacity=1, clip=True).encode(
            y=y("median"), tooltip=tips
        ),
    ]
    for name, shape, ink in (("kappa", "diamond", color), ("errors", "cross", ERRORS)):
        known = [row for row in rows if row[name] is not None]
        if known:
            other = alt.Chart(alt.Data(values=tuple(known))).encode(
                x=x, y=y(name), color=alt.value(ink)
            )
            layers += [
                other.mark_line(strokeDash=[4, 3], strokeWidth=1.2, clip=True).encode(
                    order="order:Q"
                ),
                other.mark_point(shape=shape, filled=True, size=46, opacity=1, clip=True).encode(
                    tooltip=tips
                ),
            ]
    return headed(layers, method).properties(width=width, height=230)
