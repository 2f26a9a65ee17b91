"""Twins by any method that sets weights to zero, in one cut, level by level or epoch by epoch."""

import numpy as np
import pytest

import thrifty
from thrifty.errors import UserError
from thrifty.lab.recipe import validated
from thrifty.population.plan import Plan
from thrifty.zoo.recipe import zoo_recipe
from thrifty.zoo.running import make_twins, train_zoo
from thrifty.zoo.sets import sets_of
from thrifty.zoo.twinning import course_of
from thrifty.zoo.twins import TwinRecipe, twin_jobs

DATA = ("digits?train=60&test=30", 0.0)


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    given = {
        "net": "zoo_cnn_s?width=0.25",
        "data": DATA[0],
        "seeds": 3,
        "train": {"epochs": 1},
    }
    return train_zoo(zoo_recipe(given), tmp_path_factory.mktemp("parents") / "zoo")


def a_recipe(**said):
    given = {"sparsity": [0.8, 0.5], "epochs": 2, "variational": {"epochs": 2}, "stack": 2}
    return TwinRecipe.model_validate(given | said)


@pytest.mark.parametrize("method", ["random", "saliency", "one_shot"])
def test_a_method_cuts_each_model_as_it_cuts_one_alone(method, parents, tmp_path):
    twins = make_twins(a_recipe(method=method), parents, tmp_path)
    data = thrifty.load_data(DATA[0])
    assert len(twins) == 6 and twins.check() == []
    for member in twins:
        row = member.row(0)
        one = parents[row["model"]].module()
        budget = thrifty.Budget(row["asked"])
        masks = thrifty.prune(one, method, budget, data=data, seed=row["seed"])
        differ = sum(int((member.masks(0)[n] != m.numpy()).sum()) for n, m in masks.items())
        assert differ <= 2  # gradients of a stack and of one model round differently
        assert member.masks(0).keys() == masks.keys()


def test_lots_are_drawn_anew_for_every_model(parents, tmp_path):
    twins = make_twins(a_recipe(method="random", sparsity=[0.5]), parents, tmp_path)
    masks = [member.masks()["conv1.weight"] for member in twins]
    assert not np.array_equal(masks[0], masks[1])


def test_whole_filters_by_their_norm_and_layers_that_stay(parents, tmp_path):
    recipe = a_recipe(granularity="filter", allocation="uniform", keep=["fc2"], sparsity=[0.5])
    twins = make_twins(recipe.model_copy(update={"method": ("magnitude",)}), parents, tmp_path)
    for member in twins:
        assert "fc2.weight" not in member.masks()
        for mask in member.masks().values():
            rows = mask.reshape(len(mask), -1)
            assert (rows.all(1) | ~rows.any(1)).all()


def test_a_gradual_cut_grows_epoch_by_epoch_and_holds_what_was_cut(parents, tmp_path):
    recipe, sets = a_recipe(method="gradual", sparsity=[0.8], epochs=4, stack=4), sets_of(*DATA)
    (job,) = twin_jobs(recipe, parents, tmp_path, DATA, Plan(epochs=1), 1)
    course, now, gone = course_of(job, parents, sets.data), None, []
    for epoch in range(4):
        before = now or course.start
        now = course.ramp(epoch, before)
        assert all(not (mask & ~before.masks[n]).any() for n, mask in now.masks.items())
        gone.append(sum(int((~mask[0]).sum()) for mask in now.masks.values()))
    whole = sum(mask[0].numel() for mask in now.masks.values())
    assert gone[0] < gone[1] < gone[2] == gone[3] == round(0.8 * whole)
    twins = make_twins(recipe, parents, tmp_path)
    assert twins.at(0)["sparsity"].tolist() == [0, 0, 0]
    assert twins.at()["sparsity"].tolist() == pytest.approx([round(0.8 * whole) / whole] * 3)


class Stop(Exception):
    pass


@pytest.mark.parametrize("after", [1, 2, 3, 5])
@pytest.mark.parametrize("schedule", ["cubic", "iterative"])
def test_twins_that_were_stopped_end_the_same(schedule, after, parents, tmp_path):
    recipe = a_recipe(method="magnitude", schedule=schedule)
    whole = make_twins(recipe, parents, tmp_path / "whole").folder.root
    left = [after]

    def tell(event):
        if "epoch" in event:
            left[0] -= 1
            if not left[0]:
                raise Stop

    with pytest.raises(Stop):
        make_twins(recipe, parents, tmp_path / "again", tell=tell)
    again = make_twins(recipe, parents, tmp_path / "again").folder.root
    for part in ("shards", "rows", "predictions"):
        names = sorted(p.name for p in (whole / part).iterdir())
        assert names == sorted(p.name for p in (again / part).iterdir())
        for name in names:
            assert (whole / part / name).read_bytes() == (again / part / name).read_bytes()
    assert not list((again / "state").glob("*.safetensors"))


def test_iterative_levels_begin_at_the_twin_of_the_level_before(parents, tmp_path):
    recipe = a_recipe(method="magnitude", schedule="iterative")
    twins = make_twins(recipe, parents, tmp_path)
    for number in range(3):
        low, high = (
            next(iter(twins.where(f"asked == {level} and model == {number}")))
            for level in (0.5, 0.8)
        )
        for name, mask in high.masks(0).items():
            assert not (mask & ~low.masks()[name]).any()
            assert np.array_equal(high.tensors(0)[name][mask], low.tensors()[name][mask])


def test_other_sparsities_are_another_zoo_where_levels_build_on_each_other(parents, tmp_path):
    make_twins(a_recipe(method="magnitude", schedule="iterative"), parents, tmp_path)
    more = a_recipe(method="magnitude", schedule="iterative", sparsity=[0.5, 0.6, 0.8])
    with pytest.raises(UserError, match="holds another zoo"):
        make_twins(more, parents, tmp_path)


@pytest.mark.parametrize("method", ["str?strength=0.5", "l0"])
def test_gates_choose_their_sparsity_on_small_networks_too(method, parents, tmp_path):
    twins = make_twins(a_recipe(method=method), parents, tmp_path)
    assert len(twins) == 3 and twins.epochs == (0, 1, 2)
    assert set(twins.at()["method"].tolist()) == {method}
    assert np.isnan(twins.at()["asked"]).all()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"method": "l1_filter"}, "removes channels, .* granularity=filter"),
        ({"method": "highway"}, "removes channels"),
        ({"method": "magnitude?x=1"}, "has no gate and takes no options"),
        ({"method": "magnitud"}, "did you mean magnitude"),
        ({"criterion": "magnitud"}, "did you mean magnitude"),
        ({"granularity": "filters"}, "did you mean filter"),
        ({"schedule": "cubik"}, "did you mean cubic"),
    ],
)
def test_what_twins_cannot_be_made_by_is_told(said, told):
    with pytest.raises(UserError, match=told):
        validated(TwinRecipe, said, "twins", {})


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"method": "str?power=2"}, "no option 'power'"),
        ({"method": "magnitude", "keep": ["conv9"]}, "'conv9' matches no prunable layer"),
        ({"method": "magnitude", "sparsity": [0.9999]}, "the highest sparsity of this network"),
        ({"method": "magnitude", "allocation": "explicit"}, "'explicit' needs layers"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_written(said, told, parents, tmp_path):
    with pytest.raises(UserError, match=told):
        make_twins(a_recipe(**said), parents, tmp_path / "twins")
    assert not (tmp_path / "twins").exists()
