"""The layouts in which Keras writes weights to HDF5, read as one list of named weights.

Legacy: groups of layers with attributes that list the names of layers and of weights, at the root
or, in a whole model, under ``model_weights``.  Keras 3: nested groups of layers, each with a group
``vars`` of numbered variables; the groups are named after classes (``conv2d_1``), and the layers'
own names are attributes in newer files and else in the configuration.

Names are those that Keras users know: ``conv2d_1/kernel``.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from thrifty.errors import UserError
from thrifty.sources.hdf5 import Dataset, Group, Hdf5
from thrifty.sources.keras_config import Layer, Model, everything
from thrifty.sources.keras_names import ROLES, guessed, role_of, stem, variables
from thrifty.sources.stored import BITS

LAYERS, WEIGHTS = "layer_names", "weight_names"
TOP_LEVEL = "top_level_model_weights"
"""Where Keras puts what belongs to the model and to none of its layers; it is not listed."""
CONTAINERS = ("layers", "_layer_checkpoint_dependencies")
LEFT_OUT = {
    "optimizer": "optimizer",
    "optimizer_weights": "optimizer",
    "metrics": "metrics",
    "compile_metrics": "metrics",
}
"""Groups at the root that are no weights of the network, and what they are."""
_ATTENTION = re.compile(r"_?(query|key|value|output)_dense")


@dataclass(frozen=True)
class Weight:
    """One variable of a layer.

    Args:
        layer: the names of the layer and of what it is in, the outermost first.
        variable: such as ``"kernel"``; a number where nothing tells.
        kind: the class of the layer as groups are named after it.
        role: see :class:`~thrifty.sources.Stored`.
        dataset: where its numbers are.
    """

    layer: tuple[str, ...]
    variable: str
    kind: str
    role: str | None
    dataset: Dataset


def weights_of(file: Hdf5, model: Model | None) -> list[Weight]:
    """Every weight of the network in ``file``, in the order of its layers.

    Raises:
        UserError: it has none of the layouts, or names what is not there.
    """
    for place in ("model_weights", ""):
        group = file.find(place)
        if isinstance(group, Group) and group.texts(LAYERS) is not None:
            found = list(_legacy(file, group, model))
            break
    else:
        found = list(_numbered(file, model))
    if not found:
        names = ", ".join(ascii(name[:60]) for name in file.root.names[:8]) or "nothing"
        raise UserError(
            f"{file.label} holds no weights: it is HDF5, and has none of the layouts in which "
            f"Keras writes them; it has {names}"
        )
    return found


def left_out(file: Hdf5) -> list[str]:
    """Sentences about what in ``file`` is no weight of the network."""
    counts: Counter[str] = Counter()
    for x in file.datasets():
        what = LEFT_OUT.get(x.path.partition("/")[0])
        if what and x.dtype in BITS:
            counts[what] += x.nbytes // BITS[x.dtype].itemsize
    return [f"left out: {count:,} numbers of the {what}" for what, count in counts.items() if count]


def _legacy(file: Hdf5, group: Group, model: Model | None) -> Iterator[Weight]:
    layers = {x.name: x for x in everything(model.layers)} if model else {}
    names = group.texts(LAYERS) or []
    if TOP_LEVEL in group.names and TOP_LEVEL not in names:
        names = [*names, TOP_LEVEL]
    for name in names:
        inside = file.find(f"{group.path}/{name}")
        if not isinstance(inside, Group):
            raise UserError(
                f"{file.label} names the layer {ascii(name[:100])}, and has no such group; it is "
                f"damaged, or was written by halves"
            )
        for weight in inside.texts(WEIGHTS) or []:
            dataset = file.find(f"{inside.path}/{weight}")
            if not isinstance(dataset, Dataset):
                raise UserError(
                    f"{file.label} names the weight {ascii(weight[:100])} of the layer "
                    f"{ascii(name[:100])}, and has no such data set; it is damaged"
                )
            yield _named(name, weight, dataset, layers)


def _named(name: str, weight: str, dataset: Dataset, layers: Mapping[str, Layer]) -> Weight:
    *above, variable = re.sub(r":\d+$", "", weight).split("/")
    above = above[above.index(name) :] if name in above else [name, *above]
    if above[:2] == [name, name]:
        above = above[1:]
    known = next((layers[x] for x in reversed(above) if x in layers), None)
    kind = known.kind if known and not known.inner else stem(above[-1])
    return Weight(tuple(above), variable, kind, role_of(variable), dataset)


@dataclass(frozen=True)
class _Place:
    """A group of a layer while walking down: its names so far, its class, its configuration."""

    layer: tuple[str, ...]
    kind: str
    settings: Mapping[str, Any]
    inner: tuple[Layer, ...]


def _numbered(file: Hdf5, model: Model | None) -> Iterator[Weight]:
    start = _Place((), "", {}, model.layers if model else ())
    named = _own_name(file, file.root) is not None or any(
        _own_name(file, group) for group in _groups(file, file.root)
    )
    yield from _below(file, file.root, start, named)


def _below(file: Hdf5, group: Group, place: _Place, named: bool) -> Iterator[Weight]:
    own = file.find(f"{group.path}/vars")
    if isinstance(own, Group):
        yield from _variables(file, own, place)
    inside = [g for g in _groups(file, group) if g is not own]
    configured = _configured(place.inner)
    places = {layer.name: i for i, layer in enumerate(place.inner)}

    def order(sub: Group) -> int:
        layer = configured.get(sub.path.rpartition("/")[2])
        name = _own_name(file, sub) or (layer.name if layer else "")
        return places.get(name, len(places))

    for sub in sorted(inside, key=order):
        last = sub.path.rpartition("/")[2]
        if group is file.root and last in LEFT_OUT:
            continue
        yield from _below(file, sub, _inside(file, sub, last, place, configured, named), named)


def _inside(
    file: Hdf5,
    group: Group,
    last: str,
    place: _Place,
    configured: Mapping[str, Layer],
    named: bool,
) -> _Place:
    """Where one is after going down into ``group``, which is called ``last``."""
    own = _own_name(file, group)
    if last in CONTAINERS:
        return place
    if named and own is None:
        return replace(place, kind=stem(last))
    by_name = {x.name: x for x in place.inner}
    layer = by_name.get(own) if own else configured.get(last)
    if layer is not None:
        return _Place((*place.layer, layer.name), layer.kind, layer.settings, layer.inner)
    kind = stem(last)
    if last == "cell":
        kind = place.kind if place.kind not in ("", "rnn") else stem(own or "")
    elif _ATTENTION.fullmatch(last):
        kind = "einsum_dense"
    elif last in ("forward_layer", "backward_layer", "layer") and place.inner:
        wrapped = place.inner[0]
        return _Place((*place.layer, own or last), wrapped.kind, wrapped.settings, wrapped.inner)
    elif own and variables(kind, (), {}) is None:
        kind = re.sub(r"^(forward|backward)_", "", stem(own))
    settings = place.settings if last == "cell" else {}
    return _Place((*place.layer, own or last), kind, settings, ())


def _configured(layers: Sequence[Layer]) -> dict[str, Layer]:
    """Layers by the names of their groups, which count the classes: ``conv2d``, ``conv2d_1``."""
    count: Counter[str] = Counter()
    found = {}
    for layer in layers:
        number = count[layer.kind]
        count[layer.kind] += 1
        found[f"{layer.kind}_{number}" if number else layer.kind] = layer
    return found


def _variables(file: Hdf5, group: Group, place: _Place) -> Iterator[Weight]:
    nodes = [file.find(f"{group.path}/{name}") for name in group.names]
    found = [node for node in nodes if isinstance(node, Dataset)]
    found.sort(key=lambda x: _natural(x.path))
    shapes = [x.shape for x in found]
    whole = bool(found) and found[0].dtype == "I8"
    names = variables(place.kind, shapes, place.settings, whole)
    if names is None:
        said = guessed(shapes)
    else:
        said = [(name, ROLES.get(name)) for name in names]
    for (name, role), dataset in zip(said, found, strict=True):
        yield Weight(place.layer, name, place.kind, role, dataset)


def _groups(file: Hdf5, group: Group) -> list[Group]:
    """The groups that lie in ``group`` itself, in natural order; links to others are left out."""
    below = f"{group.path}/" if group.path else ""
    nodes = [file.find(f"{below}{name}") for name in group.names]
    found = [
        x
        for x, name in zip(nodes, group.names, strict=True)
        if isinstance(x, Group) and x.path == f"{below}{name}"
    ]
    return sorted(found, key=lambda x: _natural(x.path))


def _own_name(file: Hdf5, group: Group) -> str | None:
    own = file.find(f"{group.path}/vars")
    return own.text("name") if isinstance(own, Group) else None


def _natural(text: str) -> list[tuple[int, str]]:
    """``conv2d`` before ``conv2d_1``, and that before ``conv2d_10``."""
    parts = re.split(r"(\d+)", text)
    return [(int(p), "") if p.isdecimal() and len(p) < 20 else (-1, p) for p in parts]
