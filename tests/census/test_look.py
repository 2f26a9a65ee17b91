import json
import math

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import thrifty
from thrifty.census.words import amount, percent, threshold
from thrifty.errors import UserError
from thrifty.shown import to_json


def test_weights_and_parameters_are_both_shown(conv_net):
    census = thrifty.look(conv_net, under=[0.1])
    weights, parameters = census.to_rows()
    assert (weights["counted"], weights["count"]) == ("weights", 112)
    assert (parameters["counted"], parameters["count"]) == ("parameters", 122)
    assert weights["zeros"] == 2
    assert parameters["zeros"] == 3
    assert weights["negative_zeros"] == 1
    assert weights["dtype"] == "F32"
    assert weights["file_bytes"] == conv_net.stat().st_size


def test_statistics_count_only_where_all_is_asked_for(conv_net):
    (row,) = thrifty.look(conv_net, counted="all").to_rows()
    assert row["count"] == 130


def test_what_a_file_claims_is_told_and_not_believed(tmp_path):
    path = tmp_path / "net.safetensors"
    save_file({"fc.weight": np.ones((2, 2), np.float32)}, path, {"sparsity": "0.9"})
    census = thrifty.look(path)
    assert census.to_rows()[0]["sparsity"] == 0
    assert census.networks[0].notes == ("the file says sparsity: 0.9",)


def test_folding_takes_batch_normalisation_out(conv_net):
    census = thrifty.look(conv_net, fold_bn=True, counted="all")
    assert {t.name for t in census.networks[0].tensors} == {
        "conv1.weight",
        "conv1.bias",
        "fc.weight",
        "fc.bias",
    }
    assert census.networks[0].notes == ("batch normalisation folded into 1 of 1 layers",)
    assert "folded into the weights" in census.says()


def test_one_bad_source_does_not_keep_the_others_from_being_read(conv_net, tmp_path):
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(conv_net.read_bytes()[:-1])
    census = thrifty.look(conv_net, bad, tmp_path / "none.npz")
    assert len(census.networks) == 1
    assert [label for label, _ in census.failed] == [str(tmp_path / "none.npz"), "bad"]


def test_only_bad_sources_are_an_error(tmp_path):
    with pytest.raises(UserError, match=r"none\.npz"):
        thrifty.look(tmp_path / "none.npz")


@pytest.mark.parametrize(
    "under", [[], [0], [-1], [math.nan], [math.inf], [True], [0.1] * 33, ["a"], [None], "1"]
)
def test_thresholds_that_are_none_are_refused(conv_net, under):
    with pytest.raises(UserError, match="threshold"):
        thrifty.look(conv_net, under=under)


def test_thresholds_that_differ_a_little_have_figures_of_their_own(tmp_path):
    save_file({"w": np.array([[0.1, 0.5]])}, tmp_path / "net.safetensors")
    census = thrifty.look(tmp_path, under=[0.1, 0.10000001, 0.1], counted="weights")
    (row,) = census.to_rows()
    assert census.under == (0.1, 0.10000001)
    assert (row["under_0.1"], row["under_0.10000001"]) == (0, 0.5)
    assert census.table()[0]["< 0.10000001"] == "50.00 %"


def test_one_threshold_needs_no_list(conv_net):
    assert thrifty.look(conv_net, under=0.1).under == (0.1,)


def test_numbers_whose_squares_are_beyond_float64_have_no_spread(tmp_path):
    save_file({"w": np.full((2, 2), 1e300)}, tmp_path / "net.safetensors")
    row = thrifty.look(tmp_path, relative=True).to_rows()[0]
    assert math.isnan(row["std"])
    assert row["largest"] == 1e300


def test_a_spread_that_was_not_asked_for_is_not_zero(conv_net):
    row = thrifty.look(conv_net, spread=False).to_rows()[0]
    assert math.isnan(row["std"])


def test_names_cannot_command_a_terminal(tmp_path):
    net = {"a\x1b[2J\nb": np.ones((2, 2), np.float32)}
    save_file(net, tmp_path / "\x1b[31mnet.safetensors", metadata={"sparsity": "99\x1b[8m\n%"})
    (tmp_path / "bad\x1b[2J.npz").write_bytes(b"")
    census = thrifty.look(tmp_path)
    assert "a\\x1b[2J\\nb" in census.layers()[0]["tensor"]
    assert "\x1b" not in "".join(
        [n.label for n in census.networks]
        + [t.name for n in census.networks for t in n.tensors]
        + [note for n in census.networks for note in n.notes]
        + [part for pair in census.failed for part in pair]
    )


def test_a_file_without_tensors_is_told_as_such(tmp_path):
    save_file({}, tmp_path / "net.safetensors")
    with pytest.raises(UserError, match="has no tensors"):
        thrifty.look(tmp_path, counted="all")


@pytest.mark.parametrize("threads", [0, -1])
def test_fewer_than_one_thread_is_refused(conv_net, threads):
    with pytest.raises(UserError, match="1 or more"):
        thrifty.look(conv_net, threads=threads)


