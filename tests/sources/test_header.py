import json
import struct

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import example, given, settings
from hypothesis import strategies as st

from thrifty.errors import UserError
from thrifty.sources import BITS
from thrifty.sources.header import check_covered, header_length, parse_header

THEIRS_ALONE = (
    "twice",  # a name given twice: the library takes the last, and who reads first is misled
    "other things",  # further keys, or arrays and objects where serde takes them for a structure
    "which cannot be read; those",  # dtypes of less than a byte, and complex
    "axes, more than 64",  # no array library can make them
    "which is too large",  # 0 times 2**63, likewise
)
"""What our errors say where the library accepts a file and we do not."""


def headed(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode("utf-8")
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def ours(content):
    length = header_length(content[:8], len(content), "w")
    header = parse_header(content[8 : 8 + length], "w")
    check_covered(header, length, len(content), "w")
    return {
        e.name: (e.dtype, e.shape, content[8 + length :][e.begin : e.end]) for e in header.tensors
    }


def theirs(content):
    found = safetensors.deserialize(content)
    return {n: (x["dtype"], tuple(x["shape"]), bytes(x["data"])) for n, x in found}


def agree(content):
    """Both refuse it or both read the same, but for the differences that are listed."""
    try:
        expected = theirs(content)
    except Exception as error:
        assert type(error).__name__ == "SafetensorError"
        with pytest.raises(UserError):
            ours(content)
        return
    try:
        assert ours(content) == expected
    except UserError as error:
        assert any(said in str(error) for said in THEIRS_ALONE), error


sizes = st.one_of(
    st.integers(0, 9), st.sampled_from([-1, 1 << 31, 1 << 32, 1 << 62, 1 << 63, 1 << 64, 2.0, True])
)
odd = st.sampled_from([None, "F32", 3, [], {}, [1, [2]], {"F32": None}, -0.0, "\U0001f600", False])
entries = st.fixed_dictionaries(
    {
        "dtype": st.one_of(st.sampled_from([*BITS, "F4", "C64", "f32", "F8_E8M0"]), odd),
        "shape": st.one_of(st.lists(sizes, max_size=3), odd),
        "data_offsets": st.one_of(st.tuples(sizes, sizes), st.lists(sizes, max_size=3), odd),
    },
    optional={"more": odd},
)


@st.composite
def true_headers(draw):
    """A header and its data that hold, and then perhaps one number or byte that does not."""
    header, start = {}, 0
    if draw(st.booleans()):
        header["__metadata__"] = draw(st.dictionaries(st.text(max_size=4), st.text(max_size=4)))
    for name in draw(st.lists(st.text(max_size=3), unique=True, max_size=4)):
        if name == "__metadata__":
            continue
        dtype, shape = (
            draw(st.sampled_from(list(BITS))),
            draw(st.lists(st.integers(0, 3), max_size=3)),
        )
        end = start + int(np.prod(shape)) * BITS[dtype].itemsize
        header[name] = entry(dtype, shape, (start, end))
        start = end
    content = bytearray(headed(header, bytes(start)))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(content) - 1))
        content[at] = draw(st.one_of(st.integers(0, 255), st.sampled_from(b'0123456789{}[]",:')))
    return bytes(content)


@settings(max_examples=400, deadline=None)
@given(true_headers())
def test_what_holds_or_almost_holds_is_read_as_the_library_reads_it(content):
    agree(content)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), st.one_of(entries, odd)))
@example({"a": entry(), "__metadata__": None})
@example({"a": entry(), "__metadata__": {"x": 1}})
@example({"a": entry(shape=[2**63, 2, 0], offsets=[0, 0])})
@example({"a": entry(shape=[0, 2**63, 2], offsets=[0, 0])})
@example({"a": entry(offsets=[0, 8]), "b": entry(offsets=[0, 8])})
@example({"a": entry(offsets=[0, 8]), "b": entry(shape=[0], offsets=[8, 8])})
@example({"a": entry(shape=[1] * 70 + [2])})
def test_whatever_stands_in_a_header_is_taken_as_the_library_takes_it(header):
    agree(headed(header, bytes(8)))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b" {} ",
        b"[]",
        b"{",
        b'{"a":%s,}' % json.dumps(entry()).encode(),
        b'{"a":%s}' % json.dumps(entry()).replace("[2]", "[2e0]").encode(),
        b'{"a":%s}' % json.dumps(entry()).replace("[2]", "[-0, 2]").encode(),
        b'{"a":%s}' % json.dumps(entry()).replace("[2]", "[NaN]").encode(),
        b'{"a":%s,"a":%s}' % ((json.dumps(entry()).encode(),) * 2),
        b'{"\\ud800":%s}' % json.dumps(entry()).encode(),
        b'{"\\ud83d\\ude00":%s}' % json.dumps(entry()).encode(),
        b'{"\xff":%s}' % json.dumps(entry()).encode(),
        b"\xef\xbb\xbf{}",
        b'{"a":["F32",[2],[0,8]]}',
        b'{"__metadata__":{},"__metadata__":{}}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"a":' + b"9" * 10_000 + b"}",
    ],
)
def test_odd_texts_are_taken_as_the_library_takes_them(text):
    agree(headed(text))
    agree(headed(text, bytes(8)))


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9])
def test_files_shorter_than_their_header_are_refused(size):
    agree(headed({"a": entry()}, bytes(8))[:size])


@pytest.mark.parametrize("length", [3, 99, 100_000_001, 1 << 63, (1 << 64) - 1])
def test_a_length_that_lies_is_refused(length):
    agree(struct.pack("<Q", length) + b"{}")
    with pytest.raises(UserError, match="header"):
        header_length(struct.pack("<Q", length), 10, "w")


@pytest.mark.parametrize(
    ("header", "match"),
    [
        ({"a": entry("F4", [16])}, "'a' is of dtype 'F4', which cannot be read; those.*BF16"),
        ({"a": entry("C64", [1])}, "'a' is of dtype 'C64'"),
        ({"a": entry(), "b": entry(offsets=[4, 12])}, "'b' begins at byte 4 and overlaps"),
        ({"a": entry(), "b": entry(offsets=[9, 17])}, "'b' begins at byte 9 and leaves a hole"),
        ({"a": entry(offsets=[0, 4])}, "'a' is F32.*takes 8 bytes, and has 4"),
        ({"a": entry(shape=[1 << 40, 1 << 40])}, "too large"),
        ({"a": entry(offsets=[8, 0])}, "data_offsets"),
        ({"a": {**entry(), "zip": 1}}, "other things"),
        ({"a" * 5000: entry(offsets=[0, 4])}, r"'aaa\w+\.\.\.' is F32"),
    ],
)
def test_the_error_names_the_tensor_and_what_is_wrong(header, match):
    with pytest.raises(UserError, match=match) as caught:
        parse_header(json.dumps(header).encode(), "w.safetensors")
    assert "w.safetensors" in str(caught.value) and len(str(caught.value)) < 600


def test_bytes_left_out_or_behind_are_refused():
    content = headed({"a": entry()}, bytes(8))
    with pytest.raises(UserError, match="1 bytes are left behind"):
        ours(content + b"\0")
    with pytest.raises(UserError, match="of the"):
        ours(content[:-1])


def test_tensors_come_in_the_order_of_their_bytes():
    header = {"b": entry(offsets=[8, 16]), "a": entry(), "z": entry(shape=[0], offsets=[8, 8])}
    assert [e.name for e in parse_header(json.dumps(header).encode(), "w").tensors] == [
        "a",
        "z",
        "b",
    ]
