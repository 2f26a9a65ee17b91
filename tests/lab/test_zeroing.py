"""What is zeroed is what lies under the threshold, exactly; a study can be killed and extended."""

import copy
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import thrifty
from thrifty.data import Data, Split, load_data
from thrifty.errors import UserError
from thrifty.lab.run import run
from thrifty.lab.store import Store
from thrifty.lab.zeroed import Zeroing
from thrifty.lab.zeroing import zero
from thrifty.lab.zeroing_steps import Study
from thrifty.nets import resolve
from thrifty.progress import Plain
from thrifty.pruning.small import spread, under

DATA = "digits?train=160&test=80"
NET = "resnet20?width=0.25"
UNDER = (0.02, 0.05, 0.1, 0.2)


class Norm(nn.Sequential):
    """A small network with batch normalisation that has learned something."""

    def __init__(self) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(64, 24, bias=False),
            nn.BatchNorm1d(24),
            nn.ReLU(),
            nn.Linear(24, 10),
        )


def trained() -> nn.Module:
    torch.manual_seed(0)
    model, data = Norm(), load_data(DATA)
    inputs, optimizer = data.prepare(data.train.inputs), torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), data.train.labels).backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return trained()


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> tuple[Path, Zeroing]:
    folder = tmp_path_factory.mktemp("zero") / "straight"
    return folder, zero(NET, DATA, under=UNDER, out=folder)


def results(folder: Path) -> dict[str, bytes]:
    """Every file that says what was computed; times may differ."""
    found = {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted([*folder.glob("steps/*/*"), *folder.glob("*.jsonl"), *folder.glob("*.csv")])
        if p.name != "timing.json"
    }
    assert found
    return found


def by_hand(model: nn.Module, t: float, names: tuple[str, ...]) -> nn.Module:
    """A copy of a model with all under ``t`` zeroed, a number at a time."""
    found = copy.deepcopy(model)
    for name, parameter in found.named_parameters():
        if name in names:
            values = parameter.detach().numpy()
            for place in np.ndindex(values.shape):
                if abs(float(values[place])) < t:
                    values[place] = 0.0
    return found


WEIGHTS = ("1.weight", "4.weight")


def test_exactly_the_weights_under_a_threshold_are_zeroed(model, tmp_path):
    found = zero(model, DATA, under=UNDER, out=tmp_path)
    weights = [p.detach().double() for n, p in model.named_parameters() if n in WEIGHTS]
    assert [row.threshold for row in found.rows] == [0.0, *UNDER]
    for row in found.rows:
        zeros = [int((w.abs() < row.threshold).sum()) for w in weights]
        assert row.zeros == sum(zeros)
        assert row.weights == 64 * 24 + 24 * 10
        assert row.layers == {
            n: [z, w.numel()] for n, z, w in zip(WEIGHTS, zeros, weights, strict=True)
        }
        assert row.params == sum(p.numel() for p in model.parameters())


def test_what_is_measured_is_the_network_zeroed_by_hand(model, tmp_path):
    found = zero(model, DATA, under=UNDER, out=tmp_path)
    data = load_data(DATA)
    for row in found.rows:
        other = by_hand(model, row.threshold, WEIGHTS)
        measured = thrifty.measure(other, data, model)
        assert row.plain.accuracy == measured.accuracy
        assert row.plain.agreement == measured.agreement
        assert row.plain.loss == pytest.approx(measured.loss)
        assert row.params - row.zeros_all == measured.nonzero
        thrifty.recalibrate(other, data)
        measured = thrifty.measure(other, data, model)
        assert row.recalibrated.accuracy == measured.accuracy
        assert row.recalibrated.agreement == measured.agreement
        assert row.recalibrated.loss == pytest.approx(measured.loss)


def test_the_first_row_is_the_intact_network(model, tmp_path):
    found = zero(model, DATA, under=0.1, out=tmp_path)
    measured = thrifty.measure(model, DATA)
    assert found.intact.plain.accuracy == measured.accuracy
    assert (found.intact.plain.agreement, found.drop(found.intact)) == (1.0, 0.0)
    assert found.intact.zeros == 0


