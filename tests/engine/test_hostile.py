"""Programs that nobody vouches for: they are refused, or run and answer, within their memory."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from thrifty import container
from thrifty.engine import Engine, Op, Program, load
from thrifty.errors import UserError
from thrifty.native import available

pytestmark = pytest.mark.skipif(available() == ("numpy",), reason="the engine was not compiled")

GRID = {"stride": [1, 1], "padding": [0, 0, 0, 0], "dilation": [1, 1]}
RELU = {"then": [{"do": "relu"}]}


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def program(ops, values, inputs=("x",), outputs=("y",)):
    return Program(tuple(inputs), tuple(outputs), values, tuple(ops))


def one(kind, shape, out, tensors=None, **attrs):
    op = Op(kind, "", ("x",), "y", {role: role for role in tensors or {}}, attrs)
    return program([op], {"x": shape, "y": out})


def test_mutants_are_refused_or_run():
    path = Path(__file__).with_name("fuzz.py")
    spec = importlib.util.spec_from_file_location("fuzz", path)
    fuzz = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz)
    assert fuzz.fuzz(1500, seed=3) > 100


def test_an_output_may_be_an_input_and_come_twice():
    relu = Op("map", "", ("x",), "y", {}, RELU)
    net = Engine(program([relu], {"x": (3,), "y": (3,)}, outputs=("x", "y", "x", "y")), {})
    x = draw(0, 2, 3)
    found = net(x)
    for each, wanted in zip(found, (x, np.maximum(x, 0)) * 2, strict=True):
        assert np.array_equal(each, wanted)
    assert not np.shares_memory(found[0], x)


@pytest.mark.parametrize("batch", [0, 1, 5])
def test_a_program_without_operations_gives_what_it_is_given(batch):
    x = draw(0, batch, 3, 2)
    assert np.array_equal(Engine(program([], {"x": (3, 2)}, outputs=("x",)), {})(x), x)


def test_a_value_that_nobody_reads_does_no_harm():
    ops = [Op("map", "", ("x",), name, {}, RELU) for name in ("y", "z")]
    net = Engine(program(ops, dict.fromkeys("xyz", (4, 3, 3))), {})
    x = draw(0, 2, 4, 3, 3)
    assert np.array_equal(net(x), np.maximum(x, 0))


LARGE = {
    "a value": one("map", (1 << 26,), (1 << 26,), **RELU),
    "a table": one("reshape", (1 << 25,), (1 << 13, 1 << 12, 1)),
    "a halo": one(
        "max_pool",
        (1, 1, 1),
        (1, 2, 2),
        kernel=[2048, 2048],
        stride=[1024, 1024],
        padding=[2047] * 4,
        dilation=[1, 1],
    ),
}


@pytest.mark.parametrize("what", LARGE)
def test_what_needs_more_memory_is_refused_and_the_need_named(what):
    with pytest.raises(UserError, match=r"(needs|need) [\d.]+ (MiB|GiB)"):
        Engine(LARGE[what], {}, memory=32 << 20)


def test_memory_is_counted_over_all_operations_and_parts():
    stand = lambda op, arrays, tensors, shape: arrays[0]  # noqa: E731
    affine = ("affine", {"scale": "s"}, {})
    other = ("softmax", {}, {"axis": 1})
    for kinds in ((affine,), (affine, other)):
        ops, values = [], {"v0": (1 << 14, 1, 1)}
        for i in range(600):
            kind, tensors, attrs = kinds[i % len(kinds)]
            ops.append(Op(kind, "", (f"v{i}",), f"v{i + 1}", tensors, attrs))
            values[f"v{i + 1}"] = (1 << 14, 1, 1)
        net = program(ops, values, ("v0",), ("v600",))
        with pytest.raises(UserError, match="GiB|MiB"):
            Engine(net, {"s": np.ones(1 << 14, np.float32)}, stand=stand, memory=8 << 20)


def test_a_batch_may_be_too_large_for_the_memory():
    net = Engine(one("map", (1 << 10,), (1 << 10,), **RELU), {}, memory=1 << 20)
    assert net(draw(0, 100, 1 << 10)).shape == (100, 1 << 10)
    with pytest.raises(UserError, match="give fewer images at a time"):
        net(draw(0, 1000, 1 << 10))


def test_large_groups_of_images_give_way_to_small_ones_where_memory_is_short():
    weight, x = draw(0, 8, 4, 3, 3), draw(1, 20, 4, 32, 32)
    net = one("conv", (4, 32, 32), (8, 30, 30), {"weight": 0}, groups=1, **GRID)
    short = Engine(net, {"weight": weight}, memory=3 << 20)
    assert np.allclose(short(x), Engine(net, {"weight": weight})(x), atol=1e-4)


def test_a_convolution_of_one_dimension_keeps_its_weight():
    weight, x = draw(0, 5, 4, 3), draw(1, 2, 4, 1, 9)
    net = Engine(
        one("conv", (4, 1, 9), (5, 1, 7), {"weight": 0}, groups=1, **GRID), {"weight": weight}
    )
    windows = np.lib.stride_tricks.sliding_window_view(x[:, :, 0], 3, axis=2)
    wanted = np.einsum("nclk,ock->nol", windows, weight)[:, :, None]
    assert not net.fallbacks and np.allclose(net(x), wanted, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 16])
def test_many_groups_on_one_pixel_take_no_matrix(batch):
    channels = 1 << 16
    weight, x = draw(0, channels, 1, 1, 1), draw(1, batch, channels, 1, 1)
    op = one("conv", (channels, 1, 1), (channels, 1, 1), {"weight": 0}, groups=channels, **GRID)
    net = Engine(op, {"weight": weight}, memory=256 << 20)
    assert np.allclose(net(x), x * weight[:, :, 0, 0][None, :, :, None], atol=1e-5)


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_pools_after_pools_see_one_pixel(batch):
    """Other lanes of a vector of one pixel hold nothing, and its halo lies around it."""
    x = draw(0, batch, 5, 7, 6)
    pools = [Op("global_pool", "", (a,), b, {}, {"how": "avg"}) for a, b in ("xa", "ab")]
    window = {"kernel": [3, 3], **GRID, "padding": [1] * 4}
    pools.append(Op("max_pool", "", ("b",), "y", {}, window))
    values = {"x": (5, 7, 6), **dict.fromkeys("aby", (5, 1, 1))}
    net = Engine(program(pools, values), {})
    for _ in range(2):
        assert np.allclose(net(x), x.mean((2, 3), keepdims=True), atol=1e-6)


def test_wrong_statistics_give_nan_without_a_word():
    tensors = {"bn_mean": np.float32([0, 1]), "bn_var": np.float32([0, -1])}
    net = Engine(one("affine", (2,), (2,), tensors, eps=0.0), tensors)
    found = net(np.float32([[1, 1]]))
    assert not np.isfinite(found).any()


@pytest.mark.parametrize("name", ["\ud800", "a\nb", "x" * 600])
def test_a_name_that_cannot_be_shown_is_refused(name):
    op = Op("map", name, ("x",), "y", {}, RELU)
    with pytest.raises(UserError, match="printable"):
        program([op], {"x": (3,), "y": (3,)})


def test_a_number_beyond_float32_is_refused():
    with pytest.raises(UserError, match="needs a finite number"):
        one("map", (3,), (3,), then=[{"do": "scale", "by": 3.45e38}])
    with pytest.raises(UserError, match="needs a finite number"):
        one("map", (3,), (3,), then=[{"do": "scale", "by": 1 << 200}])


@pytest.mark.parametrize("given", [[[1, 2], [3]], "a picture", None, {"x": 1}])
def test_what_is_no_array_is_refused(given):
    with pytest.raises(UserError, match="the input 'x'"):
        Engine(one("map", (3,), (3,), **RELU), {})(given)


def test_a_damaged_tensor_of_a_file_is_named(tmp_path):
    path = tmp_path / "net.thrifty"
    net = one("linear", (40,), (30,), {"weight": 0})
    container.write(path, {"weight": draw(0, 30, 40)}, {"program": json.dumps(net.to_json())})
    x = draw(1, 3, 40)
    assert np.allclose(load(path)(x), x @ draw(0, 30, 40).T, atol=1e-4)
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="weight"):
        load(path)
