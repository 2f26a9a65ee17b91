"""Holes are where they are said to be, and mixed labels are mixed as their inputs are."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import one_hot

from thrifty.data.mixing import cutmix, cutout, mix, mixup
from thrifty.errors import UserError

CLASSES = 4


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@settings(deadline=None)
@given(height=st.integers(1, 9), width=st.integers(1, 9), side=st.integers(1, 12))
def test_a_hole_is_a_square_as_far_as_it_lies_inside(height, width, side):
    gone = cutout(torch.ones(16, 2, height, width), side, seeded()) == 0
    assert torch.equal(gone[:, 0], gone[:, 1])
    rows, columns = gone[:, 0].any(2).sum(1), gone[:, 0].any(1).sum(1)
    assert torch.equal(gone[:, 0].sum((1, 2)), rows * columns)
    for found, size in ((rows, height), (columns, width)):
        assert int(found.max()) <= min(side, size)
        assert int(found.min()) >= min(side // 2, size, 1)


def test_every_pixel_is_in_a_hole_now_and_then_and_holes_differ():
    holes = cutout(torch.ones(500, 1, 5, 6), 2, seeded()) == 0
    assert bool(holes.any(0).all())
    assert len(holes.flatten(1).unique(dim=0)) == 5 * 6


def test_what_is_not_in_a_hole_is_as_it_was_and_the_argument_is_not_changed():
    pictures = torch.randn(8, 3, 6, 6, generator=seeded())
    before = pictures.clone()
    after = cutout(pictures, 3, seeded())
    assert torch.equal(pictures, before)
    assert torch.equal(after[after != 0], before[after != 0])


def classes_as_inputs(labels, *shape):
    """Inputs whose values are the shares of the classes they are of, one channel a class."""
    whole = one_hot(labels, CLASSES).float()
    return whole.reshape(*whole.shape, *(1 for _ in shape)).expand(*whole.shape, *shape).clone()


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 9), both=st.booleans())
def test_pictures_are_mixed_in_the_shares_of_their_targets(seed, n, both):
    lots = random.Random(seed)
    labels = torch.tensor([lots.randrange(CLASSES) for _ in range(n)])
    pictures = classes_as_inputs(labels, 5, 7)
    mixed, larger, targets = mix(
        pictures, labels, CLASSES, lots, mixup_alpha=0.5 if both else 0.0, cutmix_alpha=1.0
    )
    torch.testing.assert_close(mixed.mean((2, 3)), targets, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(targets.sum(1), torch.ones(n))
    chosen = targets.gather(1, larger[:, None])[:, 0]
    assert bool((chosen >= 0.5 - 1e-6).all())
    assert torch.equal(pictures, classes_as_inputs(labels, 5, 7))


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), alpha=st.floats(1e-3, 100))
def test_mixup_mixes_inputs_of_any_shape(seed, alpha):
    labels = torch.tensor([0, 1, 2, 3, 0])
    mixed, _, targets = mix(
        classes_as_inputs(labels), labels, CLASSES, random.Random(seed), mixup_alpha=alpha
    )
    torch.testing.assert_close(mixed, targets)


def test_an_input_mixed_with_one_that_has_no_label_has_none():
    labels = torch.tensor([0, -1, 2, 3])
    _, found, targets = mix(torch.zeros(4, 2), labels, CLASSES, random.Random(0), mixup_alpha=1.0)
    assert int((found == -1).sum()) == 2
    assert int(found[1]) == -1
    assert bool(torch.isfinite(targets).all())


def test_an_input_is_never_mixed_with_itself_unless_it_is_alone():
    labels = torch.tensor([0, 1])
    lots = random.Random(0)
    for _ in range(50):
        _, _, targets = mix(torch.zeros(2, 1), labels, 2, lots, mixup_alpha=50.0)
        assert bool((targets > 0.1).all())
    alone = torch.randn(1, 3, 4, 4)
    mixed, label, _ = mix(alone, labels[1:], 2, lots, cutmix_alpha=1.0)
    assert torch.equal(mixed, alone)
    assert label.tolist() == [1]


def test_with_both_each_is_drawn_for_half_of_the_batches():
    lots = random.Random(0)
    labels = torch.arange(CLASSES)
    cut = 0
    for _ in range(400):
        pictures = classes_as_inputs(labels, 8, 8)
        mixed, _, _ = mix(pictures, labels, CLASSES, lots, mixup_alpha=1.0, cutmix_alpha=1.0)
        cut += bool(((mixed == 0) | (mixed == 1)).all())
    assert 150 < cut < 250


def test_the_ends_of_the_share_keep_all_or_nothing():
    pictures = torch.randn(3, 2, 5, 5, generator=seeded())
    assert torch.equal(mixup(pictures, 1.0, 1), pictures)
    assert torch.equal(mixup(pictures, 0.0, 1), pictures.roll(1, 0))
    whole, share = cutmix(pictures, 1.0, 1, random.Random(0))
    assert share == 1.0
    assert torch.equal(whole, pictures)


@pytest.mark.parametrize("what", ["cutout", "cutmix"])
def test_inputs_that_are_no_pictures_are_refused(what):
    inputs = torch.zeros(3, 4)
    with pytest.raises(UserError, match=rf"{what} needs pictures.*\(3, 4\).*leave {what} out"):
        if what == "cutout":
            cutout(inputs, 2, seeded())
        else:
            cutmix(inputs, 0.5, 1, random.Random(0))
