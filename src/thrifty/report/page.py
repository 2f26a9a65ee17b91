"""One HTML file that holds a whole report: sentences, charts, table, conditions, terms.

It needs no network: Vega is inside it, once, and a content security policy forbids requests.
Each chart is there as a picture too, shown until its script has run, or if none may run.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

from thrifty.errors import MissingExtra
from thrifty.files import write_text
from thrifty.lab.front import Front
from thrifty.registry import call_spec, parse_spec
from thrifty.report import REPORTS
from thrifty.report.extra import altair, vl_convert
from thrifty.report.headline import MAX_DROP, headline, latency_text
from thrifty.report.parts import method_colors, pair_name, pairs
from thrifty.report.render import svg, vega_script

READABLE = 0.75
"""A chart shrinks to this share of its size and scrolls from there on, to stay legible."""
FRONTS = ("front", "front?of=bytes", "front?of=latency_us")
ORDER = ("layers", "agreement", "seeds")


def default_charts(front: Front) -> list[str]:
    """The charts worth drawing: the front over each measured cost, then every other report."""
    timed = any(r.latency_us is not None for r in front.records)
    fronts = [name for name in FRONTS if timed or "latency" not in name]
    return fronts + sorted((n for n in REPORTS.names() if n != "front"), key=_rank)


def _rank(name: str) -> tuple[int, str]:
    return (ORDER.index(name) if name in ORDER else len(ORDER)), name


def drawn(name: str, front: Front, colors: Mapping[str, str] | None = None) -> Any:
    """The chart of a spec such as ``front?of=bytes``.

    Raises:
        UnknownName: there is no such report, or it has no such option.
        MissingExtra: altair is not installed.
    """
    spec = parse_spec(name)
    return call_spec("report", spec, REPORTS.get(spec.name), front, defaults={"colors": colors})


def write_page(
    front: Front,
    path: Path,
    *,
    title: str,
    conditions: Mapping[str, object],
    charts: Sequence[str] | None = None,
) -> None:
    """Write the report as one HTML file, whole or not at all.

    Without the extra ``report`` the page has everything but charts, and says how to get them.

    Args:
        front: what was measured; each model and data set gets a section.
        path: the file to write.
        title: the heading.
        conditions: what the numbers hold for (machine, threads, versions); under ``recipe`` the
            recipe, as YAML text or as a mapping.
        charts: specs of reports, in order; :func:`default_charts` if not given.

    Raises:
        UnknownName: a chart is not registered.
    """
    names = default_charts(front) if charts is None else list(charts)
    colors = method_colors(front)
    missing, script = "", ""
    try:
        altair(), vl_convert()
    except MissingExtra as error:
        missing, names = str(error), []
    sections = [_section(part, names, colors) for part in pairs(front) or [front]]
    if any(section["charts"] for section in sections):
        script = vega_script()
    shown = {key: value for key, value in conditions.items() if key != "recipe"}
    text = _template().render(
        title=title,
        sections=sections,
        missing=missing,
        script=script,
        conditions=[(key, _plain(value)) for key, value in shown.items()],
        recipe=_yaml(conditions.get("recipe")),
    )
    write_text(path, text)


def _section(front: Front, names: Sequence[str], colors: Mapping[str, str]) -> dict[str, Any]:
    """What the template shows of one model and data set."""
    return {
        "name": pair_name(front),
        "headline": [text.replace("+-", "\u00b1") for text in headline(front)],
        "charts": [_chart(name, front, colors) for name in names] if front.records else [],
        **_table(front, colors),
    }


def _chart(name: str, front: Front, colors: Mapping[str, str]) -> dict[str, Any]:
    chart = drawn(name, front, colors)
    text = svg(chart)
    picture = base64.b64encode(text.encode()).decode()
    width = re.search(r'<svg[^>]*? width="([\d.]+)', text)
    spec = parse_spec(name)
    about = latency_text(front) if spec.options.get("of") == "latency_us" else ""
    return {
        "spec": chart.to_dict(),
        "picture": f"data:image/svg+xml;base64,{picture}",
        "about": about,
        "least": round(READABLE * float(width[1])) if width else 0,
        "name": f"{REPORTS.summary(spec.name)} ({pair_name(front)})",
    }


def _table(front: Front, colors: Mapping[str, str]) -> dict[str, Any]:
    """Columns and rows; a column in which nothing was measured is left out."""
    rows = front.table()
    columns = [c for c in (rows[0] if rows else []) if any(row[c] for row in rows)]
    best = {_id(p) for p in front.pareto("bytes")}
    pruned = front.pruned
    good = [p for p in pruned if p.drop <= MAX_DROP]
    pick = _id(front.pick(MAX_DROP, "bytes")) if good else None
    return {
        "columns": columns,
        "rows": [
            {
                "cells": [row[c].replace("+-", "\u00b1") for c in columns],
                "color": colors.get(point.method, ""),
                "best": point in pruned and _id(point) in best,
                "pick": point in pruned and _id(point) == pick,
            }
            for point, row in zip(front.points, rows, strict=True)
        ],
    }


def _id(point: Any) -> tuple[str, float]:
    """What tells a point from the others of its model and data set."""
    return point.method, point.level


def _template() -> Any:
    text = resources.files("thrifty.report").joinpath("page.html.jinja").read_text("utf-8")
    return Environment(autoescape=True, undefined=StrictUndefined).from_string(text)


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple | set):
        return ", ".join(_plain(item) for item in value)
    return "not known" if value is None else str(value)


def _yaml(recipe: object) -> str:
    if recipe is None or isinstance(recipe, str):
        return recipe or ""
    try:
        return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    except yaml.YAMLError:
        return str(recipe)
