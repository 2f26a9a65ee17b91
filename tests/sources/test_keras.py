import base64
import json
import random
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest

from thrifty.errors import UserError
from thrifty.sources import PIECE, Norm
from thrifty.sources.hdf5 import slabs
from thrifty.sources.opening import only

h5py = pytest.importorskip("h5py")

RNG = np.random.default_rng(0)


def f4(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


LEGACY = {
    "conv": {"conv/kernel:0": f4(3, 3, 2, 4), "conv/bias:0": f4(4)},
    "bn": {f"bn/{n}:0": f4(4) for n in ("gamma", "beta", "moving_mean", "moving_variance")},
    "relu": {},
    "depth": {"depth/depthwise_kernel:0": f4(3, 3, 4, 1)},
    "dense": {"dense/kernel:0": f4(5, 3)},
}


def layer(kind, name, inbound=(), **config):
    nodes = [[[x, 0, 0, {}] for x in inbound]] if inbound else []
    return {"class_name": kind, "name": name, "config": {"name": name, **config},
            "inbound_nodes": nodes}  # fmt: skip


LAYERS = [
    layer("InputLayer", "in"),
    layer("Conv2D", "conv", ["in"], activation="linear"),
    layer("BatchNormalization", "bn", ["conv"], epsilon=0.25, axis=[3]),
    layer("ReLU", "relu", ["bn"]),
    layer("DepthwiseConv2D", "depth", ["relu"]),
    layer("Dense", "dense", ["depth"]),
]
CONFIG = {
    "class_name": "Functional",
    "config": {"layers": LAYERS, "output_layers": [["dense", 0, 0]]},
}


def put_legacy(group, layers=LEGACY):
    group.attrs["layer_names"] = [name.encode() for name in layers]
    for name, weights in layers.items():
        inside = group.create_group(name)
        inside.attrs["weight_names"] = [w.encode() for w in weights]
        for weight, value in weights.items():
            inside[weight] = value


def legacy(path, config=CONFIG, layers=LEGACY):
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = "2.4.0"
        if config:
            file.attrs["model_config"] = json.dumps(config)
        put_legacy(file.create_group("model_weights"), layers)
        file["optimizer_weights/adam/m"] = f4(7)
    return path


def put_numbered(file, layers, names=False):
    for place, weights in layers.items():
        group = file.create_group(f"{place}/vars")
        if names:
            group.attrs["name"] = names[place]
        for i, value in enumerate(weights):
            group[str(i)] = value


def read(path):
    with only(path) as source:
        return source, {x.name: (x, x.whole()) for x in source.tensors}


NORM = Norm(
    "conv/kernel", "conv/bias", "bn/gamma", "bn/beta", "bn/moving_mean", "bn/moving_variance", 0.25
)
ROLES = {
    "conv/kernel": "weight", "conv/bias": "bias", "bn/gamma": "scale", "bn/beta": "shift",
    "bn/moving_mean": "statistic", "bn/moving_variance": "statistic",
    "depth/depthwise_kernel": "weight", "dense/kernel": "weight",
}  # fmt: skip


def test_a_legacy_model_comes_with_names_roles_axes_and_values(tmp_path):
    source, found = read(legacy(tmp_path / "net.h5"))
    assert source.label == "net" and source.claims == {"keras_version": "2.4.0"}
    assert {n: x.role for n, (x, _) in found.items()} == ROLES
    assert list(found) == list(ROLES)
    assert found["conv/kernel"][0].out_axis == -1
    assert found["depth/depthwise_kernel"][0].out_axis == -2
    for weights in LEGACY.values():
        for name, value in weights.items():
            assert np.array_equal(found[name.removesuffix(":0")][1], value)
    assert source.norms == (NORM,)
    assert source.notes == ("left out: 7 numbers of the optimizer",)


@pytest.mark.parametrize("suffix", [".h5", ".hdf5", ".weights.h5"])
def test_legacy_weights_without_a_model_are_read(tmp_path, suffix):
    path = tmp_path / f"net{suffix}"
    with h5py.File(path, "w") as file:
        put_legacy(file)
    source, found = read(path)
    assert source.label == "net" and source.norms is None
    assert {n: x.role for n, (x, _) in found.items()} == ROLES


def test_lists_of_names_that_keras_splits_are_put_together(tmp_path):
    path = tmp_path / "net.h5"
    with h5py.File(path, "w") as file:
        put_legacy(file)
        names = file.attrs["layer_names"]
        del file.attrs["layer_names"]
        file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:2], names[2:]
    assert list(read(path)[1]) == list(ROLES)


