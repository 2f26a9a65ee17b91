import math

import numpy as np
import pytest
from safetensors.numpy import save_file

import thrifty
from thrifty.errors import UserError


@pytest.fixture
def pair(tmp_path):
    def make(a: dict, b: dict):
        for name, tensors in (("a", a), ("b", b)):
            path = tmp_path / f"{name}.safetensors"
            save_file({k: np.asarray(v, np.float32) for k, v in tensors.items()}, path)
        return thrifty.compare(tmp_path / "a.safetensors", tmp_path / "b.safetensors")

    return make


def test_two_networks_are_compared_by_hand(pair):
    found = pair({"fc.weight": [[3, 0, 4, 1]]}, {"fc.weight": [[-3, 0, 0, 2]]})
    (layer,) = found.pairs
    assert layer.count == 4
    assert (layer.density_a, layer.density_b) == (0.75, 0.5)
    assert layer.jaccard == pytest.approx(2 / 3)
    assert layer.signs == 0.5
    assert layer.distance == pytest.approx(math.sqrt(36 + 16 + 1))
    assert layer.relative == pytest.approx(math.sqrt(53 / 26))
    assert layer.cosine == pytest.approx((-9 + 2) / math.sqrt(26 * 13))


def test_a_network_is_like_itself(conv_net):
    found = thrifty.compare(conv_net, conv_net)
    assert found.whole.count == 112
    assert found.whole.distance == 0
    assert found.whole.cosine == pytest.approx(1)
    assert found.whole.jaccard == 1
    assert found.whole.signs == 0


def test_layers_of_different_shapes_are_listed_and_not_compared(pair):
    found = pair({"a.weight": [[1.0]], "b.weight": [[1.0]]}, {"a.weight": [[1.0, 2.0]],
                 "b.weight": [[1.0]], "c.weight": [[1.0]]})  # fmt: skip
    assert [p.count for p in found.pairs] == [0, 1]
    assert math.isnan(found.pairs[0].cosine)
    assert found.only_b == ("c.weight",)
    assert found.table()[0]["shape"] == "1x1 / 1x2"


def test_a_prefix_of_every_name_does_not_matter(pair):
    found = pair({"module.fc.weight": [[1.0]]}, {"fc.weight": [[1.0]]})
    assert [p.name for p in found.pairs] == ["fc.weight"]


def test_zeros_have_no_angle(pair):
    found = pair({"fc.weight": [[0.0]]}, {"fc.weight": [[0.0]]})
    assert math.isnan(found.whole.cosine)
    assert math.isnan(found.whole.jaccard)
    assert found.table()[0]["cosine"] == ""


def test_what_is_not_finite_has_no_angle_and_no_warning(pair):
    found = pair({"fc.weight": [[math.inf, 1]]}, {"fc.weight": [[math.inf, 0]]})
    assert math.isnan(found.whole.cosine)
    assert found.whole.jaccard == 0.5


def test_files_of_one_name_are_told_apart(conv_net, tmp_path):
    other = tmp_path / "net.npz"
    np.savez(other, **{"fc.weight": np.ones((2, 2), np.float32)})
    found = thrifty.compare(conv_net, other)
    assert (found.label_a, found.label_b) == ("net.safetensors", "net.npz")


def test_networks_without_a_name_in_common_are_refused(pair):
    with pytest.raises(UserError, match=r"no weights of one name.*a\.weight.*b\.weight"):
        pair({"a.weight": [[1.0]]}, {"b.weight": [[1.0]]})


def test_a_folder_of_several_networks_is_not_one(tmp_path):
    for name in "ab":
        save_file({"w": np.ones((1, 1), np.float32)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(UserError, match="2 networks; name one"):
        thrifty.compare(tmp_path, tmp_path)


def test_files_of_different_formats_are_compared(tmp_path):
    w = np.random.default_rng(0).normal(size=(50, 40)).astype(np.float32)
    save_file({"w": w}, tmp_path / "a.safetensors")
    np.savez(tmp_path / "b.npz", w=w)
    assert thrifty.compare(tmp_path / "a.safetensors", tmp_path / "b.npz").whole.distance == 0
