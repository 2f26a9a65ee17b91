import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thrifty.errors import UserError
from thrifty.sources import BITS, Norm
from thrifty.sources.opening import only

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

DTYPES = {
    "F32": TensorProto.FLOAT,
    "F64": TensorProto.DOUBLE,
    "F16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "F8_E4M3": TensorProto.FLOAT8E4M3FN,
    "F8_E4M3FNUZ": TensorProto.FLOAT8E4M3FNUZ,
    "F8_E5M2": TensorProto.FLOAT8E5M2,
    "F8_E5M2FNUZ": TensorProto.FLOAT8E5M2FNUZ,
    "I8": TensorProto.INT8,
    "U8": TensorProto.UINT8,
    "I16": TensorProto.INT16,
    "U16": TensorProto.UINT16,
    "I32": TensorProto.INT32,
    "U32": TensorProto.UINT32,
    "I64": TensorProto.INT64,
    "U64": TensorProto.UINT64,
    "BOOL": TensorProto.BOOL,
}


def saved(tmp_path, nodes=(), initializers=(), outputs=("y",), **more):
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs]
    graph = helper.make_graph(list(nodes), "g", [], values, list(initializers), **more)
    return written(tmp_path, helper.make_model(graph).SerializeToString())


def written(tmp_path, content):
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    return path


def array(name, value, dtype=np.float32):
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def read(path):
    with only(path) as source:
        return source, {x.name: (x, x.whole()) for x in source.tensors}


def same_bits(ours, theirs):
    return ours.tobytes() == np.ascontiguousarray(theirs).tobytes()


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_read_as_the_onnx_package_reads_it(tmp_path, dtype, raw):
    values = [0, 1, 0, 1, 1, 0] if dtype == "BOOL" else [0, 1, 2, 3, 100, 5]
    values = [-v for v in values] if dtype[0] in "FI" else values
    tensor = helper.make_tensor("w", DTYPES[dtype], [2, 3], values)
    expected = numpy_helper.to_array(tensor)
    if raw:
        tensor = numpy_helper.from_array(expected, "w")
        assert tensor.HasField("raw_data")
    _, found = read(saved(tmp_path, [], [tensor]))
    stored, ours = found["w"]
    assert stored.dtype == dtype and stored.shape == (2, 3) and ours.dtype == BITS[dtype]
    assert same_bits(ours, expected)


def test_integers_of_any_length_are_decoded(tmp_path):
    values = [0, -1, 127, 128, 2**31, -(2**31), 2**63 - 1, -(2**63), *(1 << i for i in range(63))]
    _, found = read(saved(tmp_path, [], [helper.make_tensor("w", 7, [len(values)], values)]))
    assert found["w"][1].tolist() == values


def test_numbers_that_are_not_packed_are_read(tmp_path):
    """As proto2 writes them: a key before every number."""
    floats = b"".join(b"\x25" + np.float32(v).tobytes() for v in (1, 2, 3))
    tensor = b"\x08\x03\x10\x01" + floats + b"\x42\x01w"
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    _, found = read(written(tmp_path, b"\x08\x07\x3a" + bytes([len(graph)]) + graph))
    assert found["w"][1].tolist() == [1, 2, 3]


