"""What people write out that has a kind or a step of its own: blends, swish, shuffles."""

from typing import Any

from thrifty.lowering.building import Draft
from thrifty.lowering.graph import Graph

WHOLE = {"sigmoid": "silu", "hardsigmoid": "hardswish"}


def swish(graph: Graph, op: Draft) -> bool:
    """x * sigmoid(x) is silu, x * hardsigmoid(x) is hardswish."""
    if op.kind != "mul":
        return False
    for x, gate in (op.inputs[:2], op.inputs[1::-1]):
        made = graph.only(gate, "map")
        if made is None or len(made.then) != 1 or made.inputs != [x]:
            continue
        do = WHOLE.get(made.then[0]["do"])
        if do is not None:
            step = {"do": do}
            graph.replace([made, op], op, _stepped(op, [x], [step]))
            return True
    return False


def blend(graph: Graph, op: Draft) -> bool:
    """h * t + (1 - t) * x, in any order, or x + t * (h - x): a highway with the gate t."""
    if op.kind != "add" or op.then:
        return False
    for one, two in (op.inputs[:2], op.inputs[1::-1]):
        found = _two_products(graph, one, two) or _difference(graph, one, two)
        if found is not None:
            (t, h, x), gone = found
            same = {graph.shapes[name] for name in (t, h, x)}
            if same == {graph.shapes[op.output]}:
                step = {"do": "blend", "h": 1, "x": 2}
                graph.replace([*gone, op], op, _stepped(op, [t, h, x], [step]))
                return True
    return False


Found = tuple[tuple[str, str, str], list[Draft]]
"""The names of t, h and x, and the operations that the blend replaces."""


def _two_products(graph: Graph, one: str, two: str) -> Found | None:
    """one = h * t, two = (1 - t) * x."""
    first, second = graph.only(one, "mul"), graph.only(two, "mul")
    if first is None or second is None or first.then or second.then:
        return None
    for x, rest in (second.inputs, second.inputs[::-1]):
        made = graph.only(rest, "map")
        if made is None or not _is_one_minus(made) or made.inputs[0] not in first.inputs:
            continue
        t = made.inputs[0]
        h = first.inputs[1] if first.inputs[0] == t else first.inputs[0]
        return (t, h, x), [first, second, made]
    return None


def _is_one_minus(op: Draft) -> bool:
    return op.then == [{"do": "scale", "by": -1.0}, {"do": "shift", "by": 1.0}]


def _difference(graph: Graph, one: str, two: str) -> Found | None:
    """one = x, two = t * (h - x)."""
    product = graph.only(two, "mul")
    if product is None or product.then:
        return None
    for t, rest in (product.inputs, product.inputs[::-1]):
        made = graph.only(rest, "sub")
        if made is not None and not made.then and made.inputs[1] == one:
            return (t, made.inputs[0], one), [product, made]
    return None


def _stepped(op: Draft, inputs: list[str], steps: list[dict[str, Any]]) -> Draft:
    """A map in the place of ``op``, whose own steps follow."""
    return Draft("map", op.name, inputs, op.output, {}, {"then": [*steps, *op.then]})


def shuffle(graph: Graph, op: Draft) -> bool:
    """A reshape, a permutation and a reshape that together shuffle channels or pixels."""
    moved = graph.only(op.inputs[0], "fallback") if op.kind == "reshape" else None
    if moved is None or moved.attrs["target"] != "aten.permute.default":
        return False
    split = graph.only(moved.inputs[0], "reshape")
    order = moved.attrs["args"][1] if moved.attrs["args"][0] == {"input": 0} else None
    if split is None or order is None:
        return False
    source, parts = graph.shapes[split.inputs[0]], graph.shapes[split.output]
    out = graph.shapes[op.output]
    if len(source) != 3 or len(out) != 3:
        return False
    made = None
    if order == [0, 2, 1, 3, 4] and parts[2:] == source[1:] and out == source:
        made = ("channel_shuffle", {"groups": parts[0]})
    elif order == [0, 1, 4, 2, 5, 3] and parts[3:] == source[1:] and parts[1] == parts[2]:
        factor = parts[1]
        if out == (parts[0], source[1] * factor, source[2] * factor):
            made = ("pixel_shuffle", {"factor": factor})
    if made is None:
        return False
    draft = Draft(made[0], op.name or moved.name, list(split.inputs), op.output, {}, dict(made[1]))
    graph.replace([split, moved, op], op, draft)
    return True


def unexpanded(graph: Graph, op: Draft) -> bool:
    """One number a channel needs no expanding before it meets an image."""
    if op.kind not in ("add", "sub", "mul"):
        return False
    orders = [op.inputs[:2]] if op.kind == "sub" else [op.inputs[:2], op.inputs[1::-1]]
    for image, wide in orders:
        made = graph.writer.get(wide)
        if made is None or made.kind != "fallback":
            continue
        source, whole = graph.shapes[made.inputs[0]], graph.shapes[wide]
        expands = made.attrs["target"] == "aten.expand.default"
        plain = made.attrs["args"][0] == {"input": 0} and "axis" not in made.attrs
        narrow = len(source) == len(whole) == 3 and source[1:] == (1, 1)
        if expands and plain and narrow and whole == graph.shapes[image]:
            op.inputs[:2] = [image, made.inputs[0]]
            graph.replace([made] if graph.uses[wide] == 1 else [], op, op)
            return True
    return False


PATTERNS = (unexpanded, swish, blend, shuffle)