def test_a_module_that_is_given_is_not_changed(model, tmp_path):
    mine = copy.deepcopy(model).train()
    before = {name: x.clone() for name, x in mine.state_dict().items()}
    zero(mine, DATA, under=1.0, out=tmp_path)
    assert mine.training
    assert all(torch.equal(x, before[name]) for name, x in mine.state_dict().items())


def test_a_drop_is_what_the_accuracies_differ_by(straight):
    _, found = straight
    for row in found.rows:
        for series in found.series:
            before, after = found.intact.outcome(series), row.outcome(series)
            assert found.drop(row, series) == pytest.approx(before.accuracy - after.accuracy)
            assert found.drop_error(row, series) >= 0


def test_a_weight_as_large_as_the_threshold_stays():
    weights = torch.tensor([0.5, -0.5, 0.4999, -0.0, 0.0])
    assert under(weights, 0.5).tolist() == [False, False, True, True, True]
    assert not under(weights, 0.0).any()


@given(st.floats(0, 2), st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
def test_weights_and_thresholds_are_compared_as_real_numbers(t, dtype):
    near = torch.tensor([t, t * (1 + 1e-7), t * (1 - 1e-7), -t], dtype=torch.float64).to(dtype)
    assert under(near, t).tolist() == [abs(w) < t for w in near.double().tolist()]


def test_a_threshold_that_a_float_rounds_down_still_takes_the_float_below_it():
    stored = torch.tensor([0.7])  # 0.699999988...
    assert under(stored, 0.7).tolist() == [True]
    assert (stored < 0.7).tolist() == [False]


def test_nan_and_infinity_lie_under_nothing():
    assert not under(torch.tensor([math.nan, math.inf, -math.inf]), 1e308).any()


def test_large_and_transposed_tensors_are_compared_in_place():
    weights = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0)).permute(2, 0, 1)
    assert torch.equal(under(weights, 0.5), weights.abs() < 0.5)
    many = torch.linspace(-1, 1, (1 << 20) + 5)
    assert torch.equal(under(many, 0.25), many.double().abs() < 0.25)
    assert spread(many) == pytest.approx(float(many.double().std(correction=0)))


def test_relative_thresholds_are_multiples_of_the_spread_of_each_tensor(model, tmp_path):
    found = zero(model, DATA, under=[0.5, 1.0], relative=True, out=tmp_path)
    for row in found.rows:
        for name in WEIGHTS:
            weight = model.get_parameter(name).detach().double()
            wanted = int((weight.abs() < row.threshold * weight.std(correction=0)).sum())
            assert row.layers[name][0] == wanted
    assert found.table()[1]["under"] == "0.5 std"
    other = zero(model, DATA, under=[0.5], out=tmp_path / "absolute")
    assert other.rows[1].zeros != found.rows[1].zeros


def test_everything_means_biases_and_normalisations_too(model, tmp_path):
    found = zero(model, DATA, under=[0.05, 1e9], everything=True, out=tmp_path)
    names = [name for name, _ in model.named_parameters()]
    assert list(found.intact.layers) == names
    assert found.rows[1].zeros_all == sum(
        int((p.detach().double().abs() < 0.05).sum()) for p in model.parameters()
    )
    assert found.rows[2].zeros_all == found.rows[2].params
    assert found.rows[2].plain.accuracy == pytest.approx(0.1, abs=0.05)  # all logits are 0


@pytest.mark.parametrize(
    ("everything", "kept"), [(False, {"4.weight"}), (True, {"4.weight", "4.bias"})]
)
def test_layers_to_keep_stay_whole(model, tmp_path, everything, kept):
    found = zero(model, DATA, under=10.0, everything=everything, keep=["4"], out=tmp_path)
    shares = {name: zeros / size for name, (zeros, size) in found.rows[1].layers.items()}
    assert {name for name, share in shares.items() if share == 0} == kept
    assert {name for name, share in shares.items() if share == 1} == set(shares) - kept
    assert found.rows[1].sparsity == 64 * 24 / (64 * 24 + 24 * 10)


