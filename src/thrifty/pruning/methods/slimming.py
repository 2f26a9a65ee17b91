"""Network slimming: channels whose scale a penalty has driven to zero, really removed."""

from thrifty.pruning.methods import METHODS, Method

METHODS.add(
    "slimming",
    Method(
        criterion="magnitude",
        allocation="global?floor=0.1",
        schedule="one_shot",
        removes="channels",
        members=("scale",),
        gate="bn_scale",
        about="channels whose trained scale an L1 penalty made small, really removed",
        source="Liu et al., Learning Efficient Convolutional Networks through Network Slimming, "
        "2017, https://arxiv.org/abs/1708.06519",
    ),
)
