import pytest
import torch
from torch.nn.functional import pad

from thrifty.data import augment
from thrifty.errors import UserError


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def some_pictures(n=64):
    return torch.randint(1, 256, (n, 2, 5, 4), generator=seeded(), dtype=torch.uint8)


def crops(picture, shift, flip):
    """Every picture that augmentation may make of one."""
    padded = pad(picture, (shift,) * 4)
    height, width = picture.shape[-2:]
    for y in range(2 * shift + 1):
        for x in range(2 * shift + 1):
            crop = padded[:, y : y + height, x : x + width]
            yield crop
            if flip:
                yield crop.flip(-1)


@pytest.mark.parametrize("shift", [0, 1, 2])
@pytest.mark.parametrize("flip", [False, True])
def test_each_result_is_a_crop_of_its_own_padded_picture(shift, flip):
    pictures = some_pictures()
    for before, after in zip(pictures, augment(pictures, shift, flip, seeded()), strict=True):
        assert any(torch.equal(after, crop) for crop in crops(before, shift, flip))


def test_every_offset_and_both_directions_occur():
    picture = some_pictures(1)
    results = augment(picture.expand(2000, -1, -1, -1), 1, True, seeded())
    assert len(results.flatten(1).unique(dim=0)) == 18


def test_the_generator_alone_decides():
    pictures = some_pictures()
    torch.manual_seed(1)
    once = augment(pictures, 2, True, seeded(3))
    torch.manual_seed(2)
    assert torch.equal(once, augment(pictures, 2, True, seeded(3)))
    assert not torch.equal(once, augment(pictures, 2, True, seeded(4)))


def test_floats_move_as_bytes_do():
    pictures = some_pictures()
    as_bytes, as_floats = (augment(p, 2, True, seeded()) for p in (pictures, pictures.float()))
    assert torch.equal(as_bytes.float(), as_floats)
    assert as_bytes.dtype == torch.uint8


def test_nothing_asked_is_nothing_done_and_draws_nothing():
    pictures, generator = some_pictures(), seeded()
    assert augment(pictures, 0, False, generator) is pictures
    assert torch.equal(generator.get_state(), seeded().get_state())


def test_the_argument_is_not_changed():
    pictures = some_pictures()
    augment(pictures, 2, True, seeded())
    assert torch.equal(pictures, some_pictures())


def test_inputs_without_height_and_width_are_refused():
    with pytest.raises(UserError, match="set shift=0"):
        augment(torch.zeros(3, 4), 1, False, seeded())


def test_a_negative_shift_is_refused():
    with pytest.raises(UserError, match="shift is -1"):
        augment(some_pictures(), -1, False, seeded())
