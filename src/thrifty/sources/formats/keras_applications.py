"""The networks of keras.applications by name: ``keras:ResNet50``, built by the user's own Keras.

Weights are random unless ``?weights=imagenet`` is asked for, which Keras takes from its cache or
downloads.  Keras runs on whatever backend it is set to; where nothing is set, on torch, which is
there.  Files that Keras wrote are read without it, see :mod:`thrifty.sources.formats.keras`.
"""

import importlib
import inspect
import os
import random
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import partial
from typing import Any

import numpy as np

from thrifty.errors import UnknownName, UserError
from thrifty.registry import Spec, call_spec, parse_spec, suggest
from thrifty.sources import BITS, PIECE, SOURCES, Norm, Reader, Source, Stored
from thrifty.sources.formats.networks import RANDOM, SEED, pieces
from thrifty.sources.keras_config import epsilon, everything, model_of
from thrifty.sources.keras_names import out_axis, role_of
from thrifty.sources.stored import DTYPES, Bits

PATIENCE_S = 10
KERNELS = ("pointwise_kernel", "depthwise_kernel", "kernel")
"""Of a separable convolution the pointwise one comes last."""
ASKED = "?weights=imagenet"


def open_application(text: str) -> Source:
    """The network ``NAME[?weights=imagenet&...]`` of keras.applications.

    Further options are those of the function of that name, such as ``classes=10``,
    ``include_top=false``, ``alpha=0.5`` or ``input_shape=96x96x3``.

    Raises:
        UserError: Keras is not installed, has no such network, cannot build it so, or the
            weights cannot be had.
    """
    spec = parse_spec(text)
    weights = spec.options.get("weights")
    if weights not in (None, "imagenet"):
        raise UserError(
            f"keras:{text} asks for weights={weights}; it is imagenet, or nothing for random "
            f"weights.  To look at a file, give its path"
        )
    keras = _keras()
    function = _function(keras, spec.name)
    options = {k: _shape(spec, v) if k == "input_shape" else v for k, v in spec.options.items()}
    with _own_generator(), _patience(), redirect_stdout(sys.stderr):
        model = _built(f"keras:{text}", function, Spec(spec.name, options))
    return of_model(model, f"keras:{text}", bool(weights))


def of_model(model: Any, label: str, pretrained: bool) -> Source:
    """The variables of a Keras model, read when they are asked for."""
    said = model_of(model.to_json(), label)
    kinds = {layer.name: layer.kind for layer in everything(said.layers)} if said else {}
    variables = {str(v.path): v for v in model.weights}
    odd = {path: str(v.dtype) for path, v in variables.items() if str(v.dtype) not in DTYPES}
    tensors = {path: _stored(path, v, kinds) for path, v in variables.items() if path not in odd}
    published = "published weights of Keras, imagenet"
    notes = [published if pretrained else f"{RANDOM}; ask for {ASKED}"]
    if odd:
        notes.append(f"left out, for their dtypes cannot be counted: {', '.join(odd)}")
    return Source(
        label=label,
        kind="keras",
        tensors=tuple(tensors.values()),
        notes=tuple(notes),
        norms=_norms(said.pairs, tensors) if said else None,
    )


def _keras() -> Any:
    """Keras itself; imported for the first time and with nothing set, it runs on torch."""
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "torch")
    try:
        keras = importlib.import_module("keras")
    except ModuleNotFoundError as error:
        if error.name == "keras":
            raise UserError(
                "a network of keras.applications needs the package 'keras', which is not "
                "installed; run: pip install keras"
            ) from None
        raise UserError(
            f"keras cannot be imported with the backend "
            f"{os.environ.get('KERAS_BACKEND')!r}: {error}; install it, or set KERAS_BACKEND=torch"
        ) from None
    if not hasattr(keras, "ops"):
        raise UserError(
            f"this is keras {getattr(keras, '__version__', '?')}, and version 3 is needed; run: "
            f"pip install -U keras"
        )
    return keras


def _function(keras: Any, name: str) -> Callable[..., Any]:
    known = {
        key: thing
        for key, thing in vars(keras.applications).items()
        if key[0].isupper() and inspect.isfunction(thing)
    }
    for key, thing in known.items():
        if key.lower() == name.lower():
            return thing
    raise UnknownName(f"keras.applications has no network {name!r}; {suggest(name, known)}")


def _shape(spec: Spec, value: object) -> Any:
    try:
        return tuple(int(side) for side in str(value).split("x"))
    except ValueError:
        raise UserError(f"{spec.name} has input_shape={value}; write it as 224x224x3") from None


def _built(what: str, function: Callable[..., Any], spec: Spec) -> Any:
    try:
        return call_spec("keras network", spec, partial(function, weights=None))
    except UserError:
        raise
    except Exception as error:  # Keras raises Exception itself where a download fails
        if "URL" in str(error):
            raise UserError(
                f"{what}: the weights are neither in ~/.keras/models nor can be downloaded "
                f"({error}); put the file there, or leave out {ASKED}"
            ) from error
        raise UserError(f"{what} cannot be built: {error}; mend the options after '?'") from error


@contextmanager
def _own_generator() -> Iterator[None]:
    """Keras draws the seeds of its initialisers from Python's generator."""
    before = random.getstate()
    random.seed(SEED)
    try:
        yield
    finally:
        random.setstate(before)


@contextmanager
def _patience() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _stored(path: str, variable: Any, kinds: Mapping[str, str]) -> Stored:
    *above, last = path.split("/")
    shape = tuple(int(side) for side in variable.shape)
    kind = next((kinds[name] for name in reversed(above) if name in kinds), "")
    role = role_of(last)
    return Stored(
        name=path,
        shape=shape,
        dtype=DTYPES[str(variable.dtype)],
        read=lambda: _pieces(variable),
        out_axis=out_axis(kind, last) if len(shape) > 1 else -1,
        role="weight" if role is None and len(shape) > 1 and variable.trainable else role,
    )


def _pieces(variable: Any) -> Iterator[Bits]:
    """The numbers of a variable of whichever backend."""
    value = variable.value
    if hasattr(value, "detach"):
        yield from pieces(value)
        return
    bits = BITS[DTYPES[str(variable.dtype)]]
    flat = np.ascontiguousarray(np.asarray(value)).reshape(-1).view(bits)
    step = PIECE // bits.itemsize
    for start in range(0, len(flat), step):
        yield flat[start : start + step]


def _norms(pairs: Any, tensors: Mapping[str, Stored]) -> tuple[Norm, ...]:
    """The pairs of the graph whose weights can be folded along one axis."""
    found = []
    for first, norm in pairs:
        weight = next((tensors[p] for k in KERNELS if (p := f"{first.name}/{k}") in tensors), None)
        parts = [f"{norm.name}/{k}" for k in ("gamma", "beta", "moving_mean", "moving_variance")]
        shapes = {tensors[part].shape for part in parts if part in tensors}
        if weight is None or shapes != {(weight.shape[weight.out_axis],)}:
            continue
        scale, shift, mean, variance = (part if part in tensors else None for part in parts)
        bias = f"{first.name}/bias" if f"{first.name}/bias" in tensors else None
        found.append(Norm(weight.name, bias, scale, shift, mean, variance, epsilon(norm)))
    return tuple(found)


SOURCES.add(
    "keras_applications",
    Reader(
        about="Networks of keras.applications by name, built by your own Keras",
        open=open_application,
        prefix="keras",
    ),
)
