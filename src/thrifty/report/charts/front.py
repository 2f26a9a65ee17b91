"""The front: accuracy against what a network costs."""

from collections.abc import Mapping
from typing import Any

from thrifty.lab.front import Cost, Front
from thrifty.report import REPORTS
from thrifty.report.look import each_pair, note
from thrifty.report.panels import draw
from thrifty.report.parts import pair_name, seeds_text
from thrifty.report.rows import check_cost, point_rows

AGAINST: dict[str, str] = {
    "sparsity": "sparsity",
    "sparsity_conv": "sparsity of the convolutions",
    "packed_bytes": "packed size",
    "bytes": "size on disk",
    "engine_ms": "latency in thrifty's engine",
    "latency_us": "latency in eager torch",
    "macs": "multiply-adds",
    "macs_nonzero": "multiply-adds that are not by zero",
    "params": "parameters",
    "nonzero": "parameters that are not zero",
}


@REPORTS.entry("front")
def front_chart(
    front: Front, *, of: Cost = "sparsity", colors: Mapping[str, str] | None = None
) -> Any:
    """Accuracy against sparsity, bytes, latency or multiply-adds: means, spread, controls.

    Args:
        front: what was measured; several models and data sets give a picture each.
        of: the cost on the horizontal axis.
        colors: the colour of each method; chosen in first-seen order if not given.

    Returns:
        An Altair chart.  Filled points are on the Pareto front, hollow ones are
        beaten; latency in torch is too noisy to tell, so there all are filled.

    Raises:
        UserError: there is no such cost.
        MissingExtra: altair is not installed.
    """
    check_cost(of)

    def one(part: Front) -> Any:
        title = f"Accuracy against {AGAINST[of]}: {pair_name(part)}"
        if part.pruned and not point_rows(part, "accuracy", of):
            return note(f"{AGAINST[of]} was not measured", title)
        return draw(part, "accuracy", of, colors, [title, *_about(part, of)])

    return each_pair(front, one)


def _about(front: Front, of: Cost) -> list[str]:
    if not front.pruned:
        return ["No pruned network yet."]
    if all(p.accuracy_std is None for p in front.points):
        text = "One seed, no spread known."
    else:
        band = "" if of == "latency_us" else "; bands: one standard deviation"
        text = f"Points: means over {seeds_text(front)}{band}; small dots: single seeds."
    if of == "latency_us" or all(
        row["beaten"] is False for row in point_rows(front, "accuracy", of)
    ):
        return [text]
    return [text, "Hollow points: another network is as accurate at less cost."]