def test_roles_and_axes_are_told_by_the_graph(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "c", "cb"], ["1"]),
        helper.make_node("ConvTranspose", ["1", "t", "tb"], ["2"]),
        helper.make_node("Reshape", ["2", "shape"], ["3"]),
        helper.make_node("Gemm", ["3", "g", "gb"], ["4"], transB=1),
        helper.make_node("Gemm", ["4", "g2"], ["5"]),
        helper.make_node("MatMul", ["5", "m"], ["6"]),
        helper.make_node("Add", ["mb", "6"], ["7"]),
        helper.make_node("Transpose", ["p"], ["pt"], perm=[1, 0]),
        helper.make_node("Cast", ["pt"], ["pc"], to=1),
        helper.make_node("MatMul", ["7", "pc"], ["8"]),
        helper.make_node("LayerNormalization", ["8", "ls", "lb"], ["9"]),
        helper.make_node("LSTM", ["9", "lw", "lr", "lbias"], ["10"]),
        helper.make_node("Gather", ["e", "10"], ["y"]),
    ]
    shapes = {
        "c": (4, 3, 3, 3), "cb": (4,), "t": (4, 2, 3, 3), "tb": (2,), "g": (5, 6), "gb": (5,),
        "g2": (5, 7), "m": (7, 8), "mb": (8,), "p": (9, 8), "ls": (9,), "lb": (9,),
        "lw": (1, 8, 9), "lr": (1, 8, 2), "lbias": (1, 16), "e": (10, 3),
    }  # fmt: skip
    tensors = [array(n, np.ones(s)) for n, s in shapes.items()] + [array("shape", [0, -1], "i8")]
    source, found = read(saved(tmp_path, nodes, tensors))
    assert {n: x.role for n, (x, _) in found.items()} == {
        **dict.fromkeys(("c", "t", "g", "g2", "m", "p", "lw", "lr", "e"), "weight"),
        **dict.fromkeys(("cb", "tb", "gb", "mb", "lbias"), "bias"),
        "ls": "scale",
        "lb": "shift",
        "shape": "other",
    }
    axes = {n: found[n][0].out_axis for n in ("c", "t", "g", "g2", "m", "p", "lw", "e")}
    assert axes == {"c": 0, "t": 1, "g": 0, "g2": 1, "m": 1, "p": 0, "lw": 1, "e": 1}
    assert source.norms == ()


def with_norm(tmp_path, op="Conv", shape=(4, 3, 1, 1), extra=(), outputs=("y",), **settings):
    nodes = [
        helper.make_node(op, ["x", "w", "b"], ["1"], **settings),
        helper.make_node("BatchNormalization", ["1", *"gsmv"], ["y"], epsilon=0.25),
        *extra,
    ]
    tensors = [array("w", np.ones(shape))] + [array(n, np.ones(4)) for n in "bgsmv"]
    source, found = read(saved(tmp_path, nodes, tensors, outputs))
    assert [found[n][0].role for n in "gsmv"] == ["scale", "shift", "statistic", "statistic"]
    return source.norms


NORM = Norm("w", "b", "g", "s", "m", "v", 0.25)


def test_a_normalisation_is_paired_with_the_layer_before_it(tmp_path):
    assert with_norm(tmp_path) == (NORM,)
    assert with_norm(tmp_path, "Gemm", (4, 3), transB=1) == (NORM,)
    assert with_norm(tmp_path, "Gemm", (3, 4)) == (NORM,)
    assert with_norm(tmp_path, "ConvTranspose", (3, 4, 1, 1)) == (NORM,)


def test_what_something_else_reads_is_not_paired(tmp_path):
    read_again = helper.make_node("Relu", ["1"], ["z"])
    weight_again = helper.make_node("Relu", ["w"], ["z"])
    scale_again = helper.make_node("Relu", ["g"], ["z"])
    for node in (read_again, weight_again, scale_again):
        assert with_norm(tmp_path, extra=[node]) == ()
    assert with_norm(tmp_path, outputs=("y", "1")) == ()
    assert with_norm(tmp_path, "Gemm", (4, 3), transB=1, alpha=2.0) == ()
    assert with_norm(tmp_path, "ConvTranspose", (3, 2, 1, 1), group=2) == ()


def test_integers_behind_a_dequantisation_come_with_their_scales(tmp_path):
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["f"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "bs"], ["bf"]),
        helper.make_node("Conv", ["x", "f", "bf"], ["y"]),
    ]
    tensors = [
        array("w", np.ones((2, 3, 1, 1)), np.int8),
        array("ws", [0.5, 2]),
        array("wz", [1, -1], np.int8),
        array("b", [3, 4], np.int32),
        array("bs", 0.125),
    ]
    _, found = read(saved(tmp_path, nodes, tensors))
    w, b = found["w"][0], found["b"][0]
    assert (w.role, w.out_axis, b.role, found["ws"][0].role) == ("weight", 0, "bias", "other")
    assert w.quantised.axis == 0 and w.quantised.scale.tolist() == [0.5, 2]
    assert w.quantised.zero.tolist() == [1, -1]
    assert b.quantised.axis is None and b.quantised.scale == 0.125 and b.quantised.zero == 0


