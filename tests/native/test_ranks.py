"""The exact k-th smallest: right for any input, on every target."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thrifty import native
from thrifty.errors import UserError

values = st.lists(
    st.floats(width=32, allow_nan=False) | st.sampled_from([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf]),
    min_size=1,
    max_size=100,
)


@settings(deadline=None)
@given(parts=st.lists(values, min_size=1, max_size=4), share=st.floats(0, 1), size=st.booleans())
def test_it_is_what_sorting_finds(parts, share, size):
    arrays = [np.array(p, np.float32) for p in parts]
    joined = np.concatenate(arrays)
    ordered = np.sort(np.abs(joined) if size else joined)
    k = min(1 + int(share * len(ordered)), len(ordered))
    for target in native.available():
        with native.use(target):
            found = native.place(arrays, k, magnitude=size)
            assert native.kth(arrays, k, magnitude=size) == (found.value, found.smaller)
        assert found.value == ordered[k - 1]
        assert str(found.value) != "-0.0"
        assert found.smaller == np.count_nonzero(ordered < found.value)
        assert found.equal == np.count_nonzero(ordered == found.value)


def misleading(count: int) -> np.ndarray:
    """Large wherever a sample is likely to be taken: at regular distances."""
    made = np.random.default_rng(1).random(count, np.float32)
    for stride in range(20, 400):
        made[stride // 2 :: stride] += 1.0
    return made


LARGE = {
    "normal": lambda n: np.random.default_rng(0).standard_normal(n, np.float32),
    "all equal": lambda n: np.full(n, -0.25, np.float32),
    "all zero": lambda n: np.zeros(n, np.float32),
    "two values": lambda n: np.where(np.arange(n) % 3 == 0, np.float32(1), np.float32(-2)),
    "few values": lambda n: np.float32(np.random.default_rng(0).integers(-40, 40, n)),
    "sorted": lambda n: np.arange(n, dtype=np.float32),
    "mostly zeros": lambda n: np.where(
        np.arange(n) % 100, np.float32(0), np.random.default_rng(0).random(n, np.float32)
    ),
    "one octave": lambda n: 1 + np.random.default_rng(0).random(n, np.float32) / 1e4,
    "where samples are taken": misleading,
    "any bits": lambda n: np.nan_to_num(
        np.random.default_rng(0).integers(0, 1 << 32, n, np.uint32).view(np.float32)
    ),
}


@pytest.mark.parametrize("kind", LARGE)
@pytest.mark.parametrize("magnitude", [True, False])
def test_large_and_awkward_arrays_are_ranked_exactly(kind, magnitude):
    joined = LARGE[kind](600_011)
    arrays = np.split(joined, [1, 100_003, 100_003, 350_001])
    ordered = np.sort(np.abs(joined) if magnitude else joined)
    for k in (1, 2, 300_000, 480_009, len(ordered)):
        for target in native.available():
            for threads in (1, 3):
                with native.use(target):
                    found = native.place(arrays, k, magnitude=magnitude, threads=threads)
                assert found.value == ordered[k - 1]
                assert found.smaller == np.searchsorted(ordered, found.value)
                assert found.equal == np.searchsorted(ordered, found.value, "right") - found.smaller


@pytest.mark.parametrize("target", native.available())
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("magnitude", [True, False])
def test_nan_is_an_error_that_says_where(target, sign, magnitude):
    second = np.ones(100_000, np.float32)
    second[70_000] = np.copysign(np.float32(np.nan), sign)
    with (
        native.use(target),
        pytest.raises(UserError, match="value 70000 of array 1 is NaN; a NaN cannot be ranked"),
    ):
        native.kth([np.ones(3, np.float32), second], 5, magnitude=magnitude)


@pytest.mark.parametrize("target", native.available())
def test_memory_that_is_not_aligned_or_not_writable_will_do(target):
    raw = b"x" + np.float32([3, -1, 2]).tobytes()
    array = np.frombuffer(raw, np.float32, count=3, offset=1)
    with native.use(target):
        assert native.kth([array, np.empty(0, np.float32)], 1, magnitude=False) == (-1.0, 0)


def test_wrong_arguments_are_told():
    one = np.ones(3, np.float32)
    for k in (0, 4, -1):
        with pytest.raises(UserError, match=f"no value of rank {k} among 3; k is 1 to 3"):
            native.kth([one], k)
    with pytest.raises(UserError, match="no value of rank 1 among 0"):
        native.kth([], 1)
    with pytest.raises(UserError, match="array 1 is float64"):
        native.kth([one, np.ones(3)], 1)
    with pytest.raises(UserError, match="of 2 dimensions"):
        native.kth([np.ones((2, 2), np.float32)], 1)
    with pytest.raises(UserError, match="threads is 0"):
        native.kth([one], 1, threads=0)
