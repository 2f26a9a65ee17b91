"""What ``zoo.where("act == 'tanh' and lr > 1e-4")`` understands.

A small language in Python's spelling, parsed by Python and never run: comparisons, also chained;
``in`` and ``not in`` of a list; ``and``, ``or``, ``not``; names of columns, numbers, texts, True
and False.  Anything else is an error that says so.

Numbers compare as float32 where a column is float, for hyper-parameters are used as such:
``lr == 1e-4`` finds 1e-4 whether it was kept in 4 or in 8 bytes.  NaN compares unequal to all, so
``asked != asked`` finds rows without a number.
"""

import ast
import operator
from collections.abc import Callable
from functools import reduce
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from thrifty.errors import UnknownName, UserError
from thrifty.registry import suggest
from thrifty.zoo.table import Table

MOST_CHARACTERS = 10_000
Truth = NDArray[np.bool_]

_COMPARES: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ALLOWED = "comparisons, in, and, or, not, names of columns, numbers and texts in quotes"


def rows_where(table: Table, expression: str) -> Truth:
    """(rows,) True where the expression holds.

    Raises:
        UserError: it cannot be read, names an unknown column, or compares text with numbers.

    Example:
        >>> table = Table({"lr": np.array([1e-3, 1e-4]), "epoch": np.array([5, 6])})
        >>> rows_where(table, "lr > 5e-4 or epoch in (6, 7)").tolist()
        [True, True]
    """
    if not isinstance(expression, str) or len(expression) > MOST_CHARACTERS:
        raise UserError(
            f'where takes a text of at most {MOST_CHARACTERS:,} characters, such as "lr > 1e-4"'
        )
    try:
        tree = ast.parse(expression.strip(), mode="eval")
        return _Asked(table, expression).truth(tree.body)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        what = getattr(error, "msg", None) or "it is nested too deeply"
        raise UserError(
            f"{_short(expression)} cannot be read: {what}; it takes {_ALLOWED}"
        ) from None


class _Asked:
    """One expression about one table."""

    def __init__(self, table: Table, text: str):
        self.table, self.text = table, text

    def truth(self, node: ast.expr) -> Truth:
        """A node that is true or false of each row."""
        if isinstance(node, ast.BoolOp):
            joining = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
            found: Truth = reduce(joining, [self.truth(each) for each in node.values])
            return found
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return ~self.truth(node.operand)
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            pairs = zip(node.ops, sides, sides[1:], strict=False)
            all_hold: Truth = reduce(np.logical_and, [self._compared(o, a, b) for o, a, b in pairs])
            return all_hold
        value = self._value(node)
        if isinstance(value, bool):
            return np.full(len(self.table), value)
        if isinstance(value, np.ndarray) and value.dtype == np.bool_:
            return value
        return _refuse(self.text, node, "is neither true nor false; compare it with something")

    def _compared(self, op: ast.cmpop, left: ast.expr, right: ast.expr) -> Truth:
        a = self._value(left)
        if isinstance(op, ast.In | ast.NotIn):
            if not isinstance(right, ast.Tuple | ast.List | ast.Set):
                _refuse(self.text, right, "stands after 'in', where a list belongs: (1e-3, 1e-4)")
            none = np.zeros(len(self.table), np.bool_)
            each = (self._pair(operator.eq, a, self._value(x), x) for x in right.elts)
            found = reduce(np.logical_or, each, none)
            return found if isinstance(op, ast.In) else ~found
        if type(op) not in _COMPARES:
            _refuse(self.text, right, "is compared with 'is'; write == or !=")
        return self._pair(_COMPARES[type(op)], a, self._value(right), right)

    def _pair(self, op: Callable[[Any, Any], Any], a: Any, b: Any, node: ast.expr) -> Truth:
        if _text(a) != _text(b):
            _refuse(self.text, node, "is compared with another kind: one is text and one is not")
        if _text(a) and op not in (operator.eq, operator.ne):
            _refuse(self.text, node, "is text, which has no order; compare it with == or in")
        if _float(a) or _float(b):
            with np.errstate(over="ignore"):
                a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        return np.array(np.broadcast_to(op(a, b), (len(self.table),)), np.bool_)

    def _value(self, node: ast.expr) -> Any:
        """A column or a plain value."""
        if isinstance(node, ast.Name):
            return self._column(node.id)
        if isinstance(node, ast.Constant) and type(node.value) in (bool, float, str):
            return node.value
        if isinstance(node, ast.Constant) and type(node.value) is int:
            if abs(node.value) >= 1 << 64:
                _refuse(self.text, node, "is more than any column holds")
            return node.value
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            value = self._value(node.operand)
            if type(value) in (int, float):
                return -value
        return _refuse(self.text, node, f"is not understood; this takes {_ALLOWED}")

    def _column(self, name: str) -> Any:
        if name not in self.table:
            raise UnknownName(
                f"{_short(self.text)} names {name!r}, and the index has no such column; "
                f"{suggest(name, self.table.columns)}  A text is written in quotes: '{name}'"
            )
        return self.table[name]


def _refuse(text: str, node: ast.AST, why: str) -> NoReturn:
    part = ast.get_source_segment(text.strip(), node) or text
    raise UserError(f"{_short(text)}: {_short(part)} {why}")


def _text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, np.ndarray) and value.dtype == object)


def _float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _short(text: str) -> str:
    return ascii(text if len(text) <= 80 else f"{text[:77]}...")
