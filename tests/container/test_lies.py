"""Every byte of a file may lie: what breaks a rule is refused, with the tensor and the rule."""

import importlib.util
import json
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import zstandard

from thrifty.container import Reader, write
from thrifty.container.header import MOST_HEADER, canonical
from thrifty.container.sections import unpacked
from thrifty.container.writing import MAGIC, PREFIX
from thrifty.errors import UserError

FUZZ = Path(__file__).with_name("fuzz.py")
spec = importlib.util.spec_from_file_location("fuzz_container", FUZZ)
fuzz = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = fuzz
spec.loader.exec_module(fuzz)


@pytest.fixture
def path(tmp_path):
    """A file with a tensor of each encoding; nothing in it is compressed but by luck."""
    rng = np.random.default_rng(0)

    def some(*shape, share):
        array = rng.standard_normal(shape).astype(np.float32)
        return np.where(rng.random(shape) < share, array, 0).astype(np.float32)

    tensors = {
        "raw": some(7, share=1.1),
        "mask": some(5, 9, share=0.5),
        "gaps": some(6, 50, share=0.03),
        "long": np.tile(np.arange(64, dtype=np.uint8) + 1, 8),
    }
    write(tmp_path / "a.thrifty", tensors, {"note": "n"})
    return tmp_path / "a.thrifty"


def taken_apart(path):
    content = path.read_bytes()
    _, nbytes, raw, _ = PREFIX.unpack(content[: PREFIX.size])
    start = PREFIX.size + nbytes
    return json.loads(unpacked(content[PREFIX.size : start], raw)), bytearray(content[start:])


def put_together(path, header, data, text=None):
    text = canonical(header) if text is None else text
    prefix = PREFIX.pack(MAGIC, len(text), len(text), zlib.crc32(text))
    path.write_bytes(prefix + text + data)


def refused(path, rule, read=None):
    with pytest.raises(UserError, match=rule) as caught, Reader(path) as file:
        for name in [read] if read else file.tensors:
            file.sparse(name)
            file.read(name)
    assert str(path) in str(caught.value)


def replaced(path, name, number, section, raw=None):
    """In place: another section of a tensor, with the sizes and the checksum that it needs."""
    header, data = taken_apart(path)
    parts = []
    for key, tensor in sorted(header["tensors"].items(), key=lambda x: x[1]["offset"]):
        at, contents = tensor["offset"], []
        for nbytes, _ in tensor["sections"]:
            contents.append(bytes(data[at : at + nbytes]))
            at += nbytes
        if key == name:
            contents[number] = section
            tensor["sections"][number] = [len(section), raw or len(section)]
        tensor["offset"] = sum(map(len, parts))
        parts.append(b"".join(contents))
        tensor["crc32"] = zlib.crc32(parts[-1])
    put_together(path, header, b"".join(parts))


