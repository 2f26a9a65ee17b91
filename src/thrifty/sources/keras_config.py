"""What the configuration of a Keras model says: its layers, and what follows what.

A configuration is JSON beside the weights: ``config.json`` in a ``.keras`` file, the attribute
``model_config`` in a whole-model ``.h5``.  Sequential and functional models are understood, one
within another, with the inbound nodes of Keras 2 (lists of names) and 3 (tensors with a history).
A model of one's own class has no graph; its layers are then known by the names of their weights.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from thrifty.errors import UserError

MOST_DEPTH = 32
EPSILON = 1e-3
NORM = "batch_normalization"

BEFORE_NORM = re.compile(r"^(dense|(depthwise_|separable_)?conv(olution)?\d?d(_transpose)?)$")
"""Layers whose weights a batch normalisation behind them can be folded into."""


@dataclass(frozen=True)
class Layer:
    """A layer: its name, its class as weights are named after it, and how it was configured.

    ``inner`` are the layers of a model within the model, or the one that a wrapper wraps.
    """

    name: str
    kind: str
    settings: Mapping[str, Any]
    inner: tuple["Layer", ...] = ()
    inbound: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Model:
    """A model: its layers in order, and the pairs (layer, batch normalisation on it)."""

    layers: tuple[Layer, ...]
    pairs: tuple[tuple[Layer, Layer], ...]


def model_of(text: str, label: str) -> Model | None:
    """What the JSON ``text`` describes; None if it is a model of a class of its own.

    Raises:
        UserError: it is no JSON object of a model.
    """
    try:
        said = json.loads(text)
        if not isinstance(said, dict):
            raise ValueError("it is no JSON object")
        layers = _layers(said.get("config"), 0)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{label}: the configuration of the model cannot be read: {str(error)[:200]}; save "
            f"the model again"
        ) from None
    if layers is None:
        return None
    return Model(layers, tuple(_pairs(said["config"], layers, 0)))


def snake(name: str) -> str:
    """A class name as Keras names groups and layers after it.

    Example:
        >>> snake("BatchNormalization"), snake("Conv2D")
        ('batch_normalization', 'conv2d')
    """
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def everything(layers: tuple[Layer, ...]) -> Iterator[Layer]:
    """The layers, and those within them."""
    for layer in layers:
        yield layer
        yield from everything(layer.inner)


def _entries(config: Any) -> list[dict[str, Any]] | None:
    entries = config.get("layers") if isinstance(config, dict) else config
    if not isinstance(entries, list):
        return None
    return [e for e in entries if isinstance(e, dict)]


def _layers(config: Any, depth: int) -> tuple[Layer, ...] | None:
    if depth > MOST_DEPTH:
        raise ValueError("models are nested without end")
    entries = _entries(config)
    if entries is None:
        return None
    return tuple(_layer(e, depth) for e in entries if not _is_function(e))


def _is_function(entry: dict[str, Any]) -> bool:
    """Whether an entry is an operation such as ``keras.ops.add``, which has no weights."""
    return re.search(r"\.ops(\.|$)", str(entry.get("module", ""))) is not None


def _layer(entry: dict[str, Any], depth: int) -> Layer:
    settings = entry.get("config")
    settings = settings if isinstance(settings, dict) else {"layers": settings}
    kind = snake(str(entry.get("class_name", "")))
    name = entry.get("name", settings.get("name"))
    inner = _layers(settings, depth + 1) or ()
    wrapped = settings.get("layer")
    if isinstance(wrapped, dict) and not inner and depth < MOST_DEPTH:
        inner = (_layer(wrapped, depth + 1),)
    return Layer(str(name or kind), kind, settings, inner, _inbound(entry))


def _inbound(entry: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    """The names of the layers each use of this one takes its inputs from."""
    nodes = entry.get("inbound_nodes")
    if not isinstance(nodes, list):
        return ()
    return tuple(tuple(_names(node, 0)) for node in nodes)


def _names(node: Any, depth: int) -> Iterator[str]:
    if depth > MOST_DEPTH:
        return
    if isinstance(node, dict):
        history = node.get("keras_history")
        if isinstance(history, list) and history:
            yield str(history[0])
            return
        for value in node.values():
            yield from _names(value, depth + 1)
    elif isinstance(node, list):
        if len(node) >= 3 and isinstance(node[0], str) and type(node[1]) is type(node[2]) is int:
            yield node[0]
            node = node[3:]
        for value in node:
            yield from _names(value, depth + 1)


def _pairs(config: Any, layers: tuple[Layer, ...], depth: int) -> Iterator[tuple[Layer, Layer]]:
    by_name = {layer.name: layer for layer in layers}
    graph = any(layer.inbound for layer in layers)
    if graph and len(by_name) == len(layers):
        outputs = config.get("output_layers", []) if isinstance(config, dict) else []
        read = Counter(name for x in _entries(config) or () for use in _inbound(x) for name in use)
        read.update(_names(outputs, 0))
        for layer in layers:
            before = layer.inbound[0] if len(layer.inbound) == 1 else ()
            first = by_name.get(before[0]) if len(before) == 1 else None
            if first and read[first.name] == 1 and len(first.inbound) == 1:
                yield from _pair(first, layer)
    elif not graph:
        real = [x for x in layers if x.kind != "input_layer"]
        for first, layer in zip(real, real[1:], strict=False):
            yield from _pair(first, layer)
    for layer in layers:
        if layer.inner:
            yield from _pairs(layer.settings, layer.inner, depth + 1)


def _pair(first: Layer, norm: Layer) -> Iterator[tuple[Layer, Layer]]:
    if norm.kind != NORM or not BEFORE_NORM.match(first.kind):
        return
    if _function(first.settings.get("activation")) == "linear" and _along_channels(first, norm):
        yield first, norm


def _function(said: Any) -> str:
    if isinstance(said, dict):
        said = said.get("config") if isinstance(said.get("config"), str) else said.get("class_name")
    return "linear" if said in (None, "linear") else str(said)


def _along_channels(first: Layer, norm: Layer) -> bool:
    """Whether the normalisation is one of output channels, and not of another axis."""
    axis = norm.settings.get("axis", -1)
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    if type(axis) is not int:
        return False
    sides = re.search(r"(\d)d", first.kind)
    if sides is None:
        return axis != 0
    last = int(sides[1]) + 1
    if first.settings.get("data_format") == "channels_first":
        return axis in (1, -last)
    return axis in (-1, last)


def epsilon(norm: Layer) -> float:
    """The epsilon of a batch normalisation."""
    said = norm.settings.get("epsilon", EPSILON)
    ok = isinstance(said, int | float) and not isinstance(said, bool) and 0 <= said < 1
    return float(said) if ok else EPSILON
