"""Shortcuts of a recursive network: those with small coefficients are gone and not computed."""

from thrifty.pruning.methods import METHODS, Method

METHODS.add(
    "shortcuts",
    Method(
        allocation="global?floor=0",
        schedule="one_shot",
        removes="channels",
        gate="shortcuts",
        about="shortcuts of a ThriftyNet with small coefficients, really removed",
        source="Coiffier, Boukli Hacene, Gripon, ThriftyNets, 2020, "
        "https://arxiv.org/abs/2007.10106",
    ),
)
