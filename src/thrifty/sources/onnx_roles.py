"""What the tensors of an ONNX graph are for, told by the nodes that read them.

Names are looked up as ONNX does, in the graph of the node and then in those around it.  Nodes that
only pass a tensor on (a cast, a transpose, a dequantisation) are looked through.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from thrifty.sources.onnx_graph import Graph, Node
from thrifty.sources.stored import Norm, Stored

Key = tuple[int, str]
"""A name in the graph of that number."""

MOST_USES = 64
"""Nodes that are looked at to tell what a tensor is for."""
WEIGHT, BIAS, SCALE, SHIFT, STATISTIC, OTHER = (
    "weight", "bias", "scale", "shift", "statistic", "other",
)  # fmt: skip
ORDER = (WEIGHT, BIAS, SCALE, SHIFT, STATISTIC, OTHER)
"""Of several uses the first in this order decides."""

_CONV = {1: WEIGHT, 2: BIAS}
_RECURRENT = {1: WEIGHT, 2: WEIGHT, 3: BIAS}
_NORM = {1: SCALE, 2: SHIFT}
_QCONV = {3: WEIGHT, 8: BIAS, **dict.fromkeys((1, 2, 4, 5, 6, 7), OTHER)}
_QMATMUL = {0: WEIGHT, 3: WEIGHT, **dict.fromkeys((1, 2, 4, 5, 6, 7), OTHER)}
USES: Mapping[str, Mapping[int, str]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "FusedConv"), _CONV),
    **dict.fromkeys(("Gemm", "FusedGemm"), {0: WEIGHT, 1: WEIGHT, 2: BIAS}),
    **dict.fromkeys(("MatMul", "FusedMatMul"), {0: WEIGHT, 1: WEIGHT}),
    **dict.fromkeys(("RNN", "GRU", "LSTM"), _RECURRENT),
    **dict.fromkeys(("InstanceNormalization", "LayerNormalization"), _NORM),
    **dict.fromkeys(("GroupNormalization", "SimplifiedLayerNormalization"), _NORM),
    "RMSNormalization": {1: SCALE},
    "SkipLayerNormalization": {2: SCALE, 3: SHIFT, 4: BIAS},
    "BatchNormalization": {1: SCALE, 2: SHIFT, 3: STATISTIC, 4: STATISTIC},
    "ConvInteger": {1: WEIGHT, 2: OTHER, 3: OTHER},
    "MatMulInteger": {0: WEIGHT, 1: WEIGHT, 2: OTHER, 3: OTHER},
    "QLinearConv": _QCONV,
    "QLinearMatMul": _QMATMUL,
    "DeformConv": {1: WEIGHT, 3: BIAS},
    "Gather": {0: WEIGHT},
    "Einsum": dict.fromkeys(range(8), WEIGHT),
    "Attention": {1: WEIGHT, 2: BIAS},
    "PRelu": {1: OTHER},
    **dict.fromkeys(("DequantizeLinear", "QuantizeLinear"), {1: OTHER, 2: OTHER}),
    **dict.fromkeys(
        ("Clip", "Pad", "Resize", "Slice", "Reshape"), dict.fromkeys(range(1, 6), OTHER)
    ),
    **dict.fromkeys(("Expand", "Tile", "TopK", "Unsqueeze", "Squeeze"), {1: OTHER}),
}
"""Operations, and what their inputs are."""

PASS = ("Identity", "Cast", "CastLike", "Transpose", "DequantizeLinear", "QuantizeLinear")
"""Operations whose first input is still the same tensor behind them."""


class Use(NamedTuple):
    """A node that reads a tensor as its input number ``place``."""

    node: Node
    graph: int
    place: int


class Uses:
    """Who reads and who makes each tensor of a model's graphs."""

    def __init__(self, graphs: Sequence[Graph], tensors: Mapping[Key, object]):
        self._graphs = graphs
        numbers = {id(graph): i for i, graph in enumerate(graphs)}
        self._parents = [numbers.get(id(g.parent)) if g.parent else None for g in graphs]
        self.readers: dict[Key, list[Use]] = defaultdict(list)
        self.makers: dict[Key, tuple[Node, int]] = {}
        self.outputs: set[Key] = set()
        self._known = set(tensors)
        for i, graph in enumerate(graphs):
            for node in graph.nodes:
                self.makers.update({(i, name): (node, i) for name in node.outputs if name})
        self._known |= set(self.makers)
        for i, graph in enumerate(graphs):
            self.outputs |= {self.key(i, name) for name in graph.outputs}
            for node in graph.nodes:
                for place, name in enumerate(node.inputs):
                    if name:
                        self.readers[self.key(i, name)].append(Use(node, i, place))

    def key(self, graph: int, name: str) -> Key:
        """The tensor that ``name`` stands for in ``graph``."""
        at: int | None = graph
        while at is not None:
            if (at, name) in self._known:
                return at, name
            at = self._parents[at]
        return graph, name

    def role(self, key: Key, axes: int, whole: bool) -> tuple[str | None, int]:
        """What a tensor is for, and the axis of its output channels.

        Args:
            key: the tensor.
            axes: how many axes it has.
            whole: whether it is of integers, which without a known use are no weights.
        """
        found = list(self._roles(key, axes))
        if not found:
            readers = self.readers.get(key, [])[:MOST_USES]
            stands = any(use.node.op == "DequantizeLinear" and not use.place for use in readers)
            return (OTHER if whole and readers and not stands else None), 0
        return min(found, key=lambda x: ORDER.index(x[0]))

    def _roles(self, key: Key, axes: int) -> Iterator[tuple[str, int]]:
        """Of the nodes that read a tensor, also through those that pass it on."""
        orders = {key: list(range(axes))}  # which axis of the tensor each axis behind is
        places, left = [key], MOST_USES
        for at in places:
            for use in self.readers.get(at, [])[:left]:
                left -= 1
                role = USES.get(use.node.op, {}).get(use.place)
                if role == WEIGHT and axes < 2:
                    role = OTHER if use.node.op == "Gather" else None
                if role is not None:
                    yield role, orders[at][_axis(use, axes)] if role == WEIGHT else 0
                elif axes <= 1 and self._adds_to_product(use):
                    yield BIAS, 0
                elif use.node.op in PASS and use.place == 0 and use.node.outputs:
                    behind = (use.graph, use.node.outputs[0])
                    if behind not in orders:
                        orders[behind] = _turned(use.node, orders[at])
                        places.append(behind)

    def _adds_to_product(self, use: Use) -> bool:
        if use.node.op != "Add" or len(use.node.inputs) != 2:
            return False
        made = self.makers.get(self.key(use.graph, use.node.inputs[1 - use.place]))
        return made is not None and made[0].op in _PRODUCTS


