"""Models: how accurate the networks of a zoo are, and how they got there."""

from typing import Any

import numpy as np

from thrifty.report.extra import altair
from thrifty.report.look import WIDTH, finished
from thrifty.report.parts import COLORS
from thrifty.report.zoo_charts import ZOO_REPORTS
from thrifty.report.zoo_marks import (
    Row,
    band,
    counted,
    original_spread,
    outliers,
    padded,
    percent_axis,
    share_ends,
    spread_row,
    spread_text,
    title_of,
)
from thrifty.zoo.comparing import Comparison
from thrifty.zoo.levels import standing
from thrifty.zoo.statistics import Floats, Spread, quartiles

BINS, HEIGHT = 40, 200
SERIES = {"train_accuracy": "training", "val_accuracy": "validation", "test_accuracy": "test"}
SERIES_COLORS = {"training": COLORS[5], "validation": COLORS[2], "test": COLORS[0]}


@ZOO_REPORTS.entry("zoo")
def models_chart(study: Comparison) -> Any:
    """Test accuracy of the models at their last epoch: histogram, median and quartiles.

    Raises:
        MissingExtra: altair is not installed.
    """
    values = 100 * standing(study.last, "test_accuracy")
    values = values[np.isfinite(values)]
    if not values.size:
        return None
    low, high = padded(values.tolist(), share=0.02, least=2.0)
    ends = (max(0.0, low), min(100.0, high))
    spread = original_spread(study)
    about = [
        f"Median {100 * spread.median:.2f}, quartiles {100 * spread.q1:.2f} and "
        f"{100 * spread.q3:.2f}; box and whiskers below."
    ]
    title = title_of(f"Test accuracy of {counted(study)}", about)
    parts = [_histogram(values, ends), _box(values, spread, ends)]
    return finished(altair().vconcat(*parts, spacing=4).properties(title=title))


def _histogram(values: Floats, ends: tuple[float, float]) -> Any:
    alt = altair()
    counts, edges = np.histogram(values, min(BINS, max(5, values.size // 3)), range=ends)
    bars = [
        {"start": float(a), "end": float(b), "models": int(n)}
        for n, a, b in zip(counts, edges[:-1], edges[1:], strict=True)
    ]
    base = alt.Chart(alt.Data(values=tuple(bars)))
    return (
        base.mark_rect(color=COLORS[0], opacity=0.75, stroke="white", strokeWidth=0.6)
        .encode(
            x=_place("start", ends, axis=alt.Axis(labels=False)),
            x2="end:Q",
            y=alt.Y("models:Q", title="models", scale=alt.Scale(domainMin=0)),
            y2=alt.value(HEIGHT),
            tooltip=["start:Q", "end:Q", "models:Q"],
        )
        .properties(width=WIDTH, height=HEIGHT)
    )


def _box(values: Floats, spread: Spread, ends: tuple[float, float]) -> Any:
    """The box under the histogram, with whiskers, and dots beyond them."""
    alt = altair()
    ink = COLORS[0]
    row = spread_row(spread) | {"text": spread_text(spread, 2)}
    box = alt.Chart(alt.Data(values=[row]))
    layers = [
        box.mark_rule(strokeWidth=1.3, color=ink).encode(
            x=_place("low", ends, "test accuracy, %"), x2="high:Q"
        ),
        box.mark_bar(size=16, color=ink, fill="#cfe3f0", stroke=ink).encode(
            x=_place("q1", ends), x2="q3:Q", tooltip=["text:N"]
        ),
        box.mark_tick(size=16, thickness=2.2, opacity=1, color=ink).encode(
            x=_place("median", ends)
        ),
    ]
    beyond = [{"x": o} for o in outliers(values / 100, spread)]
    if beyond:
        dots = alt.Chart(alt.Data(values=tuple(beyond)))
        layers.append(dots.mark_circle(size=12, opacity=0.5, color=ink).encode(x=_place("x", ends)))
    return alt.layer(*layers).properties(width=WIDTH, height=34)


def _place(field: str, ends: tuple[float, float], title: str | None = None, **more: Any) -> Any:
    alt = altair()
    scale = alt.Scale(domain=list(ends), nice=False, zero=False)
    named = {} if title is None and not more else {"title": title}
    return alt.X(f"{field}:Q", scale=scale, **named, **more)


@ZOO_REPORTS.entry("zoo-learning")
def learning_chart(study: Comparison) -> Any:
    """Accuracy of the population after each epoch of training: median and quartiles.

    Raises:
        MissingExtra: altair is not installed.
    """
    epochs = np.asarray(study.original["epoch"])
    every = np.unique(epochs[epochs > 0])  # untrained, they would press the rest to one line
    if len(every) < 2:
        return None
    rows: list[Row] = []
    for name, said in SERIES.items():
        values = standing(study.original, name)
        for epoch in every:
            spread = quartiles(values[epochs == epoch])
            if spread.count:
                told = {"series": said, "epoch": int(epoch), "accuracy": spread_text(spread, 2)}
                rows.append(spread_row(spread) | told)
    if not rows:
        return None
    alt = altair()
    names = [said for said in SERIES.values() if any(row["series"] == said for row in rows)]
    x = alt.X(
        "epoch:Q",
        scale=alt.Scale(domain=[int(every[0]), int(every[-1])], nice=False),
        axis=alt.Axis(tickCount=min(10, len(every)), format="d"),
    )
    color = alt.Color(
        "series:N",
        title=None,
        scale=alt.Scale(domain=names, range=[SERIES_COLORS[name] for name in names]),
        legend=alt.Legend(orient="right", symbolType="square"),
    )
    y = percent_axis(share_ends([v for row in rows for v in (row["q1"], row["q3"])]), "accuracy, %")
    base = alt.Chart(alt.Data(values=tuple(rows))).encode(x=x, y=y("median"), color=color)
    tips = [alt.Tooltip(f"{n}:N") for n in ("series", "epoch", "accuracy", "models")]
    chart = alt.layer(
        band(rows, x, y, color, 0.2, ("q1", "q3")),
        base.mark_line(strokeWidth=1.8),
        base.mark_point(filled=True, size=14, opacity=1).encode(tooltip=tips),
    ).properties(width=WIDTH - 90, height=230)
    title = title_of(f"Learning curves of {counted(study)}", ["Median and quartiles."])
    return finished(chart.properties(title=title))
