"""Scores to masks: pure functions on named tensors."""

from thrifty.prune.allocation import ALLOCATIONS, Budget, allocate
from thrifty.prune.criteria import CRITERIA, criterion
from thrifty.prune.granularity import GRANULARITIES
from thrifty.prune.layers import Layer, prunable
from thrifty.prune.masks import Frozen, Masks, apply, freeze, of_zeros
from thrifty.prune.methods import METHODS, Method
from thrifty.prune.pruning import Cut, cut, prune, score
from thrifty.prune.schedules import SCHEDULES

__all__ = [
    "ALLOCATIONS",
    "CRITERIA",
    "GRANULARITIES",
    "METHODS",
    "SCHEDULES",
    "Budget",
    "Cut",
    "Frozen",
    "Layer",
    "Masks",
    "Method",
    "allocate",
    "apply",
    "criterion",
    "cut",
    "freeze",
    "of_zeros",
    "prunable",
    "prune",
    "score",
]
