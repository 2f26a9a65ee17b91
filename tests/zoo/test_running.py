"""A zoo ends the same, byte for byte, wherever it was stopped and however it was gone on with."""

import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import thrifty
from thrifty.errors import Unfinished, UserError
from thrifty.lab.executor import Processes
from thrifty.native import lanes
from thrifty.zoo.recipe import ZooRecipe, zoo_recipe
from thrifty.zoo.running import Pace, train_zoo
from thrifty.zoo.sets import sets_of

NET = "zoo_cnn_s?width=0.25"


def a_recipe(**said):
    given = {
        "net": NET,
        "data": "digits?train=60&test=30",
        "grid": {"act": ["tanh", "relu"]},
        "seeds": 4,
        "stack": 3,
        "validation": 0.2,
        "train": {"epochs": 3},
    }
    return zoo_recipe(given | said)


def contents(root):
    """SHA-256 of all that a zoo is made of; what is locked, cached or carried is left out."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for part in ("shards", "rows", "predictions")
        for path in sorted((root / part).glob("[0-9]*"))
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A zoo that nothing disturbed."""
    root = tmp_path_factory.mktemp("whole") / "zoo"
    train_zoo(a_recipe(), root)
    return root


def test_every_model_of_the_grid_is_there_at_every_checkpoint(whole):
    zoo = thrifty.Zoo(whole)
    assert len(zoo) == 8
    assert zoo.epochs == (0, 1, 2, 3)
    assert len(zoo.index) == 32
    assert zoo.at()["act"].tolist() == ["tanh"] * 4 + ["relu"] * 4
    assert zoo.at()["seed"].tolist() == [0, 1, 2, 3] * 2
    assert zoo.check() == []


def test_the_index_says_what_its_models_do(whole):
    zoo, sets = thrifty.Zoo(whole), sets_of("digits?train=60&test=30", 0.2)
    for member in zoo:
        with torch.no_grad():
            outputs = member.module()(sets.data.prepare(sets.data.test.inputs))
            held = member.module()(sets.data.prepare(sets.validation.inputs))
        right = (outputs.argmax(1) == sets.data.test.labels).double().mean()
        kept = (held.argmax(1) == sets.validation.labels).double().mean()
        assert member.row()["test_accuracy"] == pytest.approx(float(right))
        assert member.row()["val_accuracy"] == pytest.approx(float(kept))


def test_validation_inputs_are_a_share_of_the_training_inputs_and_none_is_both():
    sets = sets_of("digits?train=60&test=30", 0.2)
    assert (len(sets.data.train), len(sets.validation), len(sets.data.test)) == (48, 12, 30)
    both = {x.numpy().tobytes() for x in sets.data.train.inputs}
    assert not both & {x.numpy().tobytes() for x in sets.validation.inputs}


def test_a_zoo_that_is_finished_is_left_alone(whole):
    before = {p: p.stat().st_mtime_ns for p in whole.rglob("*.[jns]*") if p.is_file()}
    told = []
    train_zoo(a_recipe(), whole, tell=told.append)
    assert told == [{"stacks": 4, "left": 0, "models": 0, "epochs": 3}]
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_nothing_that_the_optimizer_carried_is_left(whole):
    assert list((whole / "state").iterdir()) == []


def test_threads_make_the_same_bytes(whole, tmp_path):
    train_zoo(a_recipe(), tmp_path, threads=2)
    assert contents(tmp_path) == contents(whole)


def test_a_zoo_grows_and_its_first_models_stay(whole, tmp_path):
    """Five models are two stacks that are full or not; eight hold the same, and three more."""
    root = tmp_path / "zoo"
    train_zoo(a_recipe(), root, models=5)
    few = {n: thrifty.Zoo(root).weights(n).copy() for n in ("conv1.weight", "fc2.bias")}
    assert len(thrifty.Zoo(root)) == 5
    grown, straight = train_zoo(a_recipe(), root), thrifty.Zoo(whole)
    assert len(grown) == 8
    for name, x in few.items():
        assert np.array_equal(grown.weights(name), straight.weights(name))
        assert np.array_equal(grown.weights(name)[:5], x)


