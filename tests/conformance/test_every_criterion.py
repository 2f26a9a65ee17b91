"""What holds for every criterion in the registry, those of other packages included."""

import pytest
import torch

from thrifty.pruning.criteria import CRITERIA
from thrifty.pruning.layers import EVIDENCE, Layer


def some_layer(seed: int = 0, shape=(4, 3, 3, 3)) -> Layer:
    generator = torch.Generator().manual_seed(seed)
    return Layer(
        weight=torch.randn(shape, generator=generator),
        grad=torch.randn(shape, generator=generator),
        grad_square=torch.rand(shape, generator=generator),
        noise=torch.rand(shape, generator=generator),
    )


@pytest.mark.parametrize("name", CRITERIA.names())
@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (5, 7), (1, 1)])
def test_scores_have_the_shape_of_the_weight_and_are_finite(name, shape):
    scores = CRITERIA.get(name)(some_layer(shape=shape))
    assert scores.shape == shape
    assert bool(torch.isfinite(scores).all())


@pytest.mark.parametrize("name", CRITERIA.names())
def test_scores_are_the_same_twice_over_and_leave_the_layer_alone(name):
    layer, copy = some_layer(), some_layer()
    first = CRITERIA.get(name)(layer)
    assert torch.equal(first, CRITERIA.get(name)(layer))
    assert all(torch.equal(a, b) for a, b in zip(layer, copy, strict=True))


@pytest.mark.parametrize("name", CRITERIA.names())
def test_a_population_scores_like_its_members(name):
    members = [some_layer(seed) for seed in range(3)]
    stacked = Layer(*map(torch.stack, zip(*members, strict=True)))
    together = torch.vmap(CRITERIA.get(name))(stacked)
    apart = torch.stack([CRITERIA.get(name)(m) for m in members])
    torch.testing.assert_close(together, apart)


@pytest.mark.parametrize("name", CRITERIA.names())
def test_a_criterion_reads_only_what_it_declares(name):
    """Hide all evidence the criterion did not ask for; it must not notice."""
    needs = CRITERIA.get(name).needs
    assert set(needs) <= set(EVIDENCE)
    bare = some_layer()._replace(**dict.fromkeys(set(EVIDENCE) - set(needs)))
    assert torch.equal(CRITERIA.get(name)(bare), CRITERIA.get(name)(some_layer()))


@pytest.mark.parametrize("name", CRITERIA.names())
def test_a_criterion_says_what_it_is_and_where_it_was_published(name):
    text = CRITERIA.get(name).__doc__
    assert "References:" in text and "http" in text
    assert CRITERIA.summary(name)
