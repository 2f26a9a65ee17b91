"""Merging operations into the one before: batch norm, activations, sums, shapes, padding.

An operation is merged with the one that writes its input if nobody else reads that value.  The
merged one stands where the later stood, by when everything both read has been written.
"""

from collections.abc import Callable

from thrifty.lowering.building import Builder, Draft
from thrifty.lowering.channels_last import channels_last
from thrifty.lowering.graph import STEPPING, Graph
from thrifty.lowering.patterns import PATTERNS
from thrifty.lowering.weighted import scaled_terms

MOST_STEPS = 48

Merge = Callable[[Graph, Draft], bool]
"""Merges an operation if it can, and says whether it did."""


def fused(builder: Builder, outputs: list[str]) -> Graph:
    """The operations of ``builder``, merged as far as rules go; nothing unread is left."""
    graph = Graph(builder, outputs)
    graph.without_dead()
    for merge in (*TIDYING, *PATTERNS, *MERGES):
        _everywhere(graph, merge)
    graph.without_dead()
    return graph


def _everywhere(graph: Graph, merge: Merge) -> None:
    """Try each operation once, in order; those that merging puts in are tried as well."""
    place = 0
    while place < len(graph.ops):
        before = len(graph.ops)
        if merge(graph, graph.ops[place]):
            place = max(0, place - 1 - max(0, before - len(graph.ops)))
        else:
            place += 1


def shape_into_shape(graph: Graph, op: Draft) -> bool:
    """A reshape of a reshape is one; a reshape to the same shape is none."""
    if op.kind != "reshape":
        return False
    source = graph.writer.get(op.inputs[0])
    if source is not None and source.kind == "reshape":
        op.inputs = list(source.inputs)
        graph.replace([source] if graph.uses[source.output] == 1 else [], op, op)
    if graph.shapes[op.inputs[0]] == graph.shapes[op.output] and op.output not in graph.outputs:
        new = op.inputs[0]
        graph.replace([op], op, None)
        graph.rename(op.output, new)
        return True
    return False


def shape_into_pool(graph: Graph, op: Draft) -> bool:
    """A global pool gives (channels,) itself."""
    pool = graph.only(op.inputs[0], "global_pool") if op.kind == "reshape" else None
    if pool is None or graph.shapes[op.output] != graph.shapes[pool.output][:1]:
        return False
    pool.output = op.output
    graph.replace([op], op, None)
    return True


def before_shape(graph: Graph, op: Draft) -> bool:
    """What is done to channels or elements is done before a reshape, next to what makes them."""
    if op.kind not in ("map", "affine") or len(op.inputs) > 1:
        return False
    shape = graph.only(op.inputs[0], "reshape")
    if shape is None or graph.only(shape.inputs[0], *STEPPING) is None:
        return False
    before, after = graph.shapes[shape.inputs[0]], graph.shapes[shape.output]
    if op.kind == "affine" and (not before or before[0] != after[0]):
        return False
    between, last = shape.output, op.output
    op.inputs, op.output = list(shape.inputs), between
    shape.inputs, shape.output = [between], last
    graph.shapes[between] = before
    place = graph.ops.index(op)
    graph.ops.remove(shape)
    graph.ops.insert(place, shape)
    graph.replace([], op, op)
    return True


def norm_into_layer(graph: Graph, op: Draft) -> bool:
    """Batch normalisation belongs to the convolution or linear layer before it."""
    if op.kind != "affine" or "bn_mean" not in op.tensors:
        return False
    layer = graph.only(op.inputs[0], "conv", "linear")
    if layer is None or layer.attrs.get("then") or "bn_mean" in layer.tensors:
        return False
    if layer.kind == "linear" and len(graph.shapes[op.output]) != 1:
        return False  # its channels are not the features
    layer.tensors.update(op.tensors)
    layer.attrs["eps"] = op.attrs["eps"]
    return _absorbed(graph, layer, op)


def flat_norm_into_linear(graph: Graph, op: Draft) -> bool:
    """Normalisation of (images * rows, features) is that of the features of a linear layer."""
    if op.kind != "fallback" or op.attrs["target"] != FLAT_NORM or op.attrs.get("item"):
        return False
    linear = graph.only(op.inputs[0], "linear")
    x, *rest = op.attrs["args"]
    rows = len(graph.shapes[op.output]) == 2 and set(x) == {"input", "times"}
    if linear is None or not rows or linear.attrs.get("then") or "bn_mean" in linear.tensors:
        return False
    tensors = [x["tensor"] if isinstance(x, dict) else None for x in rest[:4]]
    roles = dict(zip(("bn_weight", "bn_bias", "bn_mean", "bn_var"), tensors, strict=True))
    if (roles["bn_weight"] is None) != (roles["bn_bias"] is None):
        return False
    linear.tensors.update({k: op.tensors[v] for k, v in roles.items() if v is not None})
    linear.attrs["eps"] = float(rest[5])
    return _absorbed(graph, linear, op)


