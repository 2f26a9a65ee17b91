"""The commands as their users meet them: results, progress, help, mistakes and interruptions."""

import contextlib
import errno
import json
import os
import pickle
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import thrifty
from thrifty.cli import app, main
from thrifty.lab.recipe import read

NET, DIGITS = "three_methods_cnn?hidden=8&width=0.25", "digits?train=200&test=100"
SIZE = ["--seeds", "1", "--epochs", "1", "--train-epochs", "1", "--sparsity", ".5"]
QUICK = [*SIZE, "--workers", "1", "-q"]
TINY = ["prune", NET, "--data", DIGITS, *QUICK]


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """A finished run of two seeds and two levels."""
    folder = tmp_path_factory.mktemp("runs") / "done"
    more = ["--seeds", "2", "--sparsity", ".5", ".9"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "altair", None)
        main(["prune", NET, "--data", DIGITS, *more, *QUICK[2:6], *QUICK[8:], "--out", str(folder)])
    return folder


def process(*arguments: str, **more) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "thrifty", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **more)


# Help


COMMANDS = [
    [],
    ["demo"],
    ["train"],
    ["distill"],
    ["prune"],
    ["run"],
    ["validate"],
    ["report"],
    ["pick"],
    ["criteria"],
    ["methods"],
    ["gates"],
    ["allocations"],
    ["nets"],
    ["datasets"],
    ["recipes"],
    ["recipes", "copy"],
    ["sources"],
    ["look"],
    ["look", "zero"],
    ["look", "compare"],
    ["groups"],
    ["shrink"],
    ["pack"],
    ["export"],
    ["bench"],
    ["sensitivity"],
    ["zoo"],
    ["zoo", "train"],
    ["zoo", "twins"],
    ["zoo", "report"],
    ["zoo", "import"],
    ["zoo", "export"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: " ".join(c) or "thrifty")
def test_every_command_has_help(ended, command, capsys):
    assert ended(*command, "--help") == 0
    out, err = capsys.readouterr()
    assert f"Usage: {' '.join(['thrifty', *command])}" in out
    assert err == ""


def test_no_command_is_left_out_of_these_tests():
    assert {c[0] for c in COMMANDS if c} == {n for n in app if not n.startswith("-")}


@pytest.mark.parametrize("command", ["train", "prune", "run", "validate", "report", "pick"])
def test_help_has_an_example_that_parses(command, capsys):
    main([command, "--help"])
    words = " ".join(capsys.readouterr().out.split())
    example = re.search(r"Example: (thrifty .*?) ╭", words)
    assert example is not None
    found, *_ = app.parse_args(shlex.split(example[1])[1:], exit_on_error=False, print_error=False)
    assert found.__name__ == command


def test_without_a_command_there_is_help(ended, capsys):
    assert ended() == 0
    assert "thrifty demo" in capsys.readouterr().out


def test_version(ended, capsys):
    assert ended("--version") == 0
    assert capsys.readouterr().out.strip() == thrifty.__version__


def test_help_answers_at_once():
    """It imports little: what takes a second is not among it (a clock would judge the machine)."""
    code = (
        "import sys\n"
        "from thrifty.cli import main\n"
        "main(['--help'])\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = done.stderr.split()
    assert "thrifty.cli" in modules
    assert not {"torch", "numpy", "scipy", "pandas", "pydantic", "altair", "onnx"} & set(modules)
    assert len(modules) < 600


# Results


def test_prune_prints_a_table_and_writes_a_report(ended, tmp_path, capsys, no_pictures):
    assert ended(*TINY, "--out", tmp_path / "run") == 0
    out, err = capsys.readouterr()
    assert err == ""
    heading, *rows = out.splitlines()
    assert heading.startswith("method ")
    assert [row.split()[0] for row in rows[:4]] == ["dense", "magnitude", "random", "control"]
    assert "50.00" in rows[1]
    assert rows[-1].startswith(str(tmp_path / "run" / "report.html"))
    assert (tmp_path / "run" / "report.html").stat().st_size > 5_000


def test_json_is_alone_on_stdout_and_progress_on_stderr(ended, tmp_path, capsys, no_pictures):
    arguments = [a for a in TINY if a != "-q"]
    assert ended(*arguments, "--json", "--out", tmp_path / "run") == 0
    out, err = capsys.readouterr()
    result = json.loads(out, parse_constant=pytest.fail)
    assert {p["method"] for p in result["points"]} == {"dense", "magnitude", "random", "control"}
    assert result["run"] == str(tmp_path / "run")
    assert err.splitlines()[0] == "4 networks to make"
    assert err.splitlines()[-1].startswith("[4/4]")


def test_a_run_that_is_done_is_read_and_says_so(ended, done, capsys, no_pictures):
    recipe = str(done / "recipe.yaml")
    assert ended("run", recipe, "--out", str(done)) == 0
    out, err = capsys.readouterr()
    assert "14 networks to make, 14 of them done before" in err
    assert "random" in out


def test_overrides_change_a_recipe(ended, tmp_path, capsys, no_pictures):
    assert ended("recipes", "copy", "demo", tmp_path / "mine.yaml") == 0
    said = [
        f"model={NET}",
        f"data={DIGITS}",
        "seeds=1",
        "train.epochs=1",
        "retrain={epochs: 1}",
        "prune.method=one_shot",
        "prune.sparsity=[.9, .5]",
        "random=false",
        "control=false",
    ]
    out = tmp_path / "run"
    assert ended("run", tmp_path / "mine.yaml", *said, "--workers", "1", "-q", "--out", out) == 0
    recipe = read(out / "recipe.yaml")
    assert recipe.prune.sparsity == (0.5, 0.9)
    assert recipe.machine.workers == 1
    table = capsys.readouterr().out
    assert table.count("one_shot") == 2
    assert "control" not in table


def test_validate_prints_the_whole_recipe(ended, capsys, tmp_path):
    assert ended("validate", "demo", "train.epochs=3") == 0
    out, err = capsys.readouterr()
    assert "epochs: 3" in out
    assert "is a good recipe" in err
    (tmp_path / "again.yaml").write_text(out)
    assert read(tmp_path / "again.yaml") == read("demo", ["train.epochs=3"])


def test_a_report_of_two_runs_is_one(ended, done, tmp_path, capsys, no_pictures):
    other = tmp_path / "other"
    assert ended(*TINY, "--out", other) == 0
    capsys.readouterr()
    assert ended("report", done, other, "--out", tmp_path / "both") == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "both" / "report.html")]


