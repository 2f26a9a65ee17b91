import io
import struct
import zipfile

import numpy as np
import pytest
import torch

from thrifty.errors import UserError
from thrifty.nets import read_weights
from thrifty.sources import PIECE
from thrifty.sources.opening import only

ARRAYS = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "columns": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "big": np.arange(4, dtype=">f4"),
    "half": np.float16([1, -2]),
    "n": np.array(3),
    "flags": np.array([True, False]),
    "none": np.empty((0, 3), np.uint64),
    "folder/w": np.int8([1]),
}


def npy(array, **options):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asanyarray(array), **options)
    return file.getvalue()


def header(said, version=(1, 0)):
    text = said.encode() if isinstance(said, str) else said
    size = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + size + text


def zipped(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back_in_their_order_and_value(tmp_path, save):
    save(tmp_path / "w.npz", **ARRAYS)
    with only(tmp_path / "w.npz") as source:
        for _ in range(2):
            found = {x.name: x.whole() for x in source.tensors}
            assert list(found) == list(ARRAYS)
            for name, a in ARRAYS.items():
                assert found[name].shape == a.shape and np.array_equal(found[name], a)
                assert found[name].dtype == a.dtype.newbyteorder("<")


def test_one_array_is_called_as_its_file(tmp_path):
    for name, a in ARRAYS.items():
        path = tmp_path / "net.npy"
        np.save(path, a)
        with only(path) as source:
            (x,) = source.tensors
            assert x.name == "net" and np.array_equal(x.whole(), a), name


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", "CF")
def test_large_arrays_come_in_pieces(tmp_path, save, order):
    a = np.asarray(np.arange(PIECE // 8 * 2 + 1 << 1).reshape(-1, 2) % 99, dtype="f4", order=order)
    save(tmp_path / "w.npz", a=a)
    with only(tmp_path / "w.npz") as source:
        pieces = list(source.tensors[0].read())
        assert len(pieces) > 1 and max(p.nbytes for p in pieces) <= PIECE
        assert np.array_equal(np.concatenate(pieces), a.ravel())


def test_what_are_no_numbers_is_left_out_with_a_note(tmp_path):
    odd = {
        "text": np.array(["x"]),
        "complex": np.array([1j]),
        "fields": np.zeros(2, [("a", "f4"), ("\u00e9", "i4")]),
        "date": np.array(["2020-01-01"], "M8[D]"),
        "objects": np.array([{}], object),
    }
    np.savez(tmp_path / "w.npz", a=np.ones(2), **odd)
    with only(tmp_path / "w.npz") as source:
        assert [x.name for x in source.tensors] == ["a"]
        assert len(source.notes) == 5 and "'text' is left out: it is of <U1" in source.notes
    np.savez(tmp_path / "w.npz", **odd)
    with pytest.raises(UserError, match="has no array of numbers.*complex128"):
        only(tmp_path / "w.npz")


class Runs:
    def __reduce__(self):
        return print, ("it ran",)


def test_objects_are_never_unpickled(tmp_path, capsys):
    np.save(tmp_path / "w.npy", np.array([Runs()], object))
    with pytest.raises(UserError, match="has no numbers: it is of object"):
        only(tmp_path / "w.npy")
    assert capsys.readouterr().out == ""


def test_a_member_that_is_no_array_is_left_out(tmp_path):
    path = zipped(tmp_path / "w.npz", {"a.npy": npy([1.0]), "readme.txt": "hello"})
    with only(path) as source:
        assert len(source.tensors) == 1 and "readme.txt" in source.notes[0]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("more", [b"x", -1])
def test_a_member_that_is_longer_or_shorter_than_its_header_says_is_told(tmp_path, method, more):
    content = npy(np.ones(9))
    content = content[:more] if more == -1 else content + more
    with pytest.raises(UserError, match=r"w\.npz: 'a' is damaged"):
        only(zipped(tmp_path / "w.npz", {"a.npy": content}, method))


def test_a_member_that_unpacks_to_more_than_it_declares_is_told(tmp_path):
    path = zipped(tmp_path / "w.npz", {"a.npy": npy(np.zeros(9999))}, zipfile.ZIP_DEFLATED)
    content, size = path.read_bytes(), len(npy(np.zeros(9999)))
    head = npy(np.zeros(9999))[:128].replace(b"(9999,)", b"(999,) ")
    lying = zipped(tmp_path / "l.npz", {"a.npy": head + bytes(8 * 9999)}, zipfile.ZIP_DEFLATED)
    content = lying.read_bytes().replace(struct.pack("<I", size), struct.pack("<I", 128 + 8 * 999))
    path.write_bytes(content)
    with only(path) as source, pytest.raises(UserError, match="'a' is damaged"):
        source.tensors[0].whole()


def test_a_damaged_member_is_told_when_it_is_read(tmp_path):
    path = zipped(tmp_path / "w.npz", {"a.npy": npy(np.random.rand(999))}, zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    content[3000] ^= 1
    path.write_bytes(content)
    with only(path) as source, pytest.raises(UserError, match="'a' is damaged"):
        source.tensors[0].whole()


def test_what_declares_too_much_is_refused(tmp_path):
    path = tmp_path / "w.npz"
    large = header("{'descr': '|u1', 'fortran_order': False, 'shape': (314572800,)}")
    path = zipped(path, {"a.npy": large + bytes(300 << 20)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="made to fill the memory"):
        only(path)


def test_members_that_share_their_bytes_are_refused(tmp_path):
    path = zipped(tmp_path / "w.npz", {"a.npy": npy(np.ones(999))})
    content = path.read_bytes()
    directory = content.index(b"PK\x01\x02")
    end = content.index(b"PK\x05\x06")
    entry, last = content[directory:end], bytearray(content[end:])
    copies = b"".join(entry.replace(b"a.npy", f"{i}.npy".encode()) for i in range(9))
    last[8:20] = struct.pack("<HHII", 9, 9, len(copies), directory)
    path.write_bytes(content[:directory] + copies + last)
    with pytest.raises(UserError, match="overlap"):
        only(path)


def test_encrypted_members_are_refused(tmp_path):
    path = zipped(tmp_path / "w.npz", {"a.npy": npy([1.0])})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.npy is encrypted"):
        only(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_arrays_of_one_name_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("a.npy", npy([1.0]))
        archive.writestr("a.npy", npy([2.0]))
    with pytest.raises(UserError, match="two arrays of one name"):
        only(tmp_path / "w.npz")


@pytest.mark.parametrize(
    "said",
    [
        "",
        "{",
        "(" * 9000,
        "-" * 9000 + "1",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (%s)}" % ("1," * 4000),
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 9)}",
        "{'descr': '<f4', 'fortran_order': True, 'shape': (0, 9223372036854775807, 9)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (%s,)}" % ("9" * 5000),
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2L,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,)}",
        "{'descr': 'O', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': ('<f4', (2, 2)), 'fortran_order': False, 'shape': (1,)}",
        "{'descr': [('a', 'O')], 'fortran_order': False, 'shape': (1,)}",
        "{'descr': 'no', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': None, 'fortran_order': False, 'shape': ()}",
        "x" * 20000,
    ],
)
def test_headers_that_lie_are_refused(tmp_path, said):
    for content in (header(said) + bytes(4), header(said, (2, 0)) + bytes(4)):
        (tmp_path / "w.npy").write_bytes(content)
        with pytest.raises(UserError, match=r"w\.npy"):
            only(tmp_path / "w.npy")
        with pytest.raises(UserError, match=r"w\.npz"):
            only(zipped(tmp_path / "w.npz", {"a.npy": content}))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_cut_anywhere_is_told(tmp_path, save):
    path = tmp_path / "w.npz"
    save(path, a=np.ones(9), b=np.ones(9))
    content = path.read_bytes()
    for size in range(0, len(content), 7):
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match=r"w\.npz"):
            only(path)


def test_arrays_fill_networks(tmp_path):
    np.savez(tmp_path / "w.npz", **ARRAYS)
    tensors, metadata = read_weights(tmp_path / "w.npz")
    assert metadata == {} and list(tensors) == list(ARRAYS)
    assert torch.equal(tensors["columns"], torch.arange(24.0, dtype=torch.float64).view(2, 3, 4))
