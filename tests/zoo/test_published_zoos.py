"""The recipes that come along are the published zoos: how many models, of what, on which split."""

import pytest

from thrifty.data.load import COMMON
from thrifty.data.sets import DATASETS
from thrifty.lab.recipe import values_of
from thrifty.nets import resolve
from thrifty.registry import parse_spec
from thrifty.zoo.recipe import roster
from thrifty.zoos import zoo_recipe_of

SEEDS = {
    "mnist-seed": "mnist-hyp",
    "fashion-seed": "fashion-hyp",
    "svhn-seed": "svhn-hyp",
    "usps-seed": "usps-hyp",
    "cifar10-small": "cifar10-small-hyp",
    "cifar10-large": "cifar10-large-hyp",
    "stl10-small": "stl10-small-hyp",
    "stl10-large": "stl10-large-hyp",
}
"""A zoo that differs in seeds only, and that over a grid on the same data."""
RESNETS = ("cifar10-resnet18", "cifar100-resnet18", "tiny-resnet18")
SPLITS = {
    "mnist": (60_000, 50_000),
    "fashion": (60_000, 50_000),
    "svhn": (73_257, 60_000),
    "usps": (7_291, 6_000),
    "cifar10": (50_000, 42_000),
    "stl10": (5_000, 4_200),
}
"""Training pictures, and how many of them train; cifar10 has 8,000 kept aside."""
NAMES = sorted({*SEEDS, *SEEDS.values()})


def recipe_of(name, *overrides):
    return zoo_recipe_of(*values_of(name, list(overrides)))


def test_all_published_zoos_are_50_360_models():
    # Each grid is trained twice: with the same ten seeds at all combinations, and with others.
    every = sum(recipe_of(s).models + 2 * recipe_of(h).models for s, h in SEEDS.items())
    assert every + sum(recipe_of(name).models for name in RESNETS) == 50_360


@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_says_how_many_models_were_published(name):
    recipe = recipe_of(name)
    assert recipe.models == recipe.published.models
    assert sum(len(batch.members) for batch in roster(recipe)) == recipe.models
    assert (recipe.train.epochs, recipe.train.batch) == (50, 10)


@pytest.mark.parametrize("name", NAMES)
def test_the_split_is_the_published_one(name):
    whole, trained = SPLITS[name.split("-")[0]]
    assert whole - round(whole * recipe_of(name).validation) == trained


@pytest.mark.parametrize("name", NAMES)
def test_the_data_are_named_with_options_that_there_are(name):
    spec = parse_spec(recipe_of(name).data)
    assert spec.name.partition(":")[0] in DATASETS.names()
    assert set(spec.options) <= set(COMMON)


@pytest.mark.parametrize("name", sorted(SEEDS.values()))
def test_a_grid_may_have_a_seed_of_its_own_for_every_model(name):
    recipe = recipe_of(name, "fixed_seeds=false")
    seeds = [m.seed for batch in roster(recipe) for m in batch.members]
    assert len(set(seeds)) == recipe.models
    assert len({m.seed for b in roster(recipe_of(name)) for m in b.members}) == 10


@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [
        ("svhn-seed", (1, 28, 28), 2464),
        ("cifar10-small", (3, 28, 28), 2864),
        ("stl10-large", (3, 32, 32), 10853),
    ],
)
def test_networks_are_of_the_published_size(name, shape, parameters):
    model = resolve(recipe_of(name).net, classes=10, shape=shape)
    assert sum(p.numel() for p in model.parameters()) == parameters
