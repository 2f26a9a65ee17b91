"""Linear layers at each pixel of an image whose channels were put last: convolutions of one pixel.

Some networks permute an image to (height, width, channels), apply linear layers and activations,
and permute it back.  The first permutation is moved behind each of them, until it meets the second
and both vanish.  Layer normalisation stays as it is, between two permutations of its own.
"""

from thrifty.lowering.building import Draft
from thrifty.lowering.graph import Graph

LAST, FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


def channels_last(graph: Graph, op: Draft) -> bool:
    """Apply the one rule that fits ``op``, if any."""
    if op.kind == "linear":
        return _linear(graph, op)
    if op.kind == "map":
        return _map(graph, op)
    if op.kind == "fallback":
        return _cancelled(graph, op) or _norm(graph, op)
    return False


def _permutes(op: Draft | None, order: list[int]) -> bool:
    """Whether it permutes an image in this way, with the batch first before and after."""
    return (
        op is not None
        and op.kind == "fallback"
        and op.attrs["target"] == "aten.permute.default"
        and op.attrs["args"] == [{"input": 0}, order]
        and not {"axis", "times"} & set(op.attrs)
    )


def _permuted(graph: Graph, op: Draft, source: str, order: list[int], output: str) -> Draft:
    attrs = {"target": "aten.permute.default", "args": [{"input": 0}, order], "kwargs": {}}
    return Draft("fallback", op.name, [source], output, {}, attrs)


def _new(graph: Graph, wish: str, shape: tuple[int, ...]) -> str:
    name = f"{wish}.pixels"
    while name in graph.shapes:
        name += "_"
    graph.shapes[name] = shape
    return name


def _turned(graph: Graph, name: str) -> tuple[int, ...]:
    """The shape (height, width, channels) with the channels first."""
    height, width, channels = graph.shapes[name]
    return (channels, height, width)


def _linear(graph: Graph, op: Draft) -> bool:
    """A linear layer after a permutation is a permutation after a convolution."""
    before = graph.writer.get(op.inputs[0])
    if before is None or not _permutes(before, LAST) or op.attrs.get("then"):
        return False
    output = op.output
    op.output = _new(graph, output, _turned(graph, output))
    op.kind, op.inputs = "conv", list(before.inputs)
    op.attrs.update(stride=[1, 1], padding=[0, 0, 0, 0], dilation=[1, 1], groups=1)
    graph.insert_after(op, [_permuted(graph, op, op.output, LAST, output)])
    return True


def _map(graph: Graph, op: Draft) -> bool:
    """Steps are the same before a permutation as after it."""
    before = graph.only(op.inputs[0], "fallback")
    if before is None or len(op.inputs) > 1 or not _permutes(before, LAST):
        return False
    output = op.output
    op.output = _new(graph, output, _turned(graph, output))
    op.inputs = list(before.inputs)
    graph.insert_after(op, [_permuted(graph, op, op.output, LAST, output)])
    return True


def _cancelled(graph: Graph, op: Draft) -> bool:
    """A permutation and the one back are none."""
    before = graph.writer.get(op.inputs[0])
    if not _permutes(op, FIRST) or before is None or not _permutes(before, LAST):
        return False
    if op.output in graph.outputs:
        return False
    graph.replace([op], op, None)
    graph.rename(op.output, before.inputs[0])
    graph.without_dead()
    return True


def _norm(graph: Graph, op: Draft) -> bool:
    """What only linear layers read is permuted back and forth, for them to be convolutions."""
    readers = graph.readers.get(op.output, [])
    fits = (
        op.attrs["target"] == "aten.layer_norm.default"
        and _permutes(graph.writer.get(op.inputs[0]), LAST)
        and op.output not in graph.outputs
        and readers
        and all(reader.kind == "linear" for reader in readers)
    )
    if not fits:
        return False
    image = _new(graph, op.output, _turned(graph, op.output))
    again = _new(graph, op.output, graph.shapes[op.output])
    graph.rename(op.output, again)
    first = _permuted(graph, op, op.output, FIRST, image)
    graph.insert_after(op, [first, _permuted(graph, op, image, LAST, again)])
    return True
