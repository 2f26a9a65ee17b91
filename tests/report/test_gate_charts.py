"""Gates and thresholds: read from run folders, kept apart by run, and drawn."""

import json
import math
import struct
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from thrifty import files
from thrifty.lab.combined import run_names
from thrifty.lab.front import Front
from thrifty.lab.gate_readings import Reading, natural
from thrifty.lab.store import Store, read_front
from thrifty.report import REPORTS
from thrifty.report.gate_maps import Grid, Ink, cell_rows, mark_rows, marks, short
from thrifty.report.gate_states import State, closed, states, what
from thrifty.report.page import default_charts, write_page
from thrifty.report.parts import pairs
from thrifty.report.render import Drawn
from thrifty.report.threshold_rows import curves, place_of_zero, size_ends
from thrifty.report.write import write_report

OPEN = {"blocks.0.h.weight": (0.4, 0.6), "blocks.1.h.weight": (0.2, 0.9, 0.5, 0.3)}
SHUT = {"blocks.0.h.weight": (0.3, 0.002), "blocks.1.h.weight": (1e-5, 2e-5, 0.0, 1e-4)}
THRESHOLDS = (0.0, 0.01, 0.1, 0.5)


@pytest.fixture
def some_run(tmp_path, some_record):
    """Writes a run folder: parents with gates, and networks cut at thresholds."""

    def write(
        name: str,
        parents: dict[str, Any],
        seeds: int = 1,
        layers: Any = None,
        model: str = "highway",
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        store, found = Store(folder), []
        common = {"model": model, "data": "digits"}
        files.write_json(store.about, common | {"conditions": {"threads": 1}})
        store.recipe.write_text("model: highway\n")
        for seed in range(seeds):
            for method, (gate, scores) in parents.items():
                key = f"{name}-{method}-{seed}"
                record = some_record(
                    **common, key=key, method=method, seed=seed, layers=layers or {}
                )
                found += [record] if method == "dense" else []
                step = store.step(f"seed{seed}-{method.replace(' ', '-')}", f"{len(found)}abcdefgh")
                step.folder.mkdir(parents=True)
                step.write(asdict(record))
                tensors = {k: np.array(v, np.float32) for k, v in scores.items()}
                if gate is not None:
                    metadata = {"gate": gate, "method": method, "seed": str(seed), "title": "t"}
                    save_file(tensors, step.folder / "gates.safetensors", metadata=metadata)
            found += [
                some_record(
                    **common, key=f"{name}-{seed}-{t}", method="highway", level=t, threshold=t,
                    seed=seed, accuracy=0.98 - 0.1 * t - 0.002 * seed, accuracy_cut=0.9 - t,
                    packed_bytes=int(9000 * (1 - t)) + 100 * seed, sparsity=t,
                    layers={"a.weight": [0 if t == 0.5 else 5, 10], "b.weight": [5, 10]},
                )
                for t in THRESHOLDS
            ]  # fmt: skip
        found = [r if r.packed_bytes else replace(r, packed_bytes=10_000) for r in found]
        store.write_records(found)
        return folder

    return write


@pytest.fixture
def trained(some_run) -> Path:
    """A run with a parent without the incentive and one with it, of two seeds."""
    return some_run("runs", BOTH, seeds=2)


BOTH = {
    "dense": ("highway?strength=0", OPEN),
    "highway gated": ("highway?strength=0.01", SHUT),
}


def words(chart: Any) -> str:
    return " ".join(ElementTree.fromstring(Drawn(chart).svg).itertext())


def found_in(spec: Any, key: str) -> list[Any]:
    """Every value of ``key`` anywhere in a specification."""
    if isinstance(spec, list):
        return [found for item in spec for found in found_in(item, key)]
    if not isinstance(spec, dict):
        return []
    own = [spec[key]] if key in spec else []
    return own + [found for item in spec.values() for found in found_in(item, key)]


def some_state(**values: Any) -> State:
    return State("a title", "about", {f"{k}.weight": tuple(v) for k, v in values.items()})


# Reading


def test_parents_are_read_with_gate_method_seed_and_strength(trained):
    readings = read_front(trained).readings
    assert [(r.method, r.seed, r.strength) for r in readings] == [
        ("dense", 0, 0.0), ("highway", 0, 0.01), ("dense", 1, 0.0), ("highway", 1, 0.01),
    ]  # fmt: skip
    assert {(r.run, r.model, r.data) for r in readings} == {("runs", "highway", "digits")}
    for name, values in SHUT.items():
        assert readings[1].values[name] == pytest.approx(values)


def test_a_gate_without_a_strength_said_has_its_own(some_run):
    (reading,) = read_front(some_run("a", {"dense": ("highway", OPEN)})).readings
    assert reading.strength == 0.01


def test_layers_come_in_the_order_of_the_network(some_run, some_record):
    scores = {f"blocks.{i}.h.weight": (0.5,) for i in (10, 9, 0, 2)}
    (reading,) = read_front(some_run("a", {"dense": ("highway", scores)})).readings
    assert list(reading.values) == [f"blocks.{i}.h.weight" for i in (0, 2, 9, 10)]
    named = dict.fromkeys(("stem.weight", "late.weight", "early.weight"), (0.5,))
    sizes = dict.fromkeys(named, [1, 1])
    where = some_run("b", {"dense": ("highway", named)}, layers=sizes)
    assert list(read_front(where).readings[0].values) == list(named)


@pytest.mark.parametrize(
    ("gate", "scores"),
    [
        ("bn_scale", OPEN),  # a channel's scale has no bounds, whatever its values
        ("variational", {"fc.weight": ((0.1, 0.2), (0.3, 0.4))}),
        ("highway", {"fc.weight": ((0.1, 0.2), (0.3, 0.4))}),
        ("gate_of_a_package_that_is_not_here", OPEN),
    ],
)
def test_what_is_no_channel_on_a_scale_of_0_to_1_is_passed_over(some_run, gate, scores):
    assert read_front(some_run("a", {"dense": (gate, scores)})).readings == ()


def test_files_of_before_there_was_metadata_are_passed_over(trained):
    for path in trained.glob("steps/*/gates.safetensors"):
        save_file({"a.weight": np.ones(3, np.float32)}, path)
    assert read_front(trained).readings == ()


def test_cut_networks_and_unfinished_steps_are_passed_over(trained):
    folders = sorted(p.parent for p in trained.glob("steps/*/gates.safetensors"))
    (folders[0] / "record.json").unlink()
    record = json.loads((folders[1] / "record.json").read_text())
    (folders[1] / "record.json").write_text(json.dumps(record | {"level": 0.5}))
    assert len(read_front(trained).readings) == 2


def test_a_dense_parent_of_an_earlier_recipe_is_passed_over(trained):
    store = Store(trained)
    others = [r for r in store.front().records if r.key != "runs-dense-1"]
    assert [r.seed for r in store.front_of(others).readings if r.method == "dense"] == [0]


def header(fields: dict[str, Any]) -> bytes:
    head = json.dumps(fields).encode()
    return struct.pack("<Q", len(head)) + head


def scores(values: Any, gate: str = "highway", dtype: Any = np.float32) -> bytes:
    return save({"a.weight": np.array(values, dtype)}, metadata={"gate": gate})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no whole safetensors file"),
        (scores([0.5])[:-1], "no whole safetensors file"),
        (struct.pack("<Q", 1 << 40), "no whole safetensors file"),
        (struct.pack("<Q", 1 << 21) + bytes(1 << 22), "longer than that of any"),
        (scores([0.5, 1.5]), "has the score 1.5, and this gate's are 0..1"),
        (scores([0.5, math.nan]), "has the score nan"),
        (scores([1], dtype=np.int64), "is of I64"),
        (scores([]), "scores of 0 channels"),
        (scores([0.5], gate="highway?strength"), "options that cannot be read"),
        (
            header(
                {
                    "__metadata__": {"gate": "highway"},
                    "a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]},
                }
            ),
            "no whole safetensors file",
        ),
    ],
)
def test_a_damaged_file_is_said_and_costs_no_other_picture(trained, content, said):
    path = sorted(trained.glob("steps/*-dense-*/gates.safetensors"))[0]
    path.write_bytes(content)
    front = read_front(trained)
    (problem,) = [r.problem for r in front.readings if r.problem]
    assert said in problem and f"remove {path.parent} and run again" in problem
    chart = words(REPORTS.get("gates")(front))
    assert f"cannot be read: runs/steps/{path.parent.name}." in chart
    assert "incentive 0.01" in chart


