"""Counts and sums: every target against numpy bit for bit, and numpy against the definitions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thrifty import native
from thrifty.errors import UserError
from thrifty.native import fallback, formats
from thrifty.native.formats import DTYPES, FLOATS
from thrifty.sources.stored import BITS

EVERY = sorted(DTYPES)
USUAL = [1.0, 0.1, 0.01, 0.001, 1e-4]
RANDOM = np.random.default_rng(0)


def stored(dtype: str, raw: bytes) -> np.ndarray:
    """Elements of ``dtype`` with these bytes; where there are too few, fewer elements."""
    size = DTYPES[dtype].itemsize
    bits = np.frombuffer(raw[: len(raw) // size * size], np.uint8)
    return bits > 127 if dtype == "BOOL" else bits.view(DTYPES[dtype])


def numbers(bits: np.ndarray, dtype: str) -> list[float | int]:
    """What is stored, as exact numbers of Python."""
    if DTYPES[dtype].kind in "iub" and not dtype.startswith(("BF", "F8")):
        return [int(x) for x in bits]
    return [float(x) for x in native.decode(bits, dtype)]


def same(one: native.Tally, other: native.Tally) -> bool:
    return repr(one) == repr(other)  # NaN equals NaN, 0.0 is not -0.0


def near(values: list[float | int]) -> st.SearchStrategy[float]:
    """Thresholds that are stored values or next to one."""
    sizes = [abs(float(v)) for v in values if math.isfinite(v)] or [0.0]
    ups = [float(np.nextafter(v, np.inf)) for v in sizes]
    downs = [float(np.nextafter(v, 0.0)) for v in sizes]
    return st.sampled_from([*sizes, *ups, *downs, 0.0, 0.1, 5e-324, 1e300, math.inf])


@pytest.mark.parametrize("dtype", EVERY)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_counts_are_those_of_the_exact_numbers(dtype, data):
    bits = stored(dtype, data.draw(st.binary(max_size=300)))
    values = numbers(bits, dtype)
    thresholds = data.draw(st.lists(near(values), max_size=12))
    finite = [v for v in values if math.isfinite(v)]
    for target in native.available():
        with native.use(target):
            found = native.tally(bits, dtype, thresholds)
            assert native.count_below(bits, dtype, thresholds) == found.under
        assert found.count == len(values)
        assert found.under == tuple(sum(abs(v) < t for v in values) for t in thresholds)
        assert found.zeros == values.count(0)
        assert found.negative_zeros == sum(v == 0 and math.copysign(1, v) < 0 for v in values)
        assert found.infinite == sum(math.isinf(v) for v in values)
        assert found.nan == sum(math.isnan(v) for v in values)
        assert found.largest == float(max((abs(v) for v in finite), default=0))


@pytest.mark.parametrize("dtype", EVERY)
@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 2047, 2049, 5000, (1 << 18) + 1, 600_011])
def test_every_target_agrees_with_numpy_bit_for_bit(dtype, count):
    raw = RANDOM.integers(0, 256, count * DTYPES[dtype].itemsize, np.uint8)
    if dtype in ("F32", "F64"):
        usual = (RANDOM.standard_normal(count) * 0.05).astype(DTYPES[dtype])
        usual[::7], usual[3::50], usual[11::1013] = 0.0, -0.0, np.inf
        raw = usual.view(np.uint8)
    bits = stored(dtype, raw.tobytes())
    thresholds = [0.0, *USUAL, 1e-30, 3.5, 100.0, 1e30, math.inf]
    many = np.linspace(0, 2, 32).tolist()
    with native.use("numpy"):
        right = native.tally(bits, dtype, thresholds), native.tally(bits, dtype, many)
        octaves = native.octaves(bits, dtype)
    for target in native.available():
        for threads in (1, 3):
            with native.use(target):
                assert same(native.tally(bits, dtype, thresholds, threads=threads), right[0])
                assert same(native.tally(bits, dtype, many, threads=threads), right[1])
                below = native.count_below(bits, dtype, many, threads=threads)
                assert below == right[1].under
                found = native.octaves(bits, dtype, threads=threads)
            np.testing.assert_array_equal(found, octaves)


@pytest.mark.parametrize("target", native.available())
@pytest.mark.parametrize("dtype", EVERY)
def test_any_alignment_and_memory_that_cannot_be_written_will_do(dtype, target):
    size = DTYPES[dtype].itemsize
    raw = RANDOM.integers(0, 256, 300 * size, np.uint8).tobytes()
    aligned = stored(dtype, raw)
    for offset in range(size):
        moved = bytes(offset) + raw
        bits = np.frombuffer(moved, DTYPES[dtype], count=300, offset=offset)
        if dtype == "BOOL":
            bits = aligned
        with native.use(target):
            assert same(native.tally(bits, dtype, USUAL), native.tally(aligned, dtype, USUAL))
            octaves = native.octaves(bits, dtype)
            np.testing.assert_array_equal(octaves, native.octaves(aligned, dtype))


def test_every_second_element_can_be_counted_too():
    bits = np.arange(100, dtype=np.float32)
    assert native.count_below(bits[::2], "F32", [10.0]) == (5,)


def test_a_threshold_is_compared_with_the_number_that_is_stored():
    bits = np.float32([0.7])  # 0.699999988
    assert native.count_below(bits, "F32", [0.7]) == (1,)
    assert native.count_below(bits, "F32", [float(bits[0])]) == (0,)


@settings(deadline=None)
@given(
    values=st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=3000),
    scale=st.sampled_from([1.0, 1e-9]),
)
def test_sums_follow_the_order_that_is_documented(values, scale):
    values = [v * scale for v in values]
    lanes = [[0.0] * 16, [0.0] * 16]
    total = squares = 0.0
    for start in range(0, len(values), 2048):
        lanes = [[0.0] * 16, [0.0] * 16]
        for i, v in enumerate(values[start : start + 2048]):
            lanes[0][i % 16] += v
            lanes[1][i % 16] += v * v
        for apart in (8, 4, 2, 1):
            lanes = [[a + b for a, b in zip(x[:apart], x[apart:], strict=True)] for x in lanes]
        total, squares = total + lanes[0][0], squares + lanes[1][0]
    for target in native.available():
        with native.use(target):
            found = native.tally(np.array(values, "<f8"), "F64", [])
        assert repr(found.total) == repr(total)
        assert repr(found.squares) == repr(squares)


@pytest.mark.parametrize("target", native.available())
def test_sums_of_many_numbers_are_close_to_exact(target):
    values = RANDOM.standard_normal(300_000).astype(np.float32)
    with native.use(target):
        found = native.tally(values, "F32", [])
    exact = values.astype(np.float64)
    assert found.total == pytest.approx(math.fsum(exact), abs=1e-9)
    assert found.squares == pytest.approx(math.fsum(exact * exact), rel=1e-13)


def test_subnormal_numbers_count_even_where_torch_flushes_them():
    bits = np.uint32([1, 0x80000001, 0x007FFFFF]).view(np.float32)
    halves = np.uint16([1, 0x8001, 0x3FF]).view(np.float16)
    right = native.tally(bits, "F32", [1e-44, 1.0])
    assert (right.zeros, right.under, right.total > 1e-38) == (0, (2, 3), True)
    flushed = torch.set_flush_denormal(True)
    try:
        for target in native.available():
            with native.use(target):
                found = native.tally(bits, "F32", [1e-44, 1.0])
                assert (found.zeros, found.under) == (right.zeros, right.under)
                if target != "numpy":
                    assert found.total == right.total
                    assert native.tally(halves, "F16", []).total == 1023 * 2.0**-24
    finally:
        torch.set_flush_denormal(False)
    assert flushed or native.available() == ("numpy",)


@pytest.mark.parametrize("name", ["e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz"])
def test_8_bit_floats_are_those_of_torch(name):
    dtype = "F8_E4M3" if name == "e4m3fn" else f"F8_{name.upper()}"
    patterns = torch.arange(256, dtype=torch.uint8).view(getattr(torch, f"float8_{name}"))
    np.testing.assert_array_equal(formats.table(dtype), patterns.double().numpy())
    right = torch.signbit(patterns.double()) & (patterns.double() == 0)
    zeros = (formats.table(dtype) == 0) & np.signbit(formats.table(dtype))
    np.testing.assert_array_equal(zeros, right.numpy())


@pytest.mark.parametrize("dtype", EVERY)
def test_octaves_are_the_upper_bits_of_a_float32_rounded_towards_zero(dtype):
    bits = stored(dtype, RANDOM.integers(0, 256, 16_000, np.uint8).tobytes())
    right = np.zeros(4096, np.int64)
    for value in numbers(bits, dtype):
        size = abs(value)
        if math.isnan(size):
            right[4095] += 1
        elif size == math.inf:
            right[4080] += 1
        elif size > float(np.finfo(np.float32).max):
            right[4079] += 1
        else:
            exponent = max(math.frexp(size)[1] - 1, -126) if size else -126
            cut = int(size * 2**4 // 2**exponent) if isinstance(size, int) else None
            cut = math.floor(math.ldexp(size, 4 - exponent)) if cut is None else cut
            right[(exponent + 126) * 16 + cut] += 1
    np.testing.assert_array_equal(native.octaves(bits, dtype), right)


def test_what_is_stored_is_what_sources_give():
    assert dict(DTYPES) == dict(BITS)


@pytest.mark.parametrize("dtype", sorted(FLOATS))
@given(threshold=st.floats(min_value=0))
def test_a_limit_is_the_least_magnitude_that_is_not_under(dtype, threshold):
    limit = formats.limit(dtype, threshold)
    assert formats.value(dtype, limit) >= threshold
    assert limit == 0 or formats.value(dtype, limit - 1) < threshold


@pytest.mark.parametrize("dtype", ["I16", "I64", "U64", "BOOL"])
@given(threshold=st.floats(min_value=0))
def test_the_limit_of_an_integer_is_the_least_that_is_not_under(dtype, threshold):
    limit = fallback.magnitude_limit(dtype, threshold)
    assert limit == 1 << 64 or limit >= threshold
    assert limit == 0 or limit - 1 < threshold


@pytest.mark.parametrize("dtype", EVERY)
def test_without_sums_the_rest_is_the_same(dtype):
    bits = stored(dtype, RANDOM.integers(0, 256, 80_000, np.uint8).tobytes())
    for target in native.available():
        with native.use(target):
            right = native.tally(bits, dtype, USUAL)
            found = native.tally(bits, dtype, USUAL, sums=False)
        assert math.isnan(found.total)
        assert math.isnan(found.squares)
        assert found[:-2] == right[:-2]


@pytest.mark.parametrize("call", [native.tally, native.count_below])
@pytest.mark.parametrize("bad", [-0.1, math.nan, -math.inf])
def test_a_threshold_below_zero_is_an_error(call, bad):
    with pytest.raises(UserError, match="a threshold is"):
        call(np.float32([1]), "F32", [0.1, bad])


def test_wrong_arguments_are_told():
    one = np.float32([1])
    with pytest.raises(UserError, match="33 thresholds are given; a call takes 32"):
        native.tally(one, "F32", [0.1] * 33)
    with pytest.raises(UserError, match="no dtype is called 'F31'; there is F64, F32"):
        native.tally(one, "F31", [])
    with pytest.raises(UserError, match="BF16 is given as uint16"):
        native.octaves(one, "BF16")
    with pytest.raises(UserError, match="of 2 dimensions"):
        native.count_below(np.ones((2, 2), np.float32), "F32", [])
    with pytest.raises(UserError, match="threads is 0"):
        native.tally(one, "F32", [], threads=0)