def test_how_models_are_stacked_changes_no_number(whole, tmp_path):
    other, one = train_zoo(a_recipe(stack=64), tmp_path / "zoo"), thrifty.Zoo(whole)
    for name in one.names():
        assert np.array_equal(one.weights(name), other.weights(name))
    assert np.array_equal(one.at()["test_accuracy"], other.at()["test_accuracy"])


CHILD = """
import os, signal, sys
from thrifty.zoo.running import train_zoo
from thrifty.zoo.recipe import ZooRecipe

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def tell(event):
    if deadly == f"epoch {event.get('job')} {event.get('epoch')}":
        die()

def audit(name, arguments):
    if name == "os.rename" and str(arguments[1]).endswith(deadly.removeprefix("file ")):
        die()  # a file is whole and not yet at its place

sys.addaudithook(audit)
train_zoo(ZooRecipe.model_validate_json(text), out, tell=tell)
"""


def killed(root, recipe, deadly):
    """Train in a process that is killed there; returns whether it was."""
    context = multiprocessing.get_context("forkserver")  # torch is imported once for all
    context.set_forkserver_preload(["thrifty.zoo.running"])
    names = {"out": str(root), "text": recipe.model_dump_json(), "deadly": deadly}
    child = context.Process(target=exec, args=(CHILD, names))
    child.start()
    child.join()
    return child.exitcode == -signal.SIGKILL


@pytest.mark.parametrize(
    "deadly",
    [
        "epoch stack 0 1",
        "epoch stack 1 2",
        "file shards/000003n1-0002.safetensors",
        "file state/000000n3-0001.safetensors",
        "file rows/000004n3-0000.json",
        "file predictions/000007n1-0003.npy",
        "file rows/000004n3-0003.json",
    ],
)
def test_a_run_killed_anywhere_ends_byte_for_byte_as_if_it_was_not(deadly, whole, tmp_path):
    root = tmp_path / "zoo"
    assert killed(root, a_recipe(), deadly)
    partial = thrifty.Zoo(root)  # what is done can be read
    assert partial.check() == []
    times = {path: path.stat().st_mtime_ns for path in (root / "rows").glob("[0-9]*")}
    train_zoo(a_recipe(), root)
    assert contents(root) == contents(whole)
    assert times == {path: path.stat().st_mtime_ns for path in times}
    assert list((root / "state").iterdir()) == []
    assert not list(root.rglob(".*.part"))


