"""A program is checked whoever made it: every rule, each with a program that breaks it."""

import contextlib
import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thrifty.engine.program import Op, Program
from thrifty.errors import UserError


def conv(**changes):
    attrs = {"stride": [1, 1], "padding": [1, 1, 1, 1], "dilation": [1, 1], "groups": 1}
    return Op("conv", "c", ("x",), "y", {"weight": "w"}, {**attrs, **changes})


def program(op, values=None, inputs=("x",)):
    values = values or {"x": (3, 8, 8), "y": (4, 8, 8)}
    return Program(tuple(inputs), (op.output,), values, (op,))


def one(kind, ins, out, tensors=None, **attrs):
    """A program of one operation, on values x0, x1, ... to y."""
    names = tuple(f"x{i}" for i in range(len(ins)))
    values = dict(zip(names, ins, strict=True)) | {"y": out}
    return Program(names, ("y",), values, (Op(kind, "", names, "y", tensors or {}, attrs),))


WINDOW = {"stride": [2, 2], "padding": [0, 0, 0, 0]}
POOL = {"kernel": [2, 2], **WINDOW, "dilation": [1, 1]}
AVG = {"kernel": [2, 2], **WINDOW, "count_include_pad": False, "divisor": None}
IMAGE = (4, 8, 8)

