"""How results show themselves: as a dictionary, as a data frame, as a table in a notebook."""

import dataclasses
import html
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


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)
