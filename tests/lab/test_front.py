"""Records, points and fronts: means over seeds, who beats whom, and which point to take."""

import math
import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thrifty.errors import UserError
from thrifty.lab.front import COSTS, Front, cost, hypervolume, knee, pareto
from thrifty.lab.records import Point, Record, points


def some_record(method: str = "magnitude", level: float = 0.9, **changes: Any) -> Record:
    values = {
        "key": "0" * 12, "model": "net", "data": "toy", "seed": 0, "sparsity": level,
        "sparsity_all": level, "accuracy": 0.9, "accuracy_dense": 0.95, "agreement": 0.9,
        "loss": 0.3, "params": 110, "prunable": 100, "nonzero": 20, "macs": 100,
        "macs_nonzero": 10, "bytes": 200, "bytes_dense": 440,
    }  # fmt: skip
    return Record(method=method, level=level, **{**values, **changes})


def some_point(sparsity: float, accuracy: float, **changes: Any) -> Point:
    record = some_record(sparsity=sparsity, accuracy=accuracy, **changes)
    return points([record])[0]


def numbers(found: list[Point]) -> list[tuple[float, float]]:
    return [(p.sparsity, p.accuracy) for p in found]


shares = st.floats(0, 1)
clouds = st.lists(st.builds(some_point, shares, shares), max_size=12)


def test_a_point_is_the_mean_and_the_sample_deviation_over_seeds():
    values = [0.90, 0.92, 0.97]
    (point,) = points(some_record(seed=i, accuracy=a) for i, a in enumerate(values))
    assert point.seeds == 3
    assert point.accuracy == pytest.approx(0.93)
    assert point.accuracy_std == pytest.approx(statistics.stdev(values))
    assert (point.accuracy_min, point.accuracy_max) == (0.90, 0.97)


def test_one_seed_has_no_deviation():
    (point,) = points([some_record()])
    assert point.accuracy_std is None and point.drop_std is None


def test_a_seed_that_diverged_makes_the_mean_nan_and_nothing_worse():
    (point,) = points([some_record(accuracy=math.nan), some_record(seed=1)])
    assert math.isnan(point.accuracy) and point.accuracy_std is not None
    assert math.isnan(point.accuracy_std)


def test_a_drop_is_taken_against_the_parent_of_the_same_seed():
    records = [
        some_record(seed=0, accuracy=0.90, accuracy_dense=0.91),
        some_record(seed=1, accuracy=0.80, accuracy_dense=0.83),
    ]
    (point,) = points(records)
    assert point.drop == pytest.approx(0.02)
    assert point.drop_std == pytest.approx(statistics.stdev([0.01, 0.03]))


def test_what_one_seed_did_not_measure_is_no_mean():
    (point,) = points([some_record(latency_us=5.0), some_record(seed=1, latency_us=None)])
    assert point.latency_us is None


def test_points_are_grouped_by_model_data_method_and_level_in_first_seen_order():
    records = [
        some_record("b", 0.5),
        some_record("a", 0.9),
        some_record("b", 0.5, seed=1),
        some_record("b", 0.5, data="other"),
        some_record("b", 0.5, model="other"),
    ]
    found = [(p.model, p.data, p.method, p.level, p.seeds) for p in points(records)]
    assert found == [
        ("net", "toy", "b", 0.5, 2),
        ("net", "toy", "a", 0.9, 1),
        ("net", "other", "b", 0.5, 1),
        ("other", "toy", "b", 0.5, 1),
    ]


def test_a_record_of_a_newer_version_is_read_without_what_is_new():
    record = some_record(layers={"a": [1, 2]})
    assert Record.from_dict({**record.to_dict(), "invented_later": 1}) == record


def test_the_cost_of_sparsity_is_density_so_that_less_is_better():
    assert cost(some_point(0.75, 0.9), "sparsity") == -0.75
    assert cost(some_point(0.75, 0.9, sparsity_conv=0.5), "sparsity_conv") == -0.5
    assert cost(some_point(0.75, 0.9), "sparsity_conv") is None
    assert cost(some_point(0.75, 0.9, bytes=12), "bytes") == 12
    assert cost(some_point(0.75, 0.9), "latency_us") is None


def test_beaten_points_are_not_on_the_front():
    cloud = [
        some_point(0.9, 0.8),
        some_point(0.5, 0.9),
        some_point(0.4, 0.85),
        some_point(0.9, 0.7),
    ]
    assert numbers(pareto(cloud)) == [(0.9, 0.8), (0.5, 0.9)]


