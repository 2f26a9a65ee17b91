import io

import numpy as np
import pytest
import torch

from thrifty.data.pictures import Stack, grey, resized
from thrifty.errors import UserError

Image = pytest.importorskip("PIL.Image")


def file_of(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(content, **options):
    stack = Stack(1, **options)
    with stack.quiet():
        stack.add(content, "here")
    return stack.tensor()[0]


def test_sixteen_bits_keep_their_upper_eight():
    values = np.array([[0, 255, 256], [4096, 32768, 65535]], dtype=np.uint16)
    assert decoded(file_of(Image.fromarray(values))).tolist() == [[[0, 0, 1], [16, 128, 255]]]


@pytest.mark.parametrize(
    "mode, channels", [("1", 1), ("L", 1), ("LA", 1), ("RGB", 3), ("RGBA", 3), ("P", 3)]
)
def test_every_mode_is_grey_or_colour(mode, channels):
    content = file_of(Image.new("RGB", (3, 2), (255, 255, 255)).convert(mode))
    picture = decoded(content)
    assert picture.shape == (channels, 2, 3)
    assert bool((picture == 255).all())


def test_a_palette_with_transparency_is_read_without_a_warning():
    image = Image.new("P", (3, 2))
    assert decoded(file_of(image, transparency=b"\0" * 5)).shape == (3, 2, 3)


def test_a_picture_too_large_to_be_true_is_an_error(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(UserError, match="here: .*cannot be decoded"):
        decoded(file_of(Image.new("L", (4, 4))))


def test_more_pictures_than_memory_are_refused():
    stack = Stack(2**30)
    with pytest.raises(UserError, match="16.0 GiB, more than the 8 GiB"):
        stack.add(file_of(Image.new("L", (4, 4))), "here")


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_resizing_keeps_type_and_a_constant(kind):
    pictures = torch.full((3, 2, 7, 5), 77, dtype=kind)
    for size in (3, 7, 12):
        after = resized(pictures, size)
        assert after.shape == (3, 2, size, size)
        assert after.dtype == kind
        torch.testing.assert_close(after, torch.full_like(after, 77))


def test_resizing_to_the_same_size_changes_nothing():
    pictures = torch.zeros(2, 1, 4, 4)
    assert resized(pictures, 4) is pictures


def test_rows_of_numbers_cannot_be_resized():
    with pytest.raises(UserError, match="leave size out"):
        resized(torch.zeros(3, 4), 2)


def test_grey_is_what_pillow_makes_of_it():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    theirs = np.asarray(Image.fromarray(pixels).convert("L"))
    ours = grey(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    assert ours.dtype == torch.uint8
    assert np.array_equal(ours[0, 0].numpy(), theirs)


def test_grey_numbers_are_weighed_alike_and_grey_pictures_left_alone():
    whole = torch.rand(3, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    expected = (whole * torch.tensor([0.299, 0.587, 0.114]).reshape(3, 1, 1)).sum(1, keepdim=True)
    torch.testing.assert_close(grey(whole), expected, atol=1e-4, rtol=0)
    assert grey(expected) is expected
    white = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    assert bool((grey(white) == 255).all())


@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 5, 5)])
def test_what_has_no_colours_cannot_be_made_grey(shape):
    with pytest.raises(UserError, match="leave grey out"):
        grey(torch.zeros(shape))
