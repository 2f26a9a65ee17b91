"""What packed files take in the engine: figures are of the file, and nothing ends a run."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from thrifty.lab.deployed import NOT_COMPILED, Deployer, engine_there, lacking
from thrifty.lab.pick import pick_from
from thrifty.lab.recipe import make
from thrifty.lab.run import run
from thrifty.lab.store import Store
from thrifty.native import targets
from thrifty.pack import load, save
from thrifty.pack.packing import pack
from thrifty.pruning.masks import of_zeros

TINY = {
    "model": "three_methods_cnn?hidden=8&width=0.25",
    "data": "digits?train=160&test=80",
    "seeds": 1,
    "train": {"epochs": 1, "batch": 16},
    "prune": {"method": ["magnitude", "l1_filter"], "sparsity": [0.5, 0.9]},
    "retrain": {"epochs": 1},
    "random": False,
    "machine": {"workers": 1},
}
FIGURES = ("packed_bytes", "engine_ms", "engine_speedup", "engine_why")

compiled = pytest.mark.skipif(not engine_there(), reason="the engine was not compiled")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "packed"
    run(make(TINY), folder)
    return folder


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def network(scale: float = 1.0, width: int = 4) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * width, 3)
    ).eval()
    with torch.no_grad():
        model[0].weight.mul_(scale)
        model[3].weight[torch.rand_like(model[3].weight) < 0.5] = 0
    return model


class Scaled(nn.Module):
    """A number that is a parameter is part of the program, and not of the tensors."""

    def __init__(self, by: float):
        super().__init__()
        self.inner = nn.Linear(36, 3)
        self.by = nn.Parameter(torch.tensor(by))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.flatten(1)) * self.by.exp()


class Branching(nn.Module):
    """Not to be followed."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.inner(x) if float(x.sum()) > 0 else self.inner(-x)


@pytest.fixture
def deployer() -> Deployer:
    return Deployer(torch.rand(1, 1, 6, 6))


def steps(folder: Path) -> list[Path]:
    return sorted(folder.glob("steps/*/timing.json"))


def forget(folder: Path, *names: str) -> None:
    """Make a run look as if it had been made before there were such figures."""
    for path in steps(folder):
        kept = {k: v for k, v in json.loads(path.read_text()).items() if k not in names}
        path.write_text(json.dumps(kept))


@compiled
def test_every_point_has_its_packed_bytes_and_its_time_in_the_engine(finished):
    front = Store(finished).front()
    assert front.size == "packed_bytes"
    for point in front.points:
        assert point.packed_bytes > 0 and point.engine_ms > 0
    for record in front.records:
        assert record.engine_why is None
        assert record.engine_speedup > 0
        if record.method == "dense":
            assert record.engine_speedup == 1
            dense = record.engine_ms
    for record in front.records:
        assert record.engine_ms * record.engine_speedup == pytest.approx(dense)


def test_packed_bytes_are_those_of_the_file_that_pick_saves(finished, tmp_path):
    found = pick_from(finished, max_drop=1.0, to=tmp_path / "net.thrifty")
    file = tmp_path / "net.thrifty"
    assert file.stat().st_size == found.saved_bytes == found.record.packed_bytes
    assert f"{found.point.packed_bytes:,.0f} bytes packed" in found.text()
    original = load(next(Path(found.folder).glob("model*")))
    back = load(file)
    for name, x in original.state_dict().items():
        assert torch.equal(x, back.state_dict()[name])
    assert of_zeros(back).sparsity == of_zeros(original).sparsity


@compiled
def test_the_picked_file_runs_in_the_engine_as_the_network_does(finished, tmp_path):
    from thrifty.engine import load as load_engine

    pick_from(finished, max_drop=1.0, of="engine_ms", to=tmp_path / "net.thrifty")
    x = torch.rand(5, 1, 8, 8)
    expected = load(tmp_path / "net.thrifty").eval()(x)
    torch.testing.assert_close(load_engine(tmp_path / "net.thrifty")(x), expected)


def test_a_finished_run_is_not_packed_again(copied):
    before = {path: path.read_text() for path in steps(copied)}
    run(make(TINY), copied)
    assert {path: path.read_text() for path in steps(copied)} == before


