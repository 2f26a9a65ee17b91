"""RandAugment does to a batch what Pillow does to each picture, and draws as it says."""

import importlib.util

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thrifty.data.randaugment import GEOMETRY, POINTS, affine, apply, move, randaugment
from thrifty.errors import UserError

KINDS = ("identity", *GEOMETRY, *POINTS)
BLACK = torch.zeros(3, dtype=torch.uint8)
pillow = pytest.mark.skipif(importlib.util.find_spec("PIL") is None, reason="needs Pillow")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def some_pictures(n=12, channels=3, height=9, width=8):
    """Smooth pictures of a few values, some of them plain."""
    small = torch.randint(20, 220, (n, channels, 3, 3), generator=seeded()).float()
    pictures = torch.nn.functional.interpolate(small, (height, width), mode="bilinear").byte()
    pictures[:2] = 77
    return pictures


def through(name, pictures, strength, colour=BLACK):
    kinds = torch.full((len(pictures),), KINDS.index(name))
    return apply(pictures, kinds, strength, colour)


def test_there_are_the_fourteen_operations_of_the_paper():
    assert len(set(KINDS)) == 14


@pillow
@pytest.mark.parametrize("name", list(POINTS))
def test_values_change_as_pillow_changes_them(name):
    import numpy as np
    from PIL import Image, ImageEnhance, ImageOps

    pictures = some_pictures(24, height=40, width=33)
    pictures[3] = torch.randint(256, pictures.shape[1:], generator=seeded(), dtype=torch.uint8)
    strength = 2 * torch.rand(24, generator=seeded()) - 1
    for picture, result, s in zip(
        pictures, through(name, pictures, strength), strength.tolist(), strict=True
    ):
        image = Image.fromarray(picture.permute(1, 2, 0).numpy())
        if name in ("autocontrast", "equalize"):
            expected = getattr(ImageOps, name)(image)
        elif name == "solarize":
            expected = ImageOps.solarize(image, 256 * (1 - abs(s)))
        elif name == "posterize":
            expected = ImageOps.posterize(image, 8 - round(4 * abs(s)))
        else:
            expected = getattr(ImageEnhance, name.capitalize())(image).enhance(1 + 0.9 * s)
        gap = result.permute(1, 2, 0).int() - torch.from_numpy(np.array(expected)).int()
        assert int(gap.abs().max()) <= (name == "autocontrast")  # which rounds a product
        assert float((gap != 0).float().mean()) < 0.05


@pillow
@pytest.mark.parametrize("name", GEOMETRY)
def test_pixels_move_as_pillow_moves_them(name):
    import numpy as np
    from PIL import Image

    pictures = some_pictures(24, height=30, width=40)
    strength = 2 * torch.rand(24, generator=seeded()) - 1
    colour = torch.tensor([1, 2, 3], dtype=torch.uint8)
    apart = 0
    for picture, result, s in zip(
        pictures, through(name, pictures, strength, colour), strength.tolist(), strict=True
    ):
        image = Image.fromarray(picture.permute(1, 2, 0).numpy())
        if name == "rotate":
            expected = image.rotate(30 * s, fillcolor=(1, 2, 3))
        else:
            far = 150 / 331 * s
            terms = {
                "shear_x": (1, 0.3 * s, 0, 0, 1, 0),
                "shear_y": (1, 0, 0, 0.3 * s, 1, 0),
                "translate_x": (1, 0, far * 40, 0, 1, 0),
                "translate_y": (1, 0, 0, 0, 1, far * 30),
            }[name]
            affine_ = Image.Transform.AFFINE
            expected = image.transform((40, 30), affine_, terms, fillcolor=(1, 2, 3))
        gap = result.permute(1, 2, 0) != torch.from_numpy(np.array(expected))
        apart += int(gap.any(2).sum())
    assert apart < 0.001 * 24 * 30 * 40  # where a source lies on the edge of a pixel


@pytest.mark.parametrize("name", [k for k in KINDS if k not in ("autocontrast", "equalize")])
def test_no_strength_is_no_change(name):
    pictures = some_pictures()
    assert torch.equal(through(name, pictures, torch.zeros(12)), pictures)


