"""Sparse variational dropout: weights that learn to be mostly noise become zero."""

from thrifty.pruning.methods import METHODS, Method

METHODS.add(
    "variational",
    Method(
        allocation="global?floor=0",
        schedule="one_shot",
        gate="variational",
        gate_train={"optimizer": "adam", "lr": 1e-3},
        about="weights that variational dropout learns to be mostly noise",
        source="Molchanov et al., Variational Dropout Sparsifies Deep Neural Networks, 2017, "
        "https://arxiv.org/abs/1701.05369",
    ),
)
