"""Zoos of other people: folders of Ray Tune as ModelZoos publishes them."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import thrifty
from thrifty.errors import UserError
from thrifty.zoo.importing import import_zoo

CONFIG = {
    "model::type": "CNN",
    "model::channels_in": 1,
    "model::o_dim": 10,
    "model::nlin": "tanh",
    "model::dropout": 0.0,
    "model::init_type": "uniform",
    "optim::optimizer": "adam",
    "optim::lr": 0.0003,
    "optim::wd": 0.0,
    "training::batchsize": 10,
    "cuda": False,
}


class Published(nn.Module):
    """A small network with its layers in a list, dropout among them if there is any."""

    def __init__(self, channels=1, dropout=0.0):
        super().__init__()
        drop = [nn.Dropout(dropout)] if dropout else []
        self.module_list = nn.ModuleList(
            [nn.Conv2d(channels, 8, 5), nn.MaxPool2d(2, 2), nn.Tanh(), *drop]
            + [nn.Conv2d(8, 6, 5), nn.MaxPool2d(2, 2), nn.Tanh(), *drop]
            + [nn.Conv2d(6, 4, 2), nn.Tanh(), nn.Flatten()]
            + [nn.Linear(36, 20), nn.Tanh(), *drop, nn.Linear(20, 10)]
        )

    def forward(self, x):
        for layer in self.module_list:
            x = layer(x)
        return x


def trial(place, number, epochs=(0, 1, 2), network=None, config=None, csv=False):
    """One folder of Ray Tune; gives back the network of its last epoch."""
    seed = number + 1
    folder = (
        place / f"NN_tune_trainable_c0371_{number:05d}_{number}_seed={seed}_2021-07-01_16-59-53"
    )
    lines = []
    for epoch in epochs:
        torch.manual_seed(seed * 100 + epoch)
        made = (network or Published)()
        at = folder / f"checkpoint_{epoch:06d}"
        at.mkdir(parents=True)
        torch.save(made.state_dict(), at / "checkpoints")
        torch.save({"state": {}}, at / "optimizer")
        figures = {"train_loss": 1.0, "train_acc": 0.5, "test_loss": 1.1}
        if epoch == 0:
            figures |= {"train_loss": -999, "train_acc": -999}
        figures |= {"test_acc": 0.1 * epoch + number / 100, "training_iteration": epoch}
        lines.append(figures)
    if csv:
        head = ",".join(lines[0])
        rows = [",".join(str(v) for v in line.values()) for line in lines]
        (folder / "progress.csv").write_text("\n".join([head, *rows]) + "\n")
    else:
        (folder / "result.json").write_text("".join(json.dumps(x) + "\n" for x in lines))
    (folder / "params.json").write_text(json.dumps(CONFIG | {"seed": seed} | (config or {})))
    return made.eval()


def test_a_published_zoo_becomes_a_zoo_of_the_same_networks(tmp_path):
    place = tmp_path / "tune_zoo_mnist_uniform"
    networks = [trial(place, number) for number in range(3)]
    (place / "index_dict.json").write_text("{}")
    (place / "config.json").write_text("{}")
    done = import_zoo(place, tmp_path / "zoo")
    assert (done.models, done.checkpoints, done.left_out) == (3, 9, ())
    assert str(done) == "3 models with 9 checkpoints imported"
    zoo = thrifty.Zoo(tmp_path / "zoo")
    assert (len(zoo), zoo.epochs, zoo.kind) == (3, (0, 1, 2), "models")
    inputs = torch.rand(4, 1, 28, 28)
    for member, network in zip(zoo, networks, strict=True):
        assert torch.allclose(member.module()(inputs), network(inputs), atol=1e-6)
    assert zoo.weights("conv3.weight").shape == (3, 4, 6, 2, 2)
    assert zoo.check() == [] and len(zoo.stack()) == 3


def test_what_is_said_of_a_trial_is_in_the_index(tmp_path):
    trial(tmp_path / "in", 4)
    import_zoo(tmp_path / "in", tmp_path / "zoo")
    zoo = thrifty.Zoo(tmp_path / "zoo")
    row = zoo[0].row(2)
    assert (row["act"], row["init"], row["optimizer"], row["net"]) == (
        "tanh",
        "uniform",
        "adam",
        "zoo_cnn_s",
    )
    assert (row["lr"], row["weight_decay"], row["batch"], row["seed"]) == (0.0003, 0, 10, 5)
    assert row["source"].startswith("NN_tune_trainable_c0371_00004")
    assert (row["train_accuracy"], row["test_loss"], row["diverged"]) == (0.5, 1.1, False)
    assert row["test_accuracy"] == pytest.approx(0.24)
    assert np.isnan(zoo[0].row(0)["train_loss"])  # -999 stands for an epoch not trained
    assert zoo.where("act == 'tanh' and lr == 3e-4").epochs == (0, 1, 2)


def test_figures_may_lie_in_a_table_instead(tmp_path):
    trial(tmp_path / "in", 1, csv=True)
    import_zoo(tmp_path / "in", tmp_path / "zoo")
    assert thrifty.Zoo(tmp_path / "zoo")[0].accuracy == pytest.approx(0.21)


def test_dropout_moves_the_places_of_layers_and_not_their_names(tmp_path):
    def dropping():
        return Published(dropout=0.5)

    trial(tmp_path / "in", 0)
    network = trial(tmp_path / "in", 1, network=dropping, config={"model::dropout": 0.5})
    import_zoo(tmp_path / "in", tmp_path / "zoo")
    zoo = thrifty.Zoo(tmp_path / "zoo")
    inputs = torch.rand(4, 1, 28, 28)
    assert torch.allclose(zoo[1].module()(inputs), network(inputs), atol=1e-6)
    assert zoo.weights("fc2.weight").shape == (2, 10, 20)
    rates = {m.p for m in zoo[1].module().modules() if isinstance(m, nn.Dropout)}
    assert rates == {0.5}


def test_activations_make_stacks_of_their_own(tmp_path):
    trial(tmp_path / "in", 0)
    trial(tmp_path / "in", 1, config={"model::nlin": "leakyrelu"})
    import_zoo(tmp_path / "in", tmp_path / "zoo")
    zoo = thrifty.Zoo(tmp_path / "zoo")
    assert zoo[1].hyper["act"] == "leaky_relu"
    assert any(isinstance(m, nn.LeakyReLU) for m in zoo[1].module().modules())
    with pytest.raises(UserError, match="act=leaky_relu.*act=tanh"):
        zoo.stack()


def test_a_network_that_is_unknown_keeps_its_tensors(tmp_path):
    def other():
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))

    trial(tmp_path / "in", 0, network=other, config={"model::type": "MLP"})
    import_zoo(tmp_path / "in", tmp_path / "zoo")
    zoo = thrifty.Zoo(tmp_path / "zoo")
    assert zoo.weights("0.weight").shape == (1, 4, 3)
    assert zoo.weights("1.num_batches_tracked").shape == (1,)
    with pytest.raises(UserError, match="does not say what network its models are"):
        zoo[0].module()
    with pytest.raises(UserError, match="does not say what network its models are"):
        zoo.stack()


def twin(seed):
    """A state dict of a twin by variational dropout, and the same with what it cuts at zero."""
    torch.manual_seed(seed)
    network = Published().eval()
    state, noise = network.state_dict(), {}
    for name, x in list(state.items()):
        layer, part = name.rsplit(".", 1)
        noise[f"{layer}.log_sigma2{'_bias' if part == 'bias' else ''}"] = torch.randn_like(x) * 4
    clipped = {}
    for name, x in state.items():
        layer, part = name.rsplit(".", 1)
        sigma = noise[f"{layer}.log_sigma2{'_bias' if part == 'bias' else ''}"]
        alpha = sigma - 2 * torch.log(x.abs() + 1e-15)
        linear_bias = part == "bias" and state[f"{layer}.weight"].dim() == 2
        clipped[name] = x if linear_bias else torch.where(alpha >= 3, 0.0, x)
    network.load_state_dict(clipped)
    return state | noise, network


def test_twins_by_variational_dropout_are_cut_as_published(tmp_path):
    folder = tmp_path / "in" / "NN_tune_trainable_from_checkpoint_ab_00000_0_x"
    (folder / "checkpoint_000025").mkdir(parents=True)
    state, network = twin(0)
    torch.save(state, folder / "checkpoint_000025" / "checkpoints")
    parent = "/zoos/MNIST/NN_tune_trainable_c0371_00017_17_seed=18_2021-07-01_16-59-53"
    config = CONFIG | {"model::type": "CNN_ARD", "training::init_checkpoint_path": parent}
    (folder / "params.json").write_text(json.dumps(config | {"seed": 18}))
    import_zoo(tmp_path / "in", tmp_path / "twins")
    zoo = thrifty.Zoo(tmp_path / "twins")
    assert (zoo.kind, zoo[0].id, zoo[0].row()["method"]) == ("twins", 17, "variational")
    inputs = torch.rand(4, 1, 28, 28)
    assert torch.allclose(zoo[0].module()(inputs), network(inputs), atol=1e-6)
    weights = [x for n, x in network.state_dict().items() if n.endswith("weight")]
    zeros = sum(int((x == 0).sum()) for x in weights) / sum(x.numel() for x in weights)
    assert zoo[0].row()["sparsity"] == pytest.approx(zeros)
    layers = json.loads(zoo[0].row()["layers"])
    assert layers["conv1"][1] == 200 and set(layers) == {"conv1", "conv2", "conv3", "fc1", "fc2"}


def test_originals_and_twins_are_two_zoos(tmp_path):
    trial(tmp_path / "in", 0)
    folder = tmp_path / "in" / "b" / "checkpoint_000001"
    folder.mkdir(parents=True)
    torch.save(twin(0)[0], folder / "checkpoints")
    (folder.parent / "params.json").write_text(json.dumps(CONFIG))
    with pytest.raises(UserError, match="holds originals and twins"):
        import_zoo(tmp_path / "in", tmp_path / "zoo")


def test_some_epochs_are_enough(tmp_path):
    trial(tmp_path / "in", 0)
    done = import_zoo(tmp_path / "in", tmp_path / "zoo", epochs=[2])
    assert done.checkpoints == 1 and thrifty.Zoo(tmp_path / "zoo").epochs == (2,)
    with pytest.raises(UserError, match="no checkpoint of the epochs asked for"):
        import_zoo(tmp_path / "in", tmp_path / "other", epochs=[7])


def test_an_import_that_was_killed_goes_on_and_ends_the_same(tmp_path):
    for number in range(2):
        trial(tmp_path / "in", number)
    import_zoo(tmp_path / "in", tmp_path / "whole")
    import_zoo(tmp_path / "in", tmp_path / "killed")
    (tmp_path / "killed" / "rows" / "0000-0001.json").unlink()
    (tmp_path / "killed" / "shards" / "0000-0001.safetensors").unlink()
    told = []
    import_zoo(tmp_path / "in", tmp_path / "killed", tell=told.append)
    assert [each["epoch"] for each in told] == [1]
    for path in sorted((tmp_path / "whole").rglob("*")):
        if path.is_file() and path.suffix in (".safetensors", ".json"):
            other = tmp_path / "killed" / path.relative_to(tmp_path / "whole")
            assert other.read_bytes() == path.read_bytes()


def test_damaged_trials_are_left_out_and_said(tmp_path):
    place = tmp_path / "in"
    for number in range(4):
        trial(place, number)
    folders = sorted(place.iterdir())
    (folders[0] / "checkpoint_000001" / "checkpoints").write_bytes(b"PK\x03\x04 no zip")
    (folders[1] / "params.json").write_text("{")
    (folders[2] / "result.json").write_text('{"training_iteration": 1\nnonsense\n')
    done = import_zoo(place, tmp_path / "zoo")
    zoo = thrifty.Zoo(tmp_path / "zoo")
    assert [member.id for member in zoo] == [0, 2, 3]
    assert zoo[0].epochs == (0, 2) and zoo[1].epochs == (0, 1, 2)
    assert len(done.left_out) == 2 and "params.json" in done.left_out[0]
    assert "checkpoint_000001" in done.left_out[1]
    assert str(done).startswith("3 models with 8 checkpoints imported; 2 left out:\n  NN_tune")


def test_a_checkpoint_that_would_run_code_is_left_out(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    place = tmp_path / "in"
    trial(place, 0)
    trial(place, 1)
    folder = sorted(place.iterdir())[1]
    for epoch in range(3):
        torch.save({"w": Evil()}, folder / f"checkpoint_{epoch:06d}" / "checkpoints")
    done = import_zoo(place, tmp_path / "zoo")
    assert done.models == 1 and "would execute code" in done.left_out[0]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "config",
    [
        {"model::nlin": ["tanh"]},
        {"model::nlin": "tanh?x=y&act=relu"},
        {"model::type": {"a": 1}},
        {"optim::lr": "much", "seed": -1, "training::batchsize": 1e300},
        {"optim::lr": 10**400, "model::dropout": float("nan")},
        {"model::dropout": 7, "model::init_type": "x" * 1000},
    ],
)
def test_odd_hyper_parameters_do_no_harm(tmp_path, config):
    trial(tmp_path / "in", 0, config=config)
    done = import_zoo(tmp_path / "in", tmp_path / "zoo")
    assert done.left_out == () and thrifty.Zoo(tmp_path / "zoo").check() == []


def test_what_is_no_zoo_at_all_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not there"):
        import_zoo(tmp_path / "nothing", tmp_path / "zoo")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no checkpoint_NNNNNN/checkpoints"):
        import_zoo(tmp_path / "empty", tmp_path / "zoo")
    assert not (tmp_path / "zoo").exists()


@pytest.mark.real
def test_the_policies_of_reinforcement_learning_are_a_zoo(real_data, tmp_path):
    done = import_zoo(real_data / "weights" / "rl-zoo", tmp_path / "zoo")
    zoo = thrifty.Zoo(tmp_path / "zoo")
    assert (done.models, done.left_out, len(zoo)) == (64, (), 64)
    assert zoo.check() == []
    path = real_data / "weights" / "rl-zoo" / f"{zoo[5].row()['source']}.safetensors"
    from safetensors.numpy import load_file

    for name, x in load_file(path).items():
        assert np.array_equal(zoo[5].tensors()[name], x)
