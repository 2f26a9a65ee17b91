"""Zoos of residual networks: stored with their statistics, cut, imported, exported."""

import json

import numpy as np
import pytest
import torch

import thrifty
from thrifty.errors import UserError
from thrifty.lab.recipe import values_of
from thrifty.nets import resolve
from thrifty.pruning.layers import prunable
from thrifty.zoo.exporting import export
from thrifty.zoo.importing import import_zoo
from thrifty.zoo.recipe import roster, zoo_recipe
from thrifty.zoo.running import make_twins, train_zoo
from thrifty.zoo.twins import TwinRecipe

STATISTICS = ("bn1.running_mean", "layer4.1.bn2.running_var", "bn1.num_batches_tracked")


def a_recipe(**said):
    given = {
        "net": "resnet18_cifar?width=0.04",
        "data": "digits?train=60&test=30",
        "grid": {"optimizer": ["sgd"], "lr": [0.05], "weight_decay": [5e-4]},
        "seeds": 3,
        "stack": 2,
        "validation": 0.2,
        "train": {
            "epochs": 3, "batch": 16, "optimizer": "sgd", "schedule": "one_cycle", "shift": 1,
            "flip": True, "engine": "single",
        },
    }  # fmt: skip
    return zoo_recipe(given | said)


def contents(root):
    return {
        str(p.relative_to(root)): p.read_bytes()
        for part in ("shards", "rows", "predictions")
        for p in sorted((root / part).glob("[0-9]*"))
    }


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    return train_zoo(a_recipe(), tmp_path_factory.mktemp("resnets") / "zoo", threads=2)


def accuracy(model, data):
    with torch.no_grad():
        classes = model(data.prepare(data.test.inputs)).argmax(1)
    return float((classes == data.test.labels).double().mean())


def test_statistics_are_stored_and_the_models_do_what_the_index_says(zoo):
    data = thrifty.load_data("digits?train=60&test=30")
    assert zoo.check() == [] and len(zoo) == 3 and zoo.epochs == (0, 1, 2, 3)
    for name in STATISTICS:
        assert (zoo.weights(name, 0) != zoo.weights(name, 3)).any(), name
    assert zoo.weights("bn1.num_batches_tracked").tolist() == [9, 9, 9]
    for member in zoo:
        assert accuracy(member.module(), data) == pytest.approx(member.row()["test_accuracy"])
        assert (member.row()["act"], member.row()["init"]) == ("", "kaiming_uniform")
    for model, member in zip(zoo.stack().modules(), zoo, strict=True):
        assert accuracy(model, data) == pytest.approx(member.row()["test_accuracy"])


class Stop(Exception):
    pass


@pytest.mark.parametrize("after", [1, 4])
def test_a_zoo_that_was_stopped_ends_byte_for_byte_the_same(after, zoo, tmp_path):
    left = [after]

    def tell(event):
        if "epoch" in event:
            left[0] -= 1
            if not left[0]:
                raise Stop

    with pytest.raises(Stop):
        train_zoo(a_recipe(), tmp_path, tell=tell)
    train_zoo(a_recipe(), tmp_path)
    assert contents(zoo.folder.root) == contents(tmp_path)


def test_twins_by_magnitude_hold_zeros_and_statistics_of_their_own(zoo, tmp_path):
    data = thrifty.load_data("digits?train=60&test=30")
    recipe = TwinRecipe(method="magnitude", sparsity=[0.5, 0.9], epochs=1)
    twins = make_twins(recipe, zoo, tmp_path, threads=2)
    assert len(twins) == 6 and twins.check() == []
    for member in twins:
        row, model = member.row(), member.module()
        assert row["sparsity"] == pytest.approx(row["asked"], abs=0.01)
        assert accuracy(model, data) == pytest.approx(row["test_accuracy"])
        assert (member.tensors(0)["bn1.running_mean"] != member.tensors()["bn1.running_mean"]).any()
        kept = member.masks()["layer3.0.conv1.weight"]
        assert (model.layer3[0].conv1.weight.detach().numpy()[~kept] == 0).all()


@pytest.mark.parametrize("method", ["variational", "str", "l0?strength=3"])
def test_twins_by_gates_choose_their_sparsity(method, zoo, tmp_path):
    data = thrifty.load_data("digits?train=60&test=30")
    recipe = TwinRecipe(method=method, variational={"epochs": 2})
    twins = make_twins(recipe, zoo, tmp_path)
    assert twins.epochs == (0, 1, 2) and len(twins) == 3 and twins.check() == []
    for member in twins:
        row, model = member.row(), member.module()
        assert np.isnan(row["asked"]) and row["method"] == method
        assert accuracy(model, data) == pytest.approx(row["test_accuracy"])
        weights = prunable(model).values()
        zero, whole = sum(int((p == 0).sum()) for p in weights), sum(p.numel() for p in weights)
        assert row["sparsity"] == pytest.approx(zero / whole)


def test_exported_networks_have_their_statistics(zoo, tmp_path):
    data = thrifty.load_data("digits?train=60&test=30")
    assert len(export(zoo, tmp_path / "out")) == 3
    for member in zoo:
        model = thrifty.load(tmp_path / "out" / f"{member.id:05d}.safetensors").eval()
        assert accuracy(model, data) == pytest.approx(member.row()["test_accuracy"])


