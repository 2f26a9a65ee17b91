"""A data set that a Python function makes."""

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from thrifty.data.arrays import FOUR, arrays_data
from thrifty.data.sets import DATASETS, Data
from thrifty.errors import UserError
from thrifty.registry import Spec, Value, call_spec, suggest


@DATASETS.entry("module")
def module(location: str, *, seed: int = 0, size: int | None = None, **options: Value) -> Data:
    """What ``package.module:callable`` returns when it is called with the options of the spec.

    The current directory can be imported from.  The callable returns a Data, or
    (x_train, y_train, x_test, y_test) as a tuple or by these names in a dictionary, with
    arrays as in ``npz``, ``x_unlabeled`` too.  Options that all data sets have are applied to
    the result and not passed on, but for ``seed`` and ``size``, which it gets if it takes them
    by that name.

    Args:
        location: ``package.module:callable``.
        seed: passed on if the callable takes it.
        size: passed on if the callable takes it.
        options: passed on.
    """
    with _current_directory_first():
        make = _find(location)
        result = call_spec(
            "data function", Spec(location, options), make, defaults={"seed": seed, "size": size}
        )
    if isinstance(result, Data):
        return result
    if isinstance(result, tuple | list) and len(result) == len(FOUR):
        result = dict(zip(FOUR, result, strict=True))
    if not isinstance(result, Mapping):
        raise UserError(
            f"{location} returned {type(result).__name__}; it must return a thrifty.data.Data, "
            f"or {', '.join(FOUR)} as a tuple or dictionary"
        )
    return arrays_data(result, location, seed=seed)


def _find(location: str) -> Callable[..., Any]:
    name, colon, attribute = location.partition(":")
    if not (name and colon and attribute):
        raise UserError(
            f"module:{location} does not name a function; write module:package.module:callable"
        )
    try:
        found = importlib.import_module(name)
    except Exception as error:  # whatever the module does when it is imported
        raise UserError(
            f"module:{location}: importing {name} failed, {type(error).__name__}: {error}; "
            f"looked in {os.getcwd()} first, then in the installed packages"
        ) from error
    make = getattr(found, attribute, None)
    if not callable(make):
        known = [n for n, thing in vars(found).items() if callable(thing) and n[0] != "_"]
        raise UserError(
            f"module:{location}: {name} has no function {attribute!r}; {suggest(attribute, known)}"
        )
    return make  # type: ignore[no-any-return]


@contextmanager
def _current_directory_first() -> Iterator[None]:
    """During the call too, for a function that imports when it runs."""
    here = os.getcwd()
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)
