"""A zoo whose models were not measured has a report too: a census of their weights."""

import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from thrifty.census.looking import look
from thrifty.errors import UserError
from thrifty.report.zoo_page import write_zoo_report
from thrifty.report.zoo_weights import source_of
from thrifty.zoo.importing import import_zoo
from thrifty.zoo.zoo import Zoo


@pytest.fixture
def zoo(tmp_path):
    """Three networks of two architectures that nobody named."""
    rng = np.random.default_rng(0)
    (tmp_path / "files").mkdir()
    for name, inputs in (("left", 4), ("middle", 4), ("right", 7)):
        tensors = {
            "net.0.weight": rng.normal(size=(5, inputs)).astype("f4"),
            "net.0.bias": np.zeros(5, "f4"),
        }
        save_file(tensors, tmp_path / "files" / f"{name}.safetensors")
    import_zoo(tmp_path / "files", tmp_path / "zoo")
    return Zoo(tmp_path / "zoo")


def test_every_model_is_counted_as_its_file_is(zoo, tmp_path):
    ours = look(*(source_of(member) for member in zoo))
    files = look(tmp_path / "files")
    assert [n.label for n in ours.networks] == ["left", "middle", "right"]
    for a, b in zip(ours.networks, files.networks, strict=True):
        for kind in ("weights", "parameters"):
            one, other = a.counted(kind), b.counted(kind)
            assert (one.count, one.under, one.zeros, one.largest) == (
                other.count,
                other.under,
                other.zeros,
                other.largest,
            )


def test_models_without_an_accuracy_are_reported_by_their_weights(zoo, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "altair", None)
    found = write_zoo_report(zoo, [], tmp_path / "out")
    assert found == [tmp_path / "out" / "report.html"]
    page = found[0].read_text()
    for name in ("left", "middle", "right", "net.0.weight"):
        assert name in page


def test_a_shard_that_is_missing_is_named(zoo, tmp_path):
    next(iter(zoo.folder.shards.iterdir())).unlink()
    with pytest.raises(UserError, match="is missing, and the index has models in it"):
        write_zoo_report(zoo, [], tmp_path / "out", formats=["html"])


@pytest.mark.real
def test_real_policies_of_many_shapes_are_a_zoo_to_look_at(real_data, tmp_path):
    made = import_zoo(real_data / "weights" / "rl-zoo", tmp_path / "zoo")
    assert (made.models, made.left_out) == (64, ())
    zoo = Zoo(tmp_path / "zoo")
    assert zoo.check() == []
    census = look(*(source_of(member) for member in zoo))
    assert len(census.networks) == 64
    assert write_zoo_report(zoo, [], tmp_path, formats=["html"]) == [tmp_path / "report.html"]
