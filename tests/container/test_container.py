"""What goes into a ``.thrifty`` file comes out of it, and no other way is right."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from thrifty import native
from thrifty.container import VALUES, Reader, write
from thrifty.container.bound import bound_bits
from thrifty.container.encoding import bitmask, gaps, planes, unsigned
from thrifty.errors import UserError
from thrifty.native import unpack
from thrifty.native.formats import DTYPES, decode

VECTOR = Path(__file__).parent / "vector.thrifty"
TARGETS = sorted({native.available()[0], "numpy"})

ANY = st.sampled_from([d for n, d in DTYPES.items() if n not in ("BF16",) and "F8" not in n])


def bits(array):
    return array.tobytes(), array.dtype, array.shape


def sparse(count, share, seed=0):
    rng = np.random.default_rng(seed)
    array = (rng.standard_normal(count) * 0.03).astype(np.float32)
    array[rng.random(count) >= share] = 0
    return array


def roundtrip(path, tensors, **options):
    report = write(path, tensors, {}, **options)
    with Reader(path) as file:
        return report, {name: file.read(name) for name in file.tensors}


@pytest.fixture(params=TARGETS)
def target(request):
    with native.use(request.param):
        yield request.param


@settings(max_examples=150, deadline=None)
@given(array=ANY.flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, min_side=0))))
def test_every_array_comes_back_bit_for_bit_and_its_sparse_form_is_the_same(
    tmp_path_factory, array
):
    path = tmp_path_factory.mktemp("any") / "a.thrifty"
    write(path, {"a": array}, {})
    for name in TARGETS:
        with native.use(name), Reader(path) as file:
            dense = file.read("a")
            assert bits(dense) == bits(array)
            places, values = file.sparse("a")
            again = np.zeros(array.size, array.dtype)
            again[places] = values
            assert again.tobytes() == array.tobytes()


@pytest.mark.parametrize("share", [0, 1e-3, 0.05, 0.3, 0.6, 0.97, 1])
def test_every_density_comes_back_on_every_target(share, target, tmp_path):
    array = sparse(40_001, share)
    report, found = roundtrip(tmp_path / "a.thrifty", {"a": array})
    assert bits(found["a"]) == bits(array)
    assert report.nbytes == (tmp_path / "a.thrifty").stat().st_size


def test_negative_zero_nan_and_infinity_are_values(tmp_path):
    array = np.float32([[0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45]] + [[0] * 6] * 9)
    report, found = roundtrip(tmp_path / "a.thrifty", {"a": array})
    assert report.tensors[0].nnz == 5
    assert bits(found["a"]) == bits(array)


def test_the_encoding_goes_by_size(tmp_path):
    tensors = {"dense": sparse(9000, 1), "half": sparse(9000, 0.5), "few": sparse(9000, 0.05)}
    report, _ = roundtrip(tmp_path / "a.thrifty", tensors)
    assert [e.encoding for e in report.tensors] == ["raw", "bitmask", "gap8"]


def test_zeros_among_a_few_patterns_may_stay_where_they_are(tmp_path):
    """Nearly all of one pattern, and zeros at places that no code tells in fewer bits."""
    array = np.ones(20_000, np.uint8)
    array[np.random.default_rng(0).random(20_000) < 0.4] = 0
    report, found = roundtrip(tmp_path / "a.thrifty", {"a": array})
    assert bits(found["a"]) == bits(array)
    assert report.tensors[0].nbytes < 1.05 * 20_000 * 0.971 / 8 + 40


@pytest.mark.parametrize("share", [0.5, 0.2, 0.1, 0.05, 0.02])
def test_the_file_is_within_three_percent_of_the_order_0_bound(share, tmp_path):
    array = sparse(400_000, share)
    report, _ = roundtrip(tmp_path / "a.thrifty", {"a": array})
    values = unsigned(array)
    bound = bound_bits(values[values != 0], "F32", array.size) / 8
    assert report.nbytes <= 1.03 * bound


def test_the_bound_is_the_definition():
    values = np.float32([1.0, -1.5, 2.0, 3.0])
    exponents = 1.0  # bits: two of 0, two of 1
    positions = 16 * -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    found = bound_bits(unsigned(values), "F32", 16)
    assert found == pytest.approx(positions + 4 * (1 + exponents + 23))


def test_equal_tensors_give_equal_bytes_in_any_order_of_metadata(tmp_path):
    tensors = {"b": sparse(300, 0.3), "a": sparse(300, 0.9)}
    write(tmp_path / "1", tensors, {"x": "1", "y": "2"})
    write(tmp_path / "2", tensors, {"y": "2", "x": "1"})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_tensors_are_in_the_order_given_and_metadata_comes_back(tmp_path):
    path = tmp_path / "a.thrifty"
    write(path, {"b": sparse(3, 1), "a": sparse(3, 1)}, {"\u00e9": "{}\n\x00"})
    with Reader(path) as file:
        assert list(file.tensors) == ["b", "a"]
        assert file.metadata == {"\u00e9": "{}\n\x00"}


def test_dtypes_that_numpy_lacks_travel_as_integers(tmp_path):
    tensors = {"b": np.uint16([[0, 0x3F80]]), "e": np.uint8([[0, 7]]), "u": np.uint16([[0, 1]])}
    dtypes = {"b": "BF16", "e": "F8_E4M3"}
    report, found = roundtrip(tmp_path / "a.thrifty", tensors, dtypes=dtypes)
    assert [e.dtype for e in report.tensors] == ["BF16", "F8_E4M3", "U16"]
    assert all(bits(found[n]) == bits(x) for n, x in tensors.items())


def test_a_tensor_that_cannot_be_stored_is_told(tmp_path):
    with pytest.raises(UserError, match="'c' is complex64 and cannot be stored"):
        write(tmp_path / "a", {"c": np.zeros(3, np.complex64)}, {})
    with pytest.raises(UserError, match="'c' is float32 and cannot be stored as BF16"):
        write(tmp_path / "a", {"c": np.zeros(3, np.float32)}, {}, dtypes={"c": "BF16"})
    with pytest.raises(UserError, match="no values are called 'bf61'; did you mean bf16"):
        write(tmp_path / "a", {}, {}, "bf61")
    assert not list(tmp_path.iterdir())


def test_what_no_reader_takes_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("thrifty.sources.unpacking.FREE_BYTES", 1 << 20)
    with pytest.raises(UserError, match="describes 10,000,000 bytes"):
        write(tmp_path / "a", {"z": np.zeros(10_000_000, np.int8)}, {})
    assert not list(tmp_path.iterdir())


# Fewer bits


@pytest.mark.parametrize("values", ["bf16", "f16", "int8"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fewer_bits_are_near_and_only_for_weights(values, dtype, target, tmp_path):
    tensors = {
        "w": sparse(6000, 0.3).reshape(20, 300).astype(dtype),
        "bias": sparse(20, 1).astype(dtype),
        "index": np.arange(6).reshape(2, 3),
        "program:c": sparse(6, 1).reshape(2, 3).astype(dtype),
    }
    report, found = roundtrip(tmp_path / "a", tensors, values=values, exact=["program:c"])
    assert report.tensors[0].values == VALUES[values]
    for name in ("bias", "index", "program:c"):
        assert bits(found[name]) == bits(tensors[name])
    error = np.abs(found["w"] - tensors["w"])
    assert found["w"].dtype == dtype and error.max() > 0
    largest = np.abs(tensors["w"]).max(axis=1, keepdims=True)
    near = {"bf16": np.abs(tensors["w"]) / 256, "f16": 1e-7 + np.abs(tensors["w"]) / 2048}
    assert (error <= near.get(values, largest / 254 * 1.0001)).all()


@pytest.mark.parametrize("values", ["bf16", "f16", "int8"])
def test_packing_what_was_packed_changes_nothing_more(values, tmp_path):
    array = sparse(6000, 0.3).reshape(20, 300)
    _, once = roundtrip(tmp_path / "a", {"w": array}, values=values)
    _, twice = roundtrip(tmp_path / "b", once, values=values)
    np.testing.assert_allclose(twice["w"], once["w"], rtol=2e-7, atol=0)


@pytest.mark.parametrize("values", ["bf16", "f16", "int8"])
def test_the_sparse_form_of_fewer_bits_is_the_dense_one(values, target, tmp_path):
    array = sparse(6000, 0.3).reshape(20, 3, 100)
    write(tmp_path / "a", {"w": array, "e": array[:0], "f": array[:, :0]}, {}, values)
    with Reader(tmp_path / "a") as file:
        for name in file.tensors:
            dense = file.read(name)
            places, found = file.sparse(name)
            again = np.zeros(dense.size, dense.dtype)
            again[places] = found
            assert bits(again.reshape(dense.shape)) == bits(dense)


def test_bfloat16_is_rounded_to_the_nearest_and_ties_to_even(tmp_path):
    array = np.uint32([[0x3F808000, 0x3F818000, 0x3F808001, 0x7FC00001]]).view(np.float32)
    _, found = roundtrip(tmp_path / "a", {"w": array}, values="bf16")
    assert found["w"].view(np.uint32).tolist()[0][:3] == [0x3F800000, 0x3F820000, 0x3F810000]
    assert np.isnan(found["w"][0, 3])


def test_bfloat16_weights_may_be_int8(tmp_path):
    array = np.uint16([[0x3F80, 0xBF00, 0], [0, 0, 0x4000]])
    _, found = roundtrip(tmp_path / "a", {"w": array}, values="int8", dtypes={"w": "BF16"})
    near = decode(found["w"], "BF16") - decode(array, "BF16")
    assert found["w"].dtype == np.uint16 and np.abs(near).max() < 2 / 200


@pytest.mark.parametrize(
    ("values", "number", "told"),
    [
        ("f16", 1e5, "'w': it has 100000, which F16 cannot hold; use bf16"),
        ("bf16", 3.4028235e38, "which BF16 cannot hold"),
        ("int8", np.nan, "NaN or infinite"),
        ("int8", np.inf, "NaN or infinite"),
    ],
)
def test_a_number_that_does_not_fit_is_told_with_its_tensor(values, number, told, tmp_path):
    with pytest.raises(UserError, match=told):
        write(tmp_path / "a", {"w": np.float32([[number, 1]])}, {}, values)


def test_a_channel_of_zeros_or_of_the_smallest_numbers_has_a_scale(tmp_path):
    array = np.float32([[0, 0], [1e-45, 0], [3e-43, -3e-43]])
    _, found = roundtrip(tmp_path / "a", {"w": array}, values="int8")
    assert np.isfinite(found["w"]).all() and (found["w"][0] == 0).all()


# Coding


@given(st.lists(st.integers(0, 700), max_size=40), st.integers(0, 600))
def test_gaps_of_any_length_lead_back_to_their_places(steps, rest):
    places = np.cumsum(np.array(steps, np.int64) + 1) - 1
    count = int(places[-1]) + 1 + rest if steps else rest
    there = np.zeros(count, bool)
    there[places] = True
    for code, made in (("gap8", gaps(there)), ("bitmask", bitmask(there))):
        positions = np.frombuffer(made, np.uint8)
        for name in TARGETS:
            with native.use(name):
                assert unpack.indices(code, positions, count).tolist() == places.tolist()
                assert unpack.counted(code, positions, count) == len(steps)


def test_the_sign_goes_to_the_end_so_that_a_byte_is_an_exponent():
    values = unsigned(np.float32([1.0, -1.0, 1.5]))
    assert planes(values, rotate=True)[3] == bytes([127, 127, 127])
    assert planes(values, rotate=True)[0] == bytes([0, 1, 0])


# The vector for other implementers


def test_the_test_vector_holds_what_its_json_says():
    said = json.loads(VECTOR.with_suffix(".json").read_text())
    with Reader(VECTOR) as file:
        assert dict(file.metadata) == said["metadata"]
        assert list(file.tensors) == [t["name"] for t in said["tensors"]]
        for tensor in said["tensors"]:
            entry = file.tensors[tensor["name"]]
            assert [entry.dtype, entry.encoding, entry.values] == [
                tensor["dtype"],
                tensor["encoding"],
                tensor["values"],
            ]
            dense = file.read(tensor["name"])
            assert list(dense.shape) == tensor["shape"]
            assert unsigned(dense).tolist() == tensor["bits"]


def test_the_test_vector_has_every_encoding_and_kind_of_section():
    with Reader(VECTOR) as file:
        entries = list(file.tensors.values())
    sections = [s for e in entries for s in e.sections]
    assert {e.encoding for e in entries} == {"raw", "bitmask", "gap8"}
    assert {e.values for e in entries} >= {"F32", "BF16", "F16", "I8", "I64", "BOOL"}
    assert any(0 < s.nbytes < s.raw for s in sections)
    assert any(s.nbytes == s.raw > 0 for s in sections)
    assert VECTOR.stat().st_size < 8000
