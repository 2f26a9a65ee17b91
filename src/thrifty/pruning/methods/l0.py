"""L0 regularisation by hard concrete gates, on single weights or on whole channels."""

from thrifty.pruning.methods import METHODS, Method

SOURCE = (
    "Louizos et al., Learning Sparse Neural Networks through L0 Regularization, 2018, "
    "https://arxiv.org/abs/1712.01312"
)

METHODS.add(
    "l0",
    Method(
        allocation="global?floor=0",
        schedule="one_shot",
        gate="l0",
        gate_train={"optimizer": "adam", "lr": 1e-3},
        about="weights whose hard concrete gate learns to be shut",
        source=SOURCE,
    ),
)

METHODS.add(
    "l0_channels",
    Method(
        allocation="global?floor=0",
        schedule="one_shot",
        removes="channels",
        gate="l0_channels",
        gate_train={"optimizer": "adam", "lr": 1e-3},
        about="channels whose hard concrete gate learns to be shut, really removed",
        source=SOURCE,
    ),
)
