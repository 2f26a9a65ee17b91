"""Agreement: does the pruned network still answer as its dense parent did?"""

from collections.abc import Mapping
from typing import Any

from thrifty.lab.front import Front
from thrifty.report import REPORTS
from thrifty.report.look import each_pair
from thrifty.report.panels import draw
from thrifty.report.parts import pair_name


@REPORTS.entry("agreement")
def agreement_chart(front: Front, *, colors: Mapping[str, str] | None = None) -> Any:
    """Share of inputs classified as the dense parent does, against sparsity.

    Two networks of equal accuracy may err on different inputs; agreement shows that.

    Args:
        front: what was measured; several models and data sets give a picture each.
        colors: the colour of each method; chosen in first-seen order if not given.

    Returns:
        An Altair chart.

    Raises:
        MissingExtra: altair is not installed.
    """

    def one(part: Front) -> Any:
        title = f"Agreement with the dense parent: {pair_name(part)}"
        about = "Share of test inputs given the same class, right or wrong."
        return draw(part, "agreement", "sparsity", colors, [title, about])

    return each_pair(front, one)
