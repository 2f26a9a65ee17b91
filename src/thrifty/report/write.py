"""A folder of report files: the page, and each chart as SVG and PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from thrifty.errors import UserError
from thrifty.lab.front import Front
from thrifty.registry import parse_spec
from thrifty.report.extra import altair, vl_convert
from thrifty.report.page import default_charts, drawer, write_page
from thrifty.report.render import write_pictures

Format = Literal["html", "svg", "png"]
FORMATS: tuple[Format, ...] = ("html", "svg", "png")


def write_report(
    front: Front,
    folder: Path,
    *,
    title: str,
    conditions: Mapping[str, object],
    formats: Sequence[Format] = FORMATS,
) -> list[Path]:
    """Write ``report.html`` and ``front.svg``, ``front-packed_bytes.svg``, ``layers.png``, ... .

    Each file is whole or absent.  Without the extra ``report`` only the page is written, without
    charts, and it says how to get them.

    Args:
        front: what was measured.
        folder: made if it is not there.
        title: the heading of the page.
        conditions: as in :func:`thrifty.report.page.write_page`.
        formats: which of :data:`FORMATS` to write.

    Returns:
        The files that were written.

    Raises:
        UserError: a format is unknown.
        MissingExtra: pictures alone are asked for and altair or vl-convert is not installed.
    """
    for wanted in formats:
        if wanted not in FORMATS:
            raise UserError(f"no report format is called {wanted!r}; there is {', '.join(FORMATS)}")
    folder, found, draw = Path(folder), [], drawer(front)
    if "html" in formats:
        found.append(folder / "report.html")
        write_page(front, found[0], title=title, conditions=conditions, draw=draw)
    try:
        altair(), vl_convert()
    except ImportError:
        if found:
            return found
        raise
    names = default_charts(front) if {"svg", "png"} & set(formats) else []
    return found + write_pictures({file_stem(n): draw(n, front) for n in names}, folder, formats)


def file_stem(name: str) -> str:
    """The file name of a spec: ``front?of=latency_us`` is in ``front-latency_us``."""
    spec = parse_spec(name)
    return "-".join([spec.name, *(str(value) for value in spec.options.values())])