def test_the_page_says_what_to_do_about_a_damaged_file(trained, tmp_path):
    for path in trained.glob("steps/*/gates.safetensors"):
        path.write_bytes(b"no tensors")
    write_page(read_front(trained), tmp_path / "p.html", title="t", conditions={})
    text = (tmp_path / "p.html").read_text()
    assert text.count("and run again") == 4 and "and 3 more" in text


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.integers(0, 400), byte=st.integers(0, 255), end=st.integers(0, 400))
def test_whatever_is_in_a_file_it_is_read_or_said(trained, place, byte, end):
    path = sorted(trained.glob("steps/*-dense-*/gates.safetensors"))[0]
    whole = bytearray(scores([0.25, 0.5, 0.75]))
    whole[min(place, len(whole) - 1)] = byte
    path.write_bytes(bytes(whole[:end]))
    for reading in read_front(trained).readings:
        assert bool(reading.problem) != bool(reading.values)
        assert all(0 <= v <= 1 for values in reading.values.values() for v in values)


def test_names_with_numbers_sort_by_them():
    names = ["b.10.x", "b.9.x", "b.9", "b", "10"]
    assert sorted(names, key=natural) == ["10", "b", "b.9", "b.9.x", "b.10.x"]


# Several runs


def test_one_method_of_two_runs_is_kept_apart_by_the_runs(some_run):
    one, two = (some_run(name, BOTH) for name in ("one", "two"))
    front = read_front(one, two)
    assert {p.method for p in front.pruned} == {"highway (one)", "highway (two)"}
    assert all(p.seeds == 1 for p in front.pruned)
    assert {r.run for r in front.readings} == {"one", "two"} and len(front.readings) == 4


