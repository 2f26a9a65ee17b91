"""Pruning by |gradient * weight|, in steps, each from the retrained network before it."""

from thrifty.pruning.methods import METHODS, Method

METHODS.add(
    "saliency",
    Method(
        criterion="saliency",
        about="weights whose removal changes the loss least, |g * w|, level by level",
        source="Lee et al., SNIP, 2019, https://arxiv.org/abs/1810.02340 (the score, used after "
        "training)",
    ),
)