def test_a_run_of_before_is_read_without_and_gets_its_figures_when_it_goes_on(copied, finished):
    forget(copied, *FIGURES)
    lines = [json.loads(line) for line in (copied / "records.jsonl").read_text().splitlines()]
    old = [{k: v for k, v in line.items() if k not in FIGURES} for line in lines]
    (copied / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in old))
    front = Store(copied).front()
    assert front.size == "bytes" and front.pick(1.0).packed_bytes is None
    assert "bytes compressed" in pick_from(copied, 1.0).text()
    again = run(make(TINY), copied)
    packed = [r.packed_bytes for r in Store(finished).front().records]
    assert [r.packed_bytes for r in again.records] == packed
    assert [r.key for r in again.records] == [line["key"] for line in lines]


def test_without_latency_networks_are_packed_and_not_timed(tmp_path):
    front = run(make({**TINY, "latency": False, "control": False}), tmp_path / "run")
    assert all(r.packed_bytes and r.engine_ms is None is r.engine_why for r in front.records)


def test_without_a_compiler_a_run_packs_and_says_once_why_nothing_was_timed(copied):
    forget(copied, *FIGURES)
    told = []
    with targets.use("numpy"):
        front = run(make(TINY), copied, tell=told.append)
    assert all(r.packed_bytes and r.engine_ms is None for r in front.records)
    assert {r.engine_why for r in front.records} == {NOT_COMPILED}
    said = [event["message"] for event in told if "engine" in event.get("message", "")]
    assert said == [f"no time in thrifty's engine: {NOT_COMPILED}"]
    assert NOT_COMPILED in Store(copied).conditions()["conditions"]["engine"]


@compiled
def test_an_engine_that_is_compiled_later_gets_its_turn(copied):
    forget(copied, *FIGURES)
    with targets.use("numpy"):
        run(make(TINY), copied)
    assert all(r.engine_ms > 0 for r in run(make(TINY), copied).records)


def test_figures_are_lacking_until_they_are_there():
    assert lacking({}, timed=False)
    assert not lacking({"packed_bytes": 9}, timed=False)
    assert lacking({"packed_bytes": 9}, timed=True)
    assert not lacking({"packed_bytes": 9, "engine_ms": None, "engine_why": "a loop"}, timed=True)


@compiled
def test_networks_of_the_same_shapes_share_a_program(deployer, monkeypatch):
    calls, followed = [], deployer._programmed
    monkeypatch.setattr(deployer, "_programmed", lambda m: calls.append(1) or followed(m))
    for model in (network(), network(2.0), network(width=3), network(3.0, width=3)):
        found = deployer.deploy(model)
        x = torch.rand(2, 1, 6, 6)
        torch.testing.assert_close(found.engine(x), model(x))
    assert len(calls) == 2


@compiled
def test_a_program_that_holds_a_networks_own_numbers_is_not_believed_for_another(deployer):
    for by in (0.0, 1.0, -2.0):
        model = Scaled(by).eval()
        found = deployer.deploy(model)
        x = torch.rand(2, 1, 6, 6)
        assert found.why == ""
        torch.testing.assert_close(found.engine(x), model(x))


def test_the_bytes_are_those_that_pack_writes(deployer, tmp_path):
    model = network()
    example = torch.rand(2, 1, 6, 6)
    assert (
        deployer.deploy(model).nbytes == pack(model, tmp_path / "n.thrifty", example=example).nbytes
    )


def test_a_network_that_cannot_be_followed_is_packed_and_says_why(deployer, tmp_path):
    model = Branching().eval()
    for _ in range(2):
        found = deployer.deploy(model)
        assert found.engine is None
        assert found.nbytes == save(model, tmp_path / "n.thrifty")
        if engine_there():
            assert "torch.export cannot follow Branching" in found.why


def test_what_nobody_foresaw_is_told_and_not_raised(deployer):
    model = network()
    model.register_buffer("odd", torch.zeros(2, dtype=torch.complex64))
    found = deployer.deploy(model)
    assert (found.nbytes, found.engine) == (None, None)
    assert "it cannot be packed: 'odd' is complex64" in found.why