def test_runs_that_have_networks_without_and_with_an_incentive_keep_them_together(some_run):
    again = {
        name: (gate, {k: v[::-1] for k, v in scores.items()})
        for name, (gate, scores) in BOTH.items()
    }
    front = read_front(some_run("one", BOTH), some_run("two", again))
    found = [state.title for state in states(front)]
    assert found == [
        f"{run}: {how}" for run in ("one", "two") for how in ("without incentive", "incentive 0.01")
    ]
    text = words(REPORTS.get("gates")(front))
    assert text.index("one: incentive") < text.index("two: without")


def test_the_same_run_twice_is_one_run(trained):
    assert read_front(trained, trained) == replace(
        read_front(trained), where=f"{trained}, {trained}"
    )


def test_networks_of_two_folders_with_the_same_gates_stand_side_by_side(some_run):
    runs = [
        some_run(name, {"dense": BOTH[key]}, model=f"trained/{name}")
        for name, key in zip(("without", "with"), BOTH, strict=True)
    ]
    (part,) = pairs(read_front(*runs))
    assert part.records[0].model == "without + with"
    assert [s.title for s in states(part)] == ["without: without incentive", "with: incentive 0.01"]
    assert {p.method for p in part.pruned} == {"highway (without)", "highway (with)"}


def test_networks_with_other_gates_stay_apart(some_run):
    one = some_run("one", {"dense": ("highway", OPEN)}, model="trained/one")
    other = dict.fromkeys(OPEN, (0.5,) * 3)
    two = some_run("two", {"dense": ("highway", other)}, model="trained/two")
    assert len(pairs(read_front(one, two))) == 2


def test_runs_are_named_by_as_much_of_their_folders_as_tells_them_apart(tmp_path):
    folders = [tmp_path / "a" / "run", tmp_path / "b" / "run"]
    assert run_names(folders) == ["a/run", "b/run"]
    assert run_names([*folders[:1], folders[0]]) == ["run", "run"]


# Maps