def without_norm(**changes):
    """The configuration with one thing changed, so that the pair does not hold."""
    layers = json.loads(json.dumps(LAYERS))
    for name, change in changes.items():
        next(x for x in layers if x["name"] == name)["config"].update(change)
    return {"class_name": "Functional", "config": {"layers": layers}}


@pytest.mark.parametrize(
    "config",
    [
        without_norm(conv={"activation": "relu"}),
        without_norm(bn={"axis": [1]}),
        {"config": {"layers": [*LAYERS, layer("ReLU", "again", ["conv"])]}},
        {"config": {"layers": LAYERS, "output_layers": [["conv", 0, 0]]}},
    ],
)
def test_a_normalisation_that_cannot_be_folded_is_not_paired(tmp_path, config):
    assert read(legacy(tmp_path / "net.h5", config))[0].norms == ()


def test_a_sequential_model_is_a_chain(tmp_path):
    bare = [{k: v for k, v in x.items() if k != "inbound_nodes"} for x in LAYERS]
    for config in ({"layers": bare}, bare):  # the second as Keras 2.0 wrote it
        said = {"class_name": "Sequential", "config": config}
        assert read(legacy(tmp_path / "net.h5", said))[0].norms == (NORM,)


def test_a_depthwise_convolution_with_a_multiplier_is_not_folded(tmp_path):
    layers = {"depth": {"depth/depthwise_kernel:0": f4(3, 3, 2, 2)}, "bn": LEGACY["bn"]}
    config = {"config": [layer("DepthwiseConv2D", "depth"), layer("BatchNormalization", "bn")]}
    source, _ = read(legacy(tmp_path / "net.h5", config, layers))
    assert source.norms == () and any("bn" in note for note in source.notes)


NUMBERED = {
    "layers/conv2d": [f4(3, 3, 2, 4), f4(4)],
    "layers/batch_normalization": [f4(4) for _ in range(4)],
    "layers/depthwise_conv2d": [f4(3, 3, 4, 1)],
    "layers/separable_conv2d": [f4(3, 3, 4, 1), f4(1, 1, 4, 5), f4(5)],
    "layers/conv2d_transpose": [f4(2, 2, 6, 5), f4(6)],
    "layers/lstm/cell": [f4(6, 8), f4(2, 8), f4(8)],
    "layers/embedding": [f4(10, 3)],
    "layers/layer_normalization": [f4(4), f4(4)],
    "layers/multi_head_attention/query_dense": [f4(6, 2, 3), f4(2, 3)],
    "optimizer": [np.int64(3), f4(5)],
}


