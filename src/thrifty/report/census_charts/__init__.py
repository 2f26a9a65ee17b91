"""Charts of a census of weights, one file each.

A chart is a function ``(census: Census) -> altair chart`` marked ``@CENSUS_REPORTS.entry("name")``
in a file of this folder; it is then on every page of ``thrifty look`` and written beside it.  It
returns ``None`` where it has nothing to show.
"""

from collections.abc import Callable
from typing import Any

from thrifty.registry import Registry

CENSUS_REPORTS: Registry[Callable[..., Any]] = Registry(
    "census report", "thrifty.report.census_charts", "thrifty.census_reports"
)

__all__ = ["CENSUS_REPORTS"]
