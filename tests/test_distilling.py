"""``thrifty distill`` as its users meet it: a teacher, a student, and what is said of mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest

from thrifty.cli import main
from thrifty.lab.recipe import read

NET, DATA = "three_methods_cnn?hidden=8&width=0.25", "digits?train=160&test=80"
QUICK = ["--epochs", "1", "--workers", "1", "-q", "--set", "latency=false"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    main(["train", NET, "--data", DATA, *QUICK, "--out", str(folder)])
    return folder


def distilled(capsys, *said: object) -> tuple[int, str, str]:
    """The exit status, what was printed, and what was told, of ``thrifty distill``."""
    status = 0
    try:
        main(["distill", *map(str, said)])
    except SystemExit as exit:
        status = int(exit.code or 0)
    return status, *capsys.readouterr()


def test_a_student_is_a_run_that_says_how_it_was_taught(teacher, tmp_path, capsys):
    out = tmp_path / "student"
    how = ["--kind", "dkd", "--temperature", "2", "--weight", ".25"]
    more = [*QUICK, "train.distill.beta=2", "train.augment=false"]
    status, printed, _ = distilled(
        capsys, NET, "--teacher", teacher, "--data", DATA, *how, *more, "--out", out, "--json"
    )
    assert status == 0
    assert json.loads(printed)["run"] == str(out)
    said = read(out / "recipe.yaml").train.distill
    assert said.model_dump(exclude_defaults=True) == {
        "teacher": str(teacher),
        "kind": "dkd",
        "temperature": 2.0,
        "weight": 0.25,
        "beta": 2.0,
    }
    assert len(list((out / "teachers").iterdir())) == 1
    again = [NET, "--teacher", out, "--data", DATA, *QUICK, "--out"]
    assert distilled(capsys, *again, tmp_path / "grandchild")[0] == 0  # a student may teach
    status, _, told = distilled(capsys, *again, out)
    assert status == 2
    assert "is the folder of this run and its teacher too" in told
    assert distilled(capsys, *again, tmp_path / "third")[0] == 0  # and it is left as it was


def test_unlabelled_pictures_of_an_archive_are_learnt_from(teacher, tmp_path, capsys):
    rng = np.random.default_rng(0)
    pictures = {
        f"x_{part}": rng.integers(0, 255, (40, 8, 8)).astype(np.uint8)
        for part in ("test", "unlabeled")
    }
    np.savez(tmp_path / "some.npz", **pictures, y_test=np.arange(40) % 10)
    data = f"npz:{tmp_path / 'some.npz'}"
    out = tmp_path / "run"
    status, printed, _ = distilled(
        capsys, NET, "--teacher", teacher, "--data", data, *QUICK, "--out", out
    )
    assert status == 0 and "dense" in printed
    with pytest.raises(SystemExit) as caught:
        main(["train", NET, "--data", data, *QUICK, "--out", str(tmp_path / "other")])
    assert caught.value.code == 2
    assert "no training input of" in capsys.readouterr().err


MISTAKES = {
    "no teacher": ([], "--teacher"),
    "teacher not there": (["--teacher", "runs/nobody"], "no file or folder 'runs/nobody'"),
    "untrained": (["--teacher", "lenet"], "without weights of any training"),
    "kind": (["--teacher", "TEACHER", "--kind", "hints"], "--kind"),
    "temperature": (
        ["--teacher", "TEACHER", "--temperature", "0"],
        "--temperature: input should be greater than 0",
    ),
    "weight": (["--teacher", "TEACHER", "--weight", "90"], "--weight: input should be less"),
    "kd has no beta": (
        ["--teacher", "TEACHER", "--set", "train.distill.beta=2"],
        "beta: of kind dkd alone",
    ),
    "alone": (["--teacher", "TEACHER", "--distributed"], "start it as: torchrun"),
    "no epochs": (["--teacher", "TEACHER", "--epochs", "0"], "train.epochs is 0"),
    "weights not there": (
        ["--teacher", "TEACHER", "--teacher-weights", "x.pt"],
        "x.pt: there is no such file",
    ),
    "nothing to learn": (
        ["--teacher", "TEACHER", "--weight", "0", "--data", f"{DATA}&labels=0"],
        "the teacher's weight is 0",
    ),
    "more labels than there are": (
        ["--teacher", "TEACHER", "--data", f"{DATA}&labels=1000"],
        "labels=1000 asks for more than the 160 labels",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_a_line_and_exits_with_2(mistake, teacher, tmp_path, capsys):
    said, message = MISTAKES[mistake]
    said = [str(teacher) if word == "TEACHER" else word for word in said]
    data = [] if "--data" in said else ["--data", DATA]
    base = ["--workers", "1", "-q", "--out", tmp_path / "run"]
    status, _, told = distilled(capsys, NET, *data, *base, *said)
    assert status == 2
    assert message in " ".join(told.split())
    assert "Traceback" not in told


@pytest.mark.real
def test_mnist_is_learnt_from_a_teacher_and_no_label(real_data, tmp_path, capsys):
    data = f"mnist:{real_data / 'mnist'}?train=3000&test=1000"
    quick = [*QUICK[2:], "train.batch=16", "train.clip=1"]
    main(["train", "lenet", "--data", data, *quick, "--epochs", "2", "--out", f"{tmp_path}/t"])
    teacher = accuracy(tmp_path / "t")
    student = ["lenet?width=.25", "--teacher", tmp_path / "t", "--data", f"{data}&labels=0"]
    how = [*quick, "--epochs", "4", "--out", tmp_path / "s"]
    assert distilled(capsys, *student, *how)[0] == 0
    assert teacher > 0.85
    assert accuracy(tmp_path / "s") > teacher - 0.1


def accuracy(folder: Path) -> float:
    """The accuracy of the dense network of a run."""
    return json.loads((folder / "records.jsonl").read_text().splitlines()[0])["accuracy"]
