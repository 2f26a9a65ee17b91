"""The report of a zoo and its twins: pictures, table and sentences, of any population."""

import csv
import json
import math
import re
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from functools import cache

import numpy as np
import pytest

from thrifty.errors import MissingExtra, UserError
from thrifty.report.zoo_charts import ZOO_REPORTS
from thrifty.report.zoo_marks import picked, spread_text
from thrifty.report.zoo_page import charts_of, published, write_study, write_zoo_report
from thrifty.report.zoo_table import latex, level_rows
from thrifty.report.zoo_words import ahead, twin_sentences, zoo_sentences
from thrifty.zoo.comparing import compare
from thrifty.zoo.folder import Folder
from thrifty.zoo.index import write_rows
from thrifty.zoo.statistics import quartiles
from thrifty.zoo.zoo import Zoo

NAN = math.nan
MAGNITUDE = {0.1: 0.912, 0.5: 0.911, 0.8: 0.868, 0.9: 0.75, 0.95: 0.45}
VARIATIONAL = {0: (0.0, 0.911), 2: (0.26, 0.912), 4: (0.51, 0.905), 9: (0.65, 0.887)}
VARIATIONAL |= {25: (0.785, 0.875), 40: (0.92, 0.85)}
LAYERS = {"conv1.weight": 200, "conv2.weight": 1200, "fc1.weight": 720}


def original(models=30, epochs=(0, 1, 2), seed=0, **more):
    """A zoo about as accurate as the published one."""
    random = np.random.default_rng(seed)
    final = 0.911 + 0.009 * random.standard_normal(models)
    shares = np.linspace(0.3, 1, len(epochs))
    accuracy = np.concatenate([share * final for share in shares])
    columns = {
        "model": np.tile(np.arange(models), len(epochs)),
        "epoch": np.repeat(epochs, models),
        "test_accuracy": accuracy,
        "train_accuracy": accuracy + 0.006,
    }
    return columns | {name: np.tile(values, len(epochs)) for name, values in more.items()}


def twins(zoo, magnitude=MAGNITUDE, variational=VARIATIONAL, seed=1, layers=True):
    """Twins of all of its models, with the medians given."""
    random = np.random.default_rng(seed)
    models = int(zoo["model"].max()) + 1
    before = zoo["test_accuracy"][-models:]
    levels = [("magnitude", s, 15, s, a) for s, a in magnitude.items()]
    levels += [("variational", NAN, e, s, a) for e, (s, a) in variational.items()]
    rows = []
    for method, asked, epoch, sparsity, median in levels:
        noise = (before - 0.911) * (1 - (sparsity if math.isfinite(asked) else 0.2))
        accuracy = median + noise + 0.003 * random.standard_normal(models)
        for model in range(models):
            zeros = min(max(sparsity + 0.01 * random.standard_normal(), 0), 1)
            zeros = sparsity if math.isfinite(asked) else zeros
            kept = {n: [round(size * (1 - zeros)), size] for n, size in LAYERS.items()}
            low, high = max(0, before[model] + accuracy[model] - 1), 1
            rows.append(
                {
                    "model": model,
                    "method": method,
                    "asked": asked,
                    "epoch": epoch,
                    "sparsity": zeros,
                    "test_accuracy": accuracy[model],
                    "train_accuracy": accuracy[model] - 0.02,
                    "agreement": (low + high) / 2,
                    "layers": json.dumps(kept),
                }
            )
    names = [name for name in rows[0] if layers or name != "layers"]
    return {name: np.array([row[name] for row in rows]) for name in names}


def study(**changes):
    zoo = original()
    return compare(zoo, twins(zoo, **changes), classes=10, name="mnist")


def one(method, asked, epoch, sparsity, accuracy, **more):
    columns = {"model": 0, "method": method, "asked": asked, "epoch": epoch}
    columns |= {"sparsity": sparsity, "test_accuracy": accuracy} | more
    return {name: np.array([value]) for name, value in columns.items()}


ZOO = original()
CASES = {
    "as published": study(),
    "magnitude only": study(variational={}),
    "variational only": study(magnitude={}),
    "one epoch": study(variational={25: (0.785, 0.875)}),
    "without layers": study(layers=False),
    "one model": compare(original(models=1), one("magnitude", 0.5, 3, 0.5, 0.9), classes=10),
    "nothing but what is needed": compare(
        {k: v[:30] for k, v in ZOO.items() if k != "train_accuracy"},
        one("variational", NAN, 3, 0.5, 0.9),
        classes=None,
    ),
    "all collapsed": study(magnitude={0.9: 0.1, 0.95: 0.1}, variational={1: (0.9, 0.1)}),
    "all diverged": compare(ZOO, one("magnitude", 0.5, 3, 0.5, 0.9, diverged=True), classes=10),
    "no value at all": compare(ZOO, one("magnitude", 0.5, 3, NAN, NAN, layers="{}"), classes=10),
    "a zoo alone": compare(ZOO, None, classes=10),
    "a diverged zoo": compare(ZOO | {"test_accuracy": np.full(90, NAN)}, None, classes=10),
    "hyper-parameters": compare(
        original(act=np.array(["tanh", "relu"] * 15, object), lr=np.array([1e-3, 1e-4, 1e-2] * 10)),
        None,
        classes=10,
    ),
}


