"""A run can be killed anywhere, extended, and repeated, and ends in the same bits."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from thrifty.errors import Unfinished, UserError
from thrifty.lab.executor import InProcess, Processes
from thrifty.lab.pick import pick_from
from thrifty.lab.recipe import make
from thrifty.lab.run import run
from thrifty.lab.store import Store, read_front
from thrifty.nets import resolve
from thrifty.pruning.masks import load as load_masks

TINY = {
    "model": "three_methods_cnn?hidden=8&width=0.25",
    "data": "digits?train=160&test=80",
    "seeds": 2,
    "train": {"epochs": 3, "batch": 16},
    "prune": {"method": ["magnitude", "one_shot", "gradual"], "sparsity": [0.5, 0.9]},
    "retrain": {"epochs": 2},
    "machine": {"workers": 1},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "straight"
    run(make(TINY), folder)
    return folder


def results(folder: Path) -> dict[str, bytes]:
    """Every file that says what was computed; times and conditions may differ."""
    kinds = ("model.safetensors.zst", "masks.safetensors", "predictions.npy", "record.json")
    found = {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.glob("steps/*/*"))
        if p.name in kinds
    }
    assert found
    return found


def test_every_point_is_measured_and_exact(finished):
    front = Store(finished).front()
    assert {p.method for p in front.points} == {
        "dense",
        "magnitude",
        "one_shot",
        "gradual",
        "random",
        "control",
    }
    assert all(p.seeds == 2 for p in front.points)
    for record in front.records:
        if record.method not in ("dense", "control"):
            assert round(record.sparsity * record.prunable) == round(record.level * record.prunable)
            assert sum(kept for kept, _ in record.layers.values()) == round(
                (1 - record.sparsity) * record.prunable
            )
            assert record.macs_nonzero < record.macs
        assert record.latency_us > 0
        assert 0 <= record.accuracy <= 1
        size = (finished / "steps").glob(f"seed{record.seed}-*{record.key[:8]}/model*")
        assert [p.stat().st_size for p in size] == [record.bytes]


def test_masks_nest_along_a_chain_and_are_what_the_network_shows(finished):
    lab = {}
    for step in (finished / "steps").glob("seed0-magnitude-*"):
        lab[step.name.split("-")[2]] = step
    small, large = (load_masks(lab[s] / "masks.safetensors") for s in ("0.9", "0.5"))
    assert small.within(large)
    model = resolve(
        TINY["model"], weights=lab["0.9"] / "model.safetensors.zst", classes=10, shape=(1, 8, 8)
    )
    for name, p in model.named_parameters():
        if name in small:
            assert bool((p[~small[name]] == 0).all())


def test_a_finished_run_is_read_and_not_repeated(finished, monkeypatch):
    before = {p: p.stat().st_mtime_ns for p in finished.glob("steps/*/*")}
    monkeypatch.setattr("thrifty.lab.steps.load_data", lambda spec: pytest.fail("data were loaded"))
    front = run(make(TINY), finished)
    assert {p: p.stat().st_mtime_ns for p in finished.glob("steps/*/*")} == before
    assert len(front.records) == 2 * (1 + 5 * 2)


@pytest.mark.parametrize(("workers", "kills"), [(1, (1, 6)), (2, (3,))])
def test_a_run_killed_again_and_again_ends_in_the_same_bits(finished, tmp_path, workers, kills):
    folder, recipe = tmp_path / "killed", tmp_path / "r.yaml"
    machine = {"workers": workers, "checkpoint_seconds": 0}
    said = {**TINY, "seeds": 1, "latency": False}
    recipe.write_text(json.dumps({**said, "machine": machine}))
    command = [sys.executable, "-m", "thrifty", "run", str(recipe), "--out", str(folder), "-q"]
    (tmp_path / "altair.py").write_text("raise ImportError")  # a report without pictures is quick
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)}
    for enough in kills:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while len(list(folder.glob("steps/*/record.json"))) < enough:
            assert process.poll() is None, "it ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        wait_until_unlocked(folder)
    run(make(said), folder)
    first = {name: data for name, data in results(finished).items() if "/seed0-" in name}
    assert results(folder) == first
    assert not list(folder.glob("steps/*/checkpoint.pt"))
    assert not list(folder.glob("**/*.part"))


def wait_until_unlocked(folder: Path) -> None:
    """A run waits for the orphans of the one that was killed."""
    with Store(folder).lock():
        pass


def test_a_killed_worker_is_replaced_and_the_result_is_the_same(finished, tmp_path):
    done, killed = [], []

    def tell(event):
        done.extend([event] if event.get("done") else [])
        if len(done) == 2 and not killed:  # the dense network and one level of the chain
            import multiprocessing

            victim = multiprocessing.active_children()[0]
            os.kill(victim.pid, signal.SIGKILL)
            killed.append(victim.pid)

    said = {**TINY, "seeds": 1, "prune": {"method": "magnitude", "sparsity": [0.5, 0.9]}}
    recipe = make({**said, "random": False, "control": False, "latency": False})
    run(recipe, tmp_path / "run", executor=Processes(2), tell=tell)
    assert killed
    assert results(tmp_path / "run").items() <= results(finished).items()


def test_a_run_stopped_in_a_chain_is_on_the_front_as_far_as_it_came(tmp_path):
    def tell(event):
        if event.get("done") and event["method"] == "magnitude":
            raise KeyboardInterrupt

    recipe = make({**TINY, "seeds": 1, "prune": {"method": "magnitude", "sparsity": [0.5, 0.9]}})
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "run", tell=tell)
    found = [(p.method, p.level) for p in Store(tmp_path / "run").front().points]
    assert found == [("dense", 0), ("magnitude", 0.5)]


def test_a_run_is_extended_and_keeps_what_it_has(finished, tmp_path):
    folder = tmp_path / "run"
    small = make({**TINY, "seeds": 1, "prune": {"sparsity": [0.5]}})
    run(small, folder)
    before = {p: p.stat().st_mtime_ns for p in folder.glob("steps/*/model*")}
    run(make(TINY), folder)
    assert results(folder) == results(finished)
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_another_network_in_the_folder_is_refused(finished):
    with pytest.raises(UserError, match="holds another run: data is .*give --out another folder"):
        run(make({**TINY, "data": "digits"}), finished)


def test_changed_data_are_noticed(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "data.json").write_text(json.dumps({"digest": "other", "name": "digits"}))
    with pytest.raises(UserError, match="the data changed since"):
        run(make({**TINY, "seeds": 3}), folder)


def test_two_processes_cannot_work_in_one_folder(finished):
    with Store(finished).lock(), pytest.raises(UserError, match="is in use by process"):
        run(make(TINY), finished)


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(UserError, match="holds thesis.tex and is no run of thrifty"):
        run(make(TINY), tmp_path)
    with pytest.raises(UserError, match="is a file"):
        run(make(TINY), tmp_path / "thesis.tex")


def test_divergence_fails_its_chain_and_says_where(tmp_path):
    recipe = make({**TINY, "seeds": 1, "train": {"epochs": 1, "lr": 1e30, "warmup": 0}})
    with pytest.raises(
        Unfinished, match=r"seed 0 dense: the loss became .* lower the learning rate"
    ):
        run(recipe, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["model"] == TINY["model"]


def test_a_full_disk_stops_with_what_is_done_kept(finished, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    calls = {"n": 0}

    def full(model, path, *args, **kwargs):
        calls["n"] += 1
        if calls["n"] == 4:
            raise OSError(28, "No space left on device", str(path))
        return save(model, path, *args, **kwargs)

    from thrifty.pack import save

    monkeypatch.setattr("thrifty.lab.steps.save", full)
    with pytest.raises(
        Unfinished, match="No space left on device at .*what was done before is kept"
    ):
        run(make(TINY), folder, executor=InProcess())
    monkeypatch.undo()
    run(make(TINY), folder)
    assert results(folder) == results(finished)


def test_what_cannot_work_is_said_before_any_training(tmp_path):
    for change, message in [
        ({"prune": {"sparsity": [0.9999]}}, "highest sparsity of this network"),
        ({"prune": {"keep": ["convx"]}}, "matches no prunable layer; there is conv1.weight"),
        ({"model": "vgg16_bn"}, "vgg16_bn"),
        ({"data": "digit"}, "did you mean digits"),
        ({"weights": "nowhere.pt"}, "nowhere.pt"),
    ]:
        with pytest.raises(UserError, match=message):
            run(make({**TINY, **change}), tmp_path / "run")
    assert not list((tmp_path / "run").glob("steps/*"))


def test_pretrained_weights_are_the_parent_as_they_are(finished, tmp_path):
    dense = next((finished / "steps").glob("seed0-dense-*/model.safetensors.zst"))
    recipe = make(
        {
            **TINY,
            "weights": str(dense),
            "seeds": 1,
            "train": {"epochs": 0},
            "prune": {"sparsity": 0.5},
        }
    )
    front = run(recipe, tmp_path / "run")
    straight = [r for r in Store(finished).front().records if r.method == "dense"][0]
    assert front.dense.accuracy == straight.accuracy
    assert front.dense.epochs == 0


def test_the_zeros_a_network_brings_along_stay(finished, tmp_path):
    sparse = next((finished / "steps").glob("seed0-magnitude-0.5-*/model.safetensors.zst"))
    said = {**TINY, "weights": str(sparse), "seeds": 1, "train": {"epochs": 0}}
    front = run(make({**said, "prune": {**TINY["prune"], "sparsity": 0.9}}), tmp_path / "run")
    found = {r.method: r.sparsity for r in front.records}
    assert found.pop("control") == pytest.approx(0.5, abs=1e-3)
    assert found.pop("dense") == pytest.approx(0.5, abs=1e-3)
    assert all(s == pytest.approx(0.9, abs=1e-3) for s in found.values())
    with pytest.raises(UserError, match="are pruned already; ask for a sparsity of at least 0.5"):
        run(make({**said, "prune": {"sparsity": 0.2}}), tmp_path / "other")


def test_no_retraining_recalibrates_only(tmp_path):
    recipe = make(
        {
            **TINY,
            "seeds": 1,
            "retrain": {"epochs": 0},
            "prune": {"method": ["one_shot", "gradual"], "sparsity": 0.5},
        }
    )
    front = run(recipe, tmp_path / "run")
    points = {p.method: p for p in front.points}
    assert points["one_shot"].accuracy == points["one_shot"].accuracy_cut
    assert points["gradual"].accuracy == points["one_shot"].accuracy
    assert points["one_shot"].sparsity == pytest.approx(0.5, abs=1e-3)


def test_self_distillation_and_the_policies_run(tmp_path):
    said = {**TINY, "seeds": 1, "random": False, "control": False, "prune": {"sparsity": 0.9}}
    seen = set()
    for retrain in ({"distill": 0.9}, {"policy": "rewind"}, {"policy": "finetune"}, {"lr": 0.01}):
        front = run(make({**said, "retrain": {"epochs": 1, **retrain}}), tmp_path / "run")
        seen.add(front.records[-1].key)
    assert len(seen) == 4


def test_explicit_layers_are_cut_as_written(tmp_path):
    layers = {"fc1": 0.95, "conv2": 0.5}
    names = [n for n, _ in resolve(TINY["model"], classes=10, shape=(1, 8, 8)).named_parameters()]
    patterns = dict(
        zip(
            [n.removesuffix(".weight") for n in names if n.endswith("weight")][1:3],
            layers.values(),
            strict=True,
        )
    )
    recipe = make(
        {
            **TINY,
            "seeds": 1,
            "control": False,
            "prune": {"allocation": "explicit", "layers": patterns},
        }
    )
    front = run(recipe, tmp_path / "run")
    record = next(r for r in front.records if r.method == "magnitude")
    shares = {n.removesuffix(".weight"): 1 - k / t for n, (k, t) in record.layers.items()}
    for name, share in patterns.items():
        assert shares[name] == pytest.approx(share, abs=0.01)


def test_runs_are_merged_and_doubles_taken_once(finished, tmp_path):
    front = read_front(finished, finished)
    assert len(front.records) == len(Store(finished).front().records)


def test_pick_names_a_network_and_saves_it(finished, tmp_path):
    found = pick_from(finished, max_drop=1.0, of="bytes", to=tmp_path / "small.safetensors")
    assert found.saved_bytes == (tmp_path / "small.safetensors").stat().st_size
    assert "points" in found.text()
    model = resolve(tmp_path / "small.safetensors")
    weights = [p for p in model.parameters() if p.dim() > 1]
    zeros = sum(int((p == 0).sum()) for p in weights) / sum(p.numel() for p in weights)
    assert zeros == pytest.approx(found.point.sparsity, abs=1e-3)
    with pytest.raises(UserError, match="no cost is called 'byte'; did you mean bytes"):
        pick_from(finished, of="byte")


def test_predictions_and_agreement_are_those_of_the_networks(finished):
    store = Store(finished)
    record = next(r for r in store.front().records if r.method == "magnitude")
    folder = next((finished / "steps").glob(f"*{record.key[:8]}"))
    dense = next((finished / "steps").glob(f"seed{record.seed}-dense-*"))
    ours, theirs = (np.load(f / "predictions.npy") for f in (folder, dense))
    assert record.agreement == (ours == theirs).mean()


def test_threads_are_put_back(finished):
    before = torch.get_num_threads()
    run(make({**TINY, "machine": {"threads": before + 1, "workers": 1}}), finished)
    assert torch.get_num_threads() == before
