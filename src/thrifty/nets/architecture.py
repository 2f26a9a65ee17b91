"""The registry of networks, and what a network remembers about how it was made.

A network is a function of keyword arguments only, ``(*, classes, shape, width, ...)``, that
returns a module with freshly drawn weights.  :func:`thrifty.nets.resolve` attaches an
:class:`Architecture` to what it builds, so that a file can name the network whose weights it
holds and :func:`thrifty.pack.load` can build it again without running anything from the file.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from thrifty.registry import Registry

Net = Callable[..., nn.Module]

NETS: Registry[Net] = Registry("network", "thrifty.nets", "thrifty.nets")

_KEY = "_thrifty_architecture"


@dataclass(frozen=True)
class Architecture:
    """How to build a module again: the arguments of :func:`thrifty.nets.resolve`."""

    model: str
    """``"resnet20?width=2"``, ``"torchvision:resnet18"``, ``"package.module:factory?x=1"``"""
    classes: int | None
    """Outputs of the last layer, where the network takes them as an argument."""
    shape: tuple[int, ...] | None
    """Shape of one input, without the batch."""


def architecture_of(model: nn.Module) -> Architecture | None:
    """How ``model`` was made, or None if :func:`thrifty.nets.resolve` did not make it."""
    found = vars(model).get(_KEY)
    return found if isinstance(found, Architecture) else None


def remember(model: nn.Module, architecture: Architecture) -> nn.Module:
    """In place: attach ``architecture`` to ``model``; copies and pickles keep it."""
    vars(model)[_KEY] = architecture
    return model


def net(name: str) -> Callable[[Net], Net]:
    """Register a function of keyword arguments as the network ``name``."""
    return NETS.entry(name)


def default_of(fn: Net, parameter: str) -> object:
    """The default of a parameter of ``fn``; None if it has none or is not taken."""
    found = inspect.signature(fn).parameters.get(parameter)
    return None if found is None or found.default is inspect.Parameter.empty else found.default
