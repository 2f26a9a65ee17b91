import lzma
import os
import struct
import subprocess
import sys
import tempfile
import zlib

import numpy as np
import pytest
import torch
import zstandard
from safetensors.numpy import save

from thrifty.errors import UserError
from thrifty.nets import read_weights
from thrifty.sources.opening import only

PACK = {".xz": lzma.compress, ".zst": zstandard.compress}
ARRAYS = {"w": np.arange(12, dtype=np.float32).reshape(3, 4), "n": np.int8([1])}


def put(folder, content, suffix, name="net.safetensors"):
    path = folder / f"{name}{suffix}"
    path.write_bytes(content)
    return path


def header(text, data=b""):
    return struct.pack("<Q", len(text)) + text + data


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    yield
    assert not os.listdir(tmp_path / "temporary"), "temporary files are left behind"


@pytest.mark.parametrize("suffix", PACK)
def test_what_was_packed_is_read_and_nothing_is_left_behind(tmp_path, suffix):
    path = put(tmp_path, PACK[suffix](save(ARRAYS)), suffix)
    with only(path) as source:
        found = {x.name: x.whole() for x in source.tensors}
        assert source.nbytes == path.stat().st_size
        assert (source.label, source.kind) == ("net", f"safetensors{suffix}")
    assert all(np.array_equal(found[name], a) for name, a in ARRAYS.items())


@pytest.mark.parametrize("suffix", PACK)
def test_several_frames_are_one_content(tmp_path, suffix):
    content, pack = save(ARRAYS), PACK[suffix]
    path = put(tmp_path, pack(content[:50]) + pack(b"") + pack(content[50:]), suffix)
    with only(path) as source:
        assert len(source.tensors) == 2


def test_zeros_may_pad_xz(tmp_path):
    with only(put(tmp_path, lzma.compress(save(ARRAYS)) + bytes(8), ".xz")) as source:
        assert len(source.tensors) == 2


def test_a_frame_need_not_say_its_size(tmp_path):
    compressor = zstandard.ZstdCompressor(write_content_size=False)
    with only(put(tmp_path, compressor.compress(save(ARRAYS)), ".zst")) as source:
        assert len(source.tensors) == 2


@pytest.mark.parametrize("suffix", PACK)
def test_a_file_cut_anywhere_is_told(tmp_path, suffix):
    content = PACK[suffix](save(ARRAYS))
    for size in range(len(content)):
        path = put(tmp_path, content[:size], suffix)
        with pytest.raises(UserError, match="net.safetensors"):
            only(path)


@pytest.mark.parametrize("suffix", PACK)
def test_more_or_less_than_the_header_describes_is_told(tmp_path, suffix):
    content, pack = save(ARRAYS), PACK[suffix]
    with pytest.raises(UserError, match="goes on behind"):
        only(put(tmp_path, pack(content + b"x"), suffix))
    with pytest.raises(UserError, match="bytes of the"):
        only(put(tmp_path, pack(content[:-1]), suffix))
    with pytest.raises(UserError, match="ends in its header"):
        only(put(tmp_path, pack(content[:20]), suffix))


@pytest.mark.parametrize("suffix", PACK)
def test_what_is_out_of_proportion_is_refused_before_it_is_unpacked(tmp_path, suffix):
    entry = b'{"a":{"dtype":"U8","shape":[1099511627776],"data_offsets":[0,1099511627776]}}'
    with pytest.raises(UserError, match="unpacks to 1,099,511,627,8"):
        only(put(tmp_path, PACK[suffix](header(entry, bytes(1 << 20))), suffix))


@pytest.mark.parametrize("suffix", PACK)
def test_content_that_goes_on_without_end_is_cut_off(tmp_path, suffix):
    with pytest.raises(UserError, match="goes on behind the 10 bytes"):
        only(put(tmp_path, PACK[suffix](header(b"{}", bytes(20 << 20))), suffix))


@pytest.mark.parametrize("suffix", PACK)
def test_a_header_out_of_proportion_is_refused(tmp_path, suffix):
    with pytest.raises(UserError, match="declares a header of 90,000,000"):
        only(put(tmp_path, PACK[suffix](struct.pack("<Q", 90_000_000) + b"[" * 99), suffix))


def test_what_needs_much_memory_to_unpack_is_refused(tmp_path):
    content = bytearray(lzma.compress(save(ARRAYS)))
    assert content[14:16] == b"\x21\1"  # the filter LZMA2, and behind it the size of its window
    content[16] = 40
    content[20:24] = struct.pack("<I", zlib.crc32(content[12:20]))
    with pytest.raises(UserError, match="of memory to be unpacked"):
        only(put(tmp_path, bytes(content), ".xz"))


def test_other_formats_may_be_packed_too(tmp_path):
    np.save(tmp_path / "a.npy", ARRAYS["w"])
    torch.save({"w": torch.ones(3)}, tmp_path / "w.pt")
    for name in ("a.npy", "w.pt"):
        for suffix, pack in PACK.items():
            path = put(tmp_path, pack((tmp_path / name).read_bytes()), suffix, name)
            with only(path) as source:
                assert source.tensors[0].count in (3, 12)
                assert source.kind.endswith(suffix)


def test_an_error_of_another_format_names_the_file_that_was_given(tmp_path):
    path = put(tmp_path, lzma.compress(b"no array"), ".xz", "a.npy")
    with pytest.raises(UserError) as caught:
        only(path)
    assert str(path) in str(caught.value) and "temporary" not in str(caught.value)


def test_another_format_out_of_proportion_is_cut_off(tmp_path):
    path = put(tmp_path, zstandard.compress(bytes((256 << 20) + 1)), ".zst", "a.npy")
    with pytest.raises(UserError, match="1000 times"):
        only(path)


FULL = """
import resource, sys
from thrifty.errors import UserError
from thrifty.sources.opening import only
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    only(sys.argv[1])
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("inner", ["net.safetensors", "net.npy"])
def test_a_full_disk_is_told_with_what_to_do(tmp_path, suffix, inner):
    np.save(tmp_path / "net.npy", np.ones(2 << 20, np.uint8))
    (tmp_path / "net.safetensors").write_bytes(save({"w": np.ones(2 << 20, np.uint8)}))
    path = put(tmp_path, PACK[suffix]((tmp_path / inner).read_bytes()), suffix, inner)
    done = subprocess.run(
        [sys.executable, "-c", FULL, path], capture_output=True, text=True, check=True
    )
    assert "cannot be unpacked to" in done.stdout and "TMPDIR" in done.stdout


@pytest.mark.parametrize("suffix", PACK)
def test_packed_weights_fill_networks(tmp_path, suffix):
    path = put(tmp_path, PACK[suffix](save(ARRAYS, {"by": "us"})), suffix)
    tensors, metadata = read_weights(path)
    assert torch.equal(tensors["w"], torch.from_numpy(ARRAYS["w"]))
    assert metadata == {"by": "us"}
