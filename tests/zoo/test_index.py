"""The index: rows a segment, and a cache of all of them that may be wrong or missing."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import thrifty
from thrifty.errors import MissingExtra, UserError
from thrifty.zoo.folder import Folder, segment
from thrifty.zoo.index import read_index, read_rows, rebuild, write_rows
from thrifty.zoo.table import Table, column_of, joined

needs_pyarrow = pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None, reason="pyarrow is not installed"
)


def rows_of(table):
    """Rows as texts, so that NaN equals NaN."""
    return [repr(row) for row in table.to_rows()]


def test_rows_come_back_as_they_were_given(tmp_path):
    columns = {
        "model": np.array([7, 9]),
        "act": ["tanh", "relu"],
        "lr": np.array([1e-4, 3e-4], np.float32),
        "seed": np.array([1, (1 << 64) - 1], np.uint64),
        "diverged": np.array([True, False]),
        "train_loss": [float("inf"), 0.5],
        "asked": float("nan"),
        "batch": 10,
        "layers": [{"conv1": [1, 2]}, {"conv1": [2, 2]}],
    }
    table = read_rows(write_rows(tmp_path, "0003", 7, columns))
    first, second = table.to_rows()
    assert (first["stack"], first["shard"]) == ("0003", "0003-0007.safetensors")
    assert [first[k] for k in ("model", "row", "epoch")] == [7, 0, 7]
    assert [second[k] for k in ("model", "row", "act", "lr", "batch")] == [9, 1, "relu", 3e-4, 10]
    assert second["seed"] == (1 << 64) - 1 and table["seed"].dtype == np.uint64
    assert np.isnan(table["asked"]).all() and np.isnan(first["train_loss"])
    assert table["diverged"].tolist() == [True, False]
    assert json.loads(second["layers"]) == {"conv1": [2, 2]}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "0 models"),
        ({"model": [1, 2], "act": ["a"]}, "act has 1 values for 2 models"),
        ({"model": [1], "act": [["a"]]}, "list values"),
        ({"model": [1, 2], "act": ["a", 3]}, "of one kind"),
        ({"model": [1], "seed": [1 << 70]}, "more than 64 bits"),
        ({"model": range(20000)}, "20,000 models"),
    ],
)
def test_what_is_no_column_is_not_written(tmp_path, columns, message):
    with pytest.raises(UserError, match=message):
        write_rows(tmp_path, "a", 1, columns)
    assert not (tmp_path / "rows").exists()


def test_the_name_of_a_stack_is_that_of_a_plain_file():
    assert segment("0003-magnitude-0.8", 50) == "0003-magnitude-0.8-0050"
    for name in ("", "../up", "a/b", ".hidden", "a" * 101, "a b", None):
        with pytest.raises(UserError, match="its name is made of letters"):
            segment(name, 1)
    for epoch in (-1, 1.0, True, 10**9):
        with pytest.raises(UserError, match="a whole number from 0"):
            segment("a", epoch)


@needs_pyarrow
def test_the_cache_says_what_the_rows_say(root):
    before, _ = read_index(root)
    assert rebuild(root) == root / "index.parquet"
    after, problems = read_index(root)
    assert rows_of(after) == rows_of(before) and problems == []
    assert [after[c].dtype for c in after.columns] == [before[c].dtype for c in before.columns]


@needs_pyarrow
def test_the_cache_is_used_and_new_rows_are_added(root, segment):
    rebuild(root)
    segment(root, "0000", 3, [0, 1, 2])
    first = root / "rows" / "0000-0001.json"
    assert len(thrifty.Zoo(root).index) == 15
    # What the cache holds is not read again: a file of the same size and time is taken as it was.
    about = first.stat()
    first.write_text(first.read_text().replace("0.501", "0.601"))
    os.utime(first, ns=(about.st_atime_ns, about.st_mtime_ns))
    zoo = thrifty.Zoo(root)
    assert zoo.at(1)["test_accuracy"][0] == 0.501
    assert any("index.parquet disagrees" in problem for problem in zoo.check())
    os.utime(first)
    assert thrifty.Zoo(root).at(1)["test_accuracy"][0] == 0.601


def test_a_copied_zoo_has_its_cache_still(root, tmp_path):
    rebuild(root)
    shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)
    copy = thrifty.Zoo(tmp_path / "copy")
    assert len(copy) == 6 and copy.check() == []


def test_a_cache_of_rows_that_are_gone_is_not_believed(root):
    rebuild(root)
    (root / "rows" / "0001-0002.json").unlink()
    assert len(thrifty.Zoo(root).index) == 9


@needs_pyarrow
def test_an_index_without_its_rows_is_told_of(root):
    rebuild(root)
    shutil.rmtree(root / "rows")
    zoo = thrifty.Zoo(root)
    assert len(zoo.index) == 0
    (problem,) = zoo.unread
    assert "index.parquet" in problem and "copy that folder too" in problem


@needs_pyarrow
@given(st.data())
@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60
)
def test_a_damaged_cache_is_read_past(root, data):
    whole = rebuild(root).read_bytes()
    content = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    if content:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    (root / "index.parquet").write_bytes(content)
    zoo = thrifty.Zoo(root)
    assert len(zoo) == 6


def test_without_pyarrow_the_rows_are_enough(root, monkeypatch):
    rebuild(root)
    for name in ("pyarrow", "pyarrow.parquet", "pandas", "polars"):
        monkeypatch.setitem(sys.modules, name, None)
    (root / "index.parquet").unlink(missing_ok=True)
    assert rebuild(root) is None
    zoo = thrifty.Zoo(root)
    assert len(zoo) == 6 and len(zoo.where("act == 'relu'")) == 3
    with pytest.raises(MissingExtra, match=r"pip install 'thrifty\[data\]'"):
        zoo.index.to_pandas()
    with pytest.raises(UserError, match="pip install polars"):
        zoo.index.to_polars()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(format=2), "upgrade thrifty"),
        (lambda s: s["columns"].pop("model"), "columns and their kinds disagree"),
        (lambda s: (s["columns"].pop("row"), s["kinds"].pop("row")), "has no row"),
        (lambda s: s["columns"]["row"].__setitem__(0, 1), "a row of its shard twice"),
        (lambda s: s["columns"]["row"].__setitem__(0, 50000), "that no shard has"),
        (lambda s: s["columns"]["model"].__setitem__(0, 1), "a model twice"),
        (lambda s: s["columns"]["model"].__setitem__(0, -1), "a negative number"),
        (lambda s: s["columns"]["model"].__setitem__(0, "x"), "of one kind"),
        (lambda s: s["columns"]["model"].__setitem__(0, 1 << 70), "more than 64 bits"),
        (lambda s: s["columns"]["shard"].__setitem__(0, "../../etc/passwd"), "another segment"),
        (lambda s: s["columns"]["stack"].__setitem__(0, "../x"), "another segment"),
        (lambda s: s.update(stack="../x"), "its name is made of letters"),
        (lambda s: s.update(epoch="x"), "a whole number"),
        (lambda s: s["columns"].update(act=3), "no list"),
        (lambda s: s["columns"].update(act=["a"]), "of one length"),
        (lambda s: s["columns"].update(act=["a"] * 20000), "at most 16,384"),
        (lambda s: s["kinds"].update(act="int"), "is text and said to be 'int'"),
    ],
)
def test_rows_that_lie_are_left_out_and_told_of(root, change, message):
    path = root / "rows" / "0000-0002.json"
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(said))
    with pytest.raises(UserError, match=message):
        read_rows(path)
    zoo = thrifty.Zoo(root)
    assert len(zoo) == 6 and zoo[0].epochs == (1,) and zoo[3].epochs == (1, 2)
    assert len(zoo.check()) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_rows_that_are_no_rows_are_left_out_and_told_of(root, content):
    (root / "rows" / "0000-0002.json").write_bytes(content)
    zoo = thrifty.Zoo(root)
    assert len(zoo.index) == 9
    (problem,) = zoo.check()
    assert "0000-0002.json" in problem


def test_rows_of_another_kind_of_column_are_left_out_and_told_of(root, segment):
    segment(root, "0002", 2, [6], lr="much")
    zoo = thrifty.Zoo(root)
    assert len(zoo) == 6
    assert any("lr is text there and not in the rows before" in text for text in zoo.check())


@given(st.data())
@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100
)
def test_damaged_rows_are_read_or_told_of(root, data):
    path = root / "rows" / "0000-0002.json"
    write_rows(root, "0000", 2, {"model": [0, 1, 2], "act": "tanh", "lr": 0.5})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.sampled_from(b'0123456789-.eE{}[],:"anul \\'))
    path.write_bytes(content)
    zoo = thrifty.Zoo(root)
    assert len(zoo.index) >= 9 and (len(zoo.index) == 12 or zoo.unread)


def test_a_zoo_can_be_read_at_every_moment_of_its_writing(root):
    """A process writes segments and the cache; every zoo that is opened meanwhile is whole."""
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from conftest import write_segment
from thrifty.zoo.folder import Folder
from thrifty.zoo.index import rebuild
print("ready", flush=True)
with Folder({str(root)!r}).lock():
    for epoch in range(3, 15):
        write_segment({str(root)!r}, "0000", epoch, [0, 1, 2])
        write_segment({str(root)!r}, "0001", epoch, [3, 4, 5])
        rebuild({str(root)!r})
"""
    seen = set()
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "ready\n"
        while writer.poll() is None:
            zoo = thrifty.Zoo(root)
            assert zoo.unread == [] and len(zoo) == 6
            last = [member.epochs[-1] for member in zoo]
            first = zoo.weights("conv1.bias")[:, 0]
            assert first.tolist() == pytest.approx([m + e / 10 for m, e in enumerate(last)])
            seen.add(last[0])
    assert writer.returncode == 0
    assert thrifty.Zoo(root).epochs[-1] == 14 and len(seen) > 1


