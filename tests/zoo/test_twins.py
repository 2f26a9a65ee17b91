"""Twins have exactly the zeros that were asked for, keep them, and end the same however made."""

import json

import numpy as np
import pytest
import torch

import thrifty
from thrifty.errors import UserError
from thrifty.lab.recipe import validated
from thrifty.native import lanes
from thrifty.pruning.layers import prunable
from thrifty.zoo.recipe import zoo_recipe
from thrifty.zoo.running import make_twins, train_zoo
from thrifty.zoo.twinning import noise_of
from thrifty.zoo.twins import TwinRecipe

pytestmark = pytest.mark.skipif(not lanes.available(), reason="the lanes are not compiled")

LEVELS = (0.3, 0.9)


def parents_in(root, **said):
    given = {
        "net": "zoo_cnn_s?width=0.25",
        "data": "digits?train=60&test=30",
        "grid": {"act": ["tanh"], "dropout": [0, 0.1]},
        "seeds": 3,
        "train": {"epochs": 2},
        "checkpoints": 2,
    }
    return train_zoo(zoo_recipe(given | said), root)


def a_recipe(**said):
    given = {"sparsity": LEVELS, "epochs": 2, "variational": {"epochs": 3}, "stack": 2}
    return TwinRecipe.model_validate(given | said)


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    return parents_in(tmp_path_factory.mktemp("parents") / "zoo")


@pytest.fixture(scope="module")
def twins(parents, tmp_path_factory):
    return make_twins(a_recipe(), parents, tmp_path_factory.mktemp("twins") / "twins")


def test_every_parent_has_a_twin_of_each_method_and_sparsity(parents, twins):
    table = twins.at()
    assert len(twins) == len(parents) * 3 == 18
    found = {(r["model"], r["method"], str(r["asked"])) for r in table.to_rows()}
    levels = [("magnitude", "0.3"), ("magnitude", "0.9"), ("variational", "nan")]
    assert found == {(m, *level) for m in range(6) for level in levels}
    assert twins.check() == []


def test_magnitude_twins_have_the_zeros_that_pruning_one_model_makes(parents, twins):
    start = twins.where("method == 'magnitude'", epoch=0)
    for member in start:
        row = member.row(0)
        one = parents[row["model"]].module()
        masks = thrifty.prune(one, "magnitude", thrifty.Budget(row["asked"]), allocation="lamp")
        for name, kept in member.masks(0).items():
            assert np.array_equal(kept, masks[name].numpy())
        whole = sum(mask.numel() for mask in masks.values())
        assert row["sparsity"] == 1 - round(whole * (1 - row["asked"])) / whole


def test_zeros_stay_zero_and_the_rest_is_trained(twins):
    for member in twins.where("method == 'magnitude'"):
        before, after = member.tensors(0), member.tensors(2)
        for name, kept in member.masks(0).items():
            assert np.array_equal(kept, member.masks(2)[name])
            assert (after[name][~kept] == 0).all()
        assert any((before[n] != after[n]).any() for n in before)


def test_what_is_counted_is_what_the_networks_have(twins):
    data = thrifty.load_data("digits?train=60&test=30")
    for member in twins:
        row, model = member.row(), member.module()
        weights = prunable(model)
        zeros = {name: int((w == 0).sum()) for name, w in weights.items()}
        whole = sum(w.numel() for w in weights.values())
        assert row["sparsity"] == pytest.approx(sum(zeros.values()) / whole)
        for name, (kept, size) in json.loads(row["layers"]).items():
            assert (kept, size) == (
                size - zeros[f"{name}.weight"],
                weights[f"{name}.weight"].numel(),
            )
        with torch.no_grad():
            classes = model(data.prepare(data.test.inputs)).argmax(1)
        accuracy = (classes == data.test.labels).double().mean()
        assert row["test_accuracy"] == pytest.approx(float(accuracy))


def test_agreement_is_with_the_parent(parents, twins):
    data = thrifty.load_data("digits?train=60&test=30")
    inputs = data.prepare(data.test.inputs)
    for member in twins:
        row = member.row()
        with torch.no_grad():
            own = member.module()(inputs).argmax(1)
            other = parents[row["model"]].module()(inputs).argmax(1)
        assert row["agreement"] == pytest.approx(float((own == other).double().mean()))
        assert row["parent_accuracy"] == pytest.approx(parents[row["model"]].accuracy)


def test_twins_have_the_hyper_parameters_of_their_parents(parents, twins):
    for member in twins:
        parent = parents[member.row()["model"]].row()
        assert all(member.row()[n] == parent[n] for n in ("act", "dropout", "lr", "seed", "net"))


