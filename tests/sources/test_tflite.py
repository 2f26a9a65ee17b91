import random
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thrifty.errors import UserError
from thrifty.sources.opening import only

CONV, DEPTHWISE, DEQUANTIZE, DENSE, RESHAPE = 3, 4, 6, 9, 22
F32, F16, I32, U8, STRING, I8, I4 = 0, 1, 2, 3, 5, 9, 17


class Flat:
    """Writes a FlatBuffer front to back: a table, and then what its fields point to."""

    def __init__(self):
        self.data = bytearray(b"\0\0\0\0TFL3")

    def finished(self, fields):
        self.point(0, self.table(fields))
        return bytes(self.data)

    def align(self, size=16):
        self.data += bytes(-len(self.data) % size)

    def point(self, slot, to):
        struct.pack_into("<I", self.data, slot, to - slot)

    def table(self, fields):
        self.align()
        count = max(fields, default=-1) + 1
        vtable = len(self.data)
        places = [4 + 8 * i if i in fields else 0 for i in range(count)]
        self.data += struct.pack(f"<{2 + count}H", 4 + 2 * count, 4 + 8 * count, *places)
        self.align()
        at = len(self.data)
        self.data += struct.pack("<i", at - vtable) + bytes(8 * count)
        later = []
        for i, value in fields.items():
            slot = at + places[i]
            if isinstance(value, tuple):
                struct.pack_into(f"<{value[0]}", self.data, slot, value[1])
            else:
                later.append((slot, value))
        for slot, value in later:
            self.point(slot, self.thing(value))
        return at

    def thing(self, value):
        if isinstance(value, dict):
            return self.table(value)
        self.align()
        at = len(self.data)
        if isinstance(value, str):
            value = np.frombuffer(value.encode(), np.uint8)
        self.data += struct.pack("<I", len(value))
        if isinstance(value, np.ndarray):
            self.data += value.tobytes()
            return at
        slots = [at + 4 + 4 * i for i in range(len(value))]
        self.data += bytes(4 * len(value))
        for slot, table in zip(slots, value, strict=True):
            self.point(slot, self.table(table))
        return at


def quantisation(scale, zero, axis=0):
    return {2: np.float32(scale), 3: np.int64(zero), 6: ("i", axis)}


def tensor(name, shape, kind, buffer, **more):
    fields = {0: np.int32(shape), 1: ("b", kind), 2: ("I", buffer), 3: name}
    if "how" in more:
        fields[4] = more["how"]
    if "sparsity" in more:
        fields[6] = more["sparsity"]
    return fields


def operator(code, inputs, outputs):
    return {0: ("I", code), 1: np.int32(inputs), 2: np.int32(outputs)}


CODES = (CONV, DEPTHWISE, DENSE, DEQUANTIZE, RESHAPE)
KERNEL = np.arange(24, dtype=np.int8).reshape(4, 1, 2, 3)
DEPTH = np.arange(36, dtype=np.uint8).reshape(1, 3, 3, 4)
HALF = np.arange(8, dtype=np.float16).reshape(2, 4)
BIAS = np.int32([1, -2, 3, 0])
SHAPE = np.int32([1, -1])


def model(tensors=None, operators=None, buffers=None):
    if tensors is None:
        tensors = [
            tensor("in", (1, 4, 4, 3), F32, 0),
            tensor("k", KERNEL.shape, I8, 1, how=quantisation([1, 2, 3, 4], [0, 0, 0, 0])),
            tensor("b", (4,), I32, 2, how=quantisation([0.5], [0])),
            tensor("mid", (1, 4, 4, 4), F32, 0),
            tensor("d", DEPTH.shape, U8, 3, how=quantisation([0.25], [128])),
            tensor("out", (1, 4, 4, 4), F32, 0),
            tensor("h", HALF.shape, F16, 4),
            tensor("wide", HALF.shape, F32, 0),
            tensor("shape", (2,), I32, 5),
        ]
    if operators is None:
        operators = [
            operator(0, [0, 1, 2], [3]),
            operator(1, [3, 4, -1], [5]),
            operator(4, [5, 8], [5]),
            operator(3, [6], [7]),
            operator(2, [5, 7, -1], [5]),
        ]
    if buffers is None:
        buffers = [b"", KERNEL, BIAS, DEPTH, HALF, SHAPE]
    content = [{0: np.frombuffer(bytes(b), np.uint8)} if len(b) else {} for b in buffers]
    codes = [{0: ("b", code), 3: ("i", code)} for code in CODES]
    graph = {0: tensors, 3: operators}
    return Flat().finished({0: ("I", 3), 1: codes, 2: [graph], 3: "a test", 4: content})