def test_pick_names_a_network_and_saves_it_to_go_on_from(
    ended, done, tmp_path, capsys, no_pictures
):
    saved = tmp_path / "small.safetensors"
    assert ended("pick", done, "--max-drop", "100", "--of", "nonzero", "--save", saved) == 0
    out = capsys.readouterr().out
    assert re.search(r"at sparsity 0\.9\d*: accuracy .* over 2 seeds, .* its dense parents", out)
    assert f"saved as {saved}" in out
    model = thrifty.resolve(saved)
    zeros = sum(int((p == 0).sum()) for p in model.parameters())
    assert zeros > 0.8 * sum(p.numel() for p in model.parameters())
    once = ["--data", DIGITS, "--seeds", "1", "--epochs", "1", "--workers", "1"]
    for start in (saved, done):
        out = tmp_path / f"from-{start.name}"
        assert ended("prune", start, *once, "--sparsity", ".95", "--out", out) == 0
        assert read(out / "recipe.yaml").train.epochs == 0
    assert ended("prune", saved, *once, "--sparsity", ".5", "--out", tmp_path / "less") == 2
    assert "are pruned already; ask for a sparsity of at least 0.9" in capsys.readouterr().err


def test_pick_as_json(ended, done, capsys):
    assert ended("pick", done, "--max-drop", "100", "--json") == 0
    assert json.loads(capsys.readouterr().out)["point"]["level"] == 0.9


def test_pick_says_that_there_is_none(ended, done, tmp_path, capsys):
    shutil.copytree(done, tmp_path / "worse")
    records = tmp_path / "worse" / "records.jsonl"
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    for row in rows:
        row["accuracy_dense"] = 0.99
    records.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert ended("pick", tmp_path / "worse", "--max-drop", ".5") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(r"no point loses at most 0\.5 points .*; the least is [\d.]+ points, by", err)


@pytest.mark.parametrize(
    ("kind", "some"),
    [
        ("criteria", {"magnitude", "random", "saliency"}),
        ("methods", {"magnitude", "one_shot", "gradual", "random"}),
        ("gates", {"bn_scale", "channel_scale", "group_growth", "bn_finder"}),
        ("allocations", {"lamp", "global", "erk", "uniform", "uniform_plus"}),
        ("nets", {"lenet", "resnet20", "resnet56", "vgg16_bn", "three_methods_cnn"}),
        ("datasets", {"digits", "mnist", "fashion_mnist", "parquet", "folder", "npz", "hf"}),
        ("recipes", {"demo"}),
    ],
)
def test_lists_name_everything_and_say_what_it_is(ended, kind, some, capsys):
    assert ended(kind) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert some <= set(rows)
    assert all(len(text) > 15 for text in rows.values())


