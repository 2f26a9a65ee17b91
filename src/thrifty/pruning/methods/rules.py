"""Different methods for different layers, as the table ``rules`` of a recipe says."""

from thrifty.pruning.methods import METHODS, Method

METHODS.add(
    "rules",
    Method(
        allocation="uniform",
        schedule="one_shot",
        removes="channels",
        tied=False,
        about="a method for each kind of layer, as the recipe's rules say",
        source="Han et al., 2015, https://arxiv.org/abs/1506.02626, for linear layers and Li et "
        "al., 2017, https://arxiv.org/abs/1608.08710, for convolutions, together",
    ),
)
