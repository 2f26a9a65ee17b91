"""Programs and single operations run in torch, also those that nobody vouches for."""

import gc

import numpy as np
import pytest
import torch
from torch import nn

from thrifty.engine.fallbacks import ALLOWED
from thrifty.engine.program import Op, Program
from thrifty.errors import UserError
from thrifty.lowering import interpreting, lower
from thrifty.lowering.interpreting import interpret, run_fallback, run_op


def fallback(target, args, tensors=None, **attrs):
    attrs = {"target": f"aten.{target}", "args": args, "kwargs": {}, **attrs}
    return Op("fallback", "layer", ("x",), "y", tensors or {}, attrs)


X = np.arange(12, dtype=np.float32).reshape(2, 6)


@pytest.mark.parametrize("target", sorted(ALLOWED))
def test_every_operator_of_the_list_is_one_of_torch_and_pure(target):
    _, packet, overload = target.split(".")
    operator = getattr(getattr(torch.ops.aten, packet), overload)
    assert not operator._schema.is_mutable
    may_drop_out = {"lstm", "gru", "rnn_tanh", "rnn_relu", "scaled_dot_product_attention"}
    assert packet in may_drop_out or torch.Tag.nondeterministic_seeded not in operator.tags


def test_a_fallback_gives_float32_with_the_batch_first():
    y = run_fallback(fallback("gt.Scalar", [{"input": 0}, 3.0]), [X])
    assert y.dtype == np.float32 and (y == (X > 3)).all()
    op = fallback("sum.dim_IntList", [{"input": 0, "axis": 1}, [0]])
    assert (run_fallback(op, [X]) == X.sum(1)).all()
    op = fallback("softmax.int", [{"input": 0, "times": 6}, 0], times=6)
    assert run_fallback(op, [X]).shape == (2, 6)


def test_several_results_infinity_and_tensors():
    op = fallback("topk.default", [{"input": 0}, 2], item=0)
    assert (run_fallback(op, [X]) == np.sort(X)[:, :-3:-1]).all()
    op = fallback("masked_fill.Scalar", [{"input": 0}, {"tensor": "m"}, {"float": "-inf"}],
                  {"m": "mask"})  # fmt: skip
    mask = np.array([True, False] * 3)
    mask.setflags(write=False)
    assert np.isneginf(run_fallback(op, [X], {"m": mask})[:, ::2]).all()


@pytest.mark.parametrize(
    "op",
    [
        fallback("relu.default", []),
        fallback("relu.default", [{"input": 0}, 1]),
        fallback("softmax.int", [{"input": 0}, 9]),
        fallback("index_select.default", [{"input": 0}, 1, {"tensor": "i"}], {"i": "i"}),
        fallback("reshape.default", [{"input": 0}, [7, {"batch": 1}]]),
        fallback("topk.default", [{"input": 0}, 2]),
        fallback("topk.default", [{"input": 0}, 2], item=5),
        fallback("unfold.default", [{"input": 0}, 1, 99, 1]),
        fallback("sum.default", [{"input": 0}], axis=3),
        fallback("constant_pad_nd.default", [{"input": 0}, [0, 1 << 40]]),
        fallback("repeat.default", [{"input": 0}, [1 << 20, 1 << 20]]),
        fallback("upsample_nearest1d.vec", [{"input": 0}, [1 << 33], None]),
        fallback("expand.default", [{"tensor": "i"}, [1 << 50]], {"i": "i"}),
        fallback("ones.default", [[1 << 40]]),
        fallback("full.default", [[1 << 62, 0], 1.0]),
    ],
    ids=lambda op: op.attrs["target"] + str(op.attrs["args"])[:40],
)
def test_a_fallback_that_lies_is_an_error_and_takes_no_memory(op):
    with pytest.raises(UserError, match="layer"):
        run_fallback(op, [X], {"i": np.array([99])})


def test_an_operator_off_the_list_never_runs():
    with pytest.raises(UserError, match="none of the list"):
        run_fallback(fallback("bernoulli.default", [{"input": 0}]), [X])


def test_single_operations_give_what_the_program_gives():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.Mish(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(72, 4),
        nn.Softmax(1),
    ).eval()
    x = torch.randn(3, 3, 6, 6)
    lowered = lower(model, x)
    arrays = {name: t.numpy() for name, t in lowered.tensors.items()}
    for _ in range(2):
        values = {lowered.program.inputs[0]: x.numpy()}
        for op in lowered.program.ops:
            given = [values[name] for name in op.inputs]
            shape = lowered.program.values[op.output]
            values[op.output] = run_op(op, given, arrays, shape)
    expected = interpret(lowered.program, lowered.tensors, x).numpy()
    assert (values[lowered.program.outputs[0]] == expected).all()


def test_one_operation_with_other_tensors_gives_other_results():
    op = Op("linear", "fc", ("x",), "y", {"weight": "w"}, {})
    one, two = np.ones((2, 6), np.float32), np.zeros((2, 6), np.float32)
    assert (run_op(op, [X], {"w": one}, (2,)) == X.sum(1, keepdims=True)).all()
    assert (run_op(op, [X], {"w": two}, (2,)) == 0).all()
    with pytest.raises(UserError, match="says"):
        run_op(op, [X], {"w": one}, (3,))


def test_what_was_prepared_for_an_operation_goes_with_it():
    before = len(interpreting._READY)
    op = Op("map", "", ("x",), "y", {}, {"then": [{"do": "relu"}]})
    run_op(op, [X], {}, (6,))
    assert len(interpreting._READY) == before + 1
    del op
    gc.collect()
    assert len(interpreting._READY) == before


def small():
    ops = (Op("map", "", ("x",), "y", {}, {"then": [{"do": "relu"}]}),)
    return Program(("x",), ("y",), {"x": (6,), "y": (6,)}, ops)


def test_inputs_must_be_those_of_the_program():
    for x in (torch.zeros(2, 5), torch.zeros(2, 6).double(), torch.zeros(6), torch.zeros(2, 6, 1)):
        with pytest.raises(UserError, match="the program takes float32 of"):
            interpret(small(), {}, x)
    with pytest.raises(UserError, match="takes 1 inputs, and 2 came"):
        interpret(small(), {}, torch.zeros(2, 6), torch.zeros(2, 6))


def test_no_images_give_no_answers_and_nan_stays():
    assert interpret(small(), {}, torch.zeros(0, 6)).shape == (0, 6)
    assert interpret(small(), {}, torch.full((1, 6), float("nan"))).isnan().all()


def test_a_fallback_of_another_shape_than_stated_is_an_error():
    op = fallback("cat.default", [[{"input": 0}, {"input": 0}], 1])
    program = Program(("x",), ("y",), {"x": (6,), "y": (6,)}, (op,))
    with pytest.raises(UserError, match="the program says"):
        interpret(program, {}, torch.zeros(2, 6))