def test_all_maps_of_all_runs_have_one_scale_of_colours(some_run):
    runs = [some_run(name, {"dense": BOTH[key]}) for name, key in zip("ab", BOTH, strict=True)]
    spec = REPORTS.get("gates")(read_front(*runs)).to_dict()
    colors = [c for c in found_in(spec, "color") if isinstance(c, dict) and c.get("field") == "t"]
    assert len(colors) == 4
    assert all(c["scale"] == colors[0]["scale"] for c in colors)
    assert colors[0]["scale"]["type"] == "log"


def test_networks_without_and_with_the_incentive_stand_side_by_side(trained):
    text = words(REPORTS.get("gates")(read_front(trained)))
    assert text.index("without incentive") < text.index("incentive 0.01")
    for said in ("2 seeds:", "seed 0: mean", "mean of the", "2 ch.", "4 ch.", "left of the line:"):
        assert said in text


def test_runs_are_named_above_their_maps(some_run):
    runs = [some_run(name, {"dense": BOTH["dense"]}, seeds=1) for name in ("one", "two")]
    second = runs[1] / next((runs[1] / "steps").iterdir()) / "gates.safetensors"
    other = {name: np.array(v, np.float32) / 2 for name, v in OPEN.items()}
    save_file(other, second, metadata={"gate": "highway?strength=0"})
    titles = [s.title for s in states(read_front(*runs))]
    assert titles == ["one: without incentive", "two: without incentive"]


def test_a_network_that_was_only_measured_again_is_shown_once(some_run):
    parents = {"dense": BOTH["dense"], "highway gated": ("highway?strength=0", OPEN)}
    assert len(states(read_front(some_run("a", parents)))) == 1


def test_equal_titles_are_told_apart_by_method_and_gate(some_run):
    parents = {"dense": ("highway?score=mean", OPEN), "highway gated": ("highway?score=q95", SHUT)}
    titles = [s.title for s in states(read_front(some_run("a", parents)))]
    assert titles == ["incentive 0.01, dense", "incentive 0.01, highway"]


def test_the_seed_whose_channels_are_drawn_can_be_chosen(trained):
    text = words(REPORTS.get("gates")(read_front(trained), seed=1))
    assert "seed 1: mean" in text and "seed 0: mean" not in text


def test_closed_blocks_are_said(trained):
    front = read_front(trained)
    assert [closed(s) for s in states(front)] == [[], ["blocks.1.h.weight"]]
    assert "incentive 0.01: 1 of 2 rows is closed" in words(REPORTS.get("gates")(front))


def test_the_legend_says_what_is_shown(some_run):
    told = [
        what(read_front(some_run(name, {"dense": (gate, OPEN)})))
        for name, gate in (("a", "highway"), ("b", "highway?score=q95"), ("c", "l0_channels"))
    ]
    assert told == ["mean of the gate T", "95 % quantile of T", "probability of an open gate"]


def test_small_scores_get_a_logarithmic_scale_and_large_ones_a_linear():
    assert Ink.of([some_state(a=(0.001, 0.002, 0.9))]).log
    assert not Ink.of([some_state(a=(0.1, 0.5, 0.9))]).log
    assert not Ink.of([]).log


def test_a_map_has_every_score_in_order_or_sorted():
    state = some_state(a=(0.2, 0.9, 0.5))
    plain, ordered = (cell_rows(state, Grid.of([state]), o)[0] for o in (False, True))
    assert plain["t"] == [0.2, 0.9, 0.5] and ordered["t"] == [0.9, 0.5, 0.2]
    assert ordered["channel"] == ["1", "2", "0"]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=400), st.booleans())
def test_a_row_of_many_channels_is_drawn_in_stretches_of_the_same_mean(values, ordered):
    state = some_state(a=values)
    (row,) = cell_rows(state, replace(Grid.of([state]), most=16), ordered)
    assert len(row["t"]) <= 16
    sizes = [min(row["step"], len(values) - i) for i in row["i"]]
    mean = sum(t * n for t, n in zip(row["t"], sizes, strict=True)) / sum(sizes)
    assert mean == pytest.approx(sum(values) / len(values), abs=1e-4)