@cache
def drawn(name):
    return charts_of(CASES[name])


@pytest.fixture
def no_charts(monkeypatch):
    """As if the extra were not installed: what is drawn is not what is tested."""
    monkeypatch.setitem(sys.modules, "altair", None)


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_chart_draws_whatever_the_population(name):
    for chart in drawn(name).values():
        ElementTree.fromstring(chart.svg)


@pytest.mark.parametrize("name", sorted(CASES))
def test_sentences_and_tables_hold_no_nan(name):
    case = CASES[name]
    said = [*zoo_sentences(case), *(twin_sentences(case) if case.levels else ())]
    said.append(latex(case) if case.levels else "")
    assert not re.search(r"\b(nan|inf|None)\b", " ".join(said))
    json.dumps(level_rows(case, every_epoch=True), allow_nan=False)


def test_charts_are_those_that_have_something_to_show():
    both = {"twins", "twins-epochs", "twins-layers", "twins-agreement", "twins-scatter"}
    assert set(drawn("as published")) == {
        *both, "twins-robustness", "zoo", "zoo-learning",
    }  # fmt: skip
    assert set(drawn("a zoo alone")) == {"zoo", "zoo-learning"}
    assert "zoo-hyper" in drawn("hyper-parameters")
    assert "twins-epochs" not in drawn("magnitude only")
    assert "twins-layers" not in drawn("without layers")


def test_every_chart_says_what_it_shows():
    for name in ZOO_REPORTS.names():
        assert ZOO_REPORTS.summary(name).endswith(".")


def test_the_overtaking_sparsity_is_told_and_drawn():
    case = CASES["as published"]
    at = case.overtaking("magnitude", "variational")
    assert 0.6 < at < 0.8
    said = twin_sentences(case)[0]
    assert said.startswith(f"Variational overtakes magnitude at a sparsity of {100 * at:.1f} %")
    picture = drawn("as published")["twins"].svg
    assert f"variational ahead from {100 * at:.1f} % on" in picture


def test_a_method_that_stays_behind_or_ahead_is_told_so():
    behind = study(variational={1: (0.3, 0.8), 2: (0.7, 0.8)})
    assert "does not overtake magnitude" in ahead(behind, "magnitude", "variational")
    first = study(variational={1: (0.3, 0.99), 2: (0.7, 0.99)})
    assert "ahead of magnitude at every sparsity" in ahead(first, "magnitude", "variational")
    apart = study(variational={1: (0.97, 0.9)})
    assert ahead(apart, "magnitude", "variational") == ""


def test_the_layer_in_which_methods_differ_is_named():
    zoo = original()
    columns = twins(zoo, magnitude={0.8: 0.87}, variational={25: (0.8, 0.87)})
    texts = columns["layers"].tolist()
    free = columns["method"] == "variational"
    other = {"conv1.weight": [180, 200], "conv2.weight": [240, 1200], "fc1.weight": [144, 720]}
    columns["layers"] = np.array(
        [json.dumps(other) if f else t for f, t in zip(free, texts, strict=True)]
    )
    said = " ".join(twin_sentences(compare(zoo, columns, classes=10)))
    assert "differ most in conv1: 80.0 % of its weights are zero with magnitude at 80.0 %" in said
    assert "10.0 % with variational" in said


def test_models_that_failed_or_lag_are_counted():
    zoo = original()
    zoo["test_accuracy"][-2:] = [0.1, NAN]
    said = " ".join(zoo_sentences(compare(zoo, None, classes=10)))
    assert "Of 30, 1 diverged and 1 is hardly better than guessing." in said
    late = {name: values[:-3] for name, values in original().items()}
    said = " ".join(zoo_sentences(compare(late, None, classes=10)))
    assert "3 of 30 models are not yet at epoch 2." in said