def test_a_module_is_a_source():
    net = torch.nn.Linear(3, 2)
    torch.nn.init.constant_(net.weight, 0.05)
    torch.nn.init.constant_(net.bias, 1.0)
    weights, parameters = thrifty.look(net, under=[0.1]).to_rows()
    assert weights["under_0.1"] == 1
    assert parameters["under_0.1"] == pytest.approx(0.75)


def test_a_built_in_network_is_a_source():
    (row,) = thrifty.look("lenet_300_100", counted="weights").to_rows()
    assert row["count"] == 784 * 300 + 300 * 100 + 100 * 10


def test_a_population_is_shown_by_its_spread(tmp_path):
    for i in range(20):
        w = np.full((2, 2), 0.01 * (i + 1), np.float32)
        save_file({"fc.weight": w}, tmp_path / f"{i}.safetensors")
    census = thrifty.look(tmp_path, under=[0.105], counted="weights")
    assert len(census.networks) == 20
    rows = census.table()
    assert [r["network"] for r in rows][:1] == ["least of 20"]
    assert rows[-1]["count"] == "80"
    assert rows[-1]["< 0.105"] == "50.00 %"
    assert len(census.to_rows()) == 20


def test_the_json_has_every_tensor_and_no_nan(tmp_path):
    path = tmp_path / "net.safetensors"
    save_file({"fc.weight": np.empty((0, 2), np.float32)}, path)
    values = json.loads(to_json(thrifty.look(path, relative=True).to_dict()))
    assert values["tensors"][0]["tensor"] == "fc.weight"
    assert values["networks"][0]["under_0.1"] is None


def test_the_json_has_the_curves_where_they_were_counted(conv_net):
    assert thrifty.look(conv_net).to_dict()["curves"] == []
    weights, parameters = thrifty.look(conv_net, curves=True).to_dict()["curves"]
    assert (weights["counted"], parameters["counted"]) == ("weights", "parameters")
    assert weights["energy"][-1] == pytest.approx(1)
    assert len(weights["kept"]) == len(weights["energy"])
    assert len(weights["from"]) == len(weights["share_a_decade"])


def test_quantised_integers_are_counted_as_numbers_or_as_stored(tmp_path):
    path = tmp_path / "net.safetensors"
    w = np.int8([[-100, 1], [0, 100]])
    save_file({"fc.weight": w, "fc.weight_scale": np.float32([[0.01], [0.001]])}, path)
    (numbers,) = thrifty.look(path, under=[0.5], counted="weights").to_rows()
    (integers,) = thrifty.look(path, under=[0.5], counted="weights", raw_integers=True).to_rows()
    assert numbers["under_0.5"] == 0.75
    assert integers["under_0.5"] == 0.25
    assert numbers["dtype"] == "I8*"
    assert integers["largest"] == 100
    assert numbers["bytes"] == integers["bytes"] == 4


def test_a_census_shows_itself(conv_net):
    census = thrifty.look(conv_net)
    assert "<table>" in census._repr_html_()
    assert list(census.to_pandas()["network"]) == ["net", "net"]
    assert len(census.layer_table()) == 5


@pytest.mark.parametrize(
    ("part", "whole", "said"),
    [
        (0, 10, "0 %"),
        (10, 10, "100 %"),
        (9_999_999, 10_000_000, "> 99.99 %"),
        (1, 10_000_000, "< 0.01 %"),
        (1, 2, "50.00 %"),
        (0, 0, ""),
    ],
)
def test_a_share_is_never_rounded_to_all_or_none(part, whole, said):
    assert percent(part, whole) == said


def test_sizes_have_three_digits():
    assert [amount(n) for n in (0, 999, 1000, 123_456, 99_900_000)] == [
        "0 B",
        "999 B",
        "1.00 kB",
        "123 kB",
        "99.9 MB",
    ]
    assert [threshold(t) for t in (1.0, 0.001, 1e-6)] == ["1", "0.001", "1e-6"]


@pytest.mark.real
def test_the_zeros_of_the_published_squeezenet_are_found(real_data):
    path = real_data / "weights" / "squeezenet1.0-deepcompressed-ilsvrc.safetensors.xz"
    (row,) = thrifty.look(path, counted="weights").to_rows()
    assert row["count"] == 1_244_448
    assert round(100 * row["sparsity"], 2) == 66.58


@pytest.mark.real
def test_the_policies_are_one_population(real_data):
    census = thrifty.look(real_data / "weights" / "rl-zoo")
    assert len(census.networks) == 64
    assert not census.failed
    assert not any(math.isnan(r["under_0.1"]) for r in census.to_rows())


@pytest.mark.real
def test_shares_of_a_published_network_are_those_of_numpy(real_data):
    path = real_data / "weights" / "cifar10" / "resnet20-12fca82f.th"
    under = [1.0, 0.1, 0.01, 0.001]
    census = thrifty.look(path, under=under, counted="weights")
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    w = np.concatenate([x.numpy().reshape(-1) for x in state.values() if x.dim() > 1])
    counts = census.networks[0].counted("weights")
    assert counts.under == tuple(int((np.abs(w.astype(np.float64)) < t).sum()) for t in under)
    assert counts.count == w.size