@pytest.mark.parametrize("named", [False, True])
def test_numbered_variables_are_known_by_the_class_of_their_layer(tmp_path, named):
    path = tmp_path / "net.weights.h5"
    own = {x: f"my_{x.rpartition('/')[2]}" for x in NUMBERED}
    with h5py.File(path, "w") as file:
        put_numbered(file, NUMBERED, own if named else False)
    source, found = read(path)
    got = {n: (x.role, x.out_axis) for n, (x, _) in found.items() if len(x.shape) > 1}
    name = "my_{}" if named else "{}"
    lstm = "my_cell" if named else "lstm/cell"
    attention = "my_query_dense" if named else "multi_head_attention/query_dense"
    assert got == {
        f"{name.format('conv2d')}/kernel": ("weight", -1),
        f"{name.format('depthwise_conv2d')}/kernel": ("weight", -2),
        f"{name.format('separable_conv2d')}/depthwise_kernel": ("weight", -2),
        f"{name.format('separable_conv2d')}/pointwise_kernel": ("weight", -1),
        f"{name.format('conv2d_transpose')}/kernel": ("weight", -2),
        f"{lstm}/kernel": ("weight", -1),
        f"{lstm}/recurrent_kernel": ("weight", -1),
        f"{name.format('embedding')}/embeddings": ("weight", -1),
        f"{attention}/kernel": ("weight", -1),
        f"{attention}/bias": ("bias", -1),
    }
    norm = name.format("batch_normalization")
    parts = ("gamma", "beta", "moving_mean", "moving_variance")
    assert [found[f"{norm}/{p}"][0].role for p in parts] == [
        "scale", "shift", "statistic", "statistic",
    ]  # fmt: skip
    assert sum(x.count for x, _ in found.values()) == sum(
        v.size for k, vs in NUMBERED.items() if k != "optimizer" for v in vs
    )
    assert source.notes == ("left out: 6 numbers of the optimizer",)
    assert np.array_equal(found[f"{name.format('conv2d')}/bias"][1], NUMBERED["layers/conv2d"][1])


def test_shapes_tell_where_no_class_is_known(tmp_path):
    path = tmp_path / "net.weights.h5"
    with h5py.File(path, "w") as file:
        put_numbered(file, {"stem": [f4(3, 3, 2, 4), f4(4)], "odd": [f4(4) for _ in range(4)]})
    roles = {n: x.role for n, (x, _) in read(path)[1].items()}
    assert roles == {
        "stem/0": "weight", "stem/1": "bias", "odd/gamma": "scale", "odd/beta": "shift",
        "odd/moving_mean": "statistic", "odd/moving_variance": "statistic",
    }  # fmt: skip


def test_layers_come_in_the_order_in_which_people_count(tmp_path):
    path = tmp_path / "net.weights.h5"
    names = ["conv2d", *(f"conv2d_{i}" for i in range(1, 12))]
    with h5py.File(path, "w") as file:
        put_numbered(file, {f"layers/{n}": [f4(1, 1, 2, 2)] for n in names})
    assert list(read(path)[1]) == [f"{n}/kernel" for n in names]


def keras3(kind, name, before=None, **config):
    history = {"class_name": "__keras_tensor__", "config": {"keras_history": [before, 0, 0]}}
    nodes = [{"args": [history], "kwargs": {"mask": None}}] if before else []
    return {"module": "keras.layers", "class_name": kind, "name": name,
            "config": {"name": name, **config}, "inbound_nodes": nodes}  # fmt: skip


INNER = {"layers": [keras3("Dense", "deep", use_bias=False), keras3("BatchNormalization", "last")]}
ARCHIVED = {
    "class_name": "Functional",
    "config": {
        "layers": [
            keras3("InputLayer", "in"),
            keras3("Conv2D", "stem", "in", use_bias=False),
            keras3("BatchNormalization", "first", "stem", center=False),
            {**keras3("Sequential", "inner", "first"), "config": {"name": "inner", **INNER}},
        ],
        "output_layers": [["inner", 0, 0]],
    },
}
ARCHIVED_WEIGHTS = {
    "layers/conv2d": [f4(3, 3, 2, 4)],
    "layers/batch_normalization": [f4(4) for _ in range(3)],
    "layers/sequential/layers/dense": [f4(4, 5)],
    "layers/sequential/layers/batch_normalization": [f4(5) for _ in range(4)],
}


def weights_file(path, weights=ARCHIVED_WEIGHTS):
    with h5py.File(path, "w") as file:
        put_numbered(file, weights)
    return path.read_bytes()