def test_quantised_operations_say_how_their_weights_are_meant(tmp_path):
    nodes = [
        helper.make_node("QLinearConv", ["x", "s", "z", "w", "ws", "wz", "s", "z", "b"], ["1"]),
        helper.make_node("MatMulInteger", ["1", "m", "z", "z"], ["2"]),
        helper.make_node("Cast", ["2"], ["3"], to=1),
        helper.make_node("Mul", ["dynamic", "ms"], ["4"]),
        helper.make_node("Mul", ["3", "4"], ["y"]),
    ]
    tensors = [
        array("s", 0.5), array("z", 3, np.uint8), array("w", np.ones((2, 1, 1, 1)), np.uint8),
        array("ws", [2, 4]), array("wz", [0, 1], np.uint8), array("b", [1, 2], np.int32),
        array("m", np.ones((2, 3)), np.uint8), array("ms", 0.25),
    ]  # fmt: skip
    _, found = read(saved(tmp_path, nodes, tensors))
    w, b, m = (found[n][0].quantised for n in "wbm")
    assert w.scale.tolist() == [2, 4] and w.zero.tolist() == [0, 1] and w.axis == 0
    assert b.scale.tolist() == [1, 2] and b.axis == 0
    assert m.scale == 0.25 and m.zero == 3


def test_scales_of_blocks_are_told_and_not_used(tmp_path):
    node = helper.make_node("DequantizeLinear", ["w", "s"], ["y"], axis=1, block_size=2)
    tensors = [array("w", np.ones((2, 4)), np.int8), array("s", np.ones((2, 2)))]
    source, found = read(saved(tmp_path, [node], tensors))
    assert found["w"][0].quantised is None
    assert any("w" in note and "block" in note for note in source.notes)


def test_constants_of_nodes_count_if_they_are_weights(tmp_path):
    nodes = [
        helper.make_node("Constant", [], ["w"], value=array("", np.ones((2, 3, 1, 1)))),
        helper.make_node("Constant", [], ["b"], value=array("", [1, 2])),
        helper.make_node("Constant", [], ["size"], value=array("", [1, 2], "i8")),
        helper.make_node("Constant", [], ["one"], value=array("", 1)),
        helper.make_node("Conv", ["x", "w", "b"], ["1"]),
        helper.make_node("Reshape", ["1", "size"], ["2"]),
        helper.make_node("Add", ["2", "one"], ["y"]),
    ]
    source, found = read(saved(tmp_path, nodes))
    assert {n: x.role for n, (x, _) in found.items()} == {"w": "weight", "b": "bias"}
    assert "2 constants" in source.notes[0]


def test_initializers_of_branches_are_counted_and_told_apart(tmp_path):
    def branch(fill):
        node = helper.make_node("MatMul", ["x", "w"], ["o"])
        value = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
        return helper.make_graph([node], "b", [], [value], [array("w", np.full((2, 3), fill))])

    branches = {"then_branch": branch(1), "else_branch": branch(2)}
    node = helper.make_node("If", ["c"], ["y"], name="if0", **branches)
    _, found = read(saved(tmp_path, [node], [array("c", True, bool)]))
    assert found["if0/then_branch/w"][1].tolist() == np.full((2, 3), 1).tolist()
    assert found["if0/else_branch/w"][1].tolist() == np.full((2, 3), 2).tolist()
    assert {found[n][0].role for n in found if n.endswith("w")} == {"weight"}


def test_a_branch_reads_the_weights_of_the_graph_around_it(tmp_path):
    value = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
    inner = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["o"])], "b", [], [value])
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    _, found = read(saved(tmp_path, [node], [array("w", np.ones((2, 3)))]))
    assert found["w"][0].role == "weight" and found["w"][0].out_axis == 1


@pytest.mark.parametrize("linear", [True, False])
def test_sparse_initializers_count_as_the_dense_tensors_they_stand_for(tmp_path, linear):
    dense = np.zeros((3, 5), np.float32)
    dense[0, 1], dense[2, 0], dense[2, 4] = 1, 2, 3
    places = np.flatnonzero(dense) if linear else np.argwhere(dense)
    sparse = helper.make_sparse_tensor(
        array("w", dense[dense != 0]), array("", places, np.int64), [3, 5]
    )
    source, found = read(saved(tmp_path, sparse_initializer=[sparse]))
    assert np.array_equal(found["w"][1], dense) and "sparse" in source.notes[0]


