import os
import random
import sys
import warnings

import numpy as np
import pytest

from thrifty.errors import UnknownName, UserError
from thrifty.sources.formats.keras_applications import of_model, open_application
from thrifty.sources.opening import only

SMALL = "MobileNet?alpha=0.25&input_shape=32x32x3&classes=3"


@pytest.fixture
def keras():
    os.environ.setdefault("KERAS_BACKEND", "torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own imports
        return pytest.importorskip("keras")


def by_name(source):
    return {x.name: x for x in source.tensors}


def test_without_keras_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(UserError, match="run: pip install keras"):
        open_application("ResNet50")


def test_weights_from_elsewhere_are_refused():
    with pytest.raises(UserError, match="weights=mine.h5; it is imagenet.*give its path"):
        open_application("ResNet50?weights=mine.h5")


def test_a_network_is_built_with_random_weights_and_says_so(keras):
    source = only(f"keras:{SMALL}")
    assert (source.label, source.kind) == (f"keras:{SMALL}", "keras")
    assert source.notes == ("random weights as built (no training); ask for ?weights=imagenet",)
    assert sum(x.count for x in source.tensors) == 219_315
    assert all(x.whole().size == x.count for x in source.tensors)


def test_it_is_the_same_every_time_and_draws_nothing_from_the_generator_of_others(keras):
    random.seed(3)
    one, two = open_application(SMALL), open_application(SMALL)
    assert np.array_equal(one.tensors[0].whole(), two.tensors[0].whole())
    drawn = random.random()
    random.seed(3)
    assert random.random() == drawn


def test_roles_and_output_channels_are_those_of_keras(keras):
    tensors = by_name(open_application(SMALL))
    roles = {name: x.role for name, x in tensors.items()}
    assert roles["conv1/kernel"] == roles["conv_dw_1/kernel"] == "weight"
    assert (roles["conv1_bn/gamma"], roles["conv1_bn/beta"]) == ("scale", "shift")
    assert roles["conv1_bn/moving_variance"] == "statistic"
    assert roles["conv_preds/bias"] == "bias"
    assert tensors["conv1/kernel"].out_axis == -1
    assert tensors["conv_dw_1/kernel"].out_axis == -2


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_model_is_the_same_as_the_file_that_keras_writes_of_it(keras, tmp_path):
    pytest.importorskip("h5py")
    model = keras.applications.MobileNetV2(
        weights=None, alpha=0.35, input_shape=(32, 32, 3), classes=3
    )
    model.save(tmp_path / "m.keras")
    built = of_model(model, "m", True)
    with only(tmp_path / "m.keras") as file:
        ours, theirs = by_name(built), by_name(file)
        assert set(ours) == set(theirs)
        for name, x in theirs.items():
            same = ours[name]
            assert (same.shape, same.dtype, same.role) == (x.shape, x.dtype, x.role), name
            assert same.out_axis == x.out_axis, name
            assert np.array_equal(same.whole(), x.whole()), name
        assert set(built.norms) == set(file.norms) and len(built.norms) == 52


def test_bfloat16_comes_bit_for_bit(keras):
    policy = keras.dtype_policies.DTypePolicy("bfloat16")
    x = keras.Input((2,))
    model = keras.Model(x, keras.layers.Dense(3, dtype=policy, name="d")(x))
    kernel = by_name(of_model(model, "m", True))["d/kernel"]
    wide = np.asarray(keras.ops.cast(model.weights[0], "float32").detach().cpu())
    assert kernel.dtype == "BF16"
    assert np.array_equal((kernel.whole().astype(np.uint32) << 16).view(np.float32), wide)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ResNet50?depth=3", "no option 'depth'"),
        ("ResNet50?input_shape=large", "write it as 224x224x3"),
        ("ResNet50?input_shape=8x8x3", "cannot be built: Input size must be at least 32x32"),
    ],
)
def test_what_cannot_be_built_is_told(keras, text, told):
    with pytest.raises(UserError, match=told):
        open_application(text)


def test_an_unknown_network_is_told_with_those_that_are_like_it(keras):
    with pytest.raises(UnknownName, match="no network 'ResNet5'; did you mean ResNet50"):
        open_application("ResNet5")


def test_names_may_be_written_in_lower_case(keras):
    assert open_application(SMALL.lower()).kind == "keras"