def archive(tmp_path, method=zipfile.ZIP_STORED, config=ARCHIVED, content=None, name="net.keras"):
    content = content or weights_file(tmp_path / "model.weights")
    with zipfile.ZipFile(tmp_path / name, "w", method) as file:
        file.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        file.writestr("config.json", json.dumps(config))
        file.writestr("model.weights.h5", content)
    return tmp_path / name


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_names_its_layers_and_pairs_its_normalisations(tmp_path, method):
    path = archive(tmp_path, method)
    source, found = read(path)
    assert source.label == "net" and source.nbytes == path.stat().st_size
    assert source.claims == {"keras_version": "3.15.1"}
    assert {n: x.role for n, (x, _) in found.items()} == {
        "stem/kernel": "weight",
        "first/gamma": "scale",
        "first/moving_mean": "statistic",
        "first/moving_variance": "statistic",
        "inner/deep/kernel": "weight",
        "inner/last/gamma": "scale",
        "inner/last/beta": "shift",
        "inner/last/moving_mean": "statistic",
        "inner/last/moving_variance": "statistic",
    }
    ends = ("gamma", "beta", "moving_mean", "moving_variance")
    last = [f"inner/last/{end}" for end in ends]
    assert source.norms == (
        Norm("stem/kernel", None, "first/gamma", None, "first/moving_mean",
             "first/moving_variance", 1e-3),
        Norm("inner/deep/kernel", None, *last, 1e-3),
    )  # fmt: skip
    for name, value in (
        ("stem/kernel", "layers/conv2d"),
        ("first/gamma", "layers/batch_normalization"),
    ):
        assert np.array_equal(found[name][1], ARCHIVED_WEIGHTS[value][0])


def test_integer_kernels_come_with_their_scales(tmp_path):
    kernel, scale = np.int8([[1, 2, 3], [4, 5, 6]]), np.float32([2, 4, 8])
    content = weights_file(tmp_path / "w", {"layers/dense": [kernel, f4(3), scale]})
    path = archive(tmp_path, config={"config": [keras3("Dense", "d")]}, content=content)
    how = read(path)[1]["d/kernel"][0].quantised
    assert how.axis == 1 and how.scale.tolist() == [0.5, 0.25, 0.125] and not how.zero.any()


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "gzip"},
        {"compression": "lzf", "shuffle": True},
        {"chunks": (2, 3), "fletcher32": True},
        {"dtype": ">f4"},
        {"chunks": (1, 1), "maxshape": (None, None)},
    ],
)
def test_what_is_packed_or_of_another_byte_order_is_read(tmp_path, options):
    value, path = f4(5, 7), tmp_path / "net.weights.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("layers/dense/vars/0", data=value, **options)
    with only(path) as source:
        for _ in range(2):
            assert np.array_equal(source.tensors[0].whole(), value)


@pytest.mark.parametrize(
    "dtype, said",
    [("f2", "F16"), ("f8", "F64"), ("i1", "I8"), ("<u2", "U16"), ("?", "BOOL"), ("V2", "BF16")],
)
@pytest.mark.parametrize("packed", [None, "gzip"])
def test_every_dtype_comes_as_it_is_stored(tmp_path, dtype, said, packed):
    value, path = (
        np.arange(6).reshape(2, 3).astype("u2" if dtype == "V2" else dtype),
        tmp_path / "net.h5",
    )
    with h5py.File(path, "w") as file:
        data = value.view("V2") if dtype == "V2" else value
        file.create_dataset("layers/dense/vars/0", data=data, compression=packed)
    x, found = read(path)[1]["dense/kernel"]
    assert x.dtype == said and np.array_equal(found, value)


def test_a_large_packed_tensor_comes_in_pieces(tmp_path):
    path, count = tmp_path / "net.weights.h5", PIECE // 4 * 2 + 5
    value = np.arange(count, dtype=np.float32)
    with h5py.File(path, "w") as file:
        file.create_dataset("layers/dense/vars/0", data=value.reshape(1, -1), compression="lzf")
    with only(path) as source:
        pieces = list(source.tensors[0].read())
        assert max(p.nbytes for p in pieces) <= PIECE and len(pieces) == 3
        assert np.array_equal(np.concatenate(pieces), value)