@pytest.mark.parametrize("places", [[-1, 2], [2, 1], [1, 1], [1, 15]])
def test_places_of_sparse_tensors_that_do_not_hold_are_refused(tmp_path, places):
    sparse = helper.make_sparse_tensor(array("w", [1, 2]), array("", places, np.int64), [3, 5])
    with pytest.raises(UserError, match="out of order or range"):
        read(saved(tmp_path, sparse_initializer=[sparse]))


def test_a_sparse_tensor_out_of_all_proportion_is_refused(tmp_path):
    sparse = helper.make_sparse_tensor(
        array("w", [1]), array("", [0], np.int64), [1 << 20, 1 << 20]
    )
    with pytest.raises(UserError, match="proportion"):
        read(saved(tmp_path, sparse_initializer=[sparse]))


def external(**said):
    tensor = TensorProto(name="w", data_type=1, dims=[2, 3], data_location=TensorProto.EXTERNAL)
    for key, value in said.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def test_external_data_are_read_where_the_model_says(tmp_path):
    weights = np.arange(6, dtype=np.float32)
    (tmp_path / "w.bin").write_bytes(bytes(8) + weights.tobytes() + bytes(3))
    path = saved(tmp_path, [], [external(location="w.bin", offset=8, length=24)])
    source, found = read(path)
    assert np.array_equal(found["w"][1].reshape(-1), weights)
    assert source.nbytes == path.stat().st_size + 8 + 24 + 3


@pytest.mark.parametrize(
    "said, why",
    [
        ({"location": "none.bin"}, "none.bin.*no such file"),
        ({}, "not in the model's folder"),
        ({"location": "../w.bin"}, "not in the model's folder"),
        ({"location": "a/../../w.bin"}, "not in the model's folder"),
        ({"location": "..\\w.bin"}, "not in the model's folder"),
        ({"location": "/etc/passwd"}, "not in the model's folder"),
        ({"location": "C:\\w.bin"}, "not in the model's folder"),
        ({"location": "link.bin"}, "a link to a file"),
        ({"location": "folder"}, "is a folder"),
        ({"location": "n" * 5000}, "no such file"),
        ({"location": "w.bin", "offset": 1}, "should end at byte 25"),
        ({"location": "w.bin", "offset": -1}, "number of bytes"),
        ({"location": "w.bin", "offset": 1 << 70}, "number of bytes"),
        ({"location": "w.bin", "length": 20}, "length is 20"),
    ],
)
def test_external_data_that_are_missing_or_elsewhere_are_refused(tmp_path, said, why):
    place = tmp_path / "model"
    (place / "folder").mkdir(parents=True)
    (tmp_path / "w.bin").write_bytes(bytes(24))
    (place / "w.bin").write_bytes(bytes(24))
    (place / "link.bin").symlink_to(tmp_path / "w.bin")
    with pytest.raises(UserError, match=why):
        read(saved(place, [], [external(**said)]))


@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.STRING, TensorProto.COMPLEX64])
def test_what_cannot_be_counted_is_named_and_left_out(tmp_path, kind):
    odd = TensorProto(name="odd", data_type=kind, dims=[0])
    source, found = read(saved(tmp_path, [], [odd, array("w", [1])]))
    assert list(found) == ["w"] and "odd" in source.notes[0]
    with pytest.raises(UserError, match="no weights that can be counted.*odd"):
        read(saved(tmp_path, [], [odd]))


def tensor(**fields):
    return TensorProto(name="w", data_type=1, **fields)


@pytest.mark.parametrize(
    "tensors, why",
    [
        ([], "no initializers"),
        ([array("w", [1]), array("w", [2])], "two initializers are called 'w'"),
        ([tensor(dims=[3], raw_data=bytes(8))], "takes 12 bytes by its shape, and has 8"),
        ([tensor(dims=[3], float_data=[1, 2])], "3 numbers by its shape, and 2"),
        ([tensor(dims=[2], int32_data=[1, 2])], "data in field 5"),
        ([tensor(dims=[-1], raw_data=bytes(4))], "has the shape"),
        ([tensor(dims=[1 << 40, 1 << 40], raw_data=bytes(4))], "has the shape"),
        ([tensor(dims=[1] * 100, raw_data=bytes(4))], "axes"),
        ([tensor(dims=[1], raw_data=bytes(4), float_data=[1])], "data twice"),
        ([TensorProto(name="w", data_type=3, dims=[1], int32_data=[300])], "is I8"),
    ],
)
def test_tensors_that_do_not_hold_are_refused(tmp_path, tensors, why):
    with pytest.raises(UserError, match=why):
        read(saved(tmp_path, [], tensors))


