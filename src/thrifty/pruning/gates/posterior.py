"""Weights with a normal posterior: how sure each is, what that costs, and one sample of a layer.

A weight is theta + sigma * noise.  alpha = sigma^2 / theta^2 says how noisy it is: a weight with
log alpha of 3 and more is noise in 95 of 100 parts and may go.  All functions are of plain
tensors, element by element or along the last dimensions, so that ``torch.vmap`` maps them over
a stack of networks as they are.

References:
    Molchanov et al., Variational Dropout Sparsifies Deep Neural Networks, 2017,
    https://arxiv.org/abs/1701.05369
    Kingma et al., Variational Dropout and the Local Reparameterization Trick, 2015,
    https://arxiv.org/abs/1506.02557
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from thrifty.pruning.gates.layouts import laid_out, noise_like

TINY = 1e-15
"""Added to |theta|: log alpha of a weight that is zero is log sigma^2 + 69, and no infinity."""

LEAST_VARIANCE = 1e-16
"""The least variance of an output: with inputs of zero its root would have no gradient."""

_K1, _K2, _K3 = 0.63576, 1.87320, 1.48695


def log_alpha(theta: Tensor, log_sigma_square: Tensor, limit: float | None = None) -> Tensor:
    """log(sigma^2 / theta^2), between -limit and limit; the shape of ``theta``.

    Its gradient is finite everywhere, and zero in ``theta`` where that is zero.
    """
    found = log_sigma_square - 2.0 * torch.log(theta.abs() + TINY)
    return found if limit is None else found.clamp(-limit, limit)


def kl(log_alpha: Tensor) -> Tensor:
    """KL divergence of the posterior from the log-uniform prior, in nats a weight.

    0 for a weight of pure noise, growing as -0.5 log alpha for a sure one.  The published fit; at
    most 0.0094 from the integral, and within 1 % of it where it is half a nat or more.

    Example:
        >>> kl(torch.tensor([-8.0, 0.0, 3.0])).round(decimals=3)
        tensor([4.6360, 0.4310, 0.0250])
    """
    return _K1 - _K1 * torch.sigmoid(_K2 + _K3 * log_alpha) + 0.5 * functional.softplus(-log_alpha)


def divergence(theta: Tensor, log_sigma_square: Tensor, limit: float | None = None) -> Tensor:
    """The sum of ``kl(log_alpha(theta, log_sigma_square, limit))``, and its gradient at once.

    It is asked for every weight in every step; this way that takes little more than half the time.
    """
    apply: Any = _Divergence.apply
    total: Tensor = apply(theta, log_sigma_square, limit)[0]
    return total


def sampled(mean: Tensor, variance: Tensor, least: float = LEAST_VARIANCE) -> Tensor:
    """One sample of independent normal numbers; both of one shape, which is that of the result.

    Args:
        variance: 0 or more, but for rounding.
        least: what is less counts as this; its root has a finite gradient.
    """
    return _sampled(mean, 0.25 * variance, least)


def _sampled(mean: Tensor, quarter: Tensor, least: float) -> Tensor:
    """The same from a quarter of the variance, whose gradient has no factor."""
    least = max(0.25 * least, float(torch.finfo(quarter.dtype).tiny))
    apply: Any = _Sampled.apply
    drawn: Tensor = apply(mean, quarter, noise_like(mean), least)[0]
    return drawn


def noisy(
    compute: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    inputs: Tensor,
    theta: Tensor,
    sigma_square: Tensor,
    bias: Tensor | None,
    bias_variance: Tensor | None = None,
    least: float = LEAST_VARIANCE,
) -> Tensor:
    """What a layer returns when its weights are drawn anew for every output.

    The outputs of a linear function of independent normal weights are normal, with mean
    f(x; theta) + bias and variance f(x^2; sigma^2).  Drawing them instead of the weights gives
    gradients of much lower variance (the local reparametrisation).

    Args:
        compute: ``(inputs, weight, bias) -> outputs``, linear in the weight, such as
            ``torch.nn.functional.linear``.
        theta, sigma_square: (out, in, *kernel).
        bias, bias_variance: (out,) or ``None``.
        least: a variance that is less counts as this.
    """
    mean = compute(inputs, theta, bias)
    square = laid_out(inputs * inputs, inputs)
    more = None if bias_variance is None else 0.25 * bias_variance
    return _sampled(mean, compute(square, 0.25 * sigma_square, more), least)


class _Divergence(torch.autograd.Function):
    """Value and gradient share the logarithm and the sigmoids, so both are made in one go."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        theta: Tensor, log_sigma_square: Tensor, limit: float | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        size = theta.abs().add_(TINY)
        free = log_sigma_square - size.log().mul_(2.0)
        found = free if limit is None else free.clamp(-limit, limit)
        sure = torch.sigmoid(found * _K3 + _K2)
        noisy_share = torch.sigmoid(found).clamp_min_(torch.finfo(theta.dtype).tiny)
        # softplus(-x) = -log(sigmoid(x)), its slope sigmoid(x) - 1
        total = theta.numel() * _K1 - _K1 * sure.sum() - 0.5 * noisy_share.log().sum()
        slope = sure.square().sub_(sure).mul_(_K1 * _K3).add_(noisy_share.sub_(1.0), alpha=0.5)
        if limit is not None:
            slope.mul_(found == free)  # none beyond the limits
        return total, slope, (slope * theta.sign()).div_(size).mul_(-2.0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, Tensor, None]:
        slope, slope_theta = ctx.saved_tensors
        return grad * slope_theta, grad * slope, None


class _Sampled(torch.autograd.Function):
    """mean + 2 * sqrt(quarter) * noise, with fewer passes over the outputs than step by step."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        mean: Tensor, quarter: Tensor, noise: Tensor, least: float
    ) -> tuple[Tensor, Tensor]:
        half = quarter.clamp_min(least).sqrt_()
        return torch.addcmul(mean, half, noise, value=2.0), half

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(inputs[2], output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, Tensor, None, None]:
        noise, half = ctx.saved_tensors
        return grad, (grad * noise).div_(half), None, None
