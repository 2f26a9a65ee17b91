"""The structure of an ONNX model: graphs, nodes, tensors as places in the file.

Only what the census needs is taken: initializers, nodes with a few of their attributes, graphs
within nodes (the branches of If, the body of Loop) and bodies of functions.  Every graph is told
from the others, so that names may be used again in another branch.

Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from thrifty.sources.protobuf import BYTES, EIGHT, FOUR, VARINT, Field, Wire, signed

MOST_DEPTH = 16
MOST_NODES = 1 << 20
MOST_AXES = 64
MOST_COUNT = 1 << 62
MOST_INTEGERS = 1 << 10

TYPES: Mapping[int, str] = {
    1: "F32", 2: "U8", 3: "I8", 4: "U16", 5: "I16", 6: "I32", 7: "I64", 9: "BOOL", 10: "F16",
    11: "F64", 12: "U32", 13: "U64", 16: "BF16", 17: "F8_E4M3", 18: "F8_E4M3FNUZ", 19: "F8_E5M2",
    20: "F8_E5M2FNUZ",
}  # fmt: skip
"""TensorProto.DataType to dtypes."""
UNREAD: Mapping[int, str] = {
    8: "STRING", 14: "COMPLEX64", 15: "COMPLEX128", 21: "UINT4", 22: "INT4", 23: "FLOAT4E2M1",
    24: "FLOAT8E8M0", 25: "UINT2", 26: "INT2",
}  # fmt: skip
"""Those that cannot be counted; a newer one is named by its number."""

FLOATS, INT32S, INT64S, RAW, DOUBLES, UINT64S = 4, 5, 7, 9, 10, 11
TYPED = (FLOATS, INT32S, INT64S, DOUBLES, UINT64S)


@dataclass
class Tensor:
    """A TensorProto: its description, and where its data are.

    Args:
        begin, end: of the message in the file.
        data: the number of the field its data are in, None if there are none.
        raw: where the bytes of ``raw_data`` are.
        external: ``location``, ``offset`` and ``length``, where its data are in another file.
    """

    begin: int
    end: int
    name: str = ""
    shape: tuple[int, ...] = ()
    type: int = 0
    data: int | None = None
    raw: tuple[int, int] = (0, 0)
    external: dict[str, str] | None = None
    is_external: bool = False


@dataclass
class Sparse:
    """A SparseTensorProto: the tensor of ``shape`` that has ``values`` at ``indices``."""

    values: Tensor
    indices: Tensor
    shape: tuple[int, ...]


Value = float | int | list[int] | Tensor | Sparse


@dataclass
class Node:
    """A node: names of inputs and outputs, and the attributes that matter."""

    op: str = ""
    name: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    settings: dict[str, Value] = field(default_factory=dict)

    def number(self, name: str, otherwise: float) -> float:
        """A number among the attributes."""
        found = self.settings.get(name)
        return found if isinstance(found, int | float) else otherwise


@dataclass
class Graph:
    """A graph, with the one around it; ``path`` is empty for that of the model."""

    path: str
    parent: "Graph | None"
    nodes: list[Node] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    sparse: list[Sparse] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)


@dataclass
class Model:
    """All graphs of a model, its own first, and what it says of itself."""

    graphs: list[Graph]
    claims: dict[str, str]
    trains: bool = False


def model_of(wire: Wire, nbytes: int) -> Model:
    """The model in a file of ``nbytes`` bytes.

    Raises:
        UserError: it is no ONNX model, damaged, or beyond the limits.
    """
    return _Parser(wire).model(nbytes)


class _Parser:
    """In place: collects the graphs of a model as it walks over them."""

    def __init__(self, wire: Wire):
        self._wire = wire
        self._graphs: list[Graph] = []
        self._nodes = self._tensors = 0

    def model(self, nbytes: int) -> Model:
        wire = self._wire
        claims, texts = {}, {2: "producer", 3: "producer version", 4: "domain"}
        version, trains = 0, False
        functions: list[Field] = []
        graph: Field | None = None
        for f in wire.fields(0, nbytes):
            if f.number == 1:
                wire.expect(f, VARINT)
                version = f.value
            elif f.number in texts:
                claims[texts[f.number]] = wire.text(f)
            elif f.number == 7:
                wire.expect(f, BYTES)
                graph = f if graph is None else wire.refuse("it has two graphs")
            elif f.number == 20:
                trains = True
            elif f.number == 25:
                wire.expect(f, BYTES)
                functions.append(f)
        if graph is None or not 0 < version < 1 << 16:
            wire.refuse("it has no graph, or no version of the format")
        self._graph(graph, "", None, 0)
        for f in functions:
            self._function(f)
        return Model(self._graphs, {k: v for k, v in claims.items() if v}, trains)

    def _graph(self, place: Field, path: str, parent: Graph | None, depth: int) -> None:
        wire = self._wire
        if depth > MOST_DEPTH:
            wire.refuse(f"graphs are nested more than {MOST_DEPTH} deep")
        graph = Graph(path, parent)
        self._graphs.append(graph)
        for f in wire.fields(place.begin, place.end):
            if f.number in (1, 5, 12, 15):
                wire.expect(f, BYTES)
            if f.number == 1:
                self._node(f, graph, depth)
            elif f.number == 5:
                graph.tensors.append(self._tensor(f))
            elif f.number == 12:
                graph.outputs += [
                    wire.text(x) for x in wire.fields(f.begin, f.end) if x.number == 1
                ]
            elif f.number == 15:
                graph.sparse.append(self._sparse(f))

    def _function(self, place: Field) -> None:
        graph = Graph("function", None)
        self._graphs.append(graph)
        for f in self._wire.fields(place.begin, place.end):
            if f.number == 1:
                graph.path = self._wire.text(f) or "function"
            elif f.number == 5:
                graph.outputs.append(self._wire.text(f))
            elif f.number == 7:
                self._wire.expect(f, BYTES)
                self._node(f, graph, 0)

    def _node(self, place: Field, graph: Graph, depth: int) -> None:
        wire = self._wire
        self._nodes += 1
        if self._nodes > MOST_NODES:
            wire.refuse(f"it has more than {MOST_NODES:,} nodes")
        node = Node()
        graph.nodes.append(node)
        attributes = []
        for f in wire.fields(place.begin, place.end):
            if f.number == 1:
                node.inputs.append(wire.text(f))
            elif f.number == 2:
                node.outputs.append(wire.text(f))
            elif f.number == 3:
                node.name = wire.text(f)
            elif f.number == 4:
                node.op = wire.text(f)
            elif f.number == 5:
                wire.expect(f, BYTES)
                attributes.append(f)
        for f in attributes:
            self._attribute(f, node, graph, depth)

    def _attribute(self, place: Field, node: Node, graph: Graph, depth: int) -> None:
        wire = self._wire
        name, graphs = "", []
        value: Value | None = None
        integers: list[int] = []
        for f in wire.fields(place.begin, place.end):
            if f.number in (5, 6, 11, 22):
                wire.expect(f, BYTES)
            if f.number == 1:
                name = wire.text(f)
            elif f.number == 2 and f.wire == FOUR:
                value = _float(wire, f)
            elif f.number == 3 and f.wire == VARINT:
                value = signed(f.value)
            elif f.number == 5:
                value = self._tensor(f)
            elif f.number == 22:
                value = self._sparse(f)
            elif f.number in (6, 11):
                graphs.append(f)
            elif f.number == 8 and len(integers) < MOST_INTEGERS and name != "value_ints":
                few = f.wire == VARINT or f.end - f.begin < MOST_INTEGERS
                integers += wire.integers(f, MOST_INTEGERS) if few else []
        if integers:
            node.settings[name] = integers
        elif value is not None:
            node.settings[name] = value
        for i, f in enumerate(graphs):
            path = "/".join(x for x in (graph.path, node.name or node.op, name) if x)
            self._graph(f, f"{path}/{i}" if i else path, graph, depth + 1)

    def _sparse(self, place: Field) -> Sparse:
        wire = self._wire
        parts: dict[int, Tensor] = {}
        shape: list[int] = []
        for f in wire.fields(place.begin, place.end):
            if f.number in (1, 2):
                wire.expect(f, BYTES)
                parts[f.number] = self._tensor(f)
            elif f.number == 3 and len(shape) <= MOST_AXES:
                shape += wire.integers(f, MOST_AXES)
        if len(parts) != 2:
            wire.refuse("a sparse tensor lacks its values or their places")
        return Sparse(parts[1], parts[2], self._shape(shape, parts[1].name))

    def _tensor(self, place: Field) -> Tensor:
        wire = self._wire
        self._tensors += 1
        if self._tensors > MOST_NODES:
            wire.refuse(f"it has more than {MOST_NODES:,} tensors")
        tensor = Tensor(place.begin, place.end)
        shape: list[int] = []
        for f in wire.fields(place.begin, place.end):
            if f.number == 1 and len(shape) <= MOST_AXES:
                shape += wire.integers(f, MOST_AXES)
            elif f.number == 2:
                wire.expect(f, VARINT)
                tensor.type = f.value
            elif f.number == 3:
                wire.refuse("a tensor lies in segments, which nothing writes")
            elif f.number in (*TYPED, RAW):
                self._data(tensor, f)
            elif f.number == 8:
                tensor.name = wire.text(f)
            elif f.number == 13:
                wire.expect(f, BYTES)
                key, value = self._pair(f)
                tensor.external = tensor.external or {}
                if len(tensor.external) >= MOST_AXES:
                    wire.refuse("a tensor has too many entries about its file")
                tensor.external[key] = value
            elif f.number == 14:
                wire.expect(f, VARINT)
                tensor.is_external = f.value == 1
        tensor.shape = self._shape(shape, tensor.name)
        return tensor

    def _data(self, tensor: Tensor, f: Field) -> None:
        """In place: note where the data of ``tensor`` are; they may be in one kind of field."""
        if f.wire == BYTES and f.begin == f.end and f.number != RAW:
            return
        if tensor.data is not None and (tensor.data != f.number or f.number == RAW):
            self._wire.refuse(f"the tensor {ascii(tensor.name[:100])} has its data twice")
        tensor.data = f.number
        if f.number == RAW:
            self._wire.expect(f, BYTES)
            tensor.raw = f.begin, f.end
        elif f.wire != BYTES:
            self._wire.expect(f, {FLOATS: FOUR, DOUBLES: EIGHT}.get(f.number, VARINT))

    def _pair(self, place: Field) -> tuple[str, str]:
        texts = {f.number: self._wire.text(f) for f in self._wire.fields(place.begin, place.end)}
        return texts.get(1, ""), texts.get(2, "")

    def _shape(self, shape: list[int], name: str) -> tuple[int, ...]:
        sides = 1
        for side in shape:
            sides *= max(1, side)
            if side < 0 or sides > MOST_COUNT:
                self._wire.refuse(f"the tensor {ascii(name[:100])} has the shape {shape[:8]}")
        if len(shape) > MOST_AXES:
            self._wire.refuse(f"the tensor {ascii(name[:100])} has {len(shape)} axes")
        return tuple(shape)


def _float(wire: Wire, f: Field) -> float:
    return float(struct.unpack("<f", wire.content(f))[0])
