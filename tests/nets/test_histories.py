"""A sum that hands its terms on has the numbers of products and sums, however it is used."""

import pytest
import torch

from thrifty.nets.histories import PIECE, carried_sum, fusible


def terms(count: int, shape=(2, 3, 4, 4), dtype=torch.float64, last: bool = False):
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(shape, generator=generator).to(dtype) for _ in range(count)]
    form = torch.channels_last if last else torch.contiguous_format
    return [x.contiguous(memory_format=form).requires_grad_() for x in made]


def weights(count: int, dtype=torch.float64) -> torch.Tensor:
    return torch.linspace(-0.9, 1.1, count, dtype=dtype).requires_grad_()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_gradients_are_those_of_numerical_differences(count):
    torch.autograd.gradcheck(carried_sum, (weights(count), *terms(count, (2, 2, 2, 2))))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("size", [4, 96])
def test_a_chain_of_sums_is_that_of_products_and_sums(last, size):
    """Terms are read again later, and by others too; the larger ones exceed one piece."""
    shape = (2, 8, size, size)
    assert size == 4 or 2 * 8 * size * size > PIECE

    def chain(fused: bool) -> list[torch.Tensor]:
        x, w = terms(3, shape, last=last), weights(3)
        past, row = list(x), w
        for _ in range(3):
            if fused:
                assert fusible(row, past)
                total, *past = carried_sum(row, *past)
            else:
                total = row[0] * past[0] + row[1] * past[1] + row[2] * past[2]
            past = [total.tanh(), *past][:3]
        loss = past[0].square().sum() + (past[2] * past[1]).sum()
        return list(torch.autograd.grad(loss, [w, *x]))

    for a, b in zip(chain(True), chain(False), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_terms_of_two_types_are_added_in_the_wider_and_get_gradients_of_their_own():
    one, other = terms(1, dtype=torch.bfloat16)[0], terms(1, dtype=torch.float32)[0]
    w = weights(2, torch.float32)
    total, *_ = carried_sum(w, one, other)
    torch.testing.assert_close(total, w[0] * one.float() + w[1] * other)
    total.sum().backward()
    assert (total.dtype, one.grad.dtype, other.grad.dtype) == (
        torch.float32,
        torch.bfloat16,
        torch.float32,
    )


def test_only_what_needs_a_gradient_gets_one():
    w, (one, other) = weights(2).detach(), terms(2)
    other.requires_grad_(False)
    carried_sum(w, one, other)[0].sum().backward()
    torch.testing.assert_close(one.grad, torch.full_like(one, float(w[0])))
    assert w.grad is None
    assert other.grad is None


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda x: x[:, :, ::2],
        lambda x: x.transpose(2, 3),
        lambda x: x.expand(2, *x.shape)[1],
        lambda x: x.to("meta"),
    ],
)
def test_terms_that_lie_otherwise_are_left_to_products_and_sums(spoilt):
    one, other = terms(2)
    assert fusible(weights(2), [one, other])
    changed = spoilt(other)
    if changed.stride() != one.stride() or changed.is_meta:
        assert not fusible(weights(2), [one, changed])


def test_without_gradients_or_under_vmap_nothing_is_fused():
    x, w = terms(2), weights(2)
    with torch.no_grad():
        assert not fusible(w, x)
    torch.func.vmap(lambda a: (a, bool(fusible(w, [a, a])))[0])(x[0])
    seen = []
    torch.func.vmap(lambda a: (seen.append(fusible(w, [a, a])), a)[1])(x[0])
    assert seen == [False]
