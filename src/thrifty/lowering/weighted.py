"""Weighted sums without a pass for each term: a scale on the way to a sum is done in the sum.

a y + b x is b ((a / b) y + x): steps that an operation does while its result is in registers,
where ``b x`` of its own would be written to memory and read again.  Each step rounds relatively to
its own result, so the order costs no accuracy, as long as no quotient leaves the range of float32.
"""

from typing import Any

from thrifty.lowering.building import Draft
from thrifty.lowering.graph import STEPPING, Graph

Step = dict[str, Any]

LEAST, MOST = 2.0**-24, 2.0**24
"""Scales between which all quotients of a sum are harmless."""
MOST_SUMMED = 16
"""Steps that the engine does in one operation; more would cost a pass as well."""


def scaled_terms(graph: Graph, op: Draft) -> bool:
    """Sums of an operation whose other terms are only scaled before: the scales become steps."""
    if op.kind not in STEPPING or not any(_scaled(graph, op, step) for step in op.then):
        return False
    inputs, steps = list(op.inputs), []
    for step in op.then:
        by = _scaled(graph, op, step)
        if by is None:
            steps.append(step)
            continue
        place = step["input"]
        inputs[place] = graph.writer[op.inputs[place]].inputs[0]
        steps += [{"do": "scale", "by": 1.0 / by}, step, {"do": "scale", "by": by}]
    steps = _joined(steps)
    if len(steps) > MOST_SUMMED:
        return False
    before = op.inputs
    op.inputs = inputs
    gone = [
        graph.writer[name]
        for name, now in zip(before, inputs, strict=True)
        if name != now and graph.uses[name] == 1 and name not in graph.outputs
    ]
    op.then[:] = steps
    graph.replace(gone, op, op)
    return True


def _scaled(graph: Graph, op: Draft, step: Step) -> float | None:
    """By what the term of a sum is scaled, if that is all that was done to it."""
    if step["do"] != "add":
        return None
    name = op.inputs[step["input"]]
    made = graph.writer.get(name)
    if made is None or made.kind != "map" or len(made.inputs) != 1 or op.inputs.count(name) > 1:
        return None
    if [each["do"] for each in made.then] != ["scale"]:
        return None
    by = float(made.then[0]["by"])
    return by if LEAST <= abs(by) <= MOST else None


def _joined(steps: list[Step]) -> list[Step]:
    """Scales in a row are one; a scale of 1 is none."""
    joined: list[Step] = []
    for step in steps:
        if step["do"] == "scale" and joined and joined[-1]["do"] == "scale":
            step = {"do": "scale", "by": joined.pop()["by"] * step["by"]}
        joined.append(step)
    return [step for step in joined if step != {"do": "scale", "by": 1.0}]
