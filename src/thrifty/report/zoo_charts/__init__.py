"""Charts of a zoo and of its sparse twins, one file each.

A chart is a function ``(study: Comparison) -> altair chart`` marked ``@ZOO_REPORTS.entry("name")``
in a file of this folder; it is then on every page of ``thrifty zoo report`` and written beside it.
It returns ``None`` where it has nothing to show.
"""

from collections.abc import Callable
from typing import Any

from thrifty.registry import Registry

ZOO_REPORTS: Registry[Callable[..., Any]] = Registry(
    "zoo report", "thrifty.report.zoo_charts", "thrifty.zoo_reports"
)

__all__ = ["ZOO_REPORTS"]
