"""Weighted sums without a pass for each term: a scale on the way to a sum is done in the sum.

y + b x is one step that an operation does while its result is in registers, where ``b x`` of its
own would be written to memory and read again.
"""

from typing import Any

from thrifty.engine.kinds import STEPS_AT_ONCE
from thrifty.lowering.building import Draft
from thrifty.lowering.graph import STEPPING, Graph

Step = dict[str, Any]


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
        steps.append({"do": "add_scaled", "input": place, "by": by})
    if len(steps) > STEPS_AT_ONCE:  # more would cost a pass as well
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
    return float(made.then[0]["by"])
