"""Runs with gates: one trained state, many levels, each a really smaller or sparser network."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import thrifty
from thrifty.cli import main
from thrifty.errors import Unfinished, UserError
from thrifty.lab.chains import FURTHER, Chains
from thrifty.lab.front import asked
from thrifty.lab.gating import unit_of
from thrifty.lab.pick import pick_from
from thrifty.lab.recipe import make
from thrifty.lab.run import run
from thrifty.lab.store import Store
from thrifty.nets import resolve
from thrifty.pruning.gates import GATES
from thrifty.pruning.masks import load as load_masks

SMALL = {
    "data": "digits?train=160&test=80",
    "seeds": 1,
    "train": {"epochs": 2, "batch": 16},
    "retrain": {"epochs": 1},
    "latency": False,
    "machine": {"workers": 1},
}
THRESHOLDS = [0.2, 0.25, 0.3]
HIGHWAY = {
    **SMALL,
    "model": "highway?width=1&blocks=1",
    "train": {"epochs": 3, "batch": 16, "gate": "highway?strength=0.5"},
    "prune": {"method": "highway", "threshold": THRESHOLDS},
}
WEIGHTS = {
    **SMALL,
    "model": "three_methods_cnn?hidden=8&width=0.25",
    "prune": {"method": ["variational", "l0", "str"], "sparsity": [0.5, 0.9]},
}
RUNS = {"highway": HIGHWAY, "weights": WEIGHTS}


@pytest.fixture(scope="module")
def told() -> list[dict[str, object]]:
    return []


@pytest.fixture(scope="module")
def finished(tmp_path_factory, told) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for name, said in RUNS.items():
        run(make(said), folder / name, tell=told.append)
    return {name: folder / name for name in RUNS}


def results(folder: Path) -> dict[str, object]:
    """What was computed; the metadata of safetensors are in no order."""
    kinds = ("model.safetensors.zst", "masks.safetensors", "predictions.npy", "record.json")
    found: dict[str, object] = {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.glob("steps/*/*"))
        if p.name in kinds
    }
    for path in folder.glob("steps/*/gates.safetensors"):
        scores = {n: x.numpy().tobytes() for n, x in load_file(path).items()}
        found[str(path.relative_to(folder))] = scores, metadata(path)
    assert found
    return found


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def parent(folder: Path, label: str = "seed0-dense") -> Path:
    (found,) = folder.glob(f"steps/{label}-*")
    return found


# Highway networks


def test_every_threshold_leaves_the_channels_whose_gates_open_further(finished):
    front = Store(finished["highway"]).front()
    for record in front.records:
        if record.method != "highway":
            continue
        scores = load_file(parent(finished["highway"], f"seed{record.seed}-dense") / GATES_FILE)
        assert len(scores) == 3
        for name, score in scores.items():
            kept, weights = record.layers[name]
            left = int((score.double() > record.threshold).sum())
            assert kept * len(score) == left * weights


GATES_FILE = "gates.safetensors"


def test_the_files_are_smaller_and_the_labels_say_threshold(finished):
    front = Store(finished["highway"]).front()
    points = [p for p in front.points if p.method == "highway"]
    assert [p.threshold for p in points] == [p.level for p in points] == THRESHOLDS
    assert [asked(p) for p in points] == [f"threshold {t:g}" for t in THRESHOLDS]
    assert front.table()[1]["asked"] == "threshold 0.2"
    sizes = [front.dense.params, *(p.params for p in points)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]
    assert [p.bytes for p in points] == sorted((p.bytes for p in points), reverse=True)
    assert {p.method for p in front.points} == {"dense", "highway", "control"}


def test_a_saved_level_is_an_ordinary_smaller_network(finished, tmp_path):
    found = pick_from(finished["highway"], 1.0, "params", tmp_path / "small.safetensors")
    model = thrifty.load(tmp_path / "small.safetensors").eval()
    assert sum(p.numel() for p in model.parameters()) == found.record.params
    assert not any(m._forward_hooks for m in model.modules())
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 10)


def test_the_control_has_the_learning_rate_and_the_epochs_of_each_cut(finished):
    records = Store(finished["highway"]).front().records
    control = {(r.seed, r.level): r for r in records if r.method == "control"}
    for record in (r for r in records if r.method == "highway"):
        twin = control[record.seed, record.level]
        assert (twin.epochs, twin.threshold) == (record.epochs, record.threshold)
        assert twin.sparsity == 0
    logs = {
        name: parent(finished["highway"], f"seed0-{name}-0.3") / "log.jsonl"
        for name in ("highway", "control")
    }
    rates = {n: [json.loads(x)["lr"] for x in p.read_text().splitlines()] for n, p in logs.items()}
    assert rates["highway"] == rates["control"]


@pytest.mark.parametrize(
    ("name", "method", "levels"),
    [("highway", "highway", {"threshold": [0.2, 0.25]}), ("weights", "str", {"sparsity": [0.5]})],
)
def test_the_control_is_trained_on_for_as_long_as_gates_learn(
    finished, tmp_path, name, method, levels
):
    said = {
        **RUNS[name],
        "weights": str(parent(finished[name]) / "model.safetensors.zst"),
        "train": {"epochs": 0, "batch": 16},
        "prune": {"method": method, "gate_epochs": 2, **levels},
        "random": False,
    }
    folder = tmp_path / "run"
    records = run(make(said), folder).records
    epochs = {(r.method, r.level): r.epochs for r in records}
    for level in next(iter(levels.values())):
        assert epochs[method, level] == epochs["control", level] > 2
    both = (parent(folder, f"seed0-{of}") / "log.jsonl" for of in (f"{method}-gated", FURTHER))
    gated, control = ([json.loads(x)["lr"] for x in p.read_text().splitlines()] for p in both)
    assert gated == control
    before = {p: p.stat().st_mtime_ns for p in folder.glob("steps/*/*")}
    run(make(said), folder)
    assert {p: p.stat().st_mtime_ns for p in folder.glob("steps/*/*")} == before


def test_gates_are_read_with_and_without_the_incentive(tmp_path):
    train = {"epochs": 1, "batch": 16}
    prune = {"method": "highway", "gate": "highway?strength=2&score=q90", "sparsity": [0.5]}
    front = run(make({**HIGHWAY, "seeds": 1, "train": train, "prune": prune}), tmp_path / "run")
    dense, gated = parent(tmp_path / "run"), parent(tmp_path / "run", "seed0-highway-gated")
    said = {p.name[6:11]: metadata(p / GATES_FILE) for p in (dense, gated)}
    assert said["dense"]["gate"] == "highway?strength=0&score=q90"
    assert said["dense"]["method"] == "dense"
    assert said["highw"] == {
        "gate": "highway?strength=2&score=q90",
        "method": "highway",
        "seed": "0",
        "title": "highway?width=1&blocks=1 on digits",
    }
    means = [torch.cat([*load_file(p / GATES_FILE).values()]).mean() for p in (dense, gated)]
    assert means[1] < means[0]
    assert [r.strength for r in front.readings] == [0, 2]
    (cut,) = (r for r in front.records if r.method == "highway")
    assert cut.threshold is None
    assert 0.5 <= cut.sparsity < 0.6


def test_a_network_of_its_own_is_trained_further_only_if_that_is_asked(tmp_path):
    def gated(**prune):
        said = {**HIGHWAY, "prune": {**HIGHWAY["prune"], **prune}}
        return Chains(make(said), Store("nowhere")).gated(0, "highway")

    assert gated() is None
    assert gated(gate_epochs=2) is not None


def test_a_threshold_that_takes_whole_blocks_leaves_a_network_and_is_told(tmp_path):
    messages = []
    said = {**HIGHWAY, "seeds": 1, "control": False}
    prune = {"method": "highway", "threshold": [1.0]}
    front = run(
        make({**said, "prune": prune}),
        tmp_path / "run",
        tell=lambda e: messages.append(e.get("message", "")),
    )
    assert any(
        "level 1 leaves no channel of blocks.0.h, blocks.1.h, blocks.2.h" in m for m in messages
    )
    (record,) = (r for r in front.records if r.method == "highway")
    assert record.layers["blocks.1.t.weight"][0] == 0
    assert record.engine_why is None
    assert record.packed_bytes < 10_000


def test_a_collapse_to_the_identity_is_told(tmp_path):
    messages = []
    said = {**HIGHWAY, "model": "highway?width=1&blocks=1&bias=-30", "seeds": 1, "control": False}
    run(make(said), tmp_path / "run", tell=lambda e: messages.append(e.get("message", "")))
    (collapse,) = (m for m in messages if "collapsed" in m)
    assert collapse.startswith("seed 0 dense: 3 of 3 highway blocks collapsed to the identity")
    assert "lower the strength" in collapse


# Weights


def test_gates_on_weights_are_cut_exactly_and_their_zeros_are_kept(finished):
    folder = finished["weights"]
    records = [r for r in Store(folder).front().records if r.method in ("variational", "l0", "str")]
    assert len(records) == 6
    for record in records:
        step = parent(folder, f"seed0-{record.method}-{record.level:g}")
        masks = load_masks(step / "masks.safetensors")
        total = sum(m.numel() for m in masks.values())
        assert masks.kept == total - round(record.level * total)
        model = resolve(WEIGHTS["model"], weights=step / "model.safetensors.zst", classes=10,
                        shape=(1, 8, 8))  # fmt: skip
        for name, weight in model.named_parameters():
            if name in masks:
                assert bool((weight[~masks[name]] == 0).all())
        assert (
            not set(model.state_dict())
            - set(masks)
            - {n for n in model.state_dict() if not n.endswith("log_sigma_square")}
        )


def test_a_level_keeps_the_weights_of_the_highest_scores(finished):
    folder = finished["weights"]
    scores = load_file(parent(folder, "seed0-variational-gated") / GATES_FILE)
    masks = load_masks(parent(folder, "seed0-variational-0.9") / "masks.safetensors")
    kept = torch.cat([scores[n][m] for n, m in masks.items()])
    gone = torch.cat([scores[n][~m] for n, m in masks.items()])
    assert kept.sort().values[len(masks) :].min() >= gone.max()  # each layer keeps one at least
    assert (
        metadata(parent(folder, "seed0-variational-gated") / GATES_FILE)["method"] == "variational"
    )


def test_the_threshold_of_the_gate_leaves_what_it_computes_with(tmp_path):
    said = {**WEIGHTS, "control": False, "retrain": {"epochs": 0, "recalibrate": False}}
    prune = {"method": "variational", "threshold": [3], "gate": "variational?init=-5",
             "gate_epochs": 8}  # fmt: skip
    run(make({**said, "prune": prune}), tmp_path / "run")
    gated = Store(tmp_path / "run").step("", "").folder.parent
    before, after = (
        json.loads((parent(gated.parent, f"seed0-variational-{n}") / "record.json").read_text())
        for n in ("gated", "3")
    )
    assert after["accuracy"] == before["accuracy"]
    assert after["sparsity"] == pytest.approx(before["sparsity"], abs=1e-4)
    assert before["sparsity"] > 0.1


def test_from_a_trained_network_the_zeros_it_brings_stay_and_its_epochs_count(finished, tmp_path):
    trained = parent(finished["weights"], "seed0-str-0.5") / "model.safetensors.zst"
    prune = {"method": "variational", "sparsity": [0.8], "gate_epochs": 3}
    said = {**WEIGHTS, "weights": str(trained), "train": {"epochs": 0, "batch": 16}, "prune": prune}
    front = run(make(said), tmp_path / "run")
    (record,) = (r for r in front.records if r.method == "variational")
    assert record.sparsity == pytest.approx(0.8, abs=1e-3)
    assert record.epochs == 1 + 3
    born = thrifty.resolve(WEIGHTS["model"], weights=trained, classes=10, shape=(1, 8, 8))
    masks = load_masks(parent(tmp_path / "run", "seed0-variational-0.8") / "masks.safetensors")
    for name, weight in born.named_parameters():
        if name in masks:
            assert not bool((masks[name] & (weight == 0)).any())


def test_what_learns_by_adam_is_trained_by_adam_unless_the_recipe_has_it_otherwise():
    def plan(method="variational", **change):
        found = Chains(make({"prune": {"method": method}} | change), Store("nowhere"))
        return found.gate_plan(method)

    assert (plan().optimizer, plan().lr) == ("adam", 1e-3)
    assert plan(train={"optimizer": "adam", "lr": 3e-3}).lr == 3e-3
    assert (plan("str").optimizer, plan("slimming").optimizer) == ("sgd", "sgd")
    said = {"method": "variational", "gate_train": {"lr": 0.01, "batch": 8}}
    assert plan(prune=said).lr == 0.01
    assert plan(prune=said).batch == 8
    assert plan(train={"gate": "highway"}).gate is None


# Any of them


@pytest.mark.parametrize(("name", "kills"), [("highway", (1, 4)), ("weights", (2, 5))])
def test_a_run_killed_again_and_again_ends_in_the_same_bits(finished, tmp_path, name, kills):
    folder, recipe = tmp_path / "killed", tmp_path / "r.yaml"
    recipe.write_text(
        json.dumps({**RUNS[name], "machine": {"workers": 1, "checkpoint_seconds": 0}})
    )
    command = [sys.executable, "-m", "thrifty", "run", str(recipe), "--out", str(folder), "-q"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for enough in kills:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while len(list(folder.glob("steps/*/record.json"))) < enough:
            assert process.poll() is None, "it ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with Store(folder).lock():
            pass
    run(make(RUNS[name]), folder)
    assert results(folder) == results(finished[name])


@pytest.mark.parametrize(
    ("name", "levels"), [("highway", {"threshold": [0.25]}), ("weights", {"sparsity": [0.9]})]
)
def test_a_level_is_the_same_whatever_others_were_asked_for(finished, tmp_path, name, levels):
    said = {**RUNS[name], "control": False, "random": False}
    said["prune"] = {"method": RUNS[name]["prune"]["method"], **levels}
    run(make(said), tmp_path / "run")
    whole = results(finished[name])
    assert all(whole[key] == value for key, value in results(tmp_path / "run").items())


def test_what_a_gate_scores_is_known_by_its_name():
    found = {name: unit_of(name) for name in GATES.names()}
    assert found["highway"] == "own"
    assert {found[n] for n in ("variational", "l0", "str")} == {"weight"}
    assert {found[n] for n in ("bn_scale", "l0_channels", "group_growth")} == {"channel"}


WRONG = {
    "threshold above 1": (
        {"prune": {"method": "highway", "threshold": [-0.1, 0.5, 1.5]}},
        "(?s)-0.1 is no threshold .*0..1.*1.5 is no threshold",
    ),
    "threshold nan": ({"prune": {"method": "highway", "threshold": ["nan"]}}, "finite"),
    "threshold twice": ({"prune": {"method": "highway", "threshold": [0.1, 0.1]}}, "value twice"),
    "no threshold": ({"prune": {"method": "highway", "threshold": []}}, "give one at least"),
    "threshold and sparsity": (
        {"prune": {"method": "highway", "threshold": [0.1], "sparsity": [0.5]}},
        "threshold and sparsity both say how much goes",
    ),
    "threshold and budget": (
        {"prune": {"method": "highway", "threshold": [0.1], "budget": {"params": [0.5]}}},
        "threshold and budget both say how much goes",
    ),
    "threshold and all": (
        {"prune": {"method": "magnitude", "threshold": [0.1], "sparsity": [0.5], "layers": {}}},
        "(?s)and sparsity .*and layers .*magnitude has no gate",
    ),
    "threshold in steps": (
        {"prune": {"method": "variational", "threshold": [3], "schedule": "cubic"}},
        "a threshold is one cut",
    ),
    "threshold of scales": (
        {"prune": {"method": "slimming", "threshold": [0.1]}},
        "no scale on which a threshold means anything",
    ),
    "gate of weights": (
        {"prune": {"method": "slimming", "gate": "variational"}},
        "variational scores weights, and slimming takes channels",
    ),
    "no such gate": ({"train": {"gate": "highwy"}}, "train.gate: .*did you mean highway"),
    "no such option": (
        {"train": {"gate": "highway?strenght=1"}, "model": "highway?width=1&blocks=1"},
        "did you mean strength",
    ),
    "no gates": ({"prune": {"method": "highway"}}, "needs highway blocks .*slimming"),
    "no gates to train": ({"train": {"gate": "highway"}}, "needs highway blocks .*slimming"),
    "no lasting gate": ({"train": {"gate": "bn_finder"}}, "puts the network back"),
    "no epochs": (
        {
            "prune": {"method": "variational"},
            "train": {"epochs": 0},
            "retrain": {"epochs": 0},
        },
        "for which there are no epochs",
    ),
    "negative strength": (
        {"prune": {"method": "variational", "gate": "variational?strength=-1"}},
        "strength",
    ),
    "lamp": (
        {"prune": {"method": "variational", "allocation": "lamp"}},
        "lamp takes shares of squares",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_told_before_any_training(name, tmp_path):
    change, message = WRONG[name]
    with pytest.raises(UserError, match=message):
        run(make({"model": "lenet", **SMALL, **change}), tmp_path / "run")
    assert not list(tmp_path.glob("run/steps/*"))


def test_gates_that_diverge_fail_their_method_and_say_where(tmp_path):
    prune = {"method": "variational", "gate_train": {"lr": 1e30}}
    with pytest.raises(Unfinished, match="seed 0 variational: .*(nan|NaN|inf)"):
        run(make({**WEIGHTS, "prune": prune}), tmp_path / "run")


def test_a_damaged_file_of_scores_is_told(tmp_path):
    said = {**WEIGHTS, "control": False, "prune": {"method": "str", "sparsity": [0.5]}}
    run(make(said), tmp_path / "run")
    (parent(tmp_path / "run", "seed0-str-gated") / GATES_FILE).write_bytes(b"rubbish")
    with pytest.raises(Unfinished, match=r"gates.safetensors: cannot be read: .* run again"):
        run(make({**said, "prune": {"method": "str", "sparsity": [0.6]}}), tmp_path / "run")


# The commands


def test_a_network_is_trained_cut_by_its_gates_then_by_magnitude_and_packed(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "altair", None)
    monkeypatch.chdir(tmp_path)
    data = ["--data", SMALL["data"], "--workers", "1", "-q"]
    once = [*data, "--seeds", "1", "--epochs", "1", "--set", "latency=false", "control=false"]
    net, batch = HIGHWAY["model"], ["--set", "train.batch=16", "latency=false"]
    main(["train", net, *data, "--epochs", "3", "--gate-cost", ".5", "--out", "net", *batch])
    out = capsys.readouterr().out
    assert "dense" in out
    assert "accuracy %" in out
    front = Store("net").front()
    assert [r.method for r in front.records] == ["dense"]
    assert metadata(parent(Path("net")) / GATES_FILE)["gate"] == "highway?strength=0.5"

    main(["prune", "net", "--method", "highway", "--threshold", ".25", ".3", "--out", "cut", *once])
    assert "threshold 0.25" in capsys.readouterr().out
    records = {r.level: r for r in Store("cut").front().records}
    assert records[0.3].params < records[0.25].params < records[0].params
    assert metadata(parent(Path("cut")) / GATES_FILE)["gate"] == "highway?strength=0.5"
    assert not list(Path("cut").glob("steps/*gated*"))

    small = str(parent(Path("cut"), "seed0-highway-0.3"))
    main(["prune", small, "--method", "magnitude", "--sparsity", ".8", "--out", "both", *once])
    capsys.readouterr()
    (last,) = (r for r in Store("both").front().records if r.method == "magnitude")
    assert last.params == records[0.3].params
    assert last.sparsity == pytest.approx(0.8, abs=1e-3)
    assert last.packed_bytes < records[0.3].packed_bytes < records[0].packed_bytes

    main(["pack", str(parent(Path("both"), "seed0-magnitude-0.8")), "-o", "net.thrifty"])
    assert "thrifty.engine runs it" in capsys.readouterr().out
    inputs = torch.rand(3, 1, 8, 8)
    expected = thrifty.load("net.thrifty").eval()(inputs)
    torch.testing.assert_close(
        thrifty.compile("net.thrifty")(inputs), expected, rtol=1e-4, atol=1e-4
    )


def test_training_goes_on_where_it_was_and_is_not_repeated(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "altair", None)
    command = ["train", "lenet", "--data", SMALL["data"], "--epochs", "1", "--workers", "1", "-q"]
    main([*command, "--out", str(tmp_path / "run")])
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("run/steps/*/model*")}
    main([*command, "--seeds", "2", "--out", str(tmp_path / "run")])
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert len(Store(tmp_path / "run").front().records) == 2
    main(["report", str(tmp_path / "run")])
    assert "report.html" in capsys.readouterr().out
