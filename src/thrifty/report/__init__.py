"""Reports: charts of a front, and the page that holds them.

A report is a function ``(front: Front, *, ...) -> altair chart``.  To add one, put one file in
``thrifty/report/charts/`` with a function marked ``@REPORTS.entry("name")``: it is then drawn on
every page and written beside it.  It must take a front with no record, and it imports altair
through :func:`thrifty.report.extra.altair`, inside the function, because altair is an extra.
An optional keyword ``colors`` receives the colour of each method, so that all charts agree.
"""

from collections.abc import Callable
from typing import Any

from thrifty.registry import Registry

REPORTS: Registry[Callable[..., Any]] = Registry(
    "report", "thrifty.report.charts", "thrifty.reports"
)

__all__ = ["REPORTS"]