@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (3, 4), (2, 3, 4), (4, 1, 1, 3)])
@pytest.mark.parametrize("most", [1, 2, 5, 100])
def test_slabs_are_all_of_an_array_in_order(shape, most):
    array = np.arange(int(np.prod(shape))).reshape(shape)
    parts = [
        array[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))].reshape(-1)
        for start, stop in slabs(shape, most)
    ]
    assert all(len(p) <= most for p in parts)
    assert np.concatenate([*parts, []]).tolist() == array.reshape(-1).tolist()


def test_tensors_cannot_be_read_from_a_closed_source(tmp_path):
    path = tmp_path / "net.weights.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("layers/dense/vars/0", data=f4(3, 3), compression="gzip")
        file["layers/dense/vars/1"] = f4(3)
    with only(path) as source:
        tensors = source.tensors
    for x in tensors:
        with pytest.raises(UserError, match="closed"):
            x.whole()


def test_links_within_the_file_are_followed_and_counted_once(tmp_path):
    path = tmp_path / "net.h5"
    with h5py.File(path, "w") as file:
        layers = {"a": {"a/kernel:0": f4(2, 3)}, "b": {"b/kernel:0": f4(2, 3)}}
        put_legacy(file, layers)
        del file["b/b/kernel:0"]
        file["b/b/kernel:0"] = h5py.SoftLink("/a/a/kernel:0")
        file["a/loop"] = file["a"]
        file["a/soft"] = h5py.SoftLink("/a/soft")
    source, found = read(path)
    assert list(found) == ["a/kernel"] and "counted once" in source.notes[0]


