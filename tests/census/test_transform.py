import numpy as np
import pytest

from thrifty.census.transform import dequantised, raw, scaled, values
from thrifty.errors import UserError
from thrifty.sources import Quantised


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("piece", [1, 5, 100])
def test_a_scale_a_channel_falls_on_its_channel(stored, axis, piece):
    w = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    factor = np.arange(1.0, w.shape[axis] + 1)
    shape = [1, 1, 1]
    shape[axis] = -1
    found = scaled(stored("w", w, piece=piece), axis, factor).whole()
    assert (found == w * factor.reshape(shape)).all()


def test_integers_become_the_numbers_they_stand_for(stored):
    q = np.int8([[-128, 0], [10, 127]])
    how = Quantised(np.array([0.5, 2.0]), np.array([0.0, 10.0]), axis=0)
    tensor = stored("w", q, "I8", quantised=how)
    assert values(tensor).tolist() == [[-64.0, 0.0], [0.0, 234.0]]
    assert dequantised(tensor).dtype == "F32"
    assert raw(tensor).whole().tolist() == q.tolist()


def test_a_number_of_scales_that_does_not_fit_is_an_error(stored):
    how = Quantised(np.ones(3), np.zeros(()), axis=0)
    with pytest.raises(UserError, match="2 channels along axis 0 and 3 scales"):
        dequantised(stored("w", np.int8([[1], [2]]), "I8", quantised=how))


def test_half_precision_kinds_are_read_as_their_numbers(stored):
    bits = np.uint16([0x3F80, 0xC000])  # bfloat16 1.0 and -2.0
    assert values(stored("w", bits, "BF16")).tolist() == [1.0, -2.0]
    assert values(stored("w", np.float16([0.1]), "F16"))[0] == np.float16(0.1)