def written(tmp_path, content):
    path = tmp_path / "net.tflite"
    path.write_bytes(content)
    return path


def read(path):
    with only(path) as source:
        return source, {x.name: (x, x.whole()) for x in source.tensors}


def test_constants_come_with_roles_axes_and_values(tmp_path):
    source, found = read(written(tmp_path, model()))
    assert source.label == "net" and source.claims == {"description": "a test"}
    assert {n: (x.role, x.out_axis, x.dtype) for n, (x, _) in found.items()} == {
        "k": ("weight", 0, "I8"),
        "b": ("bias", 0, "I32"),
        "d": ("weight", -1, "U8"),
        "h": ("weight", 0, "F16"),
        "shape": ("other", 0, "I32"),
    }
    for name, array in (("k", KERNEL), ("b", BIAS), ("d", DEPTH), ("h", HALF), ("shape", SHAPE)):
        assert np.array_equal(found[name][1], array)


def test_integers_come_with_their_scales(tmp_path):
    _, found = read(written(tmp_path, model()))
    k, b, d = (found[n][0].quantised for n in "kbd")
    assert k.axis == 0 and k.scale.tolist() == [1, 2, 3, 4] and k.zero.tolist() == [0] * 4
    assert b.axis is None and b.scale == 0.5
    assert d.scale == 0.25 and d.zero == 128
    assert found["h"][0].quantised is None and found["shape"][0].quantised is None


def test_scales_that_fit_no_axis_are_told_and_not_used(tmp_path):
    odd = [tensor("k", KERNEL.shape, I8, 1, how=quantisation([1, 2], [0, 0]))]
    source, found = read(written(tmp_path, model(odd, [])))
    assert found["k"][0].quantised is None
    assert any("k" in note and "scales" in note for note in source.notes)


def test_a_buffer_of_two_tensors_is_counted_once(tmp_path):
    two = [tensor(n, KERNEL.shape, I8, 1) for n in "ab"]
    source, found = read(written(tmp_path, model(two, [])))
    assert list(found) == ["a"] and "counted once" in source.notes[0]


def test_tensors_of_one_name_are_told_apart(tmp_path):
    two = [tensor("a", KERNEL.shape, I8, 1), tensor("a", DEPTH.shape, U8, 3)]
    _, found = read(written(tmp_path, model(two, [])))
    assert len(found) == 2


@pytest.mark.parametrize("kind, said", [(I4, "INT4"), (STRING, "STRING"), (99, "type 99")])
def test_what_cannot_be_counted_is_named_and_left_out(tmp_path, kind, said):
    some = [tensor("k", KERNEL.shape, I8, 1), tensor("odd", (8,), kind, 3)]
    source, found = read(written(tmp_path, model(some, [])))
    assert list(found) == ["k"] and said in source.notes[0] and "odd" in source.notes[0]


def test_sparse_tensors_are_named_and_left_out(tmp_path):
    some = [tensor("k", KERNEL.shape, I8, 1), tensor("s", (8, 8), F32, 3, sparsity={})]
    source, _ = read(written(tmp_path, model(some, [])))
    assert "stored sparse" in source.notes[0] and "s" in source.notes[0]


