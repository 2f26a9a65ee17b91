"""Find a named thing (criterion, method, network, data set, format, report) without a list.

A registry is a folder of modules.  Each module registers what it defines when it is
imported; the folder is imported on the first look-up, so adding a file is enough and
importing ``thrifty`` stays cheap.  Other packages join in through entry points of the
registry's group (``thrifty.criteria``, ``thrifty.methods``, ...).

A thing is named on the command line and in recipes by a spec, ``name?key=value&key=value``.
"""

import difflib
import importlib
import importlib.metadata
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qsl

from thrifty.errors import UnknownName, UserError

T = TypeVar("T")
Value = str | int | float | bool


class Registry(Generic[T]):
    """Names to things of one kind, filled by importing the modules of ``package``.

    Args:
        kind: what one entry is called in messages, such as ``"criterion"``.
        package: the folder whose modules register entries, such as ``"thrifty.data"``.
        group: the entry-point group through which other packages add theirs.
    """

    def __init__(self, kind: str, package: str, group: str):
        self.kind, self.package, self.group = kind, package, group
        self._things: dict[str, T] = {}
        self._files: dict[str, str] = {}
        self._loaded = False

    def add(self, name: str, thing: T) -> T:
        """Register ``thing``; a second entry of one name is an error that names both files."""
        file = sys._getframe(1).f_globals.get("__file__", "?")
        if file == __file__:
            file = sys._getframe(2).f_globals.get("__file__", "?")
        if name in self._things and self._files[name] != file:
            raise ValueError(f"{self.kind} {name!r} is defined twice: {self._files[name]}, {file}")
        self._things[name] = thing
        self._files[name] = file
        return thing

    def entry(self, name: str) -> Callable[[T], T]:
        """Decorator form of :meth:`add`."""
        return lambda thing: self.add(name, thing)

    def get(self, name: str) -> T:
        """The entry called ``name``.

        Raises:
            UnknownName: there is none; the message offers the closest names.
        """
        self._load()
        if name not in self._things:
            raise UnknownName(f"no {self.kind} is called {name!r}; {suggest(name, self._things)}")
        return self._things[name]

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._things

    def names(self) -> list[str]:
        """Every name, sorted."""
        self._load()
        return sorted(self._things)

    def where(self, name: str) -> str:
        """The file that registered ``name``."""
        self.get(name)
        return self._files[name]

    def summary(self, name: str) -> str:
        """First line of the entry's documentation, for listings."""
        thing = self.get(name)
        text = getattr(thing, "about", None) or inspect.getdoc(thing) or ""
        return text.strip().split("\n")[0]

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        for point in importlib.metadata.entry_points(group=self.group):
            try:
                thing = point.load()
            except Exception as error:
                raise UserError(
                    f"the entry point {point.name!r} of {point.group!r} ({point.value}) does not "
                    f"load: {error}; mend or uninstall the package that brings it"
                ) from error
            if point.name not in self._things and not inspect.ismodule(thing):
                self.add(point.name, thing)


def suggest(name: str, known: Iterable[str]) -> str:
    """``did you mean a, b?`` for close names, else all that there are."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"there is {', '.join(known)}" if known else "there is none"


@dataclass(frozen=True)
class Spec:
    """A name with options, as people write it: ``resnet20?width=2``."""

    name: str
    options: Mapping[str, Value] = field(default_factory=dict)

    def __str__(self) -> str:
        return (
            self.name
            + ("?" if self.options else "")
            + "&".join(f"{key}={_plain(value)}" for key, value in self.options.items())
        )


def parse_spec(text: str) -> Spec:
    """Split ``name?key=value&key=value``; values become int, float, bool or stay text.

    Raises:
        UserError: an option has no value, or is given twice.

    Example:
        >>> parse_spec("vgg16_bn?width=0.5")
        Spec(name='vgg16_bn', options={'width': 0.5})
    """
    name, mark, query = text.partition("?")
    if not mark:
        return Spec(name)
    try:
        pairs = parse_qsl(query, strict_parsing=True, keep_blank_values=True)
    except ValueError:
        raise UserError(
            f"{text!r} has options that cannot be read; write name?key=value&key=value"
        ) from None
    options: dict[str, Value] = {}
    for key, value in pairs:
        if key in options:
            raise UserError(f"{text!r} gives the option {key!r} twice; give it once")
        options[key] = _value(value)
    return Spec(name, options)


def call_spec(
    kind: str,
    spec: Spec,
    fn: Callable[..., T],
    *args: Any,
    defaults: Mapping[str, Any] | None = None,
) -> T:
    """Call ``fn`` with the options of ``spec``; ``defaults`` fill what ``fn`` also takes.

    Raises:
        UnknownName: an option that ``fn`` does not take; the message lists those it does.
        UserError: ``fn`` needs an option that was not given.
    """
    parameters = inspect.signature(fn).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    positional = [
        p for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    taken = {p.name for p in positional[: len(args)]}
    known = [
        name
        for name, p in parameters.items()
        if name not in taken and p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    for key in spec.options:
        if key not in known and not open_ended:
            raise UnknownName(f"{kind} {spec.name!r} has no option {key!r}; {suggest(key, known)}")
    filled = {k: v for k, v in (defaults or {}).items() if k in known and v is not None}
    filled.update(spec.options)
    missing = [
        n for n in known if parameters[n].default is inspect.Parameter.empty and n not in filled
    ]
    if missing:
        raise UserError(
            f"{kind} {spec.name!r} needs {', '.join(missing)}; write {spec.name}?{missing[0]}=..."
        )
    return fn(*args, **filled)


def _value(text: str) -> Value:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _plain(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
