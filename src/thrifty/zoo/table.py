"""A table of columns: the index of a zoo, without a package for tables.

A column is a numpy array: whole numbers (int64, or uint64 where they need it), numbers (float64,
NaN where there is none), yes or no (bool) or text (objects that are str).
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thrifty.errors import MissingExtra, UnknownName, UserError
from thrifty.registry import suggest

Column = NDArray[Any]


class Table:
    """Columns of one length, by name.

    >>> table = Table({"model": np.arange(3), "lr": np.array([1e-3, 1e-4, 1e-3])})
    >>> len(table), table.columns, table["lr"].max()
    (3, ('model', 'lr'), np.float64(0.001))
    """

    def __init__(self, columns: Mapping[str, Column]):
        self._columns = dict(columns)
        lengths = {len(c) for c in self._columns.values()}
        if len(lengths) > 1:
            raise UserError(f"columns of a table are of one length and not of {sorted(lengths)}")
        self._length = lengths.pop() if lengths else 0

    def __len__(self) -> int:
        return self._length

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def __getitem__(self, name: str) -> Column:
        """A column.

        Raises:
            UnknownName: there is none of that name; the message offers the closest.
        """
        if name not in self._columns:
            raise UnknownName(f"no column is called {name!r}; {suggest(name, self._columns)}")
        return self._columns[name]

    def get(self, name: str) -> Column | None:
        """A column, or ``None`` where there is none of that name."""
        return self._columns.get(name)

    def __repr__(self) -> str:
        return f"<{len(self):,} rows of {', '.join(self._columns) or 'nothing'}>"

    @property
    def columns(self) -> tuple[str, ...]:
        """Names, in order."""
        return tuple(self._columns)

    def take(self, chosen: NDArray[Any]) -> "Table":
        """Some of the rows: of a bool a row, those that are True, or rows by number."""
        return Table({name: column[chosen] for name, column in self._columns.items()})

    def to_rows(self) -> list[dict[str, Any]]:
        """A dictionary of plain values for each row."""
        lists = [column.tolist() for column in self._columns.values()]
        return [dict(zip(self._columns, row, strict=True)) for row in zip(*lists, strict=True)]

    def to_dict(self) -> dict[str, Column]:
        """The columns; a dictionary of its own, of the same arrays."""
        return dict(self._columns)

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame``.

        Raises:
            MissingExtra: pandas is not installed.
        """
        return _package("pandas", "a data frame of pandas").DataFrame(self._columns)

    def to_polars(self) -> Any:
        """A ``polars.DataFrame``.

        Raises:
            UserError: polars is not installed.
        """
        try:
            polars = importlib.import_module("polars")
        except ImportError:
            raise UserError(
                "to_polars needs the package 'polars', which is not installed; run: pip install "
                "polars, or take to_pandas() or to_rows()"
            ) from None
        lists = {name: c.tolist() if c.dtype == object else c for name, c in self._columns.items()}
        return polars.DataFrame(lists)


def column_of(values: Sequence[Any]) -> Column:
    """A column of plain values; ``None`` is NaN among numbers and empty among texts.

    Raises:
        UserError: the values are not of one kind.
    """
    kinds = {type(v) for v in values}
    if str in kinds and kinds <= {str, type(None)}:
        column = np.empty(len(values), object)
        same: dict[str, str] = {}  # one object a text, for most are alike
        column[:] = [same.setdefault(v, v) for v in (v or "" for v in values)]
        return column
    if kinds == {bool}:
        return np.array(values, np.bool_)
    if kinds == {int}:
        least, most = min(values), max(values)
        if least >= -(1 << 63) and most < 1 << 63:
            return np.array(values, np.int64)
        if least >= 0 and most < 1 << 64:
            return np.array(values, np.uint64)
        raise UserError(f"the whole numbers {least} to {most} are of more than 64 bits")
    if kinds <= {int, float, type(None)}:
        return np.array([np.nan if v is None else v for v in values], np.float64)
    found = ", ".join(sorted(k.__name__ for k in kinds))
    raise UserError(f"values of a column are of one kind, and these are {found}")


def joined(tables: Sequence[Table]) -> Table:
    """The rows of all tables; what a table has no column for is NaN, False or empty.

    Raises:
        UserError: a column is text in one table and numbers in another.
    """
    names = list(dict.fromkeys(name for table in tables for name in table.columns))
    return Table({name: _joined(name, tables) for name in names})


def _joined(name: str, tables: Sequence[Table]) -> Column:
    parts = [t.get(name) for t in tables]
    kinds = {p.dtype.kind for p in parts if p is not None and len(p)}
    if "O" in kinds and len(kinds) > 1:
        raise UserError(f"the column {name!r} is text in some rows and numbers in others")
    blank: Any = "" if "O" in kinds else False if kinds == {"b"} else np.nan
    kind = object if "O" in kinds else np.bool_ if kinds == {"b"} else np.float64
    filled = [
        np.full(len(t), blank, kind) if p is None else p
        for p, t in zip(parts, tables, strict=True)
        if len(t)
    ]
    return np.concatenate(filled) if filled else np.empty(0, np.float64)


def _package(name: str, purpose: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtra("data", name, purpose) from None