FLAT_NORM = "aten._native_batch_norm_legit_no_training.default"


def shift_into_scale(graph: Graph, op: Draft) -> bool:
    """A scale and then a shift a channel are one operation."""
    if op.kind != "affine" or set(op.tensors) != {"shift"}:
        return False
    scale = graph.only(op.inputs[0], "affine")
    if scale is None or set(scale.tensors) != {"scale"} or scale.attrs.get("then"):
        return False
    scale.tensors.update(op.tensors)
    return _absorbed(graph, scale, op)


def padding_into_window(graph: Graph, op: Draft) -> bool:
    """Padding before a window is the window's own, where both mean the same."""
    if op.kind not in ("conv", "max_pool", "avg_pool"):
        return False
    pad = graph.writer.get(op.inputs[0])
    if pad is None or pad.kind != "pad":
        return False
    means = {"conv": 0.0, "avg_pool": 0.0, "max_pool": "-inf"}[op.kind]
    bare = op.kind != "avg_pool" or op.attrs["count_include_pad"] or not any(op.attrs["padding"])
    if pad.attrs["value"] != means or not bare:
        return False
    if op.kind == "avg_pool":
        op.attrs["count_include_pad"] = True
    both = zip(op.attrs["padding"], pad.attrs["padding"], strict=True)
    padding = [a + b for a, b in both]
    if op.kind != "conv" and not _covers(op, padding):
        return False
    op.attrs["padding"] = padding
    op.inputs[0] = pad.inputs[0]
    graph.replace([pad] if graph.uses[pad.output] == 1 else [], op, op)
    return True


def _covers(op: Draft, padding: list[int]) -> bool:
    """Whether no window can lie in the padding alone."""
    return all(p < k for p, k in zip(padding, op.attrs["kernel"] * 2, strict=True))


def map_into_producer(graph: Graph, op: Draft) -> bool:
    """Steps follow what makes their first input."""
    if op.kind != "map":
        return False
    producer = graph.only(op.inputs[0], *STEPPING)
    if producer is None or len(producer.then) + len(op.then) > MOST_STEPS:
        return False
    _append(producer, op, {})
    return _absorbed(graph, producer, op)


def sum_into_producer(graph: Graph, op: Draft) -> bool:
    """A sum or product of two values follows what makes the later of them, layers first."""
    if op.kind not in ("add", "mul", "sub"):
        return False
    first, second = op.inputs[:2]
    if first == second or graph.shapes[first] != graph.shapes[second]:
        return False
    choices = [second] if op.kind == "sub" else [first, second]
    makers = [m for name in choices if (m := graph.only(name, *STEPPING)) is not None]
    makers = [m for m in makers if len(m.then) + len(op.then) + 2 <= MOST_STEPS]
    if not makers:
        return False
    maker = max(makers, key=lambda m: (m.kind in ("conv", "linear"), graph.place[id(m)]))
    other = first if maker.output == second else second
    if op.kind == "sub":
        maker.then.append({"do": "scale", "by": -1.0})
    maker.inputs.append(other)
    do = "mul" if op.kind == "mul" else "add"
    maker.then.append({"do": do, "input": len(maker.inputs) - 1})
    _append(maker, op, {0: len(maker.inputs) - 1, 1: len(maker.inputs) - 1}, taken=2)
    return _absorbed(graph, maker, op)


def _append(producer: Draft, op: Draft, known: dict[int, int], taken: int = 1) -> None:
    """Put the steps of ``op`` behind those of ``producer``, with the inputs they read."""
    places = dict(known)
    for i, name in enumerate(op.inputs[taken:], start=taken):
        producer.inputs.append(name)
        places[i] = len(producer.inputs) - 1
    for step in op.then:
        moved = {k: places[v] if k in ("input", "h", "x") else v for k, v in step.items()}
        producer.then.append(moved)


def _absorbed(graph: Graph, producer: Draft, op: Draft) -> bool:
    """``producer`` now does what ``op`` did, in its place."""
    producer.output = op.output
    graph.replace([producer, op], op, producer)
    return True


TIDYING: tuple[Merge, ...] = (shape_into_shape, channels_last, padding_into_window)
MERGES: tuple[Merge, ...] = (
    shape_into_shape,
    shape_into_pool,
    before_shape,
    norm_into_layer,
    flat_norm_into_linear,
    shift_into_scale,
    map_into_producer,
    sum_into_producer,
    map_into_producer,
    scaled_terms,
    shape_into_shape,
)