def test_zeros_that_a_network_brings_along_are_counted(model, tmp_path):
    sparse = copy.deepcopy(model)
    masks = thrifty.prune(sparse, "magnitude", 0.5)
    found = zero(sparse, DATA, under=0.2, out=tmp_path)
    assert found.intact.sparsity == masks.sparsity
    assert found.rows[1].sparsity > masks.sparsity


def test_new_statistics_are_gone_before_the_next_threshold(straight, tmp_path):
    """A step measured after others is the one measured alone."""
    _, found = straight
    alone = zero(NET, DATA, under=[UNDER[2]], out=tmp_path)
    assert alone.rows[-1] == found.rows[3]


def test_a_network_without_batch_normalisation_is_not_recalibrated(tmp_path):
    found = zero("lenet?width=0.5", DATA, under=[0.1], out=tmp_path)
    assert found.series == ("as it is",)
    assert all(row.recalibrated is None for row in found.rows)
    assert any("no batch normalisation" in note for note in found.notes)
    assert not any(column.startswith("recal") for column in found.table()[0])
    assert not list(tmp_path.glob("steps/*/predictions-recalibrated.npy"))


def some_data(train: int, same: bool = False) -> Data:
    generator = torch.Generator().manual_seed(0)
    test = Split(torch.rand(40, 1, 8, 8, generator=generator), torch.arange(40) % 10)
    first = test if same else Split(test.inputs[:train], test.labels[:train])
    return Data("toy", first, test, 10, (0.5,), (0.3,))


def test_statistics_that_were_folded_are_not_taken_anew(model, tmp_path):
    """The weights are divided by the deviation already; new statistics would do it once more."""
    net = copy.deepcopy(model)
    net[2].reset_running_stats()
    found = zero(net, DATA, under=[0.1], out=tmp_path)
    assert [row.recalibrated for row in found.rows] == [None, None]
    (note,) = found.notes
    assert "mean 0 and variance 1" in note


@pytest.mark.parametrize("train", [20, 40])
def test_statistics_of_the_test_inputs_themselves_are_told_of(model, tmp_path, train):
    found = zero(model, some_data(train, same=train == 40), under=0.1, out=tmp_path)
    assert found.intact.recalibrated is not None
    assert any("flatter" in note for note in found.notes)
    assert any("flatter" in sentence for sentence in found.headline())


def test_training_inputs_that_are_no_test_inputs_flatter_nobody(model, tmp_path):
    found = zero(model, DATA, under=0.1, out=tmp_path)
    assert found.notes == ()


def test_data_without_training_inputs_leave_the_statistics_alone(model, tmp_path):
    now = {"relative": False, "everything": False, "keep": [], "seed": 0, "model": "m", "data": "d"}
    study = Study(copy.deepcopy(model), some_data(0), Store(tmp_path), now)
    rows = study.rows([], [0.0, 0.1], lambda _: None)
    assert all(row.recalibrated is None for row in rows)


def test_a_last_batch_of_one_is_left_out(model, tmp_path):
    """A layer of features has no variance over a batch of one, and torch refuses it."""
    long = load_data("digits?train=257&test=40")
    found = zero(model, long, under=0.1, out=tmp_path)
    assert found.rows[1].recalibrated is not None
    assert "256 training inputs" in found.conditions["recalibration"]


def test_a_study_is_read_and_not_repeated(straight):
    folder, found = straight
    before = {p: p.stat().st_mtime_ns for p in folder.glob("steps/*/*")}
    events = []
    again = zero(NET, DATA, under=UNDER, out=folder, tell=events.append)
    assert again.rows == found.rows
    assert {p: p.stat().st_mtime_ns for p in folder.glob("steps/*/*")} == before
    assert events == [{"total": 5, "ready": 5}]


def test_thresholds_are_added_to_what_is_there(straight, tmp_path):
    folder, found = tmp_path / "zero", straight[1]
    first = zero(NET, DATA, under=[UNDER[1], UNDER[3]], out=folder)
    before = {p: p.stat().st_mtime_ns for p in folder.glob("steps/*/*")}
    rest = zero(NET, DATA, under=[UNDER[2], UNDER[0]], out=folder)
    assert len(first.rows) == 3
    assert rest.rows == found.rows
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert results(folder) == results(straight[0])


