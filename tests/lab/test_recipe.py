"""A recipe reports all its mistakes at once, and its identity holds only what differs."""

import pytest
import yaml

from thrifty.census.recipe import make_look
from thrifty.errors import UserError
from thrifty.lab.chains import Chains
from thrifty.lab.recipe import Recipe, identity, make, overridden, read, shipped, values_of
from thrifty.lab.store import Store
from thrifty.zoos import zoo_recipe_of


def test_every_mistake_is_named_with_its_place_at_once(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        "modle: lenet\n"
        "seeds: 0\n"
        "train: {epochs: -1, optimiser: sgd}\n"
        "prune: {shedule: cubic, method: magnitud, sparsity: [90, .5], allocation: lamb}\n"
        "retrain: {policy: alr}\n"
    )
    with pytest.raises(UserError) as caught:
        read(path)
    lines = str(caught.value).splitlines()
    said = {line.split(": ")[1]: line for line in lines}
    assert all(line.startswith(str(path)) for line in lines)
    assert "did you mean model?" in said["modle"]
    assert "1 or more" in said["seeds"]
    assert "greater than or equal to 0; -1 was given" in said["train.epochs"]
    assert "did you mean optimizer?" in said["train.optimiser"]
    assert "did you mean schedule?" in said["prune.shedule"]
    assert "did you mean magnitude?" in said["prune.method.0"]
    assert "90 % is written 0.9" in said["prune.sparsity.0"]
    assert "did you mean lamp?" in said["prune.allocation"]
    assert "'allr'" in said["retrain.policy"]
    assert len(lines) == 9


def test_a_partial_table_keeps_the_other_defaults_of_its_place():
    recipe = make({"retrain": {"epochs": 30}})
    assert recipe.retrain.epochs == 30
    assert recipe.retrain.policy == Recipe().retrain.policy
    assert recipe.train == Recipe().train


def test_numbers_as_people_write_them(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        "train: {lr: 1e-3, weight_decay: 5e-4}\n"
        "prune: {sparsity: .95, method: random}\n"
        "seeds: [3, 5]\n"
    )
    recipe = read(path)
    assert recipe.train.lr == 0.001
    assert recipe.prune.sparsity == (0.95,)
    assert recipe.prune.method == ("random",)
    assert recipe.seeds == (3, 5)


def test_overrides_reach_any_depth_and_are_checked(tmp_path):
    recipe = read(
        "demo", ["prune.sparsity=.95", "train.lr=1e-2", "seeds=2", "prune.method=[one_shot]"]
    )
    assert recipe.prune.sparsity == (0.95,)
    assert recipe.train.lr == 0.01
    assert recipe.seeds == (0, 1)
    with pytest.raises(
        UserError, match="prune.sparsty: there is no such key; did you mean sparsity"
    ):
        read("demo", ["prune.sparsty=.95"])
    with pytest.raises(UserError, match="write key=value"):
        read("demo", ["sparsity"])
    with pytest.raises(UserError, match="model is not a table"):
        overridden({"model": "lenet"}, ["model.x=1"])


def test_levels_are_put_in_rising_order_and_doubles_refused():
    assert make({"prune": {"sparsity": [0.9, 0.5]}}).prune.sparsity == (0.5, 0.9)
    with pytest.raises(UserError, match="has a value twice"):
        make({"prune": {"sparsity": [0.9, 0.9]}})


@pytest.mark.parametrize(
    ("text", "message"),
    [("- a\n- b\n", "a recipe is a table"), ("a: [1\n", "not YAML"), ("prune: 3\n", "prune: ")],
)
def test_what_is_no_recipe_is_refused(tmp_path, text, message):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read(path)


def test_a_missing_recipe_offers_those_that_come_along():
    with pytest.raises(
        UserError, match="no such file, nor a recipe of that name; did you mean demo"
    ):
        read("dmo")


def test_an_empty_file_is_the_default_recipe(tmp_path):
    (tmp_path / "r.yaml").write_text("")
    assert read(tmp_path / "r.yaml") == Recipe()


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_shipped_recipe_is_good_says_what_it_is_and_survives_yaml(name):
    values, where = values_of(name)
    kinds = {"look": make_look, "zoo": zoo_recipe_of}
    kind = next((kinds[key] for key in kinds if key in values), make)
    recipe = kind(values, where)
    assert shipped()[name].startswith("# ")
    assert kind(yaml.safe_load(recipe.to_yaml()), where) == recipe


def test_the_identity_is_golden():
    """If this fails, a default or a meaning changed: raise EDITION and write the new values."""
    assert Recipe().identity == "ea36490a267c"
    assert read("demo").identity == "668eac38448e"
    chains = Chains(read("demo"), Store("nowhere"))
    assert chains.key(0) == "19331fa5a3e6"
    assert chains.key(0, "magnitude", 3) == "64a31a5b0032"


def test_where_and_how_fast_it_runs_is_no_part_of_the_identity():
    there = make({"machine": {"threads": 2, "workers": 7, "device": "cpu"}})
    assert there.identity == Recipe().identity


def test_what_decides_a_network_decides_its_key():
    def key(number=1, method="magnitude", **change):
        return Chains(make(change), Store("nowhere")).key(0, method, number)

    base = key()
    assert key(seeds=5) == base
    assert key(control=False, latency=False, random=False) == base
    assert key(prune={"sparsity": [0.5, 0.8]}) == base
    assert key(prune={"method": ["one_shot", "magnitude"]}) == base
    changes = [
        {"model": "lenet"},
        {"data": "digits?fold=1"},
        {"train": {"epochs": 3}},
        {"retrain": {"epochs": 3}},
        {"prune": {"sparsity": [0.6, 0.8]}},
        {"prune": {"allocation": "global"}},
        {"prune": {"keep": ["conv1"]}},
    ]
    assert len({key(**change) for change in changes} | {base}) == len(changes) + 1
    one_shot = key(method="one_shot", prune={"method": ["one_shot"], "sparsity": [0.6, 0.8]})
    assert one_shot == key(
        method="one_shot", prune={"method": ["one_shot"], "sparsity": [0.5, 0.8]}
    )


def test_identity_changes_with_the_edition(monkeypatch):
    before = identity("x")
    monkeypatch.setattr("thrifty.lab.recipe.EDITION", 99)
    assert identity("x") != before
