"""Networks of the user's own: ``package.module:factory?width=4`` calls the factory.

This runs the user's code, which is the point; a weight file may never name one (see stored.py).
"""

import copy
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from thrifty.errors import UnknownName, UserError
from thrifty.registry import Spec, call_spec, suggest

_FORM = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def is_factory(name: str) -> bool:
    """Whether ``name`` has the form ``package.module:factory``."""
    return _FORM.fullmatch(name) is not None


def from_factory(spec: Spec, classes: int | None, shape: tuple[int, ...] | None) -> nn.Module:
    """What the factory returns for the options of ``spec``.

    ``classes`` and ``shape`` are passed if the factory takes ``classes`` or ``num_classes``, and
    ``shape``.  An error inside the factory is passed on as it is.

    Raises:
        UserError: there is no such module or factory, or it returns no module.
    """
    with _here_importable():
        factory = _found(spec.name)
        if isinstance(factory, nn.Module):
            return copy.deepcopy(factory)
        given = {"classes": classes, "num_classes": classes, "shape": shape}
        if {"classes", "num_classes"} & set(spec.options):
            given["classes"] = given["num_classes"] = None
        model: object = call_spec("network", spec, factory, defaults=given)
    if not isinstance(model, nn.Module):
        raise UserError(
            f"{spec.name} returned {type(model).__name__}; a factory returns a torch.nn.Module"
        )
    return model


def _found(name: str) -> Callable[..., Any]:
    path, _, attribute = name.partition(":")
    try:
        thing: Any = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise UserError(f"{name}: importing {path} failed: {error}; install it") from error
        raise UserError(
            f"{name}: there is no module {path!r}; modules are looked for where Python is "
            f"installed and in {Path.cwd()}"
        ) from None
    for part in attribute.split("."):
        if not hasattr(thing, part):
            known = [n for n in dir(thing) if not n.startswith("_")]
            raise UnknownName(f"{name}: {path} has no {attribute!r}; {suggest(part, known)}")
        thing = getattr(thing, part)
    if not callable(thing):
        kind = type(thing).__name__
        raise UserError(f"{name} is a {kind}; give a function that returns a module")
    return thing  # type: ignore[no-any-return]


@contextmanager
def _here_importable() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)
