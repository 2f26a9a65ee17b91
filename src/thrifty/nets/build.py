"""A network from its name: built in, ``torchvision:``, ``timm:`` or ``package.module:factory``."""

from pathlib import PurePath

from torch import nn

from thrifty.errors import UnknownName, UserError
from thrifty.nets import zoos
from thrifty.nets.architecture import NETS, Architecture, default_of, remember
from thrifty.nets.factories import from_factory, is_factory
from thrifty.nets.reading import SUFFIXES
from thrifty.registry import Spec, Value, call_spec, parse_spec, suggest


def build(text: str, classes: int | None, shape: tuple[int, ...] | None) -> nn.Module:
    """The network that ``text`` names, with fresh weights and its :class:`Architecture`.

    Raises:
        UserError: there is none of that name, or it cannot be built as asked.
    """
    spec = parse_spec(text)
    prefix, colon, name = spec.name.partition(":")
    if colon and prefix in zoos.ZOOS:
        return zoos.ZOOS[prefix](Spec(name, spec.options), classes, shape)
    if is_factory(spec.name):
        model = from_factory(spec, classes, shape)
        return remember(model, Architecture(text, classes, shape))
    if spec.name not in NETS:
        raise UnknownName(_unknown(spec.name))
    options = {k: _shape(spec.name, v) if k == "shape" else v for k, v in spec.options.items()}
    fn = NETS.get(spec.name)
    given = {"classes": classes, "shape": shape}
    model = call_spec("network", Spec(spec.name, options), fn, defaults=given)  # type: ignore[arg-type]
    if not isinstance(model, nn.Module):
        raise UserError(f"{spec.name} ({NETS.where(spec.name)}) returned no torch.nn.Module")
    final: dict[str, object] = {}
    for key, value in given.items():
        final[key] = options.get(key, default_of(fn, key) if value is None else value)
    return remember(model, Architecture(text, final["classes"], final["shape"]))  # type: ignore[arg-type]


def _shape(name: str, value: Value) -> tuple[int, ...]:
    try:
        return tuple(int(n) for n in str(value).split("x"))
    except ValueError:
        raise UserError(f"{name} has shape={value}; write it as 3x32x32") from None


def _unknown(name: str) -> str:
    if name.lower().endswith(SUFFIXES) or len(PurePath(name).parts) > 1:
        return f"there is no file or folder {name!r}, nor a network of that name"
    for zoo in zoos.ZOOS:
        if name in zoos.names(zoo):
            return f"no network {name!r} is built in; {zoo} has one, write {zoo}:{name}"
    forms = "torchvision:NAME, timm:NAME, package.module:factory, a file or a folder"
    return f"no network is called {name!r}; {suggest(name, NETS.names())}  Other forms: {forms}"