def test_variational_dropout_cuts_more_and_more_and_is_kept_epoch_by_epoch(tmp_path):
    parents = parents_in(tmp_path / "zoo", grid={"lr": [0.01]}, seeds=4)
    recipe = a_recipe(method=["variational"], variational={"epochs": 8}, stack=8)
    twins = make_twins(recipe, parents, tmp_path / "twins")
    assert twins.epochs == tuple(range(9))
    medians = [float(np.median(twins.at(epoch)["sparsity"])) for epoch in twins.epochs]
    assert medians[0] < 0.05
    assert medians[8] > medians[4] > medians[1]


def test_noise_of_the_published_preset_weighs_the_divergence_by_the_epoch():
    said = a_recipe(variational={"epochs": 10}).variational
    assert [noise_of(said, 100)(e).divergence for e in (0, 5, 9)] == [0.0, 0.005, 0.009]
    other = a_recipe(variational={"epochs": 10, "preset": "elbo"}).variational
    assert [noise_of(other, 100)(e).divergence for e in (0, 5, 9)] == [0.0, 0.01, 0.01]


class Stop(Exception):
    pass


@pytest.mark.parametrize("after", [1, 3, 6, 11])
def test_twins_that_were_stopped_end_byte_for_byte_as_if_they_were_not(
    after, parents, twins, tmp_path
):
    left = [after]

    def tell(event):
        if "epoch" in event:
            left[0] -= 1
            if not left[0]:
                raise Stop

    with pytest.raises(Stop):
        make_twins(a_recipe(), parents, tmp_path, tell=tell)
    make_twins(a_recipe(), parents, tmp_path)
    whole = twins.folder.root
    for part in ("shards", "rows", "predictions"):
        names = sorted(p.name for p in (whole / part).iterdir())
        assert names == sorted(p.name for p in (tmp_path / part).iterdir())
        for name in names:
            assert (whole / part / name).read_bytes() == (tmp_path / part / name).read_bytes()


def test_more_sparsities_are_added_and_the_first_are_left_alone(parents, tmp_path):
    few = make_twins(a_recipe(method=["magnitude"], sparsity=[0.5]), parents, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "rows").iterdir()}
    more = make_twins(a_recipe(method=["magnitude"], sparsity=[0.5, 0.8]), parents, tmp_path)
    assert (len(few), len(more)) == (6, 12)
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_parents_that_diverged_have_no_twins(tmp_path):
    grid = {"act": ["relu"], "optimizer": ["sgd"], "lr": [0.01, 1e20]}
    parents = parents_in(tmp_path / "zoo", grid=grid)
    twins = make_twins(a_recipe(sparsity=[0.5]), parents, tmp_path / "twins")
    assert sorted(set(twins.at()["model"].tolist())) == [0, 1, 2]
    with pytest.raises(UserError, match="every model of .* diverged"):
        make_twins(a_recipe(), parents.where("lr > 1"), tmp_path / "none")


def test_twins_of_models_that_are_not_trained_to_the_end_are_refused(parents, tmp_path):
    with pytest.raises(UserError, match="has no model that is trained to epoch 2; go on with"):
        make_twins(a_recipe(), parents.where("model > 99"), tmp_path)


def test_twins_of_twins_are_refused(twins, tmp_path):
    with pytest.raises(UserError, match="is a zoo of twins; twins are made of a zoo of models"):
        make_twins(a_recipe(), twins, tmp_path)


def test_twins_made_otherwise_in_the_same_folder_are_refused(parents, twins):
    with pytest.raises(UserError, match="holds another zoo: recipe is"):
        make_twins(a_recipe(epochs=3), parents, twins.folder.root)


def test_a_folder_of_models_is_no_folder_for_twins(parents):
    with pytest.raises(UserError, match="kind is models there and twins here"):
        make_twins(a_recipe(), parents, parents.folder.root)


def test_every_mistake_is_told_at_once():
    values = {
        "method": "magnitud", "sparsity": [90, 0.5], "allocation": "lampp", "epoch": 3,
        "variational": {"preset": "zooo"},
    }  # fmt: skip
    with pytest.raises(UserError) as caught:
        validated(TwinRecipe, values, "twins", {})
    text = str(caught.value)
    for part in (
        "did you mean magnitude?",
        "90 % is written 0.9",
        "did you mean lamp?",
        "epoch: there is no such key; did you mean epochs?",
        "'zooo' was given",
    ):
        assert part in text
    with pytest.raises(UserError, match="method"):
        validated(TwinRecipe, {"method": []}, "twins", {})


def test_twins_of_the_first_models_only_are_made_and_more_may_follow(parents, tmp_path):
    recipe = a_recipe(method=["magnitude"], sparsity=[0.5])
    few = make_twins(recipe, parents, tmp_path, models=4)
    assert few.at()["model"].tolist() == [0, 1, 2, 3]
    assert len(make_twins(recipe, parents, tmp_path, models=50)) == 6
    with pytest.raises(UserError, match="twins of 0 models are asked for; it is 1 at least"):
        make_twins(recipe, parents, tmp_path, models=0)
