"""Scores to masks: pure functions on named tensors."""

from thrifty.pruning.allocation import ALLOCATIONS, Budget, allocate
from thrifty.pruning.criteria import CRITERIA, criterion
from thrifty.pruning.gates import GATES, Gate, gate
from thrifty.pruning.granularity import GRANULARITIES
from thrifty.pruning.layers import Layer, prunable
from thrifty.pruning.masks import Frozen, Masks, apply, freeze, of_zeros
from thrifty.pruning.methods import METHODS, Method
from thrifty.pruning.pruning import Cut, cut, prune, score
from thrifty.pruning.schedules import SCHEDULES

__all__ = [
    "ALLOCATIONS",
    "CRITERIA",
    "GATES",
    "GRANULARITIES",
    "METHODS",
    "SCHEDULES",
    "Budget",
    "Cut",
    "Frozen",
    "Gate",
    "Layer",
    "Masks",
    "Method",
    "allocate",
    "apply",
    "criterion",
    "cut",
    "freeze",
    "gate",
    "of_zeros",
    "prunable",
    "prune",
    "score",
]
