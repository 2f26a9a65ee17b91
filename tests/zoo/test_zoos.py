"""thrifty zoo as its users meet it: from a recipe to a report, and every mistake told."""

import re
import shutil
import sys

import pytest

import thrifty
from thrifty.cli import main
from thrifty.zoo.folder import Folder

RECIPE = """
zoo:
  net: zoo_cnn_s?width=0.25
  data: digits?train=60&test=30
  grid: {act: [tanh, relu]}
  seeds: 3
  stack: 3
  train: {epochs: 2}
  checkpoints: 2
  published: {accuracy: 0.911, source: a paper}
"""


@pytest.fixture(scope="module")
def made(ended, tmp_path_factory):
    """A folder with a recipe, a zoo and its twins."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "r.yaml").write_text(RECIPE)
    trained = ["--out", folder / "zoo", "--workers", 1, "-q"]
    assert ended("zoo", "train", folder / "r.yaml", *trained) == 0
    more = ["--sparsity", ".5", ".9", "--epochs", 1, "--variational-epochs", 2, "-q"]
    assert ended("zoo", "twins", folder / "zoo", *more, "--out", folder / "twins") == 0
    return folder


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    """A copy of that folder, to be in."""
    shutil.copytree(made, tmp_path / "made")
    monkeypatch.chdir(tmp_path / "made")
    return tmp_path / "made"


def test_training_says_what_came_out_beside_what_was_published(ended, place, capsys):
    assert ended("zoo", "train", "r.yaml", "--out", "new", "-n", "2", "--workers", 1) == 0
    out, err = capsys.readouterr()
    assert "new: 2 models, 2 epochs" in out
    assert re.search(r"test accuracy \d+\.\d % \(\d+\.\d to \d+\.\d\)", out)
    assert "published: 91.1 % (a paper)" in out
    assert "1 of 1 stacks to do, 2 models, 2 epochs" in err
    assert re.search(r"100\.0 % +[\d.,]+ models x epochs a second, 0\.0 min left", err)


def test_a_zoo_that_is_done_is_read_and_grows(ended, place, capsys):
    assert ended("zoo", "train", "r.yaml", "--out", "new", "-n", "2", "-q", "--workers", 1) == 0
    assert ended("zoo", "train", "r.yaml", "--out", "new", "-q", "--workers", 1) == 0
    out, err = capsys.readouterr()
    assert "new: 6 models" in out
    assert err == ""
    assert len(thrifty.Zoo("new")) == 6


def test_overrides_reach_into_the_zoo_with_its_name_and_without(ended, place):
    said = ["train.epochs=1", "zoo.seeds=1", "grid.lr=[1e-3, 1e-4]"]
    assert ended("zoo", "train", "r.yaml", *said, "--out", "new", "-q") == 0
    zoo = thrifty.Zoo("new")
    assert (len(zoo), zoo.epochs[-1]) == (4, 1)


def test_twins_say_what_each_method_came_to(ended, place, capsys):
    more = ["--epochs", 1, "--variational-epochs", 2, "--out", "twins"]
    assert ended("zoo", "twins", "zoo", "--sparsity", ".5", *more) == 0
    out, _ = capsys.readouterr()
    assert "twins: 18 twins" in out
    assert re.search(r"^magnitude at 0\.5: test accuracy .*; sparsity 49\.6 %", out, re.M)
    assert re.search(r"^variational: test accuracy .*; sparsity ", out, re.M)


def test_a_zoo_and_its_twins_that_were_moved_are_gone_on_with(ended, place):
    more = ["--epochs", 1, "--variational-epochs", 2, "--out", "twins", "-q"]
    assert ended("zoo", "twins", "zoo", "--sparsity", ".8", *more) == 0
    assert len(thrifty.Zoo("twins").where("method == 'magnitude'")) == 18


def test_a_recipe_of_a_zoo_is_validated_and_run_like_any_other(place, capsys):
    main(["validate", "r.yaml"])
    text, _ = capsys.readouterr()
    (place / "full.yaml").write_text(text)
    main(["run", "full.yaml", "--out", "zoo", "-q"])  # the same recipe: nothing is left to do
    assert "zoo: 6 models" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["zoo-digits", "mnist-seed", "mnist-hyp", "fashion-seed"])
def test_a_recipe_that_comes_along_is_good(name, capsys):
    main(["validate", name])
    assert "good recipe" in capsys.readouterr().err


def test_mnist_hyp_is_the_published_grid():
    from thrifty.lab.recipe import values_of
    from thrifty.zoos import zoo_recipe_of

    values, where = values_of("mnist-hyp", [])
    assert zoo_recipe_of(values, where).models == 2560


def test_models_are_exported_one_by_one(ended, place, capsys):
    assert ended("zoo", "export", "zoo", "--out", "models") == 0
    assert len(list((place / "models").glob("*.safetensors"))) == 6
    assert "6 models exported" in capsys.readouterr().out
    thrifty.load(place / "models" / "00003.safetensors")


def test_twins_of_the_first_models_only_are_made(ended, place, capsys):
    assert ended("zoo", "twins", "zoo", "--method", "magnitude", "--sparsity", ".5", "--epochs", 1,
                 "-n", 2, "--out", "few", "-q") == 0  # fmt: skip
    assert "few: 2 twins" in capsys.readouterr().out


def test_a_zoo_is_joined_into_few_files(ended, place, capsys):
    assert ended("zoo", "join", "zoo", "--out", "joined") == 0
    assert "joined: 6 models, 4 shards" in capsys.readouterr().out
    assert ended("zoo", "train", "r.yaml", "--out", "joined", "-q") != 0
    assert "was joined from another zoo" in capsys.readouterr().err


def test_a_report_is_written(ended, place, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "altair", None)
    assert ended("zoo", "report", "zoo", "twins", "--out", "both") == 0
    assert "report.html" in capsys.readouterr().out
    assert (place / "both" / "report.html").is_file()


WRONG = {
    "no recipe": (["train", "nosuch"], "no such file, nor a recipe of that name"),
    "no zoo": (["train", "demo"], "demo is no recipe of a zoo; such a recipe has a table zoo"),
    "keys": (
        ["train", "r.yaml", "gird.act=tanh", "train.epoch=3", "seeds=0"],
        r"(?s)seeds.*train\.epoch.*did you mean epochs\?.*gird.*did you mean grid\?",
    ),
    "executor": (["train", "r.yaml", "--executor", "thread"], "did you mean threads?"),
    "zero models": (["train", "r.yaml", "-n", "0"], "a zoo of 0 models is asked for"),
    "half a model": (["train", "r.yaml", "-n", "1.5"], "1.5"),
    "no workers": (["train", "r.yaml", "--workers", "0"], "0 workers are asked for"),
    "other recipe": (["train", "r.yaml", "seeds=9", "--out", "zoo"], "holds another zoo"),
    "strange folder": (["train", "r.yaml", "--out", "."], r"is no zoo; give --out a new"),
    "a file": (["train", "r.yaml", "--out", "r.yaml"], "r.yaml is a file"),
    "data": (["train", "r.yaml", "--data", "nosuch", "--out", "new"], "no data set is called"),
    "net": (["train", "r.yaml", "net=nosuch", "--out", "new"], "no network is called"),
    "method": (["twins", "zoo", "--method", "magnitud"], r"did you mean magnitude\?"),
    "preset": (["twins", "zoo", "--preset", "zooo"], "'zooo' was given"),
    "allocation": (["twins", "zoo", "--allocation", "lampp"], r"did you mean lamp\?"),
    "percent": (["twins", "zoo", "--sparsity", "90"], "90 % is written 0.9"),
    "twins of nothing": (["twins", "nosuch"], "nosuch is no zoo: there is no such folder"),
    "twins of a run": (["twins", "."], "is no zoo: it has no zoo.json"),
    "twins of twins": (["twins", "twins", "--out", "new"], "twins is a zoo of twins"),
    "twins in the zoo": (["twins", "zoo", "--out", "zoo"], "kind is models there and twins here"),
    "report": (["report", "zoo", "nosuch"], "nosuch is no zoo"),
    "export": (["export", "zoo", "--epoch", "7"], "no model has a checkpoint of epoch 7"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_told_and_nothing_is_made(ended, name, place, capsys):
    arguments, message = WRONG[name]
    before = sorted(p.name for p in place.iterdir())
    assert ended("zoo", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("thrifty: ")
    assert re.search(message, err), err
    assert sorted(p.name for p in place.iterdir()) == before


def test_ray_that_is_not_installed_is_told(ended, place, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert ended("zoo", "train", "r.yaml", "--out", "new", "--executor", "ray") == 2
    assert "pip install 'thrifty[ray]'" in capsys.readouterr().err
    assert not (place / "new").exists()


def test_a_zoo_in_use_is_told(ended, place, capsys):
    with Folder(place / "zoo").lock():
        assert ended("zoo", "train", "r.yaml", "--out", "zoo") == 2
    assert "zoo is in use by process" in capsys.readouterr().err


def test_models_that_diverged_are_counted(ended, place, capsys):
    said = ["grid.optimizer=sgd", "grid.act=relu", "grid.lr=[.01, 1e20]", "seeds=2"]
    assert ended("zoo", "train", "r.yaml", *said, "--out", "new", "-q") == 0
    assert "2 models diverged; they are flagged in the index" in capsys.readouterr().out
