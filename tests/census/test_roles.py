import numpy as np
import pytest

from thrifty.census.roles import counts_in, role_of
from thrifty.sources import Quantised, Stored


def tensor(name: str, shape: tuple[int, ...], dtype: str = "F32", **more) -> Stored:
    return Stored(name, shape, dtype, lambda: iter(()), **more)


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "role"),
    [
        ("conv1.weight", (8, 3, 3, 3), "F32", "weight"),
        ("conv2d/kernel:0", (3, 3, 3, 8), "F32", "weight"),
        ("conv1.bias", (8,), "F32", "bias"),
        ("bn1.weight", (8,), "F32", "scale"),
        ("bn1.bias", (8,), "F32", "shift"),
        ("layer1.0.downsample.1.bias", (8,), "F32", "shift"),
        ("batch_normalization/gamma:0", (8,), "F32", "scale"),
        ("batch_normalization/beta:0", (8,), "F32", "shift"),
        ("bn1.running_var", (8,), "F32", "statistic"),
        ("batch_normalization/moving_mean:0", (8,), "F32", "statistic"),
        ("bn1.num_batches_tracked", (), "I64", "statistic"),
        ("norm.weight", (8,), "F32", "scale"),
        ("log_std", (2,), "F32", "other"),
        ("position_ids", (1, 512), "I64", "other"),
        ("layer.weight", (8, 8), "I8", "weight"),
    ],
)
def test_the_role_of_usual_names(name, shape, dtype, role):
    names = {name, "layer1.0.downsample.1.running_mean"}
    assert role_of(tensor(name, shape, dtype), names) == role


def test_a_role_that_the_source_knows_is_taken():
    assert role_of(tensor("bias", (4, 4), role="bias"), {"bias"}) == "bias"


def test_running_statistics_count_only_among_all():
    variance = tensor("bn1.running_var", (8,))
    assert not counts_in(variance, "statistic", "weights")
    assert not counts_in(variance, "statistic", "parameters")
    assert counts_in(variance, "statistic", "all")


def test_integers_are_parameters_only_if_they_stand_for_numbers():
    plain = tensor("x", (4,), "I64")
    scale = Quantised(np.float64(0.1), np.float64(0))
    quantised = tensor("x", (4,), "I8", quantised=scale)
    assert not counts_in(plain, "other", "parameters")
    assert counts_in(quantised, "other", "parameters")