def outside(file, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other["x"] = f4(2, 3)
    file["layers/dense/vars/0"] = h5py.ExternalLink(str(folder / "other.h5"), "x")


def storage(file, folder):
    (folder / "other.raw").write_bytes(bytes(24))
    file.create_dataset(
        "layers/dense/vars/0", (2, 3), "f4", external=[(str(folder / "other.raw"), 0, 24)]
    )


def virtual(file, folder):
    layout = h5py.VirtualLayout((2, 3), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", (2, 3))
    file.create_virtual_dataset("layers/dense/vars/0", layout)


def plug_in(file, folder):
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((2, 3))
    plan.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
    space = h5py.h5s.create_simple((2, 3))
    group = file.create_group("layers/dense/vars")
    h5py.h5d.create(group.id, b"0", h5py.h5t.IEEE_F32LE, space, plan)


def huge(file, folder):
    file.create_dataset("layers/dense/vars/0", (1 << 20, 1 << 12), "f4", chunks=(1024, 1024))


def huge_chunk(file, folder):
    file.create_dataset("layers/dense/vars/0", (1 << 10, 1 << 18), "f4", chunks=(1 << 9, 1 << 18))


@pytest.mark.parametrize(
    "put, said",
    [
        (outside, "link to another file"),
        (storage, "in another file"),
        (virtual, "virtual"),
        (plug_in, "filter 32015"),
        (huge, "such files are made to fill"),
        (huge_chunk, "in chunks of"),
    ],
)
def test_what_leads_out_of_the_file_or_fills_the_memory_is_refused(tmp_path, put, said):
    path = tmp_path / "net.h5"
    with h5py.File(path, "w") as file:
        put(file, tmp_path)
    with pytest.raises(UserError, match=said):
        read(path)


def test_hdf5_without_weights_is_refused(tmp_path):
    path = tmp_path / "net.h5"
    with h5py.File(path, "w") as file:
        file["pictures"] = np.zeros((3, 4, 4), np.uint8)
    with pytest.raises(UserError, match="holds no weights.*pictures"):
        read(path)
    with h5py.File(path, "w") as file:
        put_legacy(file, {"relu": {}})
    with pytest.raises(UserError, match="holds no weights"):
        read(path)
    path.write_bytes(b"no HDF5 at all")
    with pytest.raises(UserError, match="net.h5.*HDF5"):
        read(path)


@pytest.mark.parametrize("what", ["dense", "dense/dense/kernel:0"])
def test_a_name_of_what_is_not_there_is_refused(tmp_path, what):
    path = legacy(tmp_path / "net.h5")
    with h5py.File(path, "a") as file:
        del file[f"model_weights/{what}"]
    with pytest.raises(UserError, match="dense.*no such"):
        read(path)


def test_weights_that_are_no_numbers_are_named_and_left_out(tmp_path):
    layers = {"a": {"a/kernel:0": f4(2, 3), "a/text:0": "words"}}
    source, found = read(legacy(tmp_path / "net.h5", None, layers))
    assert list(found) == ["a/kernel"] and any("a/text:0" in note for note in source.notes)


@pytest.mark.parametrize("config", ['{"config": ', "[]", "[" * 100_000, "\\u0000"])
def test_a_configuration_that_is_damaged_is_refused(tmp_path, config):
    path = archive(tmp_path)
    with zipfile.ZipFile(path) as file:
        weights = file.read("model.weights.h5")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", config)
        file.writestr("model.weights.h5", weights)
    with pytest.raises(UserError, match="configuration"):
        read(path)


@pytest.mark.parametrize(
    "text", ['{"config": 3}', '{"config": {"layers": [3, {}, {"config": 1}]}}']
)
def test_a_configuration_of_another_kind_does_not_matter(tmp_path, text):
    assert len(read(archive(tmp_path, config=json.loads(text)))[1]) == 12 - 3


@pytest.mark.parametrize("missing", ["config.json", "model.weights.h5"])
def test_an_archive_without_a_part_is_refused(tmp_path, missing):
    path = tmp_path / "net.keras"
    with zipfile.ZipFile(path, "w") as file:
        for name in {"config.json", "model.weights.h5"} - {missing}:
            file.writestr(name, "{}")
    with pytest.raises(UserError, match=f"no member {missing}"):
        read(path)


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path):
    path = archive(tmp_path, zipfile.ZIP_DEFLATED, content=bytes(300 << 20))
    with pytest.raises(UserError, match="out of proportion"):
        read(path)
    with pytest.raises(UserError, match="does not use"):
        read(archive(tmp_path, zipfile.ZIP_LZMA))


def test_an_archive_cut_anywhere_is_refused(tmp_path):
    content = archive(tmp_path).read_bytes()
    path = tmp_path / "net.keras"
    for end in range(1, len(content), len(content) // 40):
        path.write_bytes(content[:end])
        with pytest.raises(UserError, match="net.keras"):
            read(path)


CRASH = (
    "c-rlo&u<bz6vt<FS%Cs6L`+eMlIVd;lU6+#6BA8~a%e2^N5V-Vba71(4In`iV~_RLqel}jCjJw8>!0Aoq(_g9|3KZ@nc"
    "3YL+zOG}1K$saVcxu*B|DF|Z@;_yzPf%Vvv6*KFcJw8BUuvWP;hWl?aT3oXsKv-MElv0cFP+p2zyq{pIBD6e|W!AVcv%"
    "tazFbPZxaN}Bh||78f)u*9C7vx)vwchZTI>?JXZg4ztsB#@tYHSuA02>Sd+!?&m`g(@jD*BJC^FVWq12FnO*!oxVO2^B"
    "3Q;<$yD>T9>-w1JWz}C{>$WKdEg*}Jb*kfo(Fc5s^755&SJ-x2g-3Z59o0Wrpp8M6z`8RljVVGR$YHE-+4gB(}#@ew<6"
    "kA?K<n$jPk%rN}X4aV-S@GPVr+#Wxvc@gB!}i?}E&?THkb6oO$L-7u{=auQDS`39|G~j9cysv2nxX6Q)Sb>r+v$8QwT0"
    "edkrX-Lb_S#9LWr-?H1C<{+?}BGb6OgO+3Wu3nLK2#-9|Fn4o7X~KS{*t9f7Tp4~`U0*!f-@kslgjfp0&KpcK(a#%a{<"
    "7WPdEQFDsQU7U=eO<qMV)_sY4a5#{NhE`FDhD!MYXU0A7WT~00000fT<WgZha|OpBnk}Be$6UO6aw3R@yZ-W^HsYLiSI"
    "yOOYeKfVpNHhX4Qo{u|?ZBv))G<p!y<NIhwK{jtpTM|paG%f?O8dDHf~Yz~VC`cI%M8s9HVlOprfkM($P9W6Gdqeb1`S"
    "{3?Kk_10C%nfZ^*Ui?naa}Ll(DW}k4&4g?001~S<a5c6c+Ocq$D9^-+S$F$yjvBFg#D~r2xUbbKtmOSERWc2bZ43Pw!3"
    "Sa8#Ging#8%9j@>Qw2fb(Ar(WOC>Vwvc?$E2J{Q8U|pBI#TT*O)e0000000000Cxv`ZM1MazO&p;Iq)DC>`1`9*y3OZy"
    "pX&?;`LoU-Zp28PzzFFAQg<+gejxkI=Qkv6@I?"
)
"""A damaged file of which libhdf5 2.0.0 dies with a segmentation fault; zlib, then base 85."""


def test_a_file_that_makes_the_library_crash_is_refused(tmp_path):
    path = tmp_path / "net.h5"
    path.write_bytes(zlib.decompress(base64.b85decode(CRASH)))
    with pytest.raises(UserError, match="net.h5"):
        read(path)


@pytest.mark.parametrize("packed", [None, "gzip"])
def test_a_file_changed_anywhere_is_refused_or_read(tmp_path, packed):
    """Few, for every file is read in a process of its own."""
    path = tmp_path / "net.h5"
    with h5py.File(path, "w") as file:
        put_numbered(file, {"layers/batch_normalization": [f4(4)] * 4})
        file.create_dataset("layers/dense/vars/0", data=f4(5, 3), compression=packed)
    content, rng = path.read_bytes(), random.Random(0)
    places = [i for i, byte in enumerate(content) if byte]
    for case in range(24):
        data = bytearray(content)
        for _ in range(rng.choice([1, 2, 8])):
            data[rng.choice(places)] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
        path.write_bytes(data[: rng.randrange(len(data))] if case % 8 == 0 else data)
        try:
            with only(path) as source:
                for x in source.tensors:
                    assert sum(len(piece) for piece in x.read()) == x.count
        except UserError as error:
            assert "net.h5" in str(error)


def test_reading_imports_neither_keras_nor_h5py_here(tmp_path):
    path = legacy(tmp_path / "net.h5")
    code = (
        "import sys; from thrifty.sources.opening import only; s = only(sys.argv[1]); "
        "print(len(s.tensors), 'h5py' in sys.modules, 'keras' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.stdout.split() == ["8", "False", "False"], done.stderr


def test_without_h5py_the_extra_is_named(tmp_path):
    path = legacy(tmp_path / "net.h5")
    code = (
        "import sys; sys.modules['h5py'] = None\n"
        "from thrifty.errors import MissingExtra\n"
        "from thrifty.sources.opening import only\n"
        "try: only(sys.argv[1])\n"
        "except MissingExtra as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert "thrifty[keras]" in done.stdout, done.stderr


@pytest.mark.real
def test_the_resnet_of_mlperf_tiny_is_read_as_h5py_reads_it(real_data):
    path = real_data / "weights" / "cifar10" / "mlperf-tiny-resnet8.h5"
    expected = {}
    with h5py.File(path) as file:
        weights = file["model_weights"]
        for group in (weights[name] for name in weights.attrs["layer_names"]):
            expected |= {
                n.decode().removesuffix(":0"): group[n][()] for n in group.attrs["weight_names"]
            }
    source, found = read(path)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[n][1], value) for n, value in expected.items())
    assert sum(x.count for x, _ in found.values()) == 78_666
    assert {x.role for x, _ in found.values()} == {"weight", "bias", "scale", "shift", "statistic"}
    assert len(source.norms) == 7 and {n.eps for n in source.norms} == {1e-3}
