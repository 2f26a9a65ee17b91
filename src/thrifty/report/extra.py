"""The packages of the extra ``report``, imported when a chart is drawn and not before."""

import importlib
from typing import Any

from thrifty.errors import MissingExtra


def altair() -> Any:
    """The module altair.

    Raises:
        MissingExtra: it is not installed.
    """
    return _module("altair", "altair", "drawing a chart")


def vl_convert() -> Any:
    """The module vl_convert, which renders charts without a browser and without a network.

    Raises:
        MissingExtra: it is not installed.
    """
    return _module("vl_convert", "vl-convert-python", "rendering a chart")


def _module(name: str, package: str, purpose: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtra("report", package, purpose) from None
