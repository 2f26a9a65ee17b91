"""A short run of ``fuzz.py`` over every format, and cases that hypothesis thinks of."""

import importlib.util
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

spec = importlib.util.spec_from_file_location("fuzz", Path(__file__).with_name("fuzz.py"))
fuzz = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzz)


QUICK = [s for s in fuzz.formats() if s != ".h5"]
"""Every file in HDF5 is read in a process of its own, which takes too long for a thousand."""


@pytest.mark.parametrize("suffix", QUICK)
def test_a_mutated_file_is_refused_or_read_right(suffix, tmp_path):
    outcome = fuzz.run(suffix, 1000, folder=tmp_path)
    assert not outcome.failed, "\n".join(outcome.failed[:3])
    assert outcome.refused > 100


@pytest.mark.parametrize("suffix", [".safetensors", ".npy", ".npz", ".pt"])
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_bytes_put_anywhere_are_refused_or_read_right(suffix, tmp_path, data):
    sample = data.draw(st.sampled_from(fuzz.samples_of(suffix)))
    at = data.draw(st.integers(0, len(sample)))
    cut = data.draw(st.integers(0, 16))
    content = sample[:at] + data.draw(st.binary(max_size=16)) + sample[at + cut :]
    assert fuzz.tried(tmp_path / f"case{suffix}", content, suffix) in ("right", "refused")


@given(st.integers(0, 1 << 30))
@settings(max_examples=50, deadline=None)
def test_a_case_is_decided_by_its_number(number):
    sample = fuzz.safetensors_sample()
    one, two = (
        fuzz.mutated(sample, random.Random(f"a {number}"), ".safetensors") for _ in range(2)
    )
    assert one == two
