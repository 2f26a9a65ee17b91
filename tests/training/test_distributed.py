"""Two processes give what one gives, whatever is trained, and end when one of them is lost."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from thrifty.errors import UserError
from thrifty.training import distributed
from thrifty.training.crew import Rates

PROGRAM = Path(__file__).with_name("crew_program.py")
EXACT = ("plain", "adamw", "masked", "uneven", "unlabeled", "mixed", "gated", "after")
OTHERS = ("norm", "gated_norm", "thriftynet", "diverged", "small", "ramped")
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="this torch has no gloo",
)


def program(out: Path, *cases: str, processes: int = 2, **variables: str):
    """The program's end, and what its first process saved."""
    start = TORCHRUN if processes > 1 else ()
    run = subprocess.run(
        [sys.executable, *start, str(PROGRAM), str(out), *cases],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
    )
    return run, torch.load(out, weights_only=False) if out.exists() else None


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """(of one process, of two), each a result a case."""
    folder = tmp_path_factory.mktemp("crews")
    cases = EXACT[:-1] + OTHERS + EXACT[-1:]
    found = []
    for processes in (1, 2):
        run, saved = program(folder / f"{processes}.pt", *cases, processes=processes)
        assert run.returncode == 0, run.stderr
        found.append(saved)
    return found


@pytest.mark.parametrize("case", EXACT)
def test_two_processes_train_what_one_trains(results, case):
    one, two = (r[case] for r in results)
    assert one["state"].keys() == two["state"].keys()
    for name, x in one["state"].items():
        torch.testing.assert_close(two["state"][name], x, rtol=0, atol=1e-5)
    for a, b in zip(one["rows"], two["rows"], strict=True):
        assert {k: a[k] for k in ("epoch", "lr")} == {k: b[k] for k in ("epoch", "lr")}
        assert b["loss"] == pytest.approx(a["loss"], abs=1e-5)
        assert b["accuracy"] == pytest.approx(a["accuracy"], abs=0.02)


def test_masks_hold_in_all_processes(results):
    done = results[1]["masked"]
    for name, mask in done["masks"].items():
        assert bool((done["state"][name][~mask] == 0).all())
        assert not bool(mask.all())


@pytest.mark.parametrize("case", ["norm", "gated_norm", "thriftynet"])
def test_normalisation_by_parts_learns_as_well_and_keeps_all_names(results, case):
    one, two = (r[case] for r in results)
    assert one["state"].keys() == two["state"].keys()
    assert all(bool(torch.isfinite(x).all()) for x in two["state"].values())
    assert two["rows"][-1]["loss"] == pytest.approx(one["rows"][-1]["loss"], abs=0.1)


def test_a_training_that_diverges_ends_alike_and_the_next_one_goes_on(results):
    said = results[1]["diverged"]["said"]
    assert said == results[0]["diverged"]["said"]
    assert "lower the learning rate" in said


def test_a_batch_smaller_than_the_processes_is_refused(results):
    assert "give a larger batch" in results[1]["small"]["said"]


def test_a_process_that_dies_ends_the_run_which_then_goes_on_where_it_was(results, tmp_path):
    straight = results[0]
    out = tmp_path / "broken.pt"
    broken, nothing = program(out, "ramped", DIES="1")
    assert broken.returncode != 0
    assert nothing is None
    assert out.with_suffix(".checkpoint").exists()
    again, resumed = program(out, "ramped")
    assert again.returncode == 0, again.stderr
    assert len(resumed["ramped"]["rows"]) == 4
    for name, x in straight["ramped"]["state"].items():
        torch.testing.assert_close(resumed["ramped"]["state"][name], x, rtol=0, atol=1e-5)


def test_a_command_trains_in_two_processes_and_only_one_of_them_speaks(tmp_path):
    out = tmp_path / "run"
    command = ("thrifty", "train", "lenet", "--data", "digits?train=200", "--epochs", "1")
    run = subprocess.run(
        [sys.executable, *TORCHRUN, "-m", *command, "--out", str(out), "--distributed"],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("report.html") == 1
    assert run.stderr.count("samples/s") == 1
    assert (out / "report.html").exists()


def test_without_torchrun_one_is_told_how_to_start(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UserError, match="torchrun --nproc-per-node 2 -m thrifty train"):
        distributed.together(lambda: None)
    assert distributed.crew().size == 1


def test_rates_are_those_of_the_function_at_every_step():
    rates = Rates.of(lambda p: 1 - p, 7)
    assert [rates(n / 7) for n in range(7)] == [1 - n / 7 for n in range(7)]
