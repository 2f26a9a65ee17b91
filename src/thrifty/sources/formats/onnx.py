"""Weights of ONNX models, read without the onnx package.

Initializers of the model, of the graphs within its nodes and of sparse form count, and so do
constants within nodes that are weights by their use or have two axes or more: many exporters fold
weights into them.  What each is for, where its output channels lie, how its integers stand for
numbers and which batch normalisation follows it is told by the graph.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from thrifty.errors import UserError
from thrifty.sources import SOURCES, Reader
from thrifty.sources.mapped import Mapped, open_file
from thrifty.sources.onnx_graph import TYPES, UNREAD, Graph, Sparse, Tensor, model_of
from thrifty.sources.onnx_quantised import MOST_SCALES, quantised
from thrifty.sources.onnx_roles import OTHER, Key, Uses, norms
from thrifty.sources.onnx_tensors import Data, Files, SparseData
from thrifty.sources.stored import Source, Stored
from thrifty.sources.unpacking import too_large

LISTED = 4
TOO_MANY = "the model has more scales than any network"
CONSTANTS = ("value", "sparse_value")


def open_onnx(text: str) -> Source:
    """The weights of the ONNX model at the path ``text``.

    Raises:
        UserError: there is no such file, it is no such model, damaged, has external data that are
            missing or elsewhere, or has no weights that can be counted.
    """
    path = Path(text)
    file = open_file(path)
    try:
        files = Files(Mapped(file, text), text)
    except BaseException:
        file.close()
        raise
    try:
        source = _source(files)
    except BaseException:
        files.close()
        raise
    label = path.name[: -len(".onnx")] if path.name.lower().endswith(".onnx") else path.name
    return replace(source, label=label)


def _source(files: Files) -> Source:
    model = model_of(files.wire(), files.mapped.nbytes)
    graphs = model.graphs
    notes = ["left out: what the model says of its training"] if model.trains else []
    given = dict(_initializers(graphs, files.path))
    constants = {k: v for k, v in _constants(graphs) if k not in given}
    readable, unread = _readable({**given, **constants})
    names = _names(readable, graphs)
    read = {key: _stored(files, what, names[key]) for key, what in readable.items()}
    total = sum(x.nbytes for x in read.values())
    if too_large(total, files.nbytes):
        raise UserError(
            f"{files.path}: its tensors take {total:,} bytes, out of all proportion to its files"
        )
    uses = Uses(graphs, read)
    tensors = {key: _described(uses, key, x) for key, x in read.items()}
    counted = {k: x for k, x in tensors.items() if k in given or _is_weight(x)}
    counted, odd = _dequantised(uses, counted, tensors)
    folded = [counted[k].name for k in counted if k in constants]
    if folded:
        notes.append(f"{len(folded):,} constants within nodes are counted: {_listed(folded)}")
    sparse = [names[k] for k in given if k in names and isinstance(readable[k], Sparse)]
    if sparse:
        notes.append(f"stored sparse, and counted with their zeros: {_listed(sparse)}")
    notes += [f"{_listed(n)}: {why}; taken as stored" for why, n in odd.items()]
    notes += [f"left out, {kind} cannot be counted: {_listed(n)}" for kind, n in unread.items()]
    if not counted:
        raise UserError(
            f"{files.path} holds no weights that can be counted"
            + (f" ({'; '.join(notes)})" if notes else "; it has no initializers")
        )
    return Source(
        label=files.path,
        kind="onnx",
        tensors=tuple(counted.values()),
        nbytes=files.nbytes,
        notes=tuple(notes),
        norms=norms(uses, graphs, counted),
        claims={k: v for k, v in model.claims.items() if v.isprintable()},
        on_close=files.close,
    )


def _initializers(graphs: Sequence[Graph], path: str) -> Iterator[tuple[Key, Tensor | Sparse]]:
    for i, graph in enumerate(graphs):
        seen: set[str] = set()
        all_of_it: list[Tensor | Sparse] = [*graph.tensors, *graph.sparse]
        for x in all_of_it:
            name = x.name if isinstance(x, Tensor) else x.values.name
            if name in seen:
                raise UserError(
                    f"{path}: two initializers are called {ascii(name[:100])}; the model is damaged"
                )
            seen.add(name)
            yield (i, name), x


def _constants(graphs: Sequence[Graph]) -> Iterator[tuple[Key, Tensor | Sparse]]:
    for i, graph in enumerate(graphs):
        for node in graph.nodes:
            if node.op == "Constant" and len(node.outputs) == 1:
                for what in (node.settings.get(name) for name in CONSTANTS):
                    if isinstance(what, Tensor | Sparse):
                        yield (i, node.outputs[0]), what


def _readable(
    tensors: Mapping[Key, Tensor | Sparse],
) -> tuple[dict[Key, Tensor | Sparse], dict[str, list[str]]]:
    """Those whose dtype can be counted, and the names of the others by dtype."""
    kept: dict[Key, Tensor | Sparse] = {}
    unread: dict[str, list[str]] = {}
    for key, what in tensors.items():
        values = what.values if isinstance(what, Sparse) else what
        if values.type in TYPES:
            kept[key] = what
        else:
            kind = UNREAD.get(values.type, f"numbers of type {values.type}")
            unread.setdefault(kind, []).append(key[1])
    return kept, unread


def _names(tensors: Mapping[Key, object], graphs: Sequence[Graph]) -> dict[Key, str]:
    """The names of the model; in graphs within nodes, with the node in front where needed."""
    count = Counter(name for _, name in tensors)
    first = {
        k: k[1] if count[k[1]] == 1 or not k[0] else f"{graphs[k[0]].path}/{k[1]}" for k in tensors
    }
    count = Counter(first.values())
    return {k: n if count[n] == 1 else f"{n} (graph {k[0]})" for k, n in first.items()}


def _stored(files: Files, what: Tensor | Sparse, name: str) -> Stored:
    data = SparseData(files, what) if isinstance(what, Sparse) else Data(files, what)
    return Stored(name, what.shape, data.dtype, data.read)


def _described(uses: Uses, key: Key, x: Stored) -> Stored:
    """With its role and the axis of its output channels."""
    role, axis = uses.role(key, len(x.shape), x.dtype[0] in "IU" or x.dtype == "BOOL")
    return replace(x, role=role, out_axis=axis)


def _is_weight(x: Stored) -> bool:
    """Whether a constant within a node counts: by its use, or if it is no scalar or list."""
    if x.role is not None:
        return x.role != OTHER
    return len(x.shape) > 1


def _dequantised(
    uses: Uses, counted: Mapping[Key, Stored], tensors: Mapping[Key, Stored]
) -> tuple[dict[Key, Stored], dict[str, list[str]]]:
    """With how integers stand for numbers, and the names of those of which it is not known."""
    result: dict[Key, Stored] = {}
    scales = 0
    odd: dict[str, list[str]] = {}
    for key, x in counted.items():
        how, why = quantised(uses, tensors, key) if scales < MOST_SCALES else (None, TOO_MANY)
        scales += how.scale.size if how else 0
        result[key] = replace(x, quantised=how) if how else x
        if why:
            odd.setdefault(why, []).append(x.name)
    return result, odd


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return ", ".join(ascii(name[:100])[1:-1] for name in names[:LISTED]) + more


SOURCES.add(
    "onnx",
    Reader(
        about="ONNX models, with external data; mapped into memory",
        open=open_onnx,
        suffixes=(".onnx",),
    ),
)