def test_of_equal_points_the_first_is_kept():
    cloud = [some_point(0.5, 0.9, method="first"), some_point(0.5, 0.9, method="second")]
    assert [p.method for p in pareto(cloud)] == ["first"]


def test_points_without_the_cost_are_left_out():
    cloud = [some_point(0.5, 0.9), some_point(0.6, 0.8, latency_us=3.0)]
    assert numbers(pareto(cloud, "latency_us")) == [(0.6, 0.8)]


@given(clouds)
def test_no_point_of_a_front_beats_another(cloud):
    front = pareto(cloud)
    for cheap, dear in zip(front, front[1:], strict=False):
        assert cost(cheap, "sparsity") < cost(dear, "sparsity")
        assert cheap.accuracy < dear.accuracy


@given(clouds)
def test_every_point_is_matched_by_one_of_the_front(cloud):
    front = pareto(cloud)
    for point in cloud:
        assert any(f.sparsity >= point.sparsity and f.accuracy >= point.accuracy for f in front)


@given(clouds)
def test_the_front_of_a_front_is_itself(cloud):
    assert pareto(pareto(cloud)) == pareto(cloud)


@given(clouds, st.randoms(use_true_random=False))
def test_the_order_of_the_points_does_not_matter(cloud, dice):
    mixed = dice.sample(cloud, len(cloud))
    assert numbers(pareto(mixed)) == numbers(pareto(cloud))


def test_the_hypervolume_of_two_steps_is_their_area():
    cloud = [some_point(0.75, 0.5), some_point(0.5, 1.0)]
    assert hypervolume(cloud, 0.0) == pytest.approx(0.25 * 0.5 + 0.5 * 1.0)
    assert hypervolume(cloud, 0.0, floor=0.5) == pytest.approx(0.5 * 0.5)
    assert hypervolume([], 0.0) == 0


@given(clouds, st.builds(some_point, shares, shares))
def test_another_point_never_makes_the_hypervolume_smaller(cloud, more):
    assert hypervolume([*cloud, more], 0.0) >= hypervolume(cloud, 0.0) - 1e-12


@given(clouds, st.floats(0, 0.9))
def test_the_hypervolume_lies_within_its_box(cloud, floor):
    assert -1e-12 <= hypervolume(cloud, 0.0, floor) <= (1 - floor) + 1e-12


def test_the_knee_is_the_corner_of_the_front():
    cloud = [some_point(0.9, 0.1), some_point(0.8, 0.9), some_point(0.1, 0.95)]
    found = knee(cloud)
    assert found is not None and found.sparsity == 0.8


def test_fewer_than_three_points_have_no_knee():
    assert knee([some_point(0.9, 0.1), some_point(0.8, 0.9)]) is None


@given(clouds)
def test_a_knee_is_on_the_front(cloud):
    found = knee(cloud)
    assert found is None or found in pareto(cloud)


@pytest.fixture
def front() -> Front:
    runs = [
        ("dense", 0.0, 0.95, 0, 400), ("control", 0.9, 0.97, 8, 400),
        ("control", 0.5, 0.96, 4, 400),
        ("magnitude", 0.5, 0.951, 4, 220), ("magnitude", 0.9, 0.946, 8, 60),
        ("random", 0.9, 0.80, 8, 50),
    ]  # fmt: skip
    return Front(
        tuple(
            some_record(m, s, sparsity=s, accuracy=a, epochs=e, bytes=b) for m, s, a, e, b in runs
        ),
        "runs/x",
    )


def test_dense_and_control_are_not_pruned_points(front):
    assert {p.method for p in front.pruned} == {"magnitude", "random"}
    assert front.dense is not None and front.dense.accuracy == 0.95


def test_the_control_is_the_one_trained_longest(front):
    assert front.control is not None and front.control.epochs == 8


def test_pick_takes_the_cheapest_within_the_drop(front):
    assert front.pick(0.005).bytes == 60
    assert front.pick(0.001).bytes == 220
    assert front.pick(0.5).bytes == 50


def test_pick_names_the_nearest_when_none_is_good_enough(front):
    strict = Front(tuple(r for r in front.records if r.accuracy < 0.95), front.where)
    with pytest.raises(UserError, match="the least is 0.40 points, by magnitude .* 0.9") as caught:
        strict.pick(0.001)
    assert "runs/x" in str(caught.value)


def test_pick_refuses_points_instead_of_a_share(front):
    with pytest.raises(UserError, match="half a point is 0.005"):
        front.pick(5)


