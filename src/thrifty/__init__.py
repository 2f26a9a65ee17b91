"""Make neural networks thrifty, and measure what it cost.

>>> import thrifty
>>> model = thrifty.resolve("lenet", classes=10, shape=(1, 28, 28))
>>> masks = thrifty.prune(model, "magnitude", thrifty.Budget(.9))
>>> round(masks.sparsity, 3)
0.9
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from thrifty.census import Census, Comparison, compare, look
    from thrifty.channels.finding import groups
    from thrifty.channels.groups import Group, Groups
    from thrifty.channels.shrinking import shrink
    from thrifty.compiling import compile
    from thrifty.data import Data, load_data
    from thrifty.engine import Engine
    from thrifty.errors import UserError
    from thrifty.lab.front import Front
    from thrifty.lab.measure import Measurement, measure
    from thrifty.lab.recipe import Recipe, recipe
    from thrifty.lab.records import Point, Record
    from thrifty.lab.run import run
    from thrifty.lab.sensitive import Sensitivity
    from thrifty.lab.sensitivity import sensitivity
    from thrifty.lab.store import read_front
    from thrifty.nets import resolve
    from thrifty.pack import load, save
    from thrifty.pruning import Budget, Masks, apply, criterion, cut, freeze, prune
    from thrifty.pruning.structured import prune_channels
    from thrifty.training.loop import train
    from thrifty.training.plan import Plan
    from thrifty.training.recovery import recalibrate
    from thrifty.zoo.zoo import Zoo

_HOMES = {
    "Budget": "thrifty.pruning",
    "Census": "thrifty.census",
    "Comparison": "thrifty.census",
    "Data": "thrifty.data",
    "Engine": "thrifty.engine",
    "Front": "thrifty.lab.front",
    "Group": "thrifty.channels.groups",
    "Groups": "thrifty.channels.groups",
    "Masks": "thrifty.pruning",
    "Measurement": "thrifty.lab.measure",
    "Plan": "thrifty.training.plan",
    "Point": "thrifty.lab.records",
    "Recipe": "thrifty.lab.recipe",
    "Record": "thrifty.lab.records",
    "Sensitivity": "thrifty.lab.sensitive",
    "UserError": "thrifty.errors",
    "Zoo": "thrifty.zoo.zoo",
    "apply": "thrifty.pruning",
    "compare": "thrifty.census",
    "compile": "thrifty.compiling",
    "criterion": "thrifty.pruning",
    "cut": "thrifty.pruning",
    "freeze": "thrifty.pruning",
    "groups": "thrifty.channels.finding",
    "load": "thrifty.pack",
    "load_data": "thrifty.data",
    "look": "thrifty.census",
    "measure": "thrifty.lab.measure",
    "prune": "thrifty.pruning",
    "prune_channels": "thrifty.pruning.structured",
    "read_front": "thrifty.lab.store",
    "recalibrate": "thrifty.training.recovery",
    "recipe": "thrifty.lab.recipe",
    "resolve": "thrifty.nets",
    "run": "thrifty.lab.run",
    "save": "thrifty.pack",
    "sensitivity": "thrifty.lab.sensitivity",
    "shrink": "thrifty.channels.shrinking",
    "train": "thrifty.training.loop",
}

__all__ = [
    "Budget",
    "Census",
    "Comparison",
    "Data",
    "Engine",
    "Front",
    "Group",
    "Groups",
    "Masks",
    "Measurement",
    "Plan",
    "Point",
    "Recipe",
    "Record",
    "Sensitivity",
    "UserError",
    "Zoo",
    "__version__",
    "apply",
    "compare",
    "compile",
    "criterion",
    "cut",
    "freeze",
    "groups",
    "load",
    "load_data",
    "look",
    "measure",
    "prune",
    "prune_channels",
    "read_front",
    "recalibrate",
    "recipe",
    "resolve",
    "run",
    "save",
    "sensitivity",
    "shrink",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for, so that ``import thrifty`` is cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module 'thrifty' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
