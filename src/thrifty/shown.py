"""How results show themselves: as a dictionary, a data frame, a table in notebook or terminal."""

import dataclasses
import html
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from thrifty.errors import MissingExtra

if TYPE_CHECKING:
    import pandas


class Shown:
    """A dataclass that inherits from this has ``to_dict``, ``to_pandas`` and a notebook view."""

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, as JSON could hold them."""
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]

    def to_rows(self) -> list[dict[str, Any]]:
        """The rows of the table that shows this; one row unless a class says otherwise."""
        return [self.to_dict()]

    def to_pandas(self) -> "pandas.DataFrame":
        """The rows as a data frame.

        Raises:
            MissingExtra: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise MissingExtra("data", "pandas", "to_pandas()") from None
        return pandas.DataFrame(self.to_rows())

    def _repr_html_(self) -> str:
        return html_table(self.to_rows())


def filled(rows: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """``rows`` without the columns in which every cell is empty.

    Example:
        >>> filled([{"layer": "fc", "nan": ""}])
        [{'layer': 'fc'}]
    """
    kept = [c for c in (rows[0] if rows else {}) if any(row[c] for row in rows)]
    return [{c: row[c] for c in kept} for row in rows]


def html_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """An HTML table with a column for every key of the first row; values are escaped."""
    if not rows:
        return "<p>nothing</p>"
    columns = list(rows[0])
    head = "".join(f"<th>{html.escape(str(c))}</th>" for c in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_cell(row.get(c)))}</td>" for c in columns) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def text_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows as text with columns aligned: the first to the left, numbers to the right.

    Example:
        >>> print(text_table([{"method": "dense", "bytes": "13,010"}]))
        method   bytes
        dense   13,010
    """
    if not rows:
        return "nothing was measured"
    columns = list(rows[0])
    widths = [max(len(c), *(len(r[c]) for r in rows)) for c in columns]
    lines = [dict(zip(columns, columns, strict=True)), *rows]
    return "\n".join(
        "  ".join(
            line[c].ljust(w) if i == 0 else line[c].rjust(w)
            for i, (c, w) in enumerate(zip(columns, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def columns(rows: Mapping[str, str]) -> str:
    """Names and what is said of them, a line each.

    Example:
        >>> print(columns({"lenet": "LeNet-5", "vgg": "VGG"}))
        lenet  LeNet-5
        vgg    VGG
    """
    width = max(map(len, rows), default=0) + 2
    return "\n".join(f"{name:{width}}{text}".rstrip() for name, text in rows.items())


def printable(text: str) -> str:
    r"""``text`` with what a terminal would obey, or cannot show, written as an escape.

    Names come out of files of anybody, and may hold line ends and terminal commands.

    Example:
        >>> printable("fc" + chr(27) + "[2J.weight")
        'fc\\x1b[2J.weight'
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def to_json(value: Any) -> str:
    """JSON that any reader takes: it knows no NaN and no infinity, which become null.

    Example:
        >>> print(to_json([1, float("nan")]))
        [
          1,
          null
        ]
    """
    text = json.dumps(value)
    return json.dumps(json.loads(text, parse_constant=lambda _: None), indent=2)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)