def test_pick_says_what_was_not_measured(front):
    with pytest.raises(UserError, match="latency_us was not measured"):
        front.pick(of="latency_us")
    with pytest.raises(UserError, match="no pruned point"):
        Front(()).pick()


@given(st.lists(st.builds(some_point, shares, shares), min_size=1, max_size=8), shares)
def test_no_point_within_the_drop_is_cheaper_than_the_picked(cloud, drop):
    records = tuple(
        some_record(level=i / 10, accuracy=p.accuracy, bytes=int(1000 * p.sparsity))
        for i, p in enumerate(cloud)
    )
    front = Front(records)
    good = [p for p in front.pruned if p.drop <= drop]
    if not good:
        with pytest.raises(UserError):
            front.pick(drop)
    else:
        assert front.pick(drop).bytes == min(p.bytes for p in good)


def test_the_hypervolume_of_a_front_needs_the_dense_cost(front):
    assert front.hypervolume(of="bytes") > 0
    with pytest.raises(UserError, match="latency_us"):
        front.hypervolume(of="latency_us")


def test_a_network_is_smaller_if_it_does_fewer_multiply_adds_than_its_parent(front):
    assert front.smaller == []
    assert not {"parameters", "multiply-adds"} & set(front.table()[0])
    filters = some_record("l1_filter", 0.5, macs=40, params=60)
    both = Front((*front.records, filters))
    assert [p.method for p in both.smaller] == ["l1_filter"]
    assert [row["multiply-adds"] for row in both.table()][-2:] == ["100", "40"]
    assert [row["parameters"] for row in both.table()][-2:] == ["110", "60"]
    assert Front((filters,)).smaller == []


def test_the_hypervolume_over_the_convolutions_begins_at_none_gone(front):
    conv = Front((*front.records, some_record("l1_filter", 0.5, accuracy=0.8, sparsity_conv=0.5)))
    assert conv.hypervolume(of="sparsity_conv") == pytest.approx(0.4)


def test_the_table_has_a_row_a_point_and_leaves_empty_what_is_not_known(front):
    rows = front.table()
    assert [row["method"] for row in rows] == [p.method for p in front.points]
    assert {row["asked"] for row in rows if row["method"] in ("dense", "control")} == {""}
    assert {row["torch us"] for row in rows} == {""}
    assert not {"engine ms", "speedup", "packed bytes"} & set(rows[0])
    assert rows[4]["drop"] == "+0.40"


@pytest.mark.parametrize("of", COSTS)
def test_every_cost_is_a_number_of_a_point(of):
    measured = {"latency_us": 3.0, "sparsity_conv": 0.4, "packed_bytes": 150, "engine_ms": 0.1}
    assert math.isfinite(getattr(some_point(0.5, 0.9, **measured), of))


def test_a_record_of_an_older_version_was_not_packed():
    record = some_record()
    new = ("packed_bytes", "engine_ms", "engine_speedup", "engine_why")
    old = {name: value for name, value in record.to_dict().items() if name not in new}
    assert Record.from_dict(old) == record
    assert [getattr(record, name) for name in new] == [None] * 4


def test_the_size_is_of_the_packed_file_if_every_network_was_packed(front):
    assert front.size == "bytes" and Front(()).size == "bytes"
    some = tuple(
        some_record(r.method, r.level, accuracy=r.accuracy, bytes=r.bytes, packed_bytes=300 - i)
        for i, r in enumerate(front.records)
    )
    assert Front(some).size == "packed_bytes"
    assert Front((*some[:-1], front.records[-1])).size == "bytes"
    assert (front.pick(0.5).method, front.pick(0.5).bytes) == ("random", 50)
    assert Front(some).pick(0.5).packed_bytes == 295
    assert Front(some).pick(0.01).packed_bytes == 296
    assert Front(some).pick(0.5, "bytes").bytes == 50


def test_times_in_the_engine_are_shown_with_three_digits_and_their_ratio():
    records = [
        some_record("dense", 0.0, engine_ms=12.345, engine_speedup=1.0),
        some_record("a", 0.9, engine_ms=0.03451, engine_speedup=3.456),
        some_record("b", 0.9, engine_why="it has a loop"),
    ]
    rows = Front(tuple(records)).table()
    assert [row["engine ms"] for row in rows] == ["12.3", "0.0345", ""]
    assert [row["speedup"] for row in rows] == ["1.00", "3.46", ""]
