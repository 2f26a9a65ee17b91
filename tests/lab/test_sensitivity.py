"""One layer is cut as a run would cut it, all others are whole, and the test inputs stay unseen."""

import copy
import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import thrifty
from thrifty.data import Data, Split, load_data
from thrifty.errors import UserError
from thrifty.lab.sensitive import Sensitive, Sensitivity, Tried
from thrifty.lab.sensitivity import sensitivity
from thrifty.pruning import Cut
from thrifty.pruning.structured import ChannelCut, choose, scores

DATA = "digits?train=160&test=80"


class Small(nn.Sequential):
    """Two convolutions without padding, so that constants fold exactly, and a norm."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(12 * 16, 10),
        )


def trained() -> nn.Module:
    torch.manual_seed(0)
    model, data = Small(), load_data(DATA)
    inputs, optimizer = data.prepare(data.train.inputs), torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(25):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), data.train.labels).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return trained()


@pytest.fixture(scope="module")
def weights(model) -> Sensitivity:
    return sensitivity(model, DATA, sparsity=(0.3, 0.6, 0.9))


@pytest.fixture(scope="module")
def channels(model) -> Sensitivity:
    return sensitivity(model, DATA, method="l1_filter", sparsity=(0.25, 0.5, 0.75), round=1)


def on_training(data: Data) -> Data:
    """Data that are measured on their training inputs."""
    return dataclasses.replace(data, test=data.train)


def accuracy(model: nn.Module, test: bool = False) -> float:
    data = load_data(DATA)
    return thrifty.measure(model, data if test else on_training(data)).accuracy


def results(folder: Path) -> dict[str, bytes]:
    """Every file that says what was computed; times may differ."""
    names = ("steps/*/*", "*.jsonl", "*.csv", "layers.yaml")
    found = {
        str(p.relative_to(folder)): p.read_bytes()
        for name in names
        for p in sorted(folder.glob(name))
        if p.name != "timing.json"
    }
    assert found
    return found


def test_a_layer_is_cut_as_a_run_cuts_it_and_all_others_are_whole(model, weights):
    assert [row.layer for row in weights.rows] == ["0.weight", "3.weight", "6.weight"]
    for row in weights.rows:
        for tried in row.tried:
            other = copy.deepcopy(model)
            how = Cut.of("magnitude", allocation="explicit", layers={row.layer: tried.sparsity})
            thrifty.apply(other, thrifty.cut(other, how))
            assert tried.accuracy == accuracy(other)
            zeros = {n: int((p == 0).sum()) for n, p in other.named_parameters() if p.dim() > 1}
            assert zeros.pop(row.layer) == tried.removed == round(row.weights * tried.sparsity)
            assert not any(zeros.values())


def test_channels_are_removed_with_their_constants_folded(model, channels):
    assert [row.layer for row in channels.rows] == ["0", "3"]
    for row in channels.rows:
        for tried in row.tried:
            other = copy.deepcopy(model)
            layer = other[int(row.layer)]
            norms = layer.weight.detach().abs().flatten(1).sum(1)
            gone = norms.argsort()[: round(row.units * tried.sparsity)]
            with torch.no_grad():  # what the bias and the norm's shift still send stays
                layer.weight[gone] = 0.0
                if row.layer == "0":
                    other[1].weight[gone] = 0.0
            assert tried.gone == pytest.approx(len(gone) / row.units)
            assert tried.accuracy == accuracy(other)


def test_the_cut_of_channels_is_that_of_a_run(model, channels):
    example = load_data(DATA).prepare(load_data(DATA).test.inputs[:2])
    groups = thrifty.groups(model, example)
    how = ChannelCut.of("l1_filter", allocation="explicit", layers={"3": 0.5}, round=1)
    kept = choose(groups, scores(model, groups, how), lambda _: 0.0, 0.0, how)
    small = thrifty.shrink(model, example=example, kept=kept)
    tried = next(t for t in channels["3"].tried if t.sparsity == 0.5)
    assert tried.accuracy == accuracy(small)
    before, after = (sum(p.numel() for p in m.parameters() if p.dim() > 1) for m in (model, small))
    assert tried.removed == before - after


def test_rounding_leaves_layers_whole_that_are_too_narrow(model):
    found = sensitivity(model, DATA, method="l1_filter", sparsity=0.05, round=8)
    row = found["0"]
    assert (row.tried[0].gone, row.tried[0].removed) == (0.0, 0)
    assert row.tried[0].accuracy == found.accuracy
    assert found.limit(row) == 0.0


def test_a_module_that_is_given_is_not_changed(model):
    mine = copy.deepcopy(model).train()
    before = {name: x.clone() for name, x in mine.state_dict().items()}
    for method in ("magnitude", "l1_filter"):
        sensitivity(mine, DATA, method=method, sparsity=0.5, recalibrate=True)
    assert mine.training
    assert all(torch.equal(x, before[name]) for name, x in mine.state_dict().items())


def test_the_test_inputs_are_not_looked_at_unless_asked_for(model, weights):
    data = load_data(DATA)
    spoilt = Split(data.test.inputs, (data.test.labels + 1) % 10)
    other = sensitivity(model, dataclasses.replace(data, test=spoilt), sparsity=(0.3, 0.6, 0.9))
    assert other.rows == weights.rows
    assert weights.accuracy == accuracy(model)
    asked = sensitivity(model, DATA, sparsity=0.3, test=True)
    assert asked.accuracy == accuracy(model, test=True)
    assert (asked.inputs, weights.inputs) == (80, 160)
    assert "test inputs" in asked.notes[0]
    assert "training inputs" in weights.notes[0]


def test_fewer_inputs_are_drawn_by_the_seed(model):
    some = [sensitivity(model, DATA, sparsity=0.9, inputs=40, seed=seed) for seed in (0, 0, 1)]
    assert [found.inputs for found in some] == [40, 40, 40]
    assert some[0].rows == some[1].rows
    assert some[0].rows != some[2].rows


def test_a_drop_is_what_the_accuracies_differ_by(weights, channels):
    for found in (weights, channels):
        for row in found.rows:
            for tried in row.tried:
                assert found.drop(tried) == pytest.approx(found.accuracy - tried.accuracy)
                assert found.drop_error(tried) >= 0


def test_new_statistics_are_taken_for_the_intact_network_too(model):
    found = sensitivity(model, DATA, sparsity=0.6, recalibrate=True)
    whole = copy.deepcopy(model)
    data = load_data(DATA)
    thrifty.recalibrate(whole, data, batch=64)
    assert found.accuracy == accuracy(whole)
    other = copy.deepcopy(model)
    how = Cut.of("magnitude", allocation="explicit", layers={"0.weight": 0.6})
    thrifty.apply(other, thrifty.cut(other, how))
    thrifty.recalibrate(other, data, batch=64)
    assert found["0.weight"].tried[0].accuracy == accuracy(other)


def test_statistics_are_of_other_inputs_than_the_measures_where_there_are_enough(model):
    apart = sensitivity(model, DATA, sparsity=0.5, inputs=60, recalibrate=True)
    assert "100 training inputs, other than" in apart.conditions["recalibration"]
    shared = sensitivity(model, DATA, sparsity=0.5, recalibrate=True)
    assert "some of them measured on" in shared.conditions["recalibration"]


def test_all_layers_at_once_are_the_recipe_it_writes(model, tmp_path):
    found = sensitivity(model, DATA, sparsity=(0.3, 0.6), max_drop=0.1, out=tmp_path)
    layers = found.layers()
    assert layers
    other = copy.deepcopy(model)
    thrifty.prune(other, layers=layers, allocation="explicit")
    assert found.together.accuracy == accuracy(other)
    assert found.together.sparsity == pytest.approx(thrifty.measure(other, DATA).sparsity)
    recipe = thrifty.recipe(**found.recipe())
    assert recipe.prune.layers == layers
    assert recipe.prune.sparsity == (round(found.together.sparsity, 3),)
    assert "module" in (tmp_path / "layers.yaml").read_text()


def test_a_run_of_the_recipe_cuts_what_was_found(tmp_path):
    thrifty.save(trained_lenet(), tmp_path / "net.safetensors")
    for method in ("magnitude", "l1_filter"):
        found = sensitivity(
            str(tmp_path / "net.safetensors"),
            DATA,
            method=method,
            sparsity=(0.3, 0.5),
            max_drop=0.5,
            out=tmp_path / method,
        )
        recipe = thrifty.lab.recipe.read(
            tmp_path / method / "layers.yaml",
            ["seeds=1", "retrain.epochs=0", "random=false", "control=false", "latency=false"],
        )
        assert recipe.prune.layers == found.layers()
        front = thrifty.run(recipe, tmp_path / f"run-{method}")
        record = front.records[-1]
        assert record.sparsity == pytest.approx(found.together.sparsity)


def test_channels_that_several_layers_make_are_tried_and_cut_together_with_others(tmp_path):
    net = "resnet20?width=0.25"
    found = sensitivity(
        net, DATA, method="l1_filter", sparsity=0.5, max_drop=1.0, round=1, out=tmp_path / "study"
    )
    assert len(found["conv1"].makes) > 1
    assert "conv1" in found.layers()
    said = ["seeds=1", "train.epochs=0", "retrain.epochs=0", "random=false", "latency=false"]
    recipe = thrifty.lab.recipe.read(tmp_path / "study" / "layers.yaml", [*said, "control=false"])
    front = thrifty.run(recipe, tmp_path / "run")
    assert front.records[-1].sparsity == pytest.approx(found.together.sparsity)


def trained_lenet() -> nn.Module:
    torch.manual_seed(0)
    model = thrifty.resolve("lenet", classes=10, shape=(1, 8, 8))
    thrifty.train(model, load_data(DATA), thrifty.Plan(epochs=2))
    return model


def made(drops: list[int], gone: list[float] | None = None) -> tuple[Sensitivity, Sensitive]:
    """A study of one layer that loses so many of 100 inputs at .1, .2, ..."""
    tried = tuple(
        Tried(
            sparsity=(n + 1) / 10,
            gone=(gone or [1.0] * len(drops))[n],
            removed=1,
            accuracy=1 - lost / 100,
            loss=0.0,
            lost=lost,
            gained=0,
        )
        for n, lost in enumerate(drops)
    )
    row = Sensitive(layer="fc.weight", units=10, weights=10, tried=tried)
    found = Sensitivity(
        model="lenet",
        data="digits",
        weights=None,
        method="magnitude",
        removes="weights",
        keep=(),
        round=8,
        seed=0,
        classes=10,
        test=False,
        inputs=100,
        recalibrate=False,
        accuracy=1.0,
        loss=0.0,
        prunable=10,
        rows=(row,),
    )
    return found, row


@pytest.mark.parametrize(
    ("drops", "limit"), [([0, 1, 1, 5], 0.3), ([2, 0, 0, 0], 0.0), ([0, 2, 0, 1], 0.1), ([1], 0.1)]
)
def test_a_layer_bears_what_lies_before_the_first_loss(drops, limit):
    found, row = made(drops)
    assert found.limit(row) == limit
    assert found.layers() == ({"fc.weight": limit} if limit else {})


def test_a_sparsity_at_which_nothing_goes_is_not_borne():
    found, row = made([0, 0, 5], gone=[0.0, 0.0, 0.3])
    assert found.limit(row) == 0.0
    assert found.limit(row, 0.05) == 0.3


def test_a_study_in_which_no_layer_bears_anything_says_so(model, tmp_path):
    found, _ = made([50, 60])
    with pytest.raises(UserError, match="no layer bears"):
        found.recipe()
    assert any("No layer bears" in sentence for sentence in found.headline())
    sensitivity(model, DATA, sparsity=0.5, max_drop=1.0, out=tmp_path)
    assert (tmp_path / "layers.yaml").exists()
    sensitivity(model, DATA, sparsity=0.99, max_drop=0.0, out=tmp_path)
    found = sensitivity(model, DATA, sparsity=0.99, max_drop=0.0, out=tmp_path)
    assert (tmp_path / "layers.yaml").exists() == bool(found.layers())


def test_zeros_that_were_there_stay_and_are_not_counted_as_new(model):
    mine = copy.deepcopy(model)
    thrifty.prune(mine, budget=0.5, allocation="uniform")
    found = sensitivity(mine, DATA, sparsity=(0.5, 0.9))
    for row in found.rows:
        half, most = row.tried
        assert half.removed == 0
        assert half.accuracy == found.accuracy
        assert most.removed == pytest.approx(0.4 * row.weights, abs=2)


def test_layers_to_keep_are_not_tried(model):
    found = sensitivity(model, DATA, sparsity=0.5, keep=["0", "6"])
    assert [row.layer for row in found.rows] == ["3.weight"]
    assert list(found.whole) == ["0.weight", "6.weight"]
    found = sensitivity(model, DATA, method="l1_filter", sparsity=0.5, keep=["3"])
    assert [row.layer for row in found.rows] == ["0"]
    assert found.whole["3"] == "keep= says so"
    assert "6" in found.whole


@pytest.mark.parametrize("method", ["saliency", "random", "taylor", "slimming", "fpgm"])
def test_other_methods_are_tried_too(model, method):
    found = sensitivity(model, DATA, method=method, sparsity=0.5)
    assert found.rows
    assert all(0 <= t.accuracy <= 1 for row in found.rows for t in row.tried)
    assert any("gates" in note for note in found.notes) == (method == "slimming")


def test_it_goes_on_where_it_was_stopped_and_ends_the_same(model, tmp_path):
    sensitivity(model, DATA, sparsity=(0.3, 0.6), out=tmp_path / "straight", recalibrate=True)
    seen: list[dict] = []

    def stop(event: dict) -> None:
        seen.append(event)
        if event.get("done"):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            sensitivity(
                model, DATA, sparsity=(0.3, 0.6), out=tmp_path / "cut", recalibrate=True, tell=stop
            )
    assert [event["ready"] for event in seen if "total" in event] == [0, 1]
    sensitivity(model, DATA, sparsity=(0.3, 0.6), out=tmp_path / "cut", recalibrate=True)
    assert results(tmp_path / "cut") == results(tmp_path / "straight")


KILLED = """
import os, signal
from thrifty.lab.sensitivity import sensitivity
def tell(event):
    if event.get("progress") == 0.5:
        os.kill(os.getpid(), signal.SIGKILL)