def test_tables_of_other_columns_are_joined_with_nothing_in_between():
    a = Table({"model": np.arange(2), "act": column_of(["x", "y"])})
    b = Table({"model": np.arange(1), "lr": np.array([0.1]), "off": np.array([True])})
    both = joined([a, b])
    assert both["act"].tolist() == ["x", "y", ""]
    assert np.isnan(both["lr"][:2]).all() and both["off"].tolist() == [False, False, True]
    with pytest.raises(UserError, match="text in some rows"):
        joined([a, Table({"act": np.arange(2)})])


def test_a_column_of_numbers_takes_none_for_nan_and_text_for_empty():
    assert np.isnan(column_of([1, None])).tolist() == [False, True]
    assert column_of(["a", None]).tolist() == ["a", ""]


def test_a_folder_is_made_once_and_for_one_zoo(tmp_path):
    folder = Folder(tmp_path / "zoo")
    mark = {"kind": "models", "networks": [{"spec": "lenet", "shape": (1, 28, 28)}]}
    folder.prepare(mark, recipe="epochs: 3\n")
    folder.prepare(mark)
    assert folder.recipe.read_text() == "epochs: 3\n"
    with pytest.raises(UserError, match="holds another zoo: kind is models there and twins here"):
        folder.prepare(mark | {"kind": "twins"})
    with pytest.raises(UserError, match="kind is one of models, twins"):
        folder.prepare(mark | {"kind": "pictures"})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="holds thesis.tex and is no zoo"):
        Folder(tmp_path / "other").prepare(mark)
    with pytest.raises(UserError, match="is a file"):
        Folder(tmp_path / "other" / "thesis.tex").prepare(mark)


def test_one_process_writes_and_others_read(root):
    with Folder(root).lock():
        assert len(thrifty.Zoo(root)) == 6
        with pytest.raises(UserError, match="is in use by process"), Folder(root).lock():
            pass
