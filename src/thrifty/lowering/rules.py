"""Which rule turns which operator into operations of a program.

A rule takes the builder and a call, and gives what the call gives, or None where the operator's
arguments are none that a kind has; it is then a fallback.  Rules see values of float32 only, unless
they ask for all (``moves``: they move elements and do not look at them).
"""

from collections.abc import Callable
from typing import Any

from thrifty.lowering.building import Builder, Call

Rule = Callable[[Builder, Call], Any]

RULES: dict[str, Rule] = {}
MOVES: set[str] = set()
"""Operators whose rules take values of any type."""


def rule(*targets: str, moves: bool = False) -> Callable[[Rule], Rule]:
    """Register a function for operators of aten, such as ``relu.default``."""

    def add(function: Rule) -> Rule:
        for target in targets:
            RULES[f"aten.{target}"] = function
            if moves:
                MOVES.add(f"aten.{target}")
        return function

    return add