_PRODUCTS = ("MatMul", "Conv", "ConvTranspose", "Gemm", "FusedMatMul", "MatMulNBits")


def _axis(use: Use, axes: int) -> int:
    """The axis of the output channels of a weight, counted from the front."""
    op, place = use.node.op, use.place
    if op in ("Gemm", "FusedGemm"):
        turned = use.node.number("transB" if place == 1 else "transA", 0)
        return int(not turned) if place == 1 else int(bool(turned))
    if op in ("MatMul", "FusedMatMul", "MatMulInteger", "QLinearMatMul", "Attention", "Gather"):
        return max(0, axes - 2) if place == 0 and op != "Gather" else axes - 1
    return 1 if op in ("ConvTranspose", "RNN", "GRU", "LSTM") else 0


def _turned(node: Node, order: list[int]) -> list[int]:
    """``order`` behind ``node``, which may be a transpose."""
    if node.op != "Transpose":
        return order
    turn = node.settings.get("perm", list(range(len(order)))[::-1])
    if isinstance(turn, list) and sorted(turn) == list(range(len(order))):
        return [order[i] for i in turn]
    return order


def norms(uses: Uses, graphs: Sequence[Graph], tensors: Mapping[Key, Stored]) -> tuple[Norm, ...]:
    """The batch normalisations that can be folded into the weight before them.

    Nothing else may read the weight, what the layer gives, or a tensor of the normalisation.
    """
    found = []
    for i, graph in enumerate(graphs):
        for node in graph.nodes:
            if node.op == "BatchNormalization" and len(node.inputs) == 5:
                norm = _norm(uses, i, node, tensors)
                found += [norm] if norm else []
    return tuple(found)


def _norm(uses: Uses, graph: int, node: Node, tensors: Mapping[Key, Stored]) -> Norm | None:
    before, *keys = (uses.key(graph, name) for name in node.inputs)
    layer, at = uses.makers.get(before, (None, 0))
    if layer is None or before in uses.outputs or node.number("training_mode", 0):
        return None
    if not _foldable(layer):
        return None
    inputs = [uses.key(at, name) for name in layer.inputs[1:] if name]
    if len(inputs) > 2 or not inputs:
        return None
    involved = [*keys, *inputs]
    if any(k not in tensors or len(uses.readers[k]) != 1 or k in uses.outputs for k in involved):
        return None
    weight, *bias = (tensors[k] for k in inputs)
    parts = [tensors[k] for k in keys]
    channels = weight.shape[weight.out_axis] if len(weight.shape) > 1 else -1
    if len(uses.readers[before]) != 1 or any(x.count != channels for x in [*parts, *bias]):
        return None
    scale, shift, mean, variance = (x.name for x in parts)
    name = bias[0].name if bias else None
    return Norm(weight.name, name, scale, shift, mean, variance, node.number("epsilon", 1e-5))


def _foldable(layer: Node) -> bool:
    if layer.op == "Gemm":
        return layer.number("alpha", 1.0) == 1 and layer.number("beta", 1.0) == 1
    return layer.op == "Conv" or (layer.op == "ConvTranspose" and layer.number("group", 1) == 1)
