"""Find a named thing (criterion, method, network, data set, format, report) without a list.

A registry is a folder of modules.  Each module registers what it defines when it is
imported; the folder is imported on the first look-up, so adding a file is enough and
importing ``thrifty`` stays cheap.  Other packages join in through entry points of the
registry's group (``thrifty.criteria``, ``thrifty.methods``, ...).

A thing is named on the command line and in recipes by a spec, ``name?key=value&key=value``.
"""

import difflib
import importlib
import inspect
import math
import os
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import parse_qsl, quote

from thrifty.errors import UnknownName, UserError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")
Value = str | int | float | bool

CLOSE, LEAST_LIKE, LISTED = 3, 0.5, 24
"""A suggestion names this many at most, at least so like, or lists so many."""


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

    def add(self, name: str, thing: T, file: str | None = None) -> T:
        """Register ``thing``; a second entry of one name is an error that names both files.

        Args:
            name: how it is asked for.
            thing: what is given back.
            file: where it is defined; the file of the caller if ``None``.
        """
        file = file or _caller(__name__, self.package)
        if name in self._things and self._files[name] != file:
            raise UserError(
                f"the {self.kind} {name!r} is defined twice, in {self._files[name]} and in {file}; "
                f"give one of them another name"
            )
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
        return getattr(thing, "about", None) or first_line(thing)

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True  # first, for modules that look something up while they are imported
        try:
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self.package}.{module.name}")
            # Reading what is installed takes longer than the rest of this file.
            metadata = importlib.import_module("importlib.metadata")
            for point in metadata.entry_points(group=self.group):
                self._join(point)
        except BaseException:
            self._loaded = False
            raise

    def _join(self, point: "EntryPoint") -> None:
        """Take in what another package brings, unless importing it has done so already."""
        try:
            thing = point.load()
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"the entry point {point.name!r} of {point.group!r} ({point.value}) does not "
                f"load: {type(error).__name__}: {error}; mend or uninstall the package that "
                f"brings it"
            ) from error
        if not inspect.ismodule(thing) and self._things.get(point.name) is not thing:
            file = getattr(sys.modules.get(point.module), "__file__", None)
            self.add(point.name, thing, file or point.value)


def first_line(thing: object) -> str:
    """What a thing's documentation says first."""
    return (inspect.getdoc(thing) or "").strip().partition("\n")[0]


def suggest(name: str, known: Iterable[str]) -> str:
    """``did you mean a or b?`` for close names, else those that there are.

    Example:
        >>> suggest("resnet21", ["resnet110", "resnet20", "lenet"])
        'did you mean resnet20 or resnet110?'
    """
    known = sorted(known)
    like = {k: _likeness(name, k) for k in known}
    least = max(LEAST_LIKE, max(like.values(), default=0.0) - 0.2)
    near = sorted((k for k in known if like[k] >= least), key=lambda k: -like[k])[:CLOSE]
    if near:
        return f"did you mean {' or '.join(near)}?"
    more = f", ... ({len(known):,} in all)" if len(known) > LISTED else ""
    return f"there is {', '.join(known[:LISTED])}{more}" if known else "there is none"


def _likeness(given: str, known: str) -> float:
    """From 0 to 1; of equally like names, one that begins alike is liker."""
    given, known = given.lower(), known.lower()
    same = len(os.path.commonprefix([given, known])) / max(len(given), len(known), 1)
    return difflib.SequenceMatcher(None, given, known).ratio() + 1e-3 * same


def _caller(*skipped: str) -> str:
    """The file of the nearest caller that is none of these modules."""
    frame, file = sys._getframe(1), "?"
    while frame.f_back is not None and frame.f_globals.get("__name__") in skipped:
        file = frame.f_globals.get("__file__", file)
        frame = frame.f_back
    if str(frame.f_globals.get("__name__")).startswith("importlib"):
        return file  # defined in the last module skipped, which is being imported
    return str(frame.f_globals.get("__file__", "?"))


@dataclass(frozen=True)
class Spec:
    """A name with options, as people write it: ``resnet20?width=2``."""

    name: str
    options: Mapping[str, Value] = field(default_factory=dict)

    def __str__(self) -> str:
        return (
            self.name
            + ("?" if self.options else "")
            + "&".join(f"{_plain(key)}={_plain(value)}" for key, value in self.options.items())
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
        if not query:
            raise ValueError("no option after the ?")
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
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text) if math.isfinite(float(text)) else text
    except ValueError:
        return text


def _plain(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else quote(str(value), safe="/:,@ ")