def test_it_is_said_where_cells_are_means_of_channels(some_run):
    few = words(REPORTS.get("gates")(read_front(some_run("a", {"dense": ("highway", OPEN)}))))
    wide = {f"b.{i}.weight": np.full(900, 0.5) for i in range(20)}
    many = words(REPORTS.get("gates")(read_front(some_run("b", {"dense": ("highway", wide)}))))
    assert "means of neighbours" in many and "means of neighbours" not in few


def test_lines_are_drawn_where_a_cut_would_be():
    state = some_state(a=(0.2, 0.9, 0.5, 0.1), b=(0.0, 0.0))
    rows = mark_rows(state, Grid.of([state]), [0.1, 0.5])
    ends = {(r["threshold"], r["order"] // 2): r["x"] for r in rows}
    assert ends == {("0.1", 0): 0.75, ("0.1", 1): 0, ("0.5", 0): 0.25, ("0.5", 1): 0}


def test_the_thresholds_of_the_run_are_marked(some_record):
    records = [some_record(threshold=t) for t in (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 3)]
    assert marks(Front(tuple(records))) == (0.01, 0.1, 0.5)
    assert marks(Front((some_record(threshold=0.2),))) == (0.2,)
    assert marks(Front(())) == (0.01, 0.1, 0.5)


def test_rows_lie_at_whole_pixels_below_one_another():
    sizes = [64] * 6 + [128] * 6 + [256] * 6
    state = some_state(**{f"b{i}": [0.5] * n for i, n in enumerate(sizes)})
    grid = Grid.of([state])
    gaps = [b - a for a, b in zip(grid.tops, grid.tops[1:], strict=False)]
    assert gaps.count(grid.row) == 15 and min(gaps) == grid.row
    assert grid.height == grid.tops[-1] + grid.row


def test_names_are_shortened_to_what_differs():
    assert short(["a.0.h.weight", "a.1.h.weight"]) == ("a.*.h", ["0", "1"])
    assert short(["conv1.weight", "fc.weight"]) == ("", ["conv1", "fc"])
    assert short(["a.weight", "a.b.weight"]) == ("", ["a", "a.b"])
    assert short(["h.weight"]) == ("", ["h"])


def test_any_name_of_a_layer_can_stand_in_a_picture(some_record):
    names = {'it\'s "a" \\ [0].weight': (0.5,), "</script>\n.weight": (0.2,)}
    reading = Reading(
        run="r", step="s", model="lenet", data="digits", method="dense", gate="highway", seed=0,
        values=names,
    )  # fmt: skip
    text = words(REPORTS.get("gates")(Front((some_record(),), "", (reading,))))
    assert 'it\'s "a" \\ [0]' in text and "</script>" in text


def test_a_block_without_channels_leaves_its_row_empty(some_record):
    values = {"a.weight": (), "b.weight": (0.5, 0.7)}
    reading = Reading(
        run="r", step="s", model="lenet", data="digits", method="dense", gate="highway", seed=0,
        values=values,
    )  # fmt: skip
    assert "0 ch." in words(REPORTS.get("gates")(Front((some_record(),), "", (reading,))))


def test_a_front_without_gates_or_thresholds_says_so(front):
    assert "no gates of channels" in words(REPORTS.get("gates")(front))
    assert "nothing was cut by a threshold" in words(REPORTS.get("threshold")(front))


# Thresholds


def test_accuracy_and_size_are_means_over_seeds_with_their_spread(trained):
    (curve,) = curves(read_front(trained))
    row = next(r for r in curve.rows() if (r["threshold"], r["quantity"]) == (0.1, "accuracy"))
    assert row["y"] == pytest.approx(0.969)
    assert row["high"] - row["low"] == pytest.approx(2 * 0.002 / math.sqrt(2))
    size = next(r for r in curve.rows() if (r["threshold"], r["quantity"]) == (0.1, "size"))
    assert size["y"] == pytest.approx(8150)


def test_both_axes_say_what_they_measure(trained):
    text = words(REPORTS.get("threshold")(read_front(trained)))
    for said in ("accuracy, %", "size on disk, packed", "threshold on the gates (log scale)"):
        assert said in text
    assert "kB" in text and "Means over 2 seeds" in text


def test_the_best_threshold_and_emptied_layers_are_said(trained):
    text = words(REPORTS.get("threshold")(read_front(trained)))
    assert "Threshold 0.01 loses 0.20 points of accuracy and saves 10.4 % of the bytes" in text
    assert "layers that lose all: 1 at 0.5" in text


def test_runs_have_a_panel_each_on_equal_axes(some_run):
    front = read_front(some_run("one", BOTH), some_run("two", BOTH, seeds=2))
    chart = REPORTS.get("threshold")(front)
    assert "highway (one)" in words(chart) and "highway (two)" in words(chart)
    axes = [y for y in found_in(chart.to_dict(), "y") if isinstance(y, dict) and y.get("scale")]
    domains = {tuple(y["scale"]["domain"]) for y in axes}
    assert len(domains) == 2  # of shares and of bytes


def test_the_threshold_0_has_a_place_on_the_log_axis(trained):
    place = place_of_zero(THRESHOLDS)
    assert place is not None and 0 < place < 0.01
    assert "size" in words(REPORTS.get("threshold")(read_front(trained)))


def test_thresholds_of_any_sign_are_drawn(some_record):
    records = [some_record(method="v", level=t, threshold=t) for t in (-2.0, 0.0, 3.0)]
    chart = REPORTS.get("threshold")(Front((some_record(), *records)))
    assert "threshold on the gates" in words(chart) and "(log scale)" not in words(chart)


def test_one_threshold_is_enough_for_a_picture(some_record):
    record = some_record(method="v", level=0.1, threshold=0.1, accuracy=0.5)
    text = words(REPORTS.get("threshold")(Front((record,))))
    assert "No threshold loses at most 0.5 points" in text


def test_sizes_far_below_the_dense_network_are_on_a_log_axis():
    assert size_ends([100, 5000])[2] and not size_ends([1000, 5000])[2]
    low, high, _ = size_ends([1000, 5000])
    assert low == 0 and high > 5000


def test_a_network_that_diverged_spoils_no_picture(trained):
    front = read_front(trained)
    broken = [
        replace(r, accuracy=math.nan, accuracy_dense=math.inf) if r.threshold == 0.1 else r
        for r in front.records
    ]
    for name in ("threshold", "gates", "layers"):
        text = REPORTS.get(name)(replace(front, records=tuple(broken))).to_json()
        assert "NaN" not in text and "Infinity" not in text


# The page


def test_gates_and_thresholds_are_on_the_page_before_the_layers(trained):
    names = default_charts(read_front(trained))
    assert names.index("threshold") < names.index("gates") < names.index("layers")


def test_a_page_without_them_is_as_before(front, tmp_path):
    assert not {"threshold", "gates"} & set(default_charts(front))
    write_page(front, tmp_path / "p.html", title="t", conditions={}, charts=[])
    assert "<dt>threshold</dt>" not in (tmp_path / "p.html").read_text()


def test_only_the_section_of_a_network_with_gates_has_the_charts(trained, some_front, tmp_path):
    gated = read_front(trained)
    both = replace(gated, records=gated.records + some_front(["magnitude"], seeds=1).records)
    assert [len(part.readings) for part in pairs(both)] == [4, 0]
    write_page(both, tmp_path / "p.html", title="t", conditions={})
    text = (tmp_path / "p.html").read_text()
    assert text.count("How open the gate of each channel is") == 1
    assert "no gates of channels" not in text and "<dt>threshold</dt>" in text


def test_a_report_of_two_runs_has_files_of_both_charts(some_run, tmp_path):
    front = read_front(some_run("one", BOTH), some_run("two", BOTH))
    found = write_report(front, tmp_path / "out", title="t", conditions={}, formats=("svg",))
    assert {"gates.svg", "threshold.svg"} <= {p.name for p in found}


def test_the_map_of_layers_names_thresholds_as_they_were_asked(trained):
    text = words(REPORTS.get("layers")(read_front(trained)))
    assert "Columns: the threshold on the gates." in text
    assert " 0.01 " in text and "no weight is left" in text
