"""Highway networks: channels whose transform gate hardly opens, really removed."""

from thrifty.pruning.methods import METHODS, Method

METHODS.add(
    "highway",
    Method(
        allocation="global?floor=0",
        schedule="one_shot",
        removes="channels",
        gate="highway",
        about="channels of highway blocks whose transform gate hardly opens, really removed",
        source="Srivastava et al., Training Very Deep Networks, 2015, "
        "https://arxiv.org/abs/1507.06228 (the network; incentive and removal are ours)",
    ),
)