@pytest.mark.parametrize(
    "content, said",
    [
        (b"\x08\0\0\0", "TFL3"),
        (b"\x08\0\0\0TFL2" + bytes(40), "TFL3"),
        (b"\0\0\0\0TFL3" + bytes(40), "distance"),
        (b"\xff\xff\xff\xffTFL3" + bytes(40), "points to byte"),
        (model([], []), "no weights"),
        (model([tensor("k", (5, 5), I8, 1)], []), "shape"),
        (model([tensor("k", (-1, -24), I8, 1)], []), "shape"),
        (model([tensor("k", (24,), I8, 77)], []), "buffer 77"),
        (model([tensor("k", (8,), I4, 3)], []), "INT4"),
    ],
)
def test_wrong_files_are_refused_with_the_reason(tmp_path, content, said):
    with pytest.raises(UserError, match=said):
        read(written(tmp_path, content))


def test_a_buffer_listed_many_times_is_not_read_many_times(tmp_path):
    """A small file whose parts are shared describes a huge network, and is refused quickly."""
    flat = Flat()
    content = bytearray(model())
    count = 1 << 17
    flat.data = content
    at = flat.thing(np.zeros(count, np.uint32))
    root = struct.unpack_from("<I", content)[0]
    vtable = root - struct.unpack_from("<i", content, root)[0]
    graphs = root + struct.unpack_from("<H", content, vtable + 4 + 2 * 2)[0]
    first = graphs + struct.unpack_from("<I", content, graphs)[0] + 4
    graph = first + struct.unpack_from("<I", content, first)[0]
    struct.pack_into("<I", content, graphs, at - graphs)
    for i in range(count):
        slot = at + 4 + 4 * i
        struct.pack_into("<I", content, slot, (graph - slot) % (1 << 32))
    with pytest.raises(UserError):
        read(written(tmp_path, bytes(content)))


def right_or_refused(path, content):
    path.write_bytes(content)
    try:
        with only(path) as source:
            for x in source.tensors:
                assert sum(len(piece) for piece in x.read()) == x.count
    except UserError as error:
        assert "net" in str(error)


def test_a_file_cut_anywhere_is_refused_or_read(tmp_path):
    content = model()
    for end in range(1, len(content), 3):
        right_or_refused(tmp_path / "net.tflite", content[:end])


def test_every_byte_changed_is_refused_or_read(tmp_path):
    content = model()
    rng = random.Random(0)
    for at in range(len(content)):
        value = rng.choice([content[at] ^ 1 << rng.randrange(8), 0, 127, 128, 255])
        right_or_refused(tmp_path / "net.tflite", content[:at] + bytes([value]) + content[at + 1 :])


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(at=st.integers(0, 1500), put=st.binary(max_size=12), cut=st.integers(0, 12))
def test_bytes_put_anywhere_are_refused_or_read(tmp_path, at, put, cut):
    content = model()
    right_or_refused(tmp_path / "net.tflite", content[:at] + put + content[at + cut :])


def mobilenet(width):
    """Weights and biases of MobileNet v1 by its published architecture, 1001 classes."""
    channels = [int(c * width) for c in (32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)]
    pairs = list(zip(channels, channels[1:], strict=False))
    weights = 27 * channels[0] + sum(9 * a + a * b for a, b in pairs) + 1001 * channels[-1]
    return {"weight": weights, "bias": channels[0] + sum(a + b for a, b in pairs) + 1001}


@pytest.mark.real
@pytest.mark.parametrize(
    "name, width, about",
    [("mobilenet_v1_0.25_128_quant", 0.25, 0.47e6), ("mobilenet_v1_0.5_160_quant", 0.5, 1.33e6)],
)
def test_mobilenets_have_the_published_number_of_parameters(real_data, name, width, about):
    """The batch normalisation is folded into the convolutions and their biases."""
    with only(real_data / "weights" / f"{name}.tflite") as source:
        count = {
            role: sum(x.count for x in source.tensors if x.role == role)
            for role in ("weight", "bias", "other")
        }
        assert count == {**mobilenet(width), "other": 2}
        assert count["weight"] + count["bias"] == pytest.approx(about, rel=0.01)
        assert all(x.quantised is not None for x in source.tensors if x.role != "other")
        assert all(len(x.whole().reshape(-1)) == x.count for x in source.tensors)