CONFIG = {
    "model::type": "Resnet18",
    "model::channels_in": 3,
    "model::nlin": "relu",
    "model::dropout": 0.0,
    "model::init_type": "kaiming_uniform",
    "optim::optimizer": "sgd",
    "optim::lr": 0.05,
    "optim::wd": 5e-4,
    "optim::momentum": 0.9,
    "training::batchsize": 256,
}


def a_trial(place, number, width="0.0625", classes=10):
    torch.manual_seed(number)
    model = resolve(f"resnet18_cifar?width={width}", classes=classes, shape=(3, 32, 32))
    model.train()(torch.randn(8, 3, 32, 32))
    at = place / f"NN_tune_trainable_a_{number:05d}_{number}_seed={number}_x" / "checkpoint_000050"
    at.mkdir(parents=True)
    torch.save(model.state_dict(), at / "checkpoints")
    (at.parent / "params.json").write_text(json.dumps(CONFIG | {"seed": number}))
    return model.eval()


def test_published_residual_networks_are_imported_as_networks(tmp_path):
    models = [a_trial(tmp_path / "in", number) for number in range(2)]
    done = import_zoo(tmp_path / "in", tmp_path / "zoo")
    assert (done.models, done.left_out) == (2, ())
    zoo, inputs = thrifty.Zoo(tmp_path / "zoo"), torch.rand(4, 3, 32, 32)
    assert zoo[0].row()["net"] == "resnet18_cifar"
    for member, stacked, model in zip(zoo, zoo.stack().modules(), models, strict=True):
        assert torch.equal(member.module()(inputs), model(inputs))
        assert torch.equal(stacked(inputs), model(inputs))


def test_a_published_network_of_200_classes_takes_pictures_of_64(tmp_path):
    a_trial(tmp_path / "in", 0, classes=200)
    import_zoo(tmp_path / "in", tmp_path / "zoo")
    assert thrifty.Zoo(tmp_path / "zoo").stack().shape == (3, 64, 64)


def test_a_residual_network_of_another_form_keeps_its_tensors(tmp_path):
    a_trial(tmp_path / "in", 0)
    path = next((tmp_path / "in").glob("*/*/checkpoints"))
    state = torch.load(path, weights_only=True)
    state.pop("layer2.0.downsample.0.weight")
    torch.save(state, path)
    import_zoo(tmp_path / "in", tmp_path / "zoo")
    zoo = thrifty.Zoo(tmp_path / "zoo")
    assert zoo.weights("bn1.running_mean").shape == (1, 4)
    with pytest.raises(UserError, match="does not say what network"):
        zoo[0].module()


def test_published_networks_without_counters_of_batches_still_make_a_stack(tmp_path):
    model = a_trial(tmp_path / "in", 0)
    path = next((tmp_path / "in").glob("*/*/checkpoints"))
    state = torch.load(path, weights_only=True)
    torch.save({n: x for n, x in state.items() if "num_batches" not in n}, path)
    import_zoo(tmp_path / "in", tmp_path / "zoo")
    zoo, inputs = thrifty.Zoo(tmp_path / "zoo"), torch.rand(2, 3, 32, 32)
    assert torch.equal(zoo[0].module()(inputs), model(inputs))
    assert torch.equal(zoo.stack().module(0)(inputs), model(inputs))
    assert zoo.stack().tensors["bn1.num_batches_tracked"].tolist() == [0]


@pytest.mark.parametrize(
    ("name", "batch", "epochs", "rate"),
    [("cifar10", 256, 50, 0.05), ("cifar100", 128, 60, 0.1), ("tiny", 128, 60, 0.1)],
)
def test_published_recipes_are_those_of_the_paper(name, batch, epochs, rate):
    values, _ = values_of(f"{name}-resnet18")
    recipe = zoo_recipe(values["zoo"])
    train = recipe.train
    assert (train.batch, train.epochs, recipe.grid.lr) == (batch, epochs, (rate,))
    assert (train.schedule, train.shift, train.flip, train.momentum) == ("one_cycle", 4, True, 0.9)
    assert recipe.models == 1000 and recipe.grid.weight_decay == (5e-4,)
    spec = roster(recipe, 1)[0].members[0].spec(recipe.net)
    assert spec == "resnet18_cifar?init=kaiming_uniform"
    with torch.device("meta"):
        model = resolve(spec, classes=10, shape=(3, 32, 32))
    assert sum(p.numel() for p in model.parameters()) == 11_173_962


def test_a_grid_of_options_that_a_network_lacks_is_refused():
    with pytest.raises(UserError, match=r"grid\.act is .*resnet18_cifar has no option 'act'"):
        a_recipe(grid={"act": ["tanh", "relu"]})
    with pytest.raises(UserError, match=r"grid\.dropout is .*resnet20 has no option 'dropout'"):
        a_recipe(net="resnet20", grid={"dropout": [0.5]})
    assert roster(a_recipe(net="resnet20"))[0].members[0].spec("resnet20") == "resnet20"


def test_a_residual_network_may_drop(tmp_path):
    recipe = a_recipe(grid={"dropout": [0.3], "optimizer": ["sgd"], "lr": [0.01]}, seeds=1)
    zoo = train_zoo(recipe, tmp_path)
    rates = [m.p for m in zoo[0].module().modules() if isinstance(m, torch.nn.Dropout)]
    assert rates == pytest.approx([0.3])
