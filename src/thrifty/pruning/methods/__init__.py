"""Named methods: one file each, found by the registry.

A method is data: which criterion scores, what is removed as one piece, how the budget is shared
among layers, and when the cut happens.  Every field may be overridden by a recipe.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from thrifty.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Method:
    """How to prune, as data: names out of the registries."""

    criterion: str = "magnitude"
    granularity: str = "weight"
    allocation: str = "lamp"
    schedule: str = "iterative"
    removes: Literal["weights", "channels"] = "weights"
    """Weights become zero; channels are gone, and with them parts of the layers around."""
    members: tuple[str, ...] = ("out",)
    """For channels: the roles of the tensors that are scored (:class:`thrifty.Group`)."""
    relative: bool = False
    """For channels: a score counts beside the mean of those that its group keeps."""
    tied: bool = True
    """For channels: cut those that several layers make together; False spares them if it can."""
    gate: str | None = None
    """A gate to train with before the cut (``thrifty.pruning.gates``)."""
    gate_train: Mapping[str, str | float] = field(default_factory=dict)
    """Fields of ``train`` that training with the gate has otherwise, unless the recipe's training
    has this optimizer already."""
    about: str
    """One line for listings."""
    source: str
    """Where it was published."""


METHODS: Registry[Method] = Registry("method", "thrifty.pruning.methods", "thrifty.methods")
