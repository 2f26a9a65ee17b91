"""Weights with a normal posterior: the divergence, its gradient, and samples of a layer."""

import math

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.nn import functional

from thrifty.pruning.gates.posterior import divergence, kl, log_alpha, noisy, sampled

# ---- the divergence


def integral(value: float) -> float:
    """KL of N(1, alpha) from p(w) ~ 1 / |w|, in nats, by quadrature in doubles.

    It is E log|w| - 0.5 log alpha up to a constant, w = 1 + sqrt(alpha) * noise; the constant is
    such that a weight of pure noise has none.  The logarithm has a pole at w = 0, around which the
    two halves are integrated on grids that close in on it.
    """
    spread = math.exp(0.5 * value)
    reach = torch.linspace(-40.0, math.log(12.0 * spread + 3.0), 200_001, dtype=torch.float64)
    size = reach.exp()  # |w|, on a grid that is even in log|w|
    both = sum(
        torch.exp(-0.5 * ((sign * size - 1.0) / spread).square()) for sign in (1.0, -1.0)
    ) / (spread * math.sqrt(2 * math.pi))
    mean = torch.trapezoid(both * reach * size, reach)
    pure = -0.5 * (math.log(2.0) + 0.5772156649015329)  # E log|noise|
    return float(mean) - 0.5 * value - pure


def test_the_quadrature_gives_a_divergence_that_is_known_otherwise():
    few = torch.distributions.Normal(1.0, math.exp(0.5))
    torch.manual_seed(0)
    drawn = few.sample((2_000_000,)).abs().log().double().mean() - 0.5
    assert float(drawn) + 0.5 * (math.log(2.0) + 0.5772156649) == pytest.approx(
        integral(1.0), abs=3e-3
    )
    assert integral(12.0) == pytest.approx(0.0, abs=1e-5)
    assert integral(-12.0) == pytest.approx(6.0 + 0.6351814, abs=1e-4)


def test_the_fit_is_within_one_percent_of_the_integral_where_the_divergence_is_half_a_nat_or_more():
    for value in [x / 4 for x in range(-48, 0)]:
        assert integral(value) > 0.5
        assert float(kl(torch.tensor(value))) == pytest.approx(integral(value), rel=0.01)


def test_the_fit_is_nowhere_further_than_a_hundredth_of_a_nat_from_the_integral():
    for value in [x / 4 for x in range(-48, 49)]:
        fit = float(kl(torch.tensor(value, dtype=torch.float64)))
        assert fit == pytest.approx(integral(value), abs=0.0094)
        assert fit == pytest.approx(integral(value), rel=0.035, abs=1e-6)


def weights(*shape: int) -> tuple[Tensor, Tensor]:
    """theta, some of them zero, and log sigma^2, over all that a training meets and more."""
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(*shape, generator=generator)
    theta.view(-1)[::3] = 0.0
    theta.view(-1)[1::7] *= 1e-6
    return theta, torch.randn(*shape, generator=generator) * 8 - 2


@pytest.mark.parametrize("limit", [None, 8.0])
def test_the_divergence_of_a_layer_and_its_gradient_are_those_of_the_sum_over_weights(limit):
    theta, spread = (x.double().requires_grad_() for x in weights(5, 7))
    lean = divergence(theta, spread, limit)
    plain = kl(log_alpha(theta, spread, limit)).sum()
    torch.testing.assert_close(lean, plain)
    for one, other in zip(
        torch.autograd.grad(2 * lean, (theta, spread)),
        torch.autograd.grad(2 * plain, (theta, spread)),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("limit", [None, 8.0])
def test_gradients_are_finite_at_weights_of_zero_and_at_all_others(limit):
    theta, spread = weights(40, 30)
    theta.view(-1)[:5] = torch.tensor([1e-45, -1e-30, 1e30, -0.0, 1e-15])
    spread.view(-1)[-4:] = torch.tensor([-60.0, 60.0, 0.0, -200.0])
    theta.requires_grad_()
    spread.requires_grad_()
    for total in (
        divergence(theta, spread, limit),
        kl(log_alpha(theta, spread, limit)).sum(),
        noisy(functional.linear, torch.zeros(3, 30), theta, spread.exp(), None).sum(),
    ):
        assert bool(torch.isfinite(total))
        for found in torch.autograd.grad(total, (theta, spread), allow_unused=True):
            assert bool(torch.isfinite(found).all())
    pull = torch.autograd.grad(divergence(theta, spread, limit), theta)[0]
    assert bool((pull[theta == 0] == 0).all())


# ---- samples


def test_samples_have_their_mean_and_variance_and_the_gradients_of_both():
    torch.manual_seed(0)
    mean = torch.full((100_000,), 3.0, requires_grad=True)
    variance = torch.full((100_000,), 4.0, requires_grad=True)
    found = sampled(mean, variance)
    assert float(found.detach().mean()) == pytest.approx(3.0, abs=0.03)
    assert float(found.detach().var()) == pytest.approx(4.0, abs=0.1)
    found.square().mean().backward()  # mean^2 + variance: gradients 2 * mean and 1
    assert float(mean.grad.sum()) == pytest.approx(6.0, abs=0.1)
    assert float(variance.grad.sum()) == pytest.approx(1.0, abs=0.05)
    assert float(variance.detach().min()) == 4.0


def test_a_variance_that_rounding_made_negative_counts_as_none():
    variance = torch.tensor([-1e-9, 0.0], requires_grad=True)
    found = sampled(torch.ones(2), variance)
    found.sum().backward()
    torch.testing.assert_close(found.detach(), torch.ones(2))
    assert bool(torch.isfinite(variance.grad).all())


def test_a_stack_of_networks_costs_and_computes_like_its_members():
    theta, spread = weights(3, 4, 2, 3, 3)
    inputs = torch.randn(3, 5, 2, 7, 7)
    together = vmap(divergence)(theta, spread)
    apart = torch.stack([divergence(*pair) for pair in zip(theta, spread, strict=True)])
    torch.testing.assert_close(together, apart)
    pulled = vmap(grad(divergence, argnums=(0, 1)))(theta, spread)
    alone = grad(lambda t, s: divergence(t, s), argnums=(0, 1))(theta, spread)
    torch.testing.assert_close(pulled, alone)

    def layer(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return noisy(functional.conv2d, x, t, s.exp(), None)

    drawn = vmap(layer, randomness="different")(inputs, theta, torch.full_like(spread, -60.0))
    means = torch.stack([functional.conv2d(x, t) for x, t in zip(inputs, theta, strict=True)])
    torch.testing.assert_close(drawn, means, rtol=1e-4, atol=1e-4)
    loud = vmap(layer, randomness="different")(inputs, theta, torch.zeros_like(spread))
    assert not torch.allclose(loud[0] - means[0], loud[1] - means[1], atol=0.1)