def test_the_folder_holds_page_pictures_and_table(tmp_path):
    found = write_study(CASES["as published"], tmp_path / "out")
    assert {p.name for p in found} == {p.name for p in (tmp_path / "out").iterdir()}
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "Sparse twins of mnist" in page
    assert "http-equiv" in page
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=\"http", page)
    with (tmp_path / "out" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    told = json.loads((tmp_path / "out" / "table.json").read_text())
    assert len(rows) == len(told["levels"]) == 1 + len(MAGNITUDE) + len(VARIATIONAL)
    assert [r["method"] for r in rows[:2]] == ["originals", "magnitude"]
    assert float(rows[-1]["accuracy"]) == told["levels"][-1]["accuracy"]
    pair = {"of": "magnitude", "by": "variational"}
    assert any(pair.items() <= row.items() and row["sparsity"] for row in told["overtaking"])


def test_the_table_of_a_paper_has_a_line_a_level_and_as_many_cells_as_columns():
    text = latex(CASES["as published"])
    body = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert len(body) == 1 + 1 + len(MAGNITUDE) + 1
    assert {line.count("&") for line in body} == {9}
    assert text.count("{") == text.count("}")


def test_one_format_alone_can_be_had_and_another_is_refused(tmp_path):
    found = write_study(CASES["a zoo alone"], tmp_path, formats=["svg"])
    assert {p.suffix for p in found} == {".svg", ".csv", ".json"}
    with pytest.raises(UserError, match="no report format is called 'pdf'"):
        write_study(CASES["a zoo alone"], tmp_path, formats=["pdf"])


@pytest.mark.usefixtures("no_charts")
def test_without_the_extra_the_page_and_the_table_are_written_without_charts(tmp_path):
    found = write_study(CASES["as published"], tmp_path)
    assert [p.name for p in found] == ["report.html", "table.csv", "table.json", "table.tex"]
    assert "pip install" in found[0].read_text("utf-8")
    with pytest.raises(MissingExtra):
        write_study(CASES["as published"], tmp_path, formats=["png"])


def test_quartiles_that_are_one_are_told_once():
    assert spread_text(quartiles([0.8, 0.8, 0.8])) == "80.0"
    assert spread_text(quartiles([0.1, 0.2, 0.3])) == "20.0 (15.0 to 25.0)"
    assert spread_text(quartiles([])) == "-"


def test_picked_numbers_are_even_and_hold_both_ends():
    assert picked(1000, 5) == [0, 250, 500, 749, 999]
    assert picked(0, 5) == []
    assert picked(9, 1) == [0]


def on_disk(root, columns, kind, stack="a", classes=(10,), recipe="net: zoo_cnn_s\n"):
    """A zoo's folder of those rows, without weights."""
    mark = {"kind": kind, "recipe": "r", "data": "d"}
    mark["networks"] = [{"spec": "zoo_cnn_s", "shape": [1, 28, 28], "classes": c} for c in classes]
    folder = Folder(root)
    folder.prepare(mark, recipe)
    asked = columns.get("asked", columns["epoch"])
    keys = [(str(a), e) for a, e in zip(asked, columns["epoch"], strict=True)]
    for number, key in enumerate(dict.fromkeys(keys)):
        at = np.array([k == key for k in keys])
        own = {name: values[at].tolist() for name, values in columns.items() if name != "epoch"}
        write_rows(root, f"{stack}{number}", int(key[1]), own)
    return folder


@pytest.fixture
def pair_on_disk(tmp_path):
    zoo = original(models=6)
    zoo_folder = on_disk(tmp_path / "zoo", zoo, "models")
    twin_folder = on_disk(tmp_path / "twins", twins(zoo, magnitude={0.5: 0.9}), "twins", "t")
    random = np.random.default_rng(0)
    answers = random.integers(0, 10, (6, 50)).astype(np.uint8)
    for folder, stack, epoch in ((zoo_folder, "a2", 2), (twin_folder, "t0", 15)):
        path = folder.predictions(stack, epoch)
        path.parent.mkdir()
        np.save(path, answers)
    return tmp_path / "zoo", tmp_path / "twins", twin_folder.predictions("t0", 15)


@pytest.mark.usefixtures("no_charts")
def test_zoos_on_disk_are_reported_with_their_stored_predictions(pair_on_disk, tmp_path):
    zoo, twin, _ = pair_on_disk
    write_zoo_report(Zoo(zoo), [Zoo(twin)], tmp_path / "out")
    told = json.loads((tmp_path / "out" / "table.json").read_text())["levels"]
    by_level = {(row["method"], row["asked"], row["epoch"]): row for row in told}
    assert by_level["magnitude", 0.5, 15]["kappa"] == 1
    assert by_level["variational", None, 40]["kappa"] is None
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "zoo_cnn_s" in page
    assert "Not read" not in page


@pytest.mark.usefixtures("no_charts")
@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00v\x00{'descr': '|O'}", b"\x80\x04K\x01."]
)
def test_damaged_predictions_are_named_and_the_rest_is_reported(pair_on_disk, tmp_path, content):
    zoo, twin, path = pair_on_disk
    path.write_bytes(content)
    write_zoo_report(Zoo(zoo), [Zoo(twin)], tmp_path / "out", formats=["html"])
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "Not read" in page
    assert path.name in page


