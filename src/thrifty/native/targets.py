"""Which kernels count: the fastest that run here, unless one is asked for.

``avx512``, ``avx2`` and ``baseline`` are the compiled extension; ``numpy`` needs no compiler and
gives the same results.  The environment variable ``THRIFTY_KERNELS`` chooses for a process.
"""

import contextlib
import importlib
import os
from collections.abc import Iterator
from types import ModuleType

from thrifty.errors import UserError

_kernels: ModuleType | None
try:
    _kernels = importlib.import_module("thrifty.native._kernels")
except ImportError:  # installed where there was no compiler
    _kernels, _COMPILED = None, ()
else:
    _COMPILED = tuple(_kernels.available())

TARGETS = ("avx512", "avx2", "baseline", "numpy")
"""Every target that there is, the fastest first."""

VARIABLE = "THRIFTY_KERNELS"

_forced: list[str | None] = []


def available() -> tuple[str, ...]:
    """The targets that run on this machine in this installation, the fastest first."""
    return tuple(t for t in TARGETS if t in _COMPILED or t == "numpy")


def target() -> str:
    """The target that counts now.

    Raises:
        UserError: ``THRIFTY_KERNELS`` names none that is available.
    """
    if _forced and _forced[-1] is not None:
        return _forced[-1]
    asked = os.environ.get(VARIABLE)
    return _checked(asked, f"{VARIABLE}={asked}") if asked else available()[0]


def compiled() -> ModuleType | None:
    """The extension, ``thrifty.native._kernels``, unless numpy counts now."""
    return None if target() == "numpy" else _kernels


@contextlib.contextmanager
def use(target: str | None) -> Iterator[None]:
    """Count with ``target`` inside a ``with`` block, in every thread; ``None`` is the usual one.

    Raises:
        UserError: the target is unknown or not available.
    """
    _forced.append(None if target is None else _checked(target, repr(target)))
    try:
        yield
    finally:
        _forced.pop()


def _checked(name: str, given: str) -> str:
    if name not in TARGETS:
        raise UserError(f"{given} is no target of the kernels; there is {', '.join(TARGETS)}")
    if name not in available():
        why = "this processor lacks it" if _COMPILED else "the extension was not compiled"
        raise UserError(
            f"{given} is not available, {why}; use {', '.join(available())}"
            + ("" if _COMPILED else ", or install thrifty where there is a C++ compiler")
        )
    return name
