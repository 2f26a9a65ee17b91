"""Soft threshold reparameterisation: every layer learns the size below which weights are zero."""

from thrifty.pruning.methods import METHODS, Method

METHODS.add(
    "str",
    Method(
        allocation="global?floor=0",
        schedule="one_shot",
        gate="str",
        about="weights below a threshold that every layer learns",
        source="Kusupati et al., Soft Threshold Weight Reparameterization for Learnable Sparsity, "
        "2020, https://arxiv.org/abs/2002.03231",
    ),
)