KILLED = """
import os, signal
from thrifty.lab.zeroing import zero
steps = 0
def tell(event):
    global steps
    steps += event.get("progress") == {at}
    if steps == {kill}:
        os.kill(os.getpid(), signal.SIGKILL)
zero({net!r}, {data!r}, under={under!r}, out={out!r}, tell=tell)
"""


@pytest.mark.parametrize(("at", "kill"), [(0.0, 1), (0.4, 3)])
def test_a_study_killed_half_way_ends_in_the_same_bits(straight, tmp_path, at, kill):
    folder = tmp_path / "killed"
    code = KILLED.format(at=at, kill=kill, net=NET, data=DATA, under=UNDER, out=str(folder))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment)
    assert done.returncode == -signal.SIGKILL
    assert len(list(folder.glob("steps/*/record.json"))) == kill - 1
    found = zero(NET, DATA, under=UNDER, out=folder)
    assert found.rows == straight[1].rows
    assert results(folder) == results(straight[0])
    assert not list(folder.glob("**/*.part"))


def test_the_folder_holds_what_the_rows_say(straight):
    folder, found = straight
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    assert [line["threshold"] for line in lines] == [0.0, *UNDER]
    assert [line["plain"]["accuracy"] for line in lines] == [r.plain.accuracy for r in found.rows]
    assert len((folder / "points.csv").read_text().splitlines()) == 6
    intact = next(folder.glob("steps/under-0-*"))
    for row in found.rows:
        step = next(folder.glob(f"steps/*-{row.key[:8]}"))
        same = np.load(step / "predictions.npy") == np.load(intact / "predictions.npy")
        assert row.plain.agreement == same.mean()


def test_other_weights_in_the_folder_are_refused(model, tmp_path):
    zero(model, DATA, under=0.1, out=tmp_path)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[1].weight[0, 0] += 1
    with pytest.raises(UserError, match="was begun with other weights of Norm: they changed since"):
        zero(other, DATA, under=0.1, out=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "digits"}, "holds another run: data is .* there and 'digits' here; give --out"),
        ({"model": "lenet"}, "model is .*there and 'lenet' here"),
        ({"relative": True}, "relative is False there and True here"),
        ({"keep": ["conv1"]}, r"keep is \[\] there and \['conv1'\] here"),
        ({"seed": 3}, "seed is 0 there and 3 here"),
    ],
)
def test_another_study_in_the_folder_is_refused(straight, change, message):
    before = results(straight[0])
    said = {"model": NET, "data": DATA, "under": 0.1, "out": straight[0], **change}
    with pytest.raises(UserError, match=message):
        zero(said.pop("model"), said.pop("data"), **said)
    assert results(straight[0]) == before


def test_a_run_and_a_study_do_not_share_a_folder(straight, tmp_path):
    recipe = thrifty.recipe(model=NET, data=DATA)
    with pytest.raises(UserError, match="study is 'zeroing' there and 'pruning' here"):
        run(recipe, straight[0])
    with pytest.raises(UserError, match="holds a study of zeroing, not a run of a recipe"):
        thrifty.read_front(straight[0])
    (tmp_path / "run.json").write_text(json.dumps({"model": NET, "data": DATA, "weights": None}))
    with pytest.raises(UserError, match="study is 'pruning' there and 'zeroing' here"):
        zero(NET, DATA, out=tmp_path)


def test_two_processes_cannot_work_in_one_folder(straight):
    with Store(straight[0]).lock(), pytest.raises(UserError, match="is in use by process"):
        zero(NET, DATA, under=UNDER, out=straight[0])


