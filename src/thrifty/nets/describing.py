"""A built-in network in words and numbers: what it is, its options, its layers and what they cost.

The layers are those that run, in the order of their first use, and a layer used several times is
one of them: its parameters count once and its multiply-adds every time.
"""

import inspect
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thrifty.errors import UnknownName
from thrifty.nets.architecture import NETS, architecture_of
from thrifty.nets.build import build
from thrifty.nets.macs import count_macs, without_numbers
from thrifty.nets.thriftynet import ThriftyNet
from thrifty.registry import first_line, parse_spec, suggest
from thrifty.shown import Shown, text_table


@dataclass(frozen=True)
class Layer:
    """One module with tensors of its own.

    Args:
        name: dotted, in the network; ``(itself)`` for tensors of no layer.
        kind: its class.
        output: of its first use, for one input: channels x height x width.
        uses: how often one input passes it.
        parameters: of its own.
        macs: multiply-adds of all of its uses, of convolutions and linear layers.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    uses: int
    parameters: int
    macs: int


@dataclass(frozen=True)
class Described(Shown):
    """What ``thrifty nets --describe`` shows.

    Args:
        model: as it was asked for.
        text: the documentation of the network.
        options: name to what it is here.
        defaults: name to what it is if nobody says.
        shape: of one input.
        parameters: of the whole network, a shared one once.
        macs: multiply-adds of one input, of a shared layer every time.
        layers: those that run, in order.
    """

    model: str
    text: str
    options: dict[str, Any]
    defaults: dict[str, Any]
    shape: tuple[int, ...]
    parameters: int
    macs: int
    layers: tuple[Layer, ...]

    def to_rows(self) -> list[dict[str, Any]]:
        """A row a layer."""
        return [
            {
                "layer": each.name,
                "kind": each.kind,
                "output": "x".join(map(str, each.output)),
                "uses": str(each.uses),
                "parameters": f"{each.parameters:,}",
                "multiply-adds": f"{each.macs:,}" if each.macs else "",
            }
            for each in self.layers
        ]

    def __str__(self) -> str:
        """All of it, for a terminal."""
        options = (
            f"  {name}={_plain(value)}"
            + ("" if value == self.defaults[name] else f"  (default {_plain(self.defaults[name])})")
            for name, value in self.options.items()
        )
        shape = "x".join(map(str, self.shape))
        return "\n".join(
            [
                self.text,
                "",
                "Options:",
                *options,
                "",
                f"{self.model}: input {shape}, {self.parameters:,} parameters, "
                f"{self.macs:,} multiply-adds",
                "",
                text_table(self.to_rows()),
            ]
        )


def describe(text: str) -> Described:
    """What a built-in network is, with the options that ``text`` gives it.

    No memory is taken for its tensors.

    Raises:
        UserError: there is no such network, or it cannot be built so.
    """
    spec = parse_spec(text)
    if spec.name not in NETS:
        raise UnknownName(
            f"no network {spec.name!r} is built in, and others are not described; "
            f"{suggest(spec.name, NETS.names())}"
        )
    fn = NETS.get(spec.name)
    defaults = {n: p.default for n, p in inspect.signature(fn).parameters.items()}
    with torch.device("meta"):
        model = build(text, None, None)
    known = architecture_of(model)
    assert known is not None and known.shape is not None
    return Described(
        model=text,
        text=_documentation(fn),
        options={**defaults, **spec.options, "classes": known.classes, "shape": known.shape},
        defaults=defaults,
        shape=known.shape,
        parameters=sum(p.numel() for p in model.parameters()),
        macs=count_macs(model, known.shape),
        layers=tuple(_layers(model, known.shape)),
    )


def size_of(model: nn.Module) -> str | None:
    """What a recursive network came out as, in a line; None for networks of one obvious size.

    A ThriftyNet that fills a budget has the filters that this pays for, and nobody wrote them.
    """
    known = architecture_of(model)
    if not isinstance(model, ThriftyNet) or known is None or known.shape is None:
        return None
    count = sum(p.numel() for p in model.parameters())
    return (
        f"{known.model}: T = {model.iterations} iterations of one convolution, f = "
        f"{len(model.kept)} filters, {count:,} parameters, "
        f"{count_macs(model, known.shape):,} multiply-adds"
    )


def _documentation(fn: Any) -> str:
    """What a network's function says of itself; networks of several depths share that of one."""
    about = getattr(fn, "about", None)
    if about is None:
        return (inspect.getdoc(fn) or first_line(fn)).strip()
    shared = inspect.getdoc(getattr(fn, "func", None)) or ""
    _, args, rest = shared.partition("Args:")
    return f"{about}\n\n{args}{rest}".strip() if args else str(about)


def _layers(model: nn.Module, shape: tuple[int, ...]) -> list[Layer]:
    """Modules with parameters of their own, as one input on the device meta passes them."""
    model = without_numbers(model).eval()
    uses: dict[str, list[tuple[int, ...]]] = {}

    def note(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            uses.setdefault(name, []).append(tuple(output.shape[1:]))

        return hook

    leaves = {name: m for name, m in model.named_modules() if m._parameters}
    handles = [m.register_forward_hook(note(name)) for name, m in leaves.items()]
    try:
        with torch.no_grad():
            model(torch.empty((1, *shape), device="meta"))
    finally:
        for handle in handles:
            handle.remove()
    return [_layer(name, leaves[name], outputs) for name, outputs in uses.items()]


def _layer(name: str, module: nn.Module, outputs: list[tuple[int, ...]]) -> Layer:
    weight, products = module._parameters.get("weight"), 0
    if isinstance(module, nn.modules.conv._ConvNd | nn.Linear) and weight is not None:
        for output in outputs:
            places = 1
            for side in output[1:]:
                places *= side
            products += weight.numel() * places
    own = sum(p.numel() for p in module._parameters.values() if p is not None)
    return Layer(name or "(itself)", type(module).__name__, outputs[0], len(outputs), own, products)


def _plain(value: Any) -> str:
    if value is None:
        return "(not given)"
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return re.sub(r"\.0$", "", str(value))