@pytest.mark.usefixtures("no_charts")
@pytest.mark.parametrize("table", [np.zeros((2, 50), "u1"), np.zeros((6, 0), "u1")])
def test_predictions_of_too_few_models_or_inputs_are_left_out(pair_on_disk, tmp_path, table):
    zoo, twin, path = pair_on_disk
    np.save(path, table)
    write_zoo_report(Zoo(zoo), [Zoo(twin)], tmp_path / "out", formats=["html"])
    told = json.loads((tmp_path / "out" / "table.json").read_text())["levels"]
    assert all(row.get("kappa") is None for row in told)


@pytest.mark.usefixtures("no_charts")
def test_twins_in_several_folders_are_reported_together(pair_on_disk, tmp_path):
    zoo, twin, _ = pair_on_disk
    originals = original(models=6)
    on_disk(tmp_path / "low", twins(originals, magnitude={0.8: 0.7}), "twins", "t")
    other = twins(originals, magnitude={0.5: 0.4}, variational={})
    on_disk(tmp_path / "only", other | {"method": np.full(6, "random")}, "twins", "t")
    folders = [Zoo(twin), Zoo(tmp_path / "low"), Zoo(tmp_path / "only")]
    write_zoo_report(Zoo(zoo), folders, tmp_path / "out", formats=["html"])
    told = json.loads((tmp_path / "out" / "table.json").read_text())["levels"]
    levels = {(row["method"], row["asked"]) for row in told}
    assert {("magnitude (twins)", 0.5), ("magnitude (low)", 0.8), ("random", 0.5)} <= levels
    assert {method for method, _ in levels} >= {"variational (twins)", "variational (low)"}


def test_zoos_in_the_wrong_order_are_refused(pair_on_disk, tmp_path):
    zoo, twin, _ = pair_on_disk
    with pytest.raises(UserError, match="is a zoo of twins, and a zoo of models is wanted"):
        write_zoo_report(Zoo(twin), [Zoo(zoo)], tmp_path / "out")


def test_twins_of_another_recipe_are_refused_though_their_numbers_fit(pair_on_disk, tmp_path):
    zoo, twin, _ = pair_on_disk
    mark = json.loads((twin / "zoo.json").read_text())
    for made_by, right in (("r", True), ("another", False)):
        mark["parent"] = {"path": "somewhere", "recipe": made_by}
        (twin / "zoo.json").write_text(json.dumps(mark))
        if right:
            write_zoo_report(Zoo(zoo), [Zoo(twin)], tmp_path / "out", formats=[])
        else:
            with pytest.raises(UserError, match=r"twins of another zoo .* recipe another"):
                write_zoo_report(Zoo(zoo), [Zoo(twin)], tmp_path / "out", formats=[])


def test_a_zoo_without_rows_is_refused(tmp_path):
    Folder(tmp_path / "zoo").prepare({"kind": "models", "networks": []})
    with pytest.raises(UserError, match="the zoo has no model yet"):
        write_zoo_report(Zoo(tmp_path / "zoo"), [], tmp_path / "out")


def test_twins_whose_index_came_without_its_rows_are_refused_for_that(pair_on_disk, tmp_path):
    zoo, twin, _ = pair_on_disk
    shutil.rmtree(twin / "rows")
    (twin / "index.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="no model of .*twins can be read.*copy that folder too"):
        write_zoo_report(Zoo(zoo), [Zoo(twin)], tmp_path / "out")


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("published: {accuracy: 0.911, models: 1000, source: A}", True),
        ("published: {accuracy: 91}", False),
        ("published: [", False),
        ("published: null", False),
        ("[]", False),
    ],
)
def test_what_a_paper_says_of_the_zoo_stands_on_the_page(tmp_path, recipe, said):
    on_disk(tmp_path / "zoo", original(models=3), "models", recipe=recipe)
    sentence = ["Published (A): a test accuracy of 91.1\u00a0% of 1,000 models."]
    assert published(Zoo(tmp_path / "zoo")) == (sentence if said else [])


@pytest.mark.usefixtures("no_charts")
def test_networks_of_several_numbers_of_classes_have_no_chance(tmp_path):
    on_disk(tmp_path / "zoo", original(models=3), "models", classes=(10, 100))
    write_zoo_report(Zoo(tmp_path / "zoo"), [], tmp_path / "out", formats=["html"])
    assert (tmp_path / "out" / "report.html").exists()
