"""Eager torch in float32, which is what most people run."""

import torch

from thrifty.rivals import RIVALS, Rival
from thrifty.rivals.eager import eager, version

RIVALS.add(
    "torch",
    Rival(
        about="Eager torch, float32, channels last where that is faster",
        load=lambda model, example, threads: eager(model, example, threads, torch.float32),
        version=version,
    ),
)
