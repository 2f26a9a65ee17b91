"""Operations that have no kind of their own: a named operator of ATen and its arguments as JSON.

A file must not decide which code runs, so the operators are those of a list: pure functions of
tensors, without randomness, files, memory tricks or writing in place.  Arguments are numbers,
booleans, strings, null, lists of those, and objects that stand for something else:

    {"input": i}             op.inputs[i].  Optional: "dtype" ("bool" or "int64") it is turned to;
                             "times": k merges its first axis k into the batch, (n, k, ...) ->
                             (n * k, ...); "axis": p moves the batch to that place afterwards.
    {"tensor": role}         the tensor of that role.
    {"batch": k}             k times the size of the batch, inside shapes.
    {"float": "inf"}         also "-inf" and "nan", which JSON has not.
    {"dtype": "float32"}     a type of numbers.

The result has the batch first; the attributes "axis" and "times" undo the same for a result, and
"item" picks one of several results.  It is float32 in the program, whatever the operator gives.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from thrifty.errors import UserError
from thrifty.registry import suggest

MOST_DEPTH, MOST_ITEMS, MOST_STRING = 4, 4_096, 64
DTYPES = ("float32", "int64", "bool")

_NAMES = """
abs acos acosh asin asinh atan atan2 atanh ceil cos cosh elu erf erfc exp exp2 expm1 floor
gelu glu hardshrink hardsigmoid hardswish hardtanh leaky_relu log log10 log1p log2
log_sigmoid mish neg prelu reciprocal relu relu6 round rsqrt selu celu sgn sigmoid sign silu sin
sinh softplus softshrink sqrt square tan tanh threshold trunc
clamp clamp_max clamp_min clamp.Tensor isnan isinf logical_and logical_not logical_or
bitwise_not bitwise_and.Tensor bitwise_or.Tensor
maximum minimum
amax amin logsumexp sum mean all any prod
softmax.int log_softmax.int _softmax _log_softmax
addmm baddbmm bmm matmul mm linear addbmm dot mv outer
conv1d conv2d conv3d convolution conv2d.padding conv1d.padding conv3d.padding
conv_transpose1d conv_transpose2d.input conv_transpose3d.input
scaled_dot_product_attention
layer_norm rms_norm group_norm instance_norm native_layer_norm native_group_norm
avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d
adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d
_adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
max_pool2d_with_indices max_pool3d_with_indices
constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d
replication_pad1d replication_pad2d replication_pad3d
cat stack concat expand expand_as flip index_select gather index.Tensor narrow permute repeat
reshape roll select.int slice.Tensor squeeze squeeze.dim squeeze.dims t transpose.int tile
repeat_interleave.self_int unsqueeze unflatten.int unfold split_with_sizes split.Tensor
unbind.int chunk im2col col2im pixel_shuffle pixel_unshuffle channel_shuffle movedim.intlist
diagonal tril triu clone
where where.self where.ScalarOther where.ScalarSelf where.Scalar masked_fill.Scalar
masked_fill.Tensor
upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d
upsample_trilinear3d upsample_bicubic2d _upsample_nearest_exact1d _upsample_nearest_exact2d
_upsample_bilinear2d_aa _upsample_bicubic2d_aa
upsample_nearest2d.vec upsample_nearest1d.vec upsample_nearest3d.vec upsample_bilinear2d.vec
upsample_bicubic2d.vec upsample_linear1d.vec upsample_trilinear3d.vec
copy slice_scatter select_scatter
grid_sampler grid_sampler_2d grid_sampler_3d affine_grid_generator
cumsum cumprod
mean.dim sum.dim_IntList var.correction std.correction var.dim std.dim prod.dim_int
amax amin argmax argmin max.dim min.dim max min topk sort all.dim any.dim norm.ScalarOpt_dim
linalg_vector_norm
add.Tensor sub.Tensor mul.Tensor div.Tensor div.Tensor_mode add.Scalar sub.Scalar mul.Scalar
div.Scalar div.Scalar_mode rsub.Scalar rsub.Tensor pow.Tensor_Scalar pow.Tensor_Tensor pow.Scalar
remainder.Scalar remainder.Tensor fmod.Scalar fmod.Tensor floor_divide lerp.Scalar lerp.Tensor
addcmul addcdiv
eq.Scalar eq.Tensor ne.Scalar ne.Tensor ge.Scalar ge.Tensor gt.Scalar gt.Tensor le.Scalar
le.Tensor lt.Scalar lt.Tensor
embedding _to_copy full full_like zeros_like ones_like zeros ones scalar_tensor
_native_batch_norm_legit_no_training
lstm.input gru.input rnn_tanh.input rnn_relu.input
"""

ALLOWED = frozenset(
    f"aten.{name}" if "." in name else f"aten.{name}.default" for name in _NAMES.split()
)
"""Every operator that a program may name, as torch names it: aten.relu.default."""

_INPUT_OPTIONS = {"axis": 8, "times": 1 << 28}


def check_fallback(
    attrs: Mapping[str, Any],
    tensors: Mapping[str, str],
    ins: Sequence[tuple[int, ...]],
    out: tuple[int, ...],
    where: str,
) -> None:
    """Check one fallback: its operator, its arguments, and that they use each input and tensor.

    Whether operator, arguments and shapes belong together is for torch to say, which runs it.

    Args:
        attrs: target, args, kwargs and options.
        tensors: role to name.
        ins: shapes of the inputs.
        out: shape of the output.
        where: names the operation in messages.

    Raises:
        UserError: the operator is not of the list, or an argument is not what it must be.
    """
    target = attrs["target"]
    if not isinstance(target, str) or target not in ALLOWED:
        raise UserError(
            f"{where}: the operator {str(target)[:80]!r} is none of those that a program may name "
            f"(pure ones of ATen); {suggest(str(target)[:80], ALLOWED)}"
        )
    if not isinstance(attrs["args"], list | tuple) or not isinstance(attrs["kwargs"], Mapping):
        raise UserError(f"{where}: args is no list, or kwargs no object")
    if not ins:
        raise UserError(f"{where}: it has no input, of which the size of the batch would be known")
    named = [*attrs["args"], *attrs["kwargs"].values()]
    if not all(isinstance(key, str) and len(key) <= MOST_STRING for key in attrs["kwargs"]):
        raise UserError(f"{where}: a name in kwargs is over {MOST_STRING} characters")
    budget = iter(range(MOST_ITEMS))
    for argument in named:
        _check_argument(argument, tensors, ins, where, MOST_DEPTH, budget)
    if unused := set(tensors) - set(_roles(named)):
        raise UserError(f"{where}: no argument uses its tensor {sorted(unused)[0]!r}")
    _check_batch(attrs, out, where, "its output")


def _check_argument(
    x: object,
    tensors: Mapping[str, str],
    ins: Sequence[tuple[int, ...]],
    where: str,
    depth: int,
    budget: Iterator[int],
) -> None:
    if next(budget, None) is None:
        raise UserError(f"{where}: its arguments have over {MOST_ITEMS:,} items")
    if isinstance(x, list | tuple) and depth:
        for item in x:
            _check_argument(item, tensors, ins, where, depth - 1, budget)
    elif isinstance(x, Mapping):
        _check_reference(x, tensors, ins, where)
    elif not _plain(x):
        raise UserError(f"{where}: the argument {str(x)[:80]} is not allowed")


def _plain(x: object) -> bool:
    if isinstance(x, str):
        return len(x) <= MOST_STRING
    if isinstance(x, int):
        return abs(x) < 1 << 63
    return x is None or (isinstance(x, float) and math.isfinite(x))


def _check_reference(
    x: Mapping[Any, Any],
    tensors: Mapping[str, str],
    ins: Sequence[tuple[int, ...]],
    where: str,
) -> None:
    keys = set(x)
    good = False
    if "input" in keys and keys <= {"input", "dtype", *_INPUT_OPTIONS}:
        good = (
            _is_whole(x["input"], 0, len(ins) - 1)
            and x.get("dtype", "bool") in ("bool", "int64")
            and all(_is_whole(x.get(k, 1), 0, high) for k, high in _INPUT_OPTIONS.items())
        )
        if good:
            _check_batch(x, ins[x["input"]], where, f"input {x['input']}")
    elif keys == {"tensor"}:
        good = isinstance(x["tensor"], str) and x["tensor"] in tensors
    elif keys == {"batch"}:
        good = _is_whole(x["batch"], 1, 1 << 28)
    elif keys == {"float"}:
        good = x["float"] in ("inf", "-inf", "nan")
    elif keys == {"dtype"}:
        good = x["dtype"] in DTYPES
    if not good:
        raise UserError(
            f"{where}: the argument {str(dict(x))[:80]} stands for no input, tensor, batch, float "
            f"or dtype"
        )


def _check_batch(x: Mapping[Any, Any], shape: tuple[int, ...], where: str, what: str) -> None:
    """The batch can be merged with the first axis only if there is one, of that size."""
    times, axis = x.get("times"), x.get("axis", 0)
    if times is not None and (not shape or shape[0] != times):
        raise UserError(f"{where}: times is {times}, and {what} is {tuple(shape)}")
    if axis > len(shape) - (times is not None):
        raise UserError(f"{where}: axis is {axis}, and {what} is {tuple(shape)}")


def _is_whole(x: object, low: int, high: int) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and low <= x <= high


def _roles(x: object) -> Iterator[str]:
    if isinstance(x, list | tuple):
        for item in x:
            yield from _roles(item)
    elif isinstance(x, Mapping) and "tensor" in x:
        yield x["tensor"]