@pytest.mark.parametrize("under", [-0.1, [0.1, math.nan], [math.inf], "0.1", [True], [10**400]])
def test_what_is_no_threshold_is_refused(under, tmp_path):
    with pytest.raises(UserError, match="a threshold is a finite number, 0 or more"):
        zero(NET, DATA, under=under, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_thresholds_are_refused(tmp_path):
    with pytest.raises(UserError, match="under is empty; give at least one threshold"):
        zero(NET, DATA, under=[], out=tmp_path)


def test_a_threshold_of_zero_is_the_intact_network_alone(tmp_path):
    found = zero(NET, DATA, under=[0, -0.0], out=tmp_path)
    assert [row.threshold for row in found.rows] == [0.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "digit"}, "did you mean digits"),
        ({"model": "resnt20"}, "did you mean resnet20"),
        ({"weights": "nowhere.pt"}, "nowhere.pt"),
        ({"keep": ["nothing.like.it"]}, "matches no prunable layer"),
        ({"keep": ["*"]}, "exempts every layer; nothing is left to zero"),
        ({"model": "vgg16_bn"}, "vgg16_bn"),
        ({"threads": 0}, "threads is 0; it is a whole number, 1 or more"),
        ({"device": "warp"}, "the device 'warp' cannot be used"),
    ],
)
def test_a_mistake_is_told_and_leaves_the_folder_free(change, message, tmp_path):
    said = {"model": NET, "data": DATA, "under": 0.1, "out": tmp_path, **change}
    with pytest.raises(UserError, match=message):
        zero(said.pop("model"), said.pop("data"), **said)
    assert not (tmp_path / "run.json").exists()


def test_weights_that_do_not_fit_are_refused(tmp_path):
    thrifty.save(resolve("lenet", classes=10, shape=(1, 8, 8)), tmp_path / "lenet.safetensors")
    with pytest.raises(UserError, match="does not fit"):
        zero(NET, DATA, weights=tmp_path / "lenet.safetensors", out=tmp_path / "out")


def test_a_file_of_weights_is_the_network_that_is_measured(tmp_path):
    torch.manual_seed(5)
    net = resolve(NET, classes=10, shape=(1, 8, 8))
    thrifty.save(net, tmp_path / "net.safetensors")
    found = zero(NET, DATA, weights=tmp_path / "net.safetensors", under=0.1, out=tmp_path / "a")
    module = zero(net, DATA, under=0.1, out=tmp_path / "b")
    assert [r.plain for r in found.rows] == [r.plain for r in module.rows]
    assert not any("untrained" in note for note in found.notes)


def test_fresh_weights_are_drawn_by_the_seed_and_told_of(straight, tmp_path):
    state = torch.get_rng_state()
    other = zero(NET, DATA, under=0.1, out=tmp_path, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert other.rows[1].zeros != straight[1].rows[3].zeros
    assert any("untrained" in note for note in straight[1].notes)


def test_a_damaged_step_is_named(straight, tmp_path):
    import shutil

    folder = tmp_path / "zero"
    shutil.copytree(straight[0], folder)
    step = next(folder.glob("steps/under-0.1-*"))
    (step / "record.json").write_text("{}")
    with pytest.raises(UserError, match=r"under-0\.1-.* holds no measured network .* run again"):
        zero(NET, DATA, under=UNDER, out=folder)
    shutil.rmtree(step)
    assert zero(NET, DATA, under=UNDER, out=folder).rows == straight[1].rows


def test_progress_lines_tell_of_every_threshold(tmp_path, capsys):
    with Plain() as view:
        zero(NET, DATA, under=[0.1], out=tmp_path, tell=view)
    first, second, third = capsys.readouterr().err.splitlines()
    assert first == "2 networks to make"
    assert second.startswith("[1/2]") and "under 0:  0 % zero  accuracy" in second
    assert third.startswith("[2/2]") and "recalibrated" in third


def test_threads_are_put_back(straight):
    before = torch.get_num_threads()
    zero(NET, DATA, under=UNDER, out=straight[0], threads=before + 1)
    assert torch.get_num_threads() == before


@pytest.mark.real
def test_published_weights_lose_little_by_their_smallest(real_data, tmp_path):
    found = zero(
        "resnet20",
        f"parquet:{real_data}/cifar10?normalize=imagenet&test=500&train=500",
        weights=real_data / "weights" / "cifar10" / "resnet20-12fca82f.th",
        under=[0.01, 0.1],
        out=tmp_path,
    )
    assert found.intact.plain.accuracy == pytest.approx(0.81, abs=0.04)
    assert found.rows[1].zeros == 38_628
    assert abs(found.drop(found.rows[1])) < 0.02
    assert found.rows[2].recalibrated.accuracy > found.rows[2].plain.accuracy + 0.2
