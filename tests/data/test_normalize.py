import pytest
import torch

from thrifty.data.normalize import moments, ordered
from thrifty.errors import UserError


def test_moments_of_bytes_are_those_of_the_scaled_values():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (50, 3, 4, 4), generator=generator, dtype=torch.uint8)
    mean, std = moments("data", inputs)
    scaled = inputs.double() / 255
    assert mean == pytest.approx(scaled.mean((0, 2, 3)).tolist())
    assert std == pytest.approx(scaled.std((0, 2, 3), correction=0).tolist())


def test_moments_of_rows_are_for_each_feature():
    inputs = torch.tensor([[1.0, 1e6], [3.0, 1e6 + 2]])
    assert moments("data", inputs) == ((2.0, 1e6 + 1), (1.0, 1.0))


def test_a_channel_that_never_changes_is_not_divided_by_zero():
    assert moments("data", torch.zeros(4, 1, 2, 2, dtype=torch.uint8)) == ((0.0,), (1.0,))


def test_named_moments():
    grey, colour = torch.zeros(2, 1, 2, 2), torch.zeros(2, 3, 2, 2)
    assert moments("half", grey) == ((0.5,), (0.5,))
    assert moments("none", grey) == ((0.0,), (1.0,))
    assert moments("imagenet", colour) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_imagenet_moments_are_for_three_channels():
    with pytest.raises(UserError, match="these have 1"):
        moments("imagenet", torch.zeros(2, 1, 2, 2))


def test_an_unknown_name_offers_the_nearest():
    with pytest.raises(UserError, match="did you mean imagenet"):
        moments("imgnet", torch.zeros(2, 3, 2, 2))


def test_caffe_has_blue_first_and_the_scale_of_bytes():
    inputs = torch.tensor([10, 20, 30], dtype=torch.uint8).reshape(1, 3, 1, 1)
    assert ordered("caffe", inputs).flatten().tolist() == [30, 20, 10]
    assert ordered("imagenet", inputs) is inputs
    mean, std = moments("caffe", ordered("caffe", inputs))
    assert mean == pytest.approx((104 / 255, 117 / 255, 123 / 255))
    assert std == (1 / 255,) * 3
    with pytest.raises(UserError, match="normalize=caffe is for pictures of 3 channels"):
        moments("caffe", inputs[:, :1])