@pytest.mark.parametrize("kind", ["criteria", "methods", "gates", "nets", "datasets"])
def test_lists_say_where(ended, kind, capsys):
    assert ended(kind, "--where") == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    for file in rows.values():
        assert Path(file).is_file()
        assert Path(file).name != "__init__.py"


def test_a_reader_that_has_enough_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m thrifty nets | head -1; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[1] in ("0", "141")
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_an_output_that_is_full_is_told():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "thrifty", "nets"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("thrifty: No space left on device")
    assert "Traceback" not in done.stderr


# Mistakes


class Runs:
    def __reduce__(self):
        return (os.mkdir, ("ran",))


@pytest.fixture(scope="module")
def rubbish(tmp_path_factory, done) -> Path:
    """A folder with everything that is wrong."""
    folder = tmp_path_factory.mktemp("rubbish")
    model = thrifty.resolve("lenet", classes=10, shape=(1, 8, 8))
    tensors = model.state_dict()
    torch.save(tensors, folder / "good.pt")
    whole = (folder / "good.pt").read_bytes()
    (folder / "short.pt").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.pt").write_bytes(b"")
    (folder / "text.pt").write_text("hello")
    (folder / "pickle.pt").write_bytes(pickle.dumps(Runs()))
    torch.save({"x": Runs()}, folder / "evil.pt")
    save_file(tensors, folder / "good.safetensors")
    whole = (folder / "good.safetensors").read_bytes()
    (folder / "short.safetensors").write_bytes(whole[: len(whole) // 2])
    wide = thrifty.resolve("lenet?width=2", classes=10, shape=(1, 8, 8))
    torch.save(wide.state_dict(), folder / "wide.pt")
    tensors["conv1.weight"][0] = float("nan")
    torch.save(tensors, folder / "nan.pt")

    generator = np.random.default_rng(0)
    x = generator.integers(0, 255, (40, 1, 8, 8), dtype=np.uint8)
    y = np.arange(40) % 4
    np.savez(folder / "one.npz", x=x, y=y * 0)
    np.savez(folder / "none.npz", x=x[:0], y=y[:0])
    np.savez(folder / "negative.npz", x=x, y=y - 1)
    np.savez(folder / "nan.npz", x=np.where(x > 200, np.nan, x).astype("f4"), y=y)
    np.savez(folder / "lengths.npz", x=x, y=y[:-1])
    (folder / "short.npz").write_bytes((folder / "one.npz").read_bytes()[:300])

    (folder / "file").write_text("")
    (folder / "other").mkdir()
    (folder / "other" / "thesis.tex").write_text("")
    (folder / "list.yaml").write_text("- a")
    (folder / "open.yaml").write_text("model: [")
    (folder / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    (folder / "wrong.yaml").write_text("prune: {sparsty: .5}\ntrain: 3\nretrain: {epochs: two}\n")
    (folder / "done").symlink_to(done)
    return folder


LENET = ["prune", "lenet", "--data", DIGITS, "-q", "--out", "new"]
TRAIN = ["train", "lenet", "--data", DIGITS, "-q", "--out", "new"]
DATA = ["prune", NET, *QUICK, "--out", "new", "--data"]

WRONG = {
    "no command": (["prun"], r"has no command 'prun'; did you mean prune"),
    "no such recipe command": (["recipes", "cpy"], "has no command 'cpy'; did you mean copy"),
    "no such option": ([*LENET, "--sparsty", ".5"], r"no option --sparsty; did you mean --spars"),
    "one too many": (["nets", "more"], "thrifty nets does not take 'more'"),
    "no model": (["prune", "--data", "digits"], "prune needs MODEL before any option"),
    "model after a list": (["prune", "--sparsity", ".5", "lenet"], "prune needs MODEL|--data"),
    "no data": (["prune", "lenet"], "thrifty prune needs --data; see thrifty prune --help"),
    "data without value": (["prune", "lenet", "--data"], "--data needs a value"),
    "data twice": (["prune", "lenet", "--data", "a", "--data", "b"], "--data is given twice"),
    "seeds no number": ([*LENET, "--seeds", "x"], "--seeds is 'x'; it must be a whole number"),
    "half an epoch": ([*LENET, "--epochs", "1.5"], "--epochs is '1.5'; it must be a whole"),
    "half a worker": ([*LENET, "--workers", "1.5"], "--workers is '1.5'; it must be a whole"),
    "commas": ([*LENET, "--sparsity", ".5,.9"], "--sparsity is '.5,.9'; it must be a number"),
    "unknown model": (["prune", "resnet21", "--data", "digits"], "did you mean resnet20"),
    "no model name": (["prune", "", "--data", "digits"], "."),
    "unknown model option": (["prune", "lenet?widht=2", "--data", "digits"], "mean width"),
    "unknown zoo model": (["prune", "nowhere:fn", "--data", "digits"], "no module 'nowhere'"),
    "unknown data": ([*DATA, "digit"], "no data set is called 'digit'; did you mean digits"),
    "unknown data option": ([*DATA, "digits?trian=4"], "did you mean train"),
    "data without place": ([*DATA, "mnist"], "write mnist:DIR"),
    "data nowhere": ([*DATA, "folder:nowhere"], "no folder 'nowhere'"),
    "too much data": ([*DATA, "digits?train=5000"], "5000 asks for more than the 1258 rows"),
    "unknown method": ([*LENET, "--method", "magnitud"], "--method: .* did you mean magnitude"),
    "two of three": (
        [*LENET, "--sparsity", ".5", "--threshold", ".1"],
        "--sparsity and --threshold each say how much goes; give one of them",
    ),
    "budget beside": (
        [*LENET, "--sparsity", ".5", "--budget", "params=.5"],
        "--sparsity and --budget each say",
    ),
    "threshold without gates": ([*LENET, "--threshold", ".1"], "magnitude has no gate"),
    "threshold 1.5": (
        [*LENET, "--method", "highway", "--threshold", "1.5"],
        "1.5 is no threshold of the gate highway; T is in 0..1",
    ),
    "threshold nan": (
        [*LENET, "--method", "highway", "--threshold", "nan"],
        "--threshold: .*finite",
    ),
    "no threshold": ([*LENET, "--threshold"], "--threshold: give one at least"),
    "no highway": (
        [*LENET, "--method", "highway", "--threshold", ".1"],
        "needs highway blocks and .* has none; .*method slimming",
    ),
    "train no highway": ([*TRAIN, "--gate-cost", ".1"], "needs highway blocks"),
    "gate cost -1": ([*TRAIN, "--gate-cost", "-1"], "--gate-cost is -1; .* 0 or more"),
    "gate cost nan": ([*TRAIN, "--gate-cost", "nan"], "--gate-cost is nan"),
    "gate cost no number": ([*TRAIN, "--gate-cost", "x"], "--gate-cost is 'x'; .*a number"),
    "two gates": ([*TRAIN, "--gate-cost", ".1", "--gate", "l0"], "give one of the two"),
    "no such gate": ([*TRAIN, "--gate", "highwy"], "--gate: .*did you mean highway"),
    "train no data": (["train", "lenet"], "thrifty train needs --data"),
    "unknown allocation": ([*LENET, "--allocation", "lam"], "--allocation: .* did you mean lamp"),
    "unknown key": ([*LENET, "--set", "train.epohcs=3"], "train.epohcs: .* did you mean epochs"),
    "no override": ([*LENET, "--set", "epochs"], "write key=value"),
    "sparsity 90": ([*LENET, "--sparsity", "90"], "--sparsity: .*90 % is written 0.9"),
    "sparsity 1": ([*LENET, "--sparsity", "1"], "--sparsity: .*1 would leave no weight at all"),
    "sparsity below 0": ([*LENET, "--sparsity", "-.5"], "--sparsity: a sparsity of -0.5"),
    "sparsity nan": ([*LENET, "--sparsity", "nan"], "--sparsity: a sparsity of nan"),
    "sparsity twice": ([*LENET, "--sparsity", ".5", ".5"], "--sparsity: .*a value twice"),
    "no sparsity": ([*LENET, "--sparsity"], "--sparsity: give one at least"),
    "keep nothing": ([*LENET, "--keep", "convx"], "'convx' matches no prunable layer"),
    "threads 0": ([*LENET, "--threads", "0"], "--threads: .*greater than or equal to 1"),
    "workers -1": ([*LENET, "--workers", "-1"], "--workers: .*greater than or equal to 1"),
    "seeds 0": ([*LENET, "--seeds", "0"], "--seeds: .*1 or more"),
    "epochs -1": ([*LENET, "--epochs", "-1"], "--epochs: .*greater than or equal to 0"),
    "lr -1": ([*LENET, "--lr", "-1"], "--lr: .*greater than 0"),
    "no such device": ([*LENET, "--device", "gpu"], "'gpu' cannot be used: torch knows no such"),
    "no weights": ([*LENET, "--weights", "nowhere.pt"], "nowhere.pt: there is no such file"),
    "weights a folder": ([*LENET, "--weights", "other"], "other is a folder"),
    "short weights": ([*LENET, "--weights", "short.pt"], "short.pt .*damaged or cut short"),
    "empty weights": ([*LENET, "--weights", "empty.pt"], "empty.pt is empty"),
    "text for weights": ([*LENET, "--weights", "text.pt"], "text.pt .*damaged or another's"),
    "bare pickle": ([*LENET, "--weights", "pickle.pt"], "pickle.pt is refused: .*execute code"),
    "weights that run": ([*LENET, "--weights", "evil.pt"], "evil.pt is refused: .*execute code"),
    "short safetensors": ([*LENET, "--weights", "short.safetensors"], "no whole safetensors file"),
    "wide weights": (
        [*LENET, "--weights", "wide.pt"],
        r"conv1.weight \(12, 1, 5, 5\), network",
    ),
    "nan weights": ([*LENET, "--weights", "nan.pt"], "conv1.weight has 25 of 150 numbers .*NaN"),
    "weights for a model": (["prune", "good.pt", "--data", DIGITS], "resnet20 --weights good.pt"),
    "a folder for a model": (["prune", "other", "--data", DIGITS], "folder other has no network"),
    "one class": ([*DATA, "npz:one.npz"], "at least two"),
    "no rows": ([*DATA, "npz:none.npz"], "there are 0 rows"),
    "label below 0": ([*DATA, "npz:negative.npz"], r"label -1 of row \d+ .*is below 0"),
    "nan inputs": ([*DATA, "npz:nan.npz"], "train inputs have NaN or infinity, first in row"),
    "lengths": ([*DATA, "npz:lengths.npz"], "x has 40 rows and its labels 39"),
    "short archive": ([*DATA, "npz:short.npz"], "short.npz: not a NumPy archive"),
    "out a file": ([*TINY, "--out", "file"], "file is a file; give --out a folder"),
    "out under a file": ([*TINY, "--out", "file/deep"], "file/deep cannot be written"),
    "out of others": ([*TINY, "--out", "other"], "other holds thesis.tex and is no run"),
    "out of another run": ([*LENET[:-1], "done"], "done holds another run: model is 'three_m"),
    "pick nowhere": (["pick", "nowhere"], "nowhere is no run of thrifty"),
    "pick a share": (["pick", "done", "--max-drop", "500"], "--max-drop is 500; .* points"),
    "pick no cost": (["pick", "done", "--of", "byts"], "'byts'; did you mean bytes"),
    "pick no format": (
        ["pick", "done", "--max-drop", "99", "--save", "x.foo"],
        "x.foo has no",
    ),
    "report nowhere": (["report", "nowhere"], "nowhere is no run of thrifty"),
    "report nothing": (["report"], "report needs RUNS"),
    "report to a file": (["report", "done", "--out", "file"], "a file is where a folder should be"),
    "run nowhere": (["run", "nowhere.yaml"], "nowhere.yaml: there is no such file, nor a recipe"),
    "run a near name": (["run", "dmo"], "did you mean demo"),
    "run threads 0": (["run", "demo", "--threads", "0"], "machine.threads: .*equal to 1"),
    "recipe a list": (["validate", "list.yaml"], "a recipe is a table of key: value, this is list"),
    "recipe no yaml": (["validate", "open.yaml"], "open.yaml: not YAML"),
    "recipe no text": (["validate", "bytes.yaml"], "bytes.yaml: no text in UTF-8"),
    "recipe all wrong": (
        ["validate", "wrong.yaml"],
        "(?s)train: it is a table.*sparsty: .*did you mean sparsity.*retrain.epochs: .*'two'",
    ),
    "copy nothing": (["recipes", "copy"], "recipes copy needs NAME"),
    "copy a near name": (["recipes", "copy", "dmo"], "'dmo'; did you mean demo"),
    "copy over a file": (["recipes", "copy", "demo", "file"], "file exists already"),
}


def there(folder: Path) -> list[str]:
    """What is in a folder, besides the folders of runs."""
    return sorted(p.name for p in folder.iterdir() if p.name not in ("new", "runs"))


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_told_and_nothing_is_made(
    ended, name, rubbish, capsys, monkeypatch, no_pictures
):
    monkeypatch.chdir(rubbish)
    before = there(rubbish)
    arguments, message = WRONG[name]
    assert ended(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("thrifty: ")
    assert re.search(message, err), err
    assert len(err) < 1000
    assert there(rubbish) == before


def test_no_gpu_is_told(ended, rubbish, capsys, monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.chdir(rubbish)
    assert ended(*LENET, "--device", "cuda") == 2
    assert "'cuda' cannot be used: " in capsys.readouterr().err


def test_a_corrupt_picture_is_named(ended, tmp_path, capsys, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    for split, label, number in np.ndindex(2, 2, 3):
        path = tmp_path / "pictures" / ("train", "test")[split] / "ab"[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.new("L", (8, 8), 100 * label + number).save(path)
    path.write_bytes(path.read_bytes()[:40])
    monkeypatch.chdir(tmp_path)
    assert ended(*DATA, "folder:pictures") == 2
    assert "pictures/test/b/2.png: the picture cannot be decoded" in capsys.readouterr().err


def test_a_loss_that_is_nan_is_located_and_what_was_good_is_kept(ended, tmp_path, capsys):
    out = tmp_path / "run"
    assert ended(*TINY, "--lr", "1e30", "--out", out) == 1
    err = capsys.readouterr().err
    assert re.search(r"seed 0 dense: the loss became .* in epoch 1, step \d of \d, at a learn", err)
    assert not list(out.glob("steps/*/record.json"))
    assert ended("pick", out) == 2
    assert "no pruned point" in capsys.readouterr().err


def test_a_full_disk_is_told_and_what_is_done_is_kept(
    ended, tmp_path, capsys, monkeypatch, no_pictures
):
    out = tmp_path / "run"
    write, room = Path.write_bytes, [60_000]

    def limited(self, content):
        room[0] -= len(content)
        if room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", limited)
        status = ended(*TINY, "--out", out)
    assert status in (1, 2)
    assert "No space left on device" in capsys.readouterr().err
    kept = {p: p.stat().st_mtime_ns for p in out.glob("steps/*/record.json")}
    assert ended(*TINY, "--out", out) == 0
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert not list(out.rglob(".*.part"))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="there is no /proc")
def test_a_folder_that_cannot_be_written_is_told(ended, capsys):
    assert ended(*TINY, "--out", "/proc/thrifty") == 2
    assert "/proc/thrifty cannot be written" in capsys.readouterr().err


def test_a_folder_in_use_is_told(ended, done, tmp_path, capsys):
    from thrifty.lab.store import Store

    shutil.copytree(done, tmp_path / "run")
    with Store(tmp_path / "run").lock():
        assert ended(*TINY, "--out", tmp_path / "run") == 2
    assert f"is in use by process {os.getpid()}" in capsys.readouterr().err


# Stopping


@contextlib.contextmanager
def started(folder: Path, *more: str):
    """A long run in a process group of its own, at work on its first networks."""
    long = ["--seeds", "2", "--epochs", "1", "--train-epochs", "30", "--sparsity", ".5"]
    less = ["random=false", "control=false", "latency=false"]
    more = (*long, "--set", "machine.checkpoint_seconds=0", *less, *more)
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background
    try:  # ignore it, and what they start would too
        running = subprocess.Popen(
            [sys.executable, "-m", "thrifty", "prune", NET, "--data", DIGITS, *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, ours)
    try:
        while not list(folder.glob("steps/*/checkpoint.pt")):
            assert running.poll() is None, running.communicate()
            time.sleep(0.02)
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()


@pytest.mark.parametrize(
    ("number", "workers", "status"), [(signal.SIGINT, "2", 130), (signal.SIGTERM, "1", 143)]
)
def test_a_run_that_is_stopped_says_how_to_go_on_and_goes_on(
    ended, no_pictures, tmp_path, capsys, number, workers, status
):
    with started(tmp_path / "run", "--workers", workers, "--out", str(tmp_path / "run")) as running:
        os.killpg(running.pid, number)
        out, err = running.communicate(timeout=30)
    assert running.returncode == status
    assert out == ""
    assert "Traceback" not in err
    *_, before, line = err.splitlines()
    assert before.endswith("To go on:")
    words = shlex.split(line)
    assert words[:3] == ["thrifty", "prune", NET]
    words[words.index("--workers") + 1] = "1"
    assert ended(*words[1:], "--json", "-q") == 0
    assert len(json.loads(capsys.readouterr().out)["records"]) == 4