sensitivity("lenet", {data!r}, out={out!r}, sparsity=(.3, .6), tell=tell)
"""


def test_a_process_that_is_killed_is_gone_on_with(tmp_path):
    code = KILLED.format(data=DATA, out=str(tmp_path / "killed"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob("killed/steps/*/record.json"))) == 2
    for name in ("killed", "straight"):
        sensitivity("lenet", DATA, out=tmp_path / name, sparsity=(0.3, 0.6))
    assert results(tmp_path / "killed") == results(tmp_path / "straight")


def test_more_sparsities_may_be_added(model, tmp_path, weights):
    sensitivity(model, DATA, sparsity=(0.3, 0.9), out=tmp_path)
    ready = []
    found = sensitivity(model, DATA, sparsity=0.6, out=tmp_path, tell=ready.append)
    assert found.sparsities == (0.3, 0.6, 0.9)
    assert found.rows == weights.rows


def test_progress_says_how_long_it_will_take(model):
    events: list[dict] = []
    sensitivity(model, DATA, sparsity=(0.3, 0.6), tell=events.append)
    told = [event["text"] for event in events if event.get("done")]
    assert len(told) == events[0]["total"] == 3
    assert "left)" in told[0]
    assert "left" not in told[-1]


def test_a_folder_of_something_else_is_refused(model, tmp_path):
    sensitivity(model, DATA, sparsity=0.5, out=tmp_path)
    with pytest.raises(UserError, match="another run: method is 'magnitude'"):
        sensitivity(model, DATA, sparsity=0.5, method="random", out=tmp_path)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight.mul_(2)
    with pytest.raises(UserError, match="other weights"):
        sensitivity(other, DATA, sparsity=0.5, out=tmp_path)
    with pytest.raises(UserError, match="study of sensitivity"):
        thrifty.read_front(tmp_path)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"sparsity": []}, "at least one"),
        ({"sparsity": 0}, "above 0"),
        ({"sparsity": [0.5, 90]}, "written 0.9"),
        ({"sparsity": ["half"]}, "such as 0.5"),
        ({"sparsity": 1.0}, "no weight at all"),
        ({"sparsity": float("nan")}, "cannot be reached"),
        ({"inputs": 0}, "1 or more"),
        ({"inputs": 1.5}, "whole number"),
        ({"round": 0}, "1 or more"),
        ({"threads": 0}, "1 or more"),
        ({"max_drop": 5}, "5 points are 0.05"),
        ({"max_drop": -0.1}, "0 to 1"),
        ({"method": "magnitud"}, "did you mean magnitude"),
        ({"method": "rules"}, "several methods"),
        ({"keep": ["*"]}, "nothing is left"),
        ({"keep": ["nothing"]}, "matches no prunable layer"),
        ({"keep": ["*"], "method": "l1_filter"}, "no channels that may go"),
    ],
)
def test_mistakes_are_told(model, said, reason):
    with pytest.raises(UserError, match=reason):
        sensitivity(model, DATA, **said)


def test_a_network_that_does_not_take_the_data_leaves_no_study(tmp_path):
    with pytest.raises(UserError, match="does not take"):
        sensitivity(nn.Sequential(nn.Flatten(), nn.Linear(9, 10)), DATA, out=tmp_path)
    assert not (tmp_path / "run.json").exists()


def test_an_untrained_network_is_said_to_be_one():
    found = sensitivity("lenet", DATA, sparsity=0.5)
    assert "untrained" in found.headline()[-2]
    assert "train" not in found.recipe(1.0)


def test_a_study_shows_itself(weights, channels):
    rows = channels.to_rows()
    assert len(rows) == 2 * 3
    assert {"layer", "sparsity", "gone", "accuracy", "drop", "drop_error"} <= set(rows[0])
    assert list(weights.table()[0]) == ["layer", "weights", "0.3", "0.6", "0.9", "bears, 1 pt"]
    assert "channels" in channels.table()[0]
    assert weights.to_dict()["layers"] == weights.layers()
    assert "0.weight" in weights._repr_html_()
    with pytest.raises(UserError, match=r"did you mean 0\.weight"):
        weights["0.wight"]