GOOD = {
    "conv": lambda: program(conv()),
    "linear": lambda: one("linear", [(6,)], (2,), {"weight": "w", "bias": "b"}),
    "linear of rows": lambda: one("linear", [(5, 6)], (5, 2), {"weight": "w"}),
    "max_pool": lambda: one("max_pool", [IMAGE], (4, 4, 4), **POOL),
    "avg_pool": lambda: one("avg_pool", [IMAGE], (4, 4, 4), **AVG),
    "global_pool": lambda: one("global_pool", [IMAGE], (4,), how="avg"),
    "global_pool kept": lambda: one("global_pool", [IMAGE], (4, 1, 1), how="max"),
    "add": lambda: one("add", [IMAGE, IMAGE], IMAGE, then=[{"do": "relu"}]),
    "sub": lambda: one("sub", [IMAGE, (1, 1, 1)], IMAGE),
    "mul": lambda: one("mul", [IMAGE, (4, 1, 1)], IMAGE),
    "map": lambda: one("map", [IMAGE], IMAGE, then=[{"do": "clamp", "low": 0, "high": 6.0}]),
    "blend": lambda: one("map", [(3,)] * 3, (3,), then=[{"do": "blend", "h": 1, "x": 2}]),
    "affine": lambda: one("affine", [IMAGE], IMAGE, {"scale": "s", "shift": "t"}),
    "concat": lambda: one("concat", [IMAGE, (2, 8, 8)], (6, 8, 8), axis=0),
    "slice": lambda: one("slice", [IMAGE], (2, 8, 8), axis=0, start=1, stop=3),
    "reshape": lambda: one("reshape", [IMAGE], (256,)),
    "softmax": lambda: one("softmax", [(5, 7)], (5, 7), axis=1),
    "pixel_shuffle": lambda: one("pixel_shuffle", [IMAGE], (1, 16, 16), factor=2),
    "channel_shuffle": lambda: one("channel_shuffle", [IMAGE], IMAGE, groups=2),
    "pad": lambda: one("pad", [IMAGE], (4, 11, 9), padding=[1, 0, 2, 1], value="-inf"),
    "fallback": lambda: one(
        "fallback", [IMAGE], IMAGE, target="aten.erf.default", args=[{"input": 0}], kwargs={}
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_program_survives_json(name):
    first = GOOD[name]()
    data = json.loads(json.dumps(first.to_json(), allow_nan=False))
    assert Program.from_json(data).to_json() == first.to_json()


WRONG = {
    "no such kind": lambda: one("conv2d", [IMAGE], IMAGE),
    "no attribute": lambda: program(conv(strides=[1, 1])),
    "needs a list of 2 whole numbers": lambda: program(conv(stride=[0, 1])),
    "needs a list of 4 whole numbers": lambda: program(conv(padding=[-1, 0, 0, 0])),
    "needs a whole number": lambda: program(conv(groups=True)),
    "unequally": lambda: program(conv(groups=2)),
    "'groups' is missing": lambda: program(
        Op("conv", "c", ("x",), "y", {"weight": "w"}, {**WINDOW, "dilation": [1, 1]})
    ),
    "'weight' is missing": lambda: one("linear", [(6,)], (2,)),
    "takes no tensor": lambda: one("linear", [(6,)], (2,), {"weight": "w", "wait": "w"}),
    "'bn_var' is missing": lambda: one("affine", [IMAGE], IMAGE, {"bn_mean": "m"}, eps=1e-5),
    "no 'bn_mean'": lambda: one("affine", [IMAGE], IMAGE, {"bn_weight": "g", "bn_bias": "b"}),
    "'eps' is missing": lambda: one("affine", [IMAGE], IMAGE, {"bn_mean": "m", "bn_var": "v"}),
    "needs 0 or more": lambda: one(
        "affine", [IMAGE], IMAGE, {"bn_mean": "m", "bn_var": "v"}, eps=-1.0
    ),
    "takes \\(channels, height, width\\)": lambda: one("global_pool", [(4,)], (4,), how="avg"),
    "needs one of avg, max": lambda: one("global_pool", [IMAGE], (4,), how="sum"),
    "it gives \\(4, 4, 4\\)": lambda: one("max_pool", [IMAGE], (4, 5, 4), **POOL),
    "wholly beyond": lambda: one("max_pool", [IMAGE], (4, 6, 4), **{**POOL, "padding": [2, 0] * 2}),
    "the second has": lambda: one("add", [(4, 1, 1), IMAGE], IMAGE),
    "its output is": lambda: one("mul", [IMAGE, IMAGE], (4, 8, 7)),
    "no step": lambda: one("map", [IMAGE], IMAGE, then=[{"do": "swish"}]),
    "fields do, low, high": lambda: one("map", [IMAGE], IMAGE, then=[{"do": "clamp", "low": 0}]),
    "low 2 above high 1": lambda: one(
        "map", [IMAGE], IMAGE, then=[{"do": "clamp", "low": 2, "high": 1}]
    ),
    "needs a finite number": lambda: one(
        "map", [IMAGE], IMAGE, then=[{"do": "scale", "by": float("nan")}]
    ),
    "every input is": lambda: one("map", [IMAGE, IMAGE], IMAGE, then=[{"do": "relu"}]),
    "and no other": lambda: one("map", [IMAGE], IMAGE, then=[{"do": "add", "input": 1}]),
    "the shape of the output": lambda: one(
        "map", [IMAGE, (4, 1, 1)], IMAGE, then=[{"do": "add", "input": 1}]
    ),
    "no attribute 'then'": lambda: one("reshape", [IMAGE], (256,), then=[]),
    "differ beside": lambda: one("concat", [IMAGE, (4, 8, 7)], (8, 8, 8), axis=0),
    "axis 3 is not": lambda: one("softmax", [IMAGE], IMAGE, axis=3),
    "it takes 1 to 5": lambda: one("slice", [IMAGE], IMAGE, axis=0, start=1, stop=5),
    "cannot be reshaped": lambda: one("reshape", [IMAGE], (255,)),
    "no multiple of 3": lambda: one("pixel_shuffle", [IMAGE], IMAGE, factor=3),
    "3 groups divide": lambda: one("channel_shuffle", [IMAGE], IMAGE, groups=3),
    "sides are whole numbers": lambda: program(conv(), {"x": (3, 0, 8), "y": (4, 8, 8)}),
    "268,435,456 elements": lambda: program(conv(), {"x": (3, 8, 8), "y": (1 << 14,) * 3}),
    "9 dimensions": lambda: one("reshape", [IMAGE], (1,) * 8 + (256,)),
    "no shape in 'values'": lambda: program(conv(), {"x": (3, 8, 8)}),
    "lists one input twice": lambda: program(conv(), inputs=("x", "x")),
    "needs one or more": lambda: program(conv(), inputs=()),
    "which nothing writes": lambda: program(conv(), {"x": (3, 8, 8), "y": (4, 8, 8), "z": (1,)}),
}


@pytest.mark.parametrize("rule", WRONG)
def test_a_broken_rule_is_named(rule):
    with pytest.raises(UserError, match=rule):
        WRONG[rule]()


def chain(*ops):
    values = {"x": (4,), "a": (4,), "b": (4,)}
    return Program(("x",), ("b",), values, ops)


def relu(source, target):
    return Op("map", "", (source,), target, {}, {"then": [{"do": "relu"}]})


def test_operations_read_only_what_is_written_before():
    chain(relu("x", "a"), relu("a", "b"))
    with pytest.raises(UserError, match="operation 0 .*reads the value 'a', which nothing before"):
        chain(relu("a", "b"), relu("x", "a"))


def test_a_value_is_written_once():
    with pytest.raises(UserError, match="operation 2 .*'b', which is written already"):
        chain(relu("x", "a"), relu("a", "b"), relu("a", "b"))
    with pytest.raises(UserError, match="'x', which is written already"):
        chain(relu("x", "x"), relu("x", "b"))


@pytest.mark.parametrize(
    ("attrs", "said"),
    [
        ({"target": "aten.rand.default"}, "none of those that a program may name"),
        ({"target": "aten.relu_.default"}, "none of those"),
        ({"target": "os.system"}, "none of those"),
        ({"args": [{"input": 1}]}, "stands for no input"),
        ({"args": [{"input": True}]}, "stands for no input"),
        ({"args": [{"tensor": "w"}]}, "stands for no input"),
        ({"args": [{"input": 0, "dtype": "complex64"}]}, "stands for no input"),
        ({"args": [{"input": 0, "times": 3}]}, "times is 3"),
        ({"args": [{"input": 0, "axis": 4}]}, "axis is 4"),
        ({"args": [float("inf")]}, "is not allowed"),
        ({"args": [1 << 64]}, "is not allowed"),
        ({"args": ["x" * 65]}, "is not allowed"),
        ({"args": [[[[[[1]]]]]]}, "is not allowed"),
        ({"args": [[0] * 5000]}, "over 4,096 items"),
        ({"args": {}}, "args is no list"),
        ({"axis": 9}, "needs a whole number"),
        ({"times": 5}, "times is 5, and its output"),
        ({"surprise": 1}, "no attribute 'surprise'"),
    ],
)
def test_a_fallback_says_only_what_is_allowed(attrs, said):
    fine = {"target": "aten.erf.default", "args": [{"input": 0}], "kwargs": {}}
    with pytest.raises(UserError, match=said):
        one("fallback", [IMAGE], IMAGE, **{**fine, **attrs})


SHAPES = {
    "w": (4, 3, 3, 3),
    "other": (9,),
}


def test_tensors_are_checked_against_their_operation():
    fine = program(conv())
    fine.check_tensors(SHAPES)
    with pytest.raises(UserError, match="'w', which is not there"):
        fine.check_tensors({})
    with pytest.raises(UserError, match=r"weight is \(4, 2, 3, 3\)"):
        fine.check_tensors({"w": (4, 2, 3, 3)})
    with pytest.raises(UserError, match=r"it gives \(4, 6, 6\)"):
        fine.check_tensors({"w": (4, 3, 5, 5)})
    with pytest.raises(UserError, match="weight is"):
        fine.check_tensors({"w": (4, 3, 0, 0)})


def test_vectors_have_an_entry_a_channel():
    affine = one("affine", [IMAGE], IMAGE, {"scale": "s"})
    affine.check_tensors({"s": (4, 1, 1)})
    with pytest.raises(UserError, match="4 channels need as many"):
        affine.check_tensors({"s": (5,)})
    linear = one("linear", [(6,)], (2,), {"weight": "w", "bias": "b"})
    linear.check_tensors({"w": (2, 6), "b": (2,)})
    with pytest.raises(UserError, match="bias is"):
        linear.check_tensors({"w": (2, 6), "b": (3,)})
    with pytest.raises(UserError, match="weight is"):
        linear.check_tensors({"w": (6, 2), "b": (2,)})


def test_an_older_thrifty_refuses_what_it_does_not_know():
    data = program(conv()).to_json()
    with pytest.raises(UserError, match="version '2'.*upgrade"):
        Program.from_json({**data, "version": 2})


@pytest.mark.parametrize("data", [None, [], "x", 1, {}, {"version": 1}])
def test_what_is_no_program_is_refused(data):
    with pytest.raises(UserError, match="the program"):
        Program.from_json(data)


def places(data, path=()):
    """Every place in nested JSON."""
    yield path
    items = data.items() if isinstance(data, dict) else enumerate(data)
    if isinstance(data, dict | list):
        for key, value in items:
            yield from (
                places(value, (*path, key)) if isinstance(value, dict | list) else [(*path, key)]
            )


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(-2, 9), max_size=4),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(GOOD)), st.data())
def test_any_lie_is_an_error_or_harmless(name, draw):
    """Something in a program is replaced by anything; nothing but a UserError may come of it."""
    data = copy.deepcopy(GOOD[name]().to_json())
    path = draw.draw(st.sampled_from([p for p in places(data) if p]))
    at = data
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = draw.draw(JUNK)
    with contextlib.suppress(UserError):
        Program.from_json(data).check_tensors({"w": (4, 3, 3, 3), "b": (2,), "s": (4,)})