@pytest.mark.parametrize(
    ("name", "change", "rule"),
    [
        ("raw", {"shape": [8]}, "'raw': it has 7 values and 8 elements"),
        ("raw", {"nnz": 6}, "'raw': it has 6 values and 7 elements"),
        ("gaps", {"nnz": 10**9}, "'gaps': it has 1,000,000,000 values and 300 elements"),
        ("gaps", {"nnz": 0}, "'gaps': its positions take"),
        ("mask", {"shape": [5, 90]}, "'mask': its positions take 6 bytes, not 57"),
        ("mask", {"shape": [1 << 40, 1 << 40]}, "'mask' has the shape .* too large"),
        ("mask", {"shape": [5, -9]}, "'mask' has the shape"),
        ("mask", {"shape": [5, 9.0]}, "'mask' has the shape"),
        ("mask", {"shape": [True, 45]}, "'mask' has the shape"),
        ("mask", {"shape": [1] * 40}, "'mask' has the shape"),
        ("mask", {"dtype": "F31"}, "'mask' is of dtype 'F31'; there is F64"),
        ("mask", {"dtype": "I32"}, "'mask' is I32 and its values are 'F32'"),
        ("mask", {"values": "F16"}, "the sections of its"),
        ("mask", {"values": ["F32"]}, "'mask' is F32 and its values are"),
        ("mask", {"encoding": "rle"}, "'mask' has the encoding 'rle'"),
        ("mask", {"encoding": "gap8"}, "'mask': its positions take"),
        ("mask", {"sections": []}, "'mask': its positions take -1"),
        ("mask", {"sections": [[1, 2, 3]]}, "sections of the tensor 'mask' are no pairs"),
        ("mask", {"sections": [[9, 6], [4, 4]]}, "'mask' has a section that is longer"),
        ("mask", {"crc32": 1 << 32}, "no sizes for nnz, offset and crc32"),
        ("mask", {"crc32": 1}, "'mask': its bytes are not those that were written"),
        ("mask", {"offset": 1}, "begins at byte"),
        ("mask", {"more": 1}, "'mask' is described by other things"),
        ("raw", {"values": "I8"}, "'raw': values with scales are for tensors of 2"),
    ],
)
def test_a_header_that_breaks_a_rule_is_refused(path, name, change, rule):
    header, data = taken_apart(path)
    header["tensors"][name].update(change)
    put_together(path, header, data)
    refused(path, rule)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"version": 2}, "version 2 of the format and this thrifty reads version 1; upgrade"),
        ({"version": True}, "version True"),
        ({"metadata": {"a": 1}}, "metadata is no object of strings"),
        ({"metadata": []}, "metadata is no object"),
        ({"tensors": []}, "tensors is no object"),
        ({"tensors": {"a": 3}}, "the tensor 'a' is described by other things"),
        ({"tensors": {}}, "bytes are left behind its last tensor"),
        ({"more": {}}, "other entries than metadata, tensors and version"),
    ],
)
def test_a_whole_header_that_breaks_a_rule_is_refused(path, change, rule):
    header, data = taken_apart(path)
    put_together(path, header | change, data)
    refused(path, rule)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (b'{"metadata":{},"metadata":{},"tensors":{},"version":1}', "one form"),
        (b'{"metadata":{}, "tensors":{},"version":1}', "one form"),
        (b'{"tensors":{},"metadata":{},"version":1}', "one form"),
        (b'{"metadata":{"\\u0061":""},"tensors":{},"version":1}', "one form"),
        (b'{"metadata":{"\\ud800":""},"tensors":{},"version":1}', "no UTF-8"),
        (b'{"metadata":{},"tensors":{},"version":1}\n', "one form"),
        (b'{"metadata":{"\xff":""},"tensors":{},"version":1}', "no UTF-8"),
        (b'{"metadata":{},"tensors":{},"version":NaN}', "no whole one"),
        (b'{"metadata":{},"tensors":{},"version":%s}' % (b"1" * 5000), "which is no size"),
        (b"[" * 100_000, "nested without end"),
        (b"[]", "no version"),
        (b"", "cannot be read"),
        (b"{", "cannot be read"),
    ],
)
def test_json_in_any_other_form_is_refused(path, text, rule):
    put_together(path, None, b"", text)
    refused(path, rule)


def test_every_way_of_cutting_it_short_is_refused(path):
    content = path.read_bytes()
    for left in range(len(content)):
        path.write_bytes(content[:left])
        refused(path, "empty|no .thrifty file|no whole .thrifty file")


def test_every_flipped_bit_is_refused(path):
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
        refused(path, "no .thrifty file|no whole .thrifty file|version")


def test_bytes_behind_the_last_tensor_are_refused(path):
    path.write_bytes(path.read_bytes() + b"\0")
    refused(path, "1 bytes are left behind its last tensor")


def test_a_file_of_another_kind_is_told(tmp_path):
    (tmp_path / "a").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    refused(tmp_path / "a", "is no .thrifty file")