def test_a_worker_that_is_killed_costs_no_model(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    victims = []

    def tell(event):
        if "epoch" in event and not victims:
            victims.append(multiprocessing.active_children()[0])
            os.kill(victims[0].pid, signal.SIGKILL)

    train_zoo(a_recipe(), Path("here"), executor=Processes(2), tell=tell)
    assert victims
    assert contents(tmp_path / "here") == contents(whole)


def test_an_optimizer_state_that_is_damaged_is_named(tmp_path):
    assert killed(tmp_path, a_recipe(), "epoch stack 0 3")
    state = tmp_path / "state" / "000000n3-0002.safetensors"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(Unfinished, match=r"000000n3-0002\.safetensors cannot be read"):
        train_zoo(a_recipe(), tmp_path)
    state.unlink()
    assert len(train_zoo(a_recipe(), tmp_path)) == 8


def test_a_model_that_diverges_is_flagged_and_the_others_are_what_they_are(tmp_path):
    base = {"act": ["relu"], "optimizer": ["sgd"]}
    calm = train_zoo(a_recipe(grid=base | {"lr": [0.01]}), tmp_path / "calm")
    wild = train_zoo(a_recipe(grid=base | {"lr": [0.01, 1e20]}, stack=8), tmp_path / "wild")
    assert wild.at()["diverged"].tolist() == [False] * 4 + [True] * 4
    assert np.array_equal(wild.weights("fc1.weight")[:4], calm.weights("fc1.weight"))
    assert not wild.index["diverged"][wild.index["epoch"] == 0].any()


def test_every_optimizer_and_rate_of_dropout_of_a_grid_is_trained(tmp_path):
    grid = {"optimizer": ["adam", "sgd"], "dropout": [0, 0.1, 0.2], "weight_decay": [0, 1e-3]}
    zoo = train_zoo(a_recipe(grid=grid, seeds=1, stack=64), tmp_path)
    assert len(zoo) == 12
    found = {(m.hyper["optimizer"], m.hyper["dropout"], m.hyper["weight_decay"]) for m in zoo}
    assert len(found) == 12


def test_another_recipe_in_the_same_folder_is_refused(whole):
    with pytest.raises(
        UserError, match="holds another zoo: .*recipe is .* give --out another folder"
    ):
        train_zoo(a_recipe(net="zoo_cnn_s?width=0.3"), whole)


def test_a_zoo_that_another_process_writes_is_not_touched_and_can_be_read(whole, tmp_path):
    hold = (
        "import sys, time; from thrifty.zoo.folder import Folder\n"
        "with Folder(sys.argv[1]).lock():\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(whole)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"in use by process {other.pid}; wait for it"):
            train_zoo(a_recipe(), whole)
        assert len(thrifty.Zoo(whole)) == 8
        other.stdin.close()
    assert len(train_zoo(a_recipe(), whole)) == 8


@pytest.mark.parametrize(
    ("said", "models", "message"),
    [
        ({"net": "nosuch"}, None, "no network is called 'nosuch'"),
        ({"net": "resnet20"}, None, "has no option 'act'"),
        ({"data": "nosuch"}, None, "no data set is called 'nosuch'"),
        ({"train": {"engine": "lanes", "epochs": 1}, "net": "zoo_cnn_l?width=4"}, None, "60,000"),
        ({}, 0, "a zoo of 0 models is asked for; it has 1 at least"),
        ({}, -3, "a zoo of -3 models"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_made(said, models, message, tmp_path):
    if "60,000" in message and not lanes.available():
        pytest.skip("the lanes are not compiled")
    with pytest.raises(UserError, match=message):
        train_zoo(a_recipe(**said), tmp_path / "zoo", models=models)
    assert not (tmp_path / "zoo").exists()


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds notes\.txt and is no zoo"):
        train_zoo(a_recipe(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(UserError, match="is a file; give --out a folder"):
        train_zoo(a_recipe(), tmp_path / "notes.txt")


def test_every_mistake_of_a_recipe_is_told_at_once():
    with pytest.raises(UserError) as caught:
        zoo_recipe(
            {"gird": {}, "grid": {"act": "tahn", "lr": [0.1, -1]}, "train": {"epoch": 3},
             "seeds": 0, "validation": 1.0}, "r.yaml",
        )  # fmt: skip
    text = str(caught.value)
    for part in (
        "gird: there is no such key; did you mean grid?",
        "did you mean tanh?",
        "grid.lr.1",
        "train.epoch: there is no such key; did you mean epochs?",
        "seeds",
        "validation",
    ):
        assert part in text


def test_a_recipe_that_is_printed_is_the_same_recipe_when_it_is_read():
    for recipe in (a_recipe(), ZooRecipe(published={"accuracy": 0.9})):
        again = zoo_recipe(yaml.safe_load(recipe.to_yaml())["zoo"])
        assert again == recipe


def test_progress_counts_what_was_done_before_and_what_is_done_again_once():
    told = []
    pace = Pace(20, told.append)
    for epoch in (2, 3, 2, 3, 4):  # begun at epoch 2; its worker died after 3
        pace({"job": "a", "models": 5, "epoch": epoch})
    assert told[0]["progress"] == 0.5
    assert told[-1]["progress"] == 1.0
    assert told[-1]["left_seconds"] == 0.0
    pace({"message": "hello"})
    assert told[-1] == {"message": "hello"}
