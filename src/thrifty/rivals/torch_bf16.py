"""Eager torch in bfloat16: weights and activations; batch normalisation sums in float32."""

import torch

from thrifty.rivals import RIVALS, Rival
from thrifty.rivals.eager import eager, version

RIVALS.add(
    "torch_bf16",
    Rival(
        about="Eager torch, bfloat16, channels last where that is faster",
        load=lambda model, example, threads: eager(model, example, threads, torch.bfloat16),
        version=version,
        precision="bf16",
    ),
)