@pytest.mark.parametrize("claimed", [1 << 24, 1 << 40, (1 << 64) - 1])
def test_a_header_that_would_unpack_to_more_is_refused(path, claimed):
    text = zstandard.compress(b" " * min(claimed + 1, MOST_HEADER + 1))
    prefix = PREFIX.pack(MAGIC, len(text), claimed, zlib.crc32(text))
    path.write_bytes(prefix + text)
    refused(path, "would unpack from|unpacks to")


@pytest.mark.parametrize(
    ("section", "raw", "rule"),
    [
        (zstandard.compress(b"\1" * 2**20), 512, "says that it unpacks to 512 bytes"),
        (zstandard.compress(b"\1" * 512) + b"\0", 512, "no whole zstd frame"),
        (zstandard.compress(b"\1" * 512)[:-1], 512, "no whole zstd frame"),
        (b"\0" * 99, 512, "no whole zstd frame"),
        (b"", 512, "no whole zstd frame"),
        (zstandard.ZstdCompressor(write_content_size=False).compress(b"\1" * 512), 512, "unpacks"),
    ],
)
def test_a_frame_that_lies_is_refused(path, section, raw, rule):
    replaced(path, "long", 0, section, raw)
    refused(path, f"the tensor 'long': .*{rule}", read="long")


@pytest.mark.parametrize(
    ("name", "section", "rule"),
    [
        ("mask", b"\xff" * 6, "bits beyond the shape"),
        ("mask", b"\0" * 6, "more or fewer values than positions"),
        ("gaps", b"\xfe" * 9, "reach beyond the shape"),
        ("gaps", b"\0" * 8 + b"\xff", "end in an escape"),
    ],
)
def test_positions_that_lie_are_refused(path, name, section, rule):
    header, _ = taken_apart(path)
    if name == "gaps":
        section = section[: header["tensors"]["gaps"]["nnz"] - 1] + section[-1:]
        assert header["tensors"]["gaps"]["nnz"] == len(section)
    replaced(path, name, 0, section)
    refused(path, f"the tensor '{name}': the.* {rule}", read=name)


def test_a_few_bytes_that_describe_terabytes_are_refused(tmp_path):
    tensor = {
        "crc32": 0,
        "dtype": "F64",
        "encoding": "gap8",
        "nnz": 0,
        "offset": 0,
        "sections": [[0, 0], [0, 0]],
        "shape": [1 << 40],
        "values": "F64",
    }
    header = {"metadata": {}, "tensors": {"a": tensor}, "version": 1}
    put_together(tmp_path / "a", header, b"")
    refused(tmp_path / "a", "describes 8,796,093,022,208 bytes of tensors")


def test_scales_that_are_no_numbers_are_refused(tmp_path):
    write(tmp_path / "a", {"w": np.float32([[1, 2, 0], [0, 0, 4]])}, {}, "int8")
    replaced(tmp_path / "a", "w", -1, b"\xff" * 8)
    refused(tmp_path / "a", "the tensor 'w': a scale is negative, infinite or NaN")


def test_a_boolean_is_0_or_1(tmp_path):
    write(tmp_path / "a", {"b": np.array([True] * 3)}, {})
    replaced(tmp_path / "a", "b", 0, b"\1\2\1")
    refused(tmp_path / "a", "a boolean is neither 0 nor 1")


def test_a_tensor_that_is_not_there_is_told_with_those_that_are(path):
    with Reader(path) as file, pytest.raises(UserError, match="no tensor 'gap'; did you mean gaps"):
        file.read("gap")


def test_a_file_that_was_closed_is_told(path):
    with Reader(path) as file:
        pass
    with pytest.raises(UserError, match="was closed"):
        file.read("raw")


def test_mutated_files_are_refused_or_read_in_one_way(tmp_path):
    outcome = fuzz.run(2000, folder=tmp_path)
    assert not outcome.failed, "\n".join(outcome.failed[:3])
    assert outcome.refused > 1000 and outcome.right > 200
