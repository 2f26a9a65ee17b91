"""Optional packages that do not import everywhere, imported in one place."""

import importlib
import re
import sys
from types import ModuleType

import torch

from thrifty.errors import MissingExtra

_ABSENT = re.compile(r"operator torchvision::(\w+) does not exist")
_RETRIES = 5


def import_torchvision() -> ModuleType:
    """torchvision, also where its compiled operators do not load.

    The wheel of torchvision made for CUDA finds no CUDA libraries beside a CPU build of torch,
    leaves its operators out without a word, and then fails to import because it registers the
    shapes of operators that are not there.  Declaring those operators is enough: networks and
    transforms do not use them.  An installation that imports is left as it is.

    Raises:
        MissingExtra: it is not installed.
    """
    declared: set[str] = set()
    for _ in range(_RETRIES):
        try:
            return importlib.import_module("torchvision")
        except RuntimeError as error:
            absent = _ABSENT.search(str(error))
            if absent is None or absent.group(1) in declared:
                raise
            declared.add(absent.group(1))
            _forget("torchvision")
            torch.library.define(
                f"torchvision::{absent.group(1)}",
                "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
            )
        except ModuleNotFoundError as error:
            raise _missing(error, "torchvision", "a network of torchvision") from error
    return importlib.import_module("torchvision")


def import_timm() -> ModuleType:
    """timm, which needs torchvision to import.

    Raises:
        MissingExtra: it is not installed.
    """
    import_torchvision()
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise _missing(error, "timm", "a network of timm") from error


def _missing(error: ModuleNotFoundError, package: str, purpose: str) -> Exception:
    return MissingExtra("vision", package, purpose) if error.name == package else error


def _forget(package: str) -> None:
    for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
        del sys.modules[name]