def nested(depth):
    content = b"\x0a\x00"
    for _ in range(depth):  # a node with an attribute with a graph with a node ...
        for key in (b"\x32", b"\x2a", b"\x0a"):
            content = key + varint(len(content)) + content
    return b"\x08\x07\x3a" + varint(len(content)) + content


def varint(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


@pytest.mark.parametrize(
    "content, why",
    [
        (b"not a model at all", "no whole ONNX model"),
        (b"\x08\x07", "no graph"),
        (b"\x3a\x00", "no version"),
        (b"\x08\x07\x3a\x00\x3a\x00", "two graphs"),
        (b"\x08" + b"\xff" * 11, "longer than 10 bytes"),
        (b"\x08\xff", "cut short"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "are left"),
        (b"\x0b\x08", "wire type 3"),
        (b"\x00\x00", "the number 0"),
        (b"\x08\x07\x38\x00", "wrong wire type"),
        (nested(40), "nested more than"),
    ],
)
def test_bytes_that_are_no_model_are_refused_with_the_reason(tmp_path, content, why):
    with pytest.raises(UserError, match=why):
        read(written(tmp_path, content))


def sample():
    """A small model with every kind of thing in it."""
    value = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
    inner = helper.make_graph(
        [helper.make_node("MatMul", ["x", "v"], ["o"])], "b", [], [value], [array("v", [[1, 2]])]
    )
    nodes = [
        helper.make_node("Constant", [], ["k"], value=array("", [[1, 2]])),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["f"], axis=0),
        helper.make_node("Conv", ["x", "f"], ["1"]),
        helper.make_node("If", ["1"], ["y"], then_branch=inner, else_branch=inner),
    ]
    tensors = [
        array("q", np.ones((2, 1, 1, 1)), np.int8),
        array("s", [0.5, 2]),
        array("z", [1, -1], np.int8),
        helper.make_tensor("h", TensorProto.FLOAT16, [2], [1.0, 2.0]),
        helper.make_tensor("i", TensorProto.INT64, [3], [1, -1, 1 << 40]),
    ]
    sparse = helper.make_sparse_tensor(array("p", [1]), array("", [2], np.int64), [2, 2])
    graph = helper.make_graph(nodes, "g", [], [value], tensors, sparse_initializer=[sparse])
    return helper.make_model(graph).SerializeToString()


SAMPLE = sample()


def right_or_refused(path, content):
    path.write_bytes(content)
    try:
        with only(path) as source:
            for x in source.tensors:
                assert sum(len(piece) for piece in x.read()) == x.count
    except UserError as error:
        assert "net" in str(error)


def test_a_model_cut_anywhere_is_refused_or_read(tmp_path):
    for end in range(1, len(SAMPLE)):
        right_or_refused(tmp_path / "net.onnx", SAMPLE[:end])


def test_every_byte_changed_is_refused_or_read(tmp_path):
    rng = random.Random(0)
    for at in range(len(SAMPLE)):
        for value in {SAMPLE[at] ^ 1 << rng.randrange(8), rng.choice([0, 127, 128, 255])}:
            right_or_refused(tmp_path / "net.onnx", SAMPLE[:at] + bytes([value]) + SAMPLE[at + 1 :])


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(at=st.integers(0, len(SAMPLE)), put=st.binary(max_size=12), cut=st.integers(0, 12))
def test_bytes_put_anywhere_are_refused_or_read(tmp_path, at, put, cut):
    right_or_refused(tmp_path / "net.onnx", SAMPLE[:at] + put + SAMPLE[at + cut :])


def test_a_chain_of_nodes_without_end_ends(tmp_path):
    """Nodes that give what they read, many times over."""
    nodes = [helper.make_node("Identity", ["w"], ["w"]) for _ in range(300)]
    nodes += [helper.make_node("Identity", ["w"], [f"a{i}"]) for i in range(300)]
    _, found = read(saved(tmp_path, nodes, [array("w", [[1, 2]])]))
    assert found["w"][1].tolist() == [[1, 2]]
