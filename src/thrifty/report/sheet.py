"""The HTML page that every report is laid out on: sentences, charts, tables, conditions, terms.

It needs no network: Vega is inside it, once, and a content security policy forbids requests.
Each chart is there as a picture too, shown until its script has run, or if none may run.
"""

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

from thrifty.errors import MissingExtra
from thrifty.files import write_text
from thrifty.report.extra import altair, vl_convert
from thrifty.report.render import Drawn, vega_script

READABLE = 0.75
"""A chart shrinks to this share of its size and scrolls from there on, to stay legible."""

Part = dict[str, Any]


def lacking() -> str:
    """Why no chart can be drawn here, and how to mend it; empty if charts can be drawn."""
    try:
        altair(), vl_convert()
    except MissingExtra as error:
        return str(error)
    return ""


def section(
    name: str,
    sentences: Sequence[str] = (),
    charts: Sequence[Part] = (),
    tables: Sequence[Part] = (),
) -> Part:
    """A part of a page; its name is shown where there are several."""
    plain = [sentence.replace("+-", "\u00b1") for sentence in sentences]
    return {"name": name, "headline": plain, "charts": list(charts), "tables": list(tables)}


def figure(chart: Drawn, name: str, about: str = "") -> Part:
    """A chart for a section.

    Args:
        chart: that it shows.
        name: what it shows, for whoever cannot see it.
        about: a caption.
    """
    text = chart.svg
    picture = base64.b64encode(text.encode()).decode()
    width = re.search(r'<svg[^>]*? width="([\d.]+)', text)
    return {
        "spec": chart.spec,
        "picture": f"data:image/svg+xml;base64,{picture}",
        "about": about,
        "least": round(READABLE * float(width[1])) if width else 0,
        "name": name,
    }


def table(
    title: str,
    rows: Sequence[Mapping[str, str]],
    note: str = "",
    marks: Callable[[int], Part] | None = None,
) -> Part:
    """A table for a section; a column in which every cell is empty is left out.

    Args:
        title: above it.
        rows: cells by column, all rows with the columns of the first.
        note: below it.
        marks: for a row's number, its ``color``, and whether it is ``best`` or the ``pick``.
    """
    columns = [c for c in (rows[0] if rows else []) if any(row[c] for row in rows)]
    plain: Part = {"color": None, "best": False, "pick": False}
    return {
        "title": title,
        "note": note,
        "columns": columns,
        "rows": [
            {"cells": [row[c].replace("+-", "\u00b1") for c in columns]}
            | plain
            | (marks(number) if marks else {})
            for number, row in enumerate(rows)
        ],
    }


def write_sheet(
    path: Path,
    *,
    title: str,
    sections: Sequence[Part],
    conditions: Mapping[str, object],
    terms: Mapping[str, str],
) -> None:
    """Write a page, whole or not at all.

    Args:
        path: the file to write.
        title: the heading.
        sections: of :func:`section`.
        conditions: what the numbers hold for (machine, threads, versions); under ``recipe`` the
            recipe, as YAML text or as a mapping.
        terms: words and what they mean here.
    """
    missing = lacking()
    drawn = any(part["charts"] for part in sections)
    shown = {key: value for key, value in conditions.items() if key != "recipe"}
    text = _template().render(
        title=title,
        sections=sections,
        missing=missing,
        script=vega_script() if drawn and not missing else "",
        conditions=[(key, _plain(value)) for key, value in shown.items()],
        recipe=_yaml(conditions.get("recipe")),
        terms=list(terms.items()),
    )
    write_text(path, text)


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