@pytest.mark.parametrize("name", KINDS[1:])
def test_full_strength_is_a_change(name):
    pictures = some_pictures(height=30, width=30)[2:]
    assert not torch.equal(through(name, pictures, torch.ones(10)), pictures)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(0, 7),
    channels=st.integers(1, 4),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
)
def test_a_picture_does_not_depend_on_the_others_of_its_batch(seed, n, channels, height, width):
    lots = seeded(seed)
    shape = (n, channels, height, width)
    pictures = torch.randint(256, shape, generator=lots, dtype=torch.uint8)
    kinds = torch.randint(len(KINDS), (n,), generator=lots)
    strength = 2 * torch.rand(n, generator=lots) - 1
    colour = torch.zeros(channels, dtype=torch.uint8)
    together = apply(pictures, kinds, strength, colour)
    assert together.dtype == torch.uint8
    assert together.shape == pictures.shape
    for i in range(n):
        alone = slice(i, i + 1)
        expected = apply(pictures[alone], kinds[alone], strength[alone], colour)
        assert torch.equal(together[alone], expected)


@pytest.mark.parametrize("name", KINDS)
def test_a_grey_picture_is_one_of_three_equal_channels(name):
    grey = some_pictures(channels=1)
    strength = 2 * torch.rand(12, generator=seeded()) - 1
    one = through(name, grey, strength, BLACK[:1])
    three = through(name, grey.expand(-1, 3, -1, -1).contiguous(), strength)
    assert torch.equal(one.expand(-1, 3, -1, -1), three)


def test_color_leaves_grey_pictures_as_they_are():
    grey = some_pictures(channels=1)
    assert torch.equal(through("color", grey, torch.ones(12), BLACK[:1]), grey)


def test_what_comes_in_from_outside_has_the_colour_asked_for():
    kinds = torch.tensor([KINDS.index("translate_x") - 1])
    moved = move(
        torch.zeros(1, 3, 4, 8, dtype=torch.uint8),
        affine(kinds, torch.tensor([-1.0]), 4, 8),
        torch.tensor([10, 20, 30], dtype=torch.uint8),
    )
    assert moved[0, :, 0, 0].tolist() == [10, 20, 30]
    assert moved[0, :, 0, 7].tolist() == [0, 0, 0]


def test_the_generator_alone_decides_and_the_argument_is_not_changed():
    pictures = some_pictures()
    torch.manual_seed(1)
    once = randaugment(pictures, 2, 9, seeded(3))
    torch.manual_seed(2)
    assert torch.equal(once, randaugment(pictures, 2, 9, seeded(3)))
    assert not torch.equal(once, randaugment(pictures, 2, 9, seeded(4)))
    assert torch.equal(pictures, some_pictures())


def test_every_operation_occurs_for_equal_pictures_of_one_batch():
    picture = some_pictures(3)[2:].expand(2000, -1, -1, -1)
    results = randaugment(picture, 1, 15, seeded())
    same = (results == picture).flatten(1).all(1).float().mean()
    assert 0.02 < float(same) < 0.2  # identity is one of 14
    assert len(results.flatten(1).unique(dim=0)) > 100


def test_a_higher_magnitude_changes_more():
    pictures = some_pictures(400)

    def change(magnitude):
        after = randaugment(pictures, 2, magnitude, seeded()).float()
        return float((after - pictures.float()).abs().mean())

    assert change(2) < change(9) < change(30)


def test_no_operations_are_no_change_and_draw_nothing():
    pictures, generator = some_pictures(), seeded()
    assert randaugment(pictures, 0, 9, generator) is pictures
    assert torch.equal(generator.get_state(), seeded().get_state())


@pytest.mark.parametrize("inputs", [torch.zeros(2, 3, 4, 4), torch.zeros(2, 5).byte()])
def test_inputs_that_are_not_pictures_of_bytes_are_refused(inputs):
    with pytest.raises(UserError, match=r"needs pictures of bytes.*leave randaugment out"):
        randaugment(inputs, 2, 9, seeded())
