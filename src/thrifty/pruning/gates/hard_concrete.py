"""The hard concrete distribution: gates that are zero or one most of the time, and differentiable.

z = clip(s * (zeta - gamma) + gamma, 0, 1), s a binary concrete variable of location ``log_alpha``
and temperature beta.  All functions are element by element on plain tensors, so that ``torch.vmap``
maps them over a stack of networks as they are.

References:
    Louizos et al., Learning Sparse Neural Networks through L0 Regularization, 2018,
    https://arxiv.org/abs/1712.01312
"""

import math

import torch
from torch import Tensor

from thrifty.pruning.gates.layouts import noise_like

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
_LEAST = 1e-6  # uniform numbers keep this far from 0 and 1, where their logit is infinite


def sampled(log_alpha: Tensor) -> Tensor:
    """One sample of every gate, in [0, 1]; it carries the gradient of ``log_alpha``."""
    noise = torch.logit(noise_like(log_alpha, torch.rand), eps=_LEAST)
    return _stretched(torch.sigmoid((noise + log_alpha) / BETA))


def chance(log_alpha: Tensor) -> Tensor:
    """P(z != 0) of every gate: what it adds to the expected number of open gates."""
    return torch.sigmoid(log_alpha - BETA * math.log(-GAMMA / ZETA))


def settled(log_alpha: Tensor) -> Tensor:
    """The gate without noise, for evaluation: zero where P(z != 0) is 0.31 or less."""
    return _stretched(torch.sigmoid(log_alpha))


def _stretched(s: Tensor) -> Tensor:
    return (s * (ZETA - GAMMA) + GAMMA).clamp(0.0, 1.0)
