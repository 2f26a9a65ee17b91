"""A network from a file of ours alone: the header names it, the tensors fill it.

The header is as little to be trusted as the rest of the file.  It may name a network that is
built in or published, never ``package.module:factory``, for that would let a file run code; nor
options that fetch or read something else.  The network is first built without memory, so that a
header asking for a million channels fails on its shapes and not for want of memory.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thrifty.errors import UserError
from thrifty.nets.architecture import NETS, Architecture
from thrifty.nets.build import build
from thrifty.nets.fit import check_finite, fitted
from thrifty.nets.reading import header_of, read_weights
from thrifty.nets.resizing import may_be_empty
from thrifty.nets.shrunk import (
    Shrunk,
    calls_of,
    entry_of,
    extras,
    put,
    shrunk_in,
)
from thrifty.nets.trying import check_holds, check_runs, check_told
from thrifty.nets.zoos import ZOOS
from thrifty.registry import Spec, parse_spec

MOST = 1 << 20
"""Largest number that a header may give for classes, a side or an option."""

OPTIONS = (
    *("num_classes", "in_chans", "img_size", "image_size"),
    *("width_mult", "aux_logits", "init_weights"),
)
"""Options of published networks that a header may give: numbers that set sizes.  Others fetch
files, or repeat layers without end."""


def described(
    architecture: Architecture | None, tied: Mapping[str, str], shrunk: Shrunk | None
) -> str:
    """The entry ``thrifty`` of a header: what was built, and which names share a tensor.

    Format 2 is format 1 with channels removed, which older versions refuse and do not misread.
    """
    header: dict[str, Any] = {"format": 1, "model": None, "classes": None, "shape": None}
    if architecture is not None:
        shape = None if architecture.shape is None else list(architecture.shape)
        header.update(model=architecture.model, classes=architecture.classes, shape=shape)
    if shrunk is not None:
        header.update(format=2, shrunk=entry_of(shrunk))
    if tied:
        header["tied"] = dict(tied)
    return json.dumps(header, sort_keys=True)


def load_model(path: str | Path) -> nn.Module:
    """The network that the file ``path`` names, with its weights, each of the dtype saved.

    Raises:
        UserError: the file cannot be read, names no network or one it may not, or its tensors
            do not fit.
    """
    tensors, metadata = read_weights(path)
    return rebuilt(tensors, metadata, Path(path))


def rebuilt(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> nn.Module:
    """The network that ``metadata`` names, filled with ``tensors``; ``path`` is for errors.

    Torch's generator is left where it was: to load is not to draw.
    """
    said = architecture_in(metadata, path)
    try:
        with torch.device("meta"):
            outline = build(said.model, said.classes, said.shape)
    except UserError as error:
        raise UserError(f"{path}: the network in the header cannot be built: {error}") from error
    except Exception as error:  # overflow, recursion, whatever odd options lead to
        raise UserError(
            f"{path}: the network {said.model!r} in the header cannot be built: {error}; {_MENDED}"
        ) from error
    shrunk = shrunk_in(header_of(metadata, path), path)
    more = extras(outline, shrunk or Shrunk())
    fitting = fitted(
        _tensors(outline),
        tensors,
        str(path),
        said.model,
        more=more,
        smaller=shrunk is not None,
        empty=may_be_empty(outline),
    )
    check_finite(fitting, str(path))
    check_told(outline, fitting, str(path))
    calls = calls_of(shrunk or Shrunk(), said)
    seen = shrunk is None or check_holds(outline, fitting, shrunk, calls, str(path))
    with torch.random.fork_rng(devices=[]):
        model = build(said.model, said.classes, said.shape)
    own = _tensors(model)
    for name, x in fitting.items():
        if name in own:
            own[name].data = own[name].data.to(x.dtype)
    put(model, fitting, shrunk)
    if not seen:
        check_runs(model, calls, str(path))
    return model


def architecture_in(metadata: Mapping[str, str], path: Path) -> Architecture:
    """The network that a header names, if it is one that a file may name.

    Raises:
        UserError: there is none, or it may not be named.
    """
    header = header_of(metadata, path)
    if header is None or header.get("model") is None:
        raise UserError(f"{path} holds weights and does not say of which network; {_MENDED}")
    model, classes, shape = (header.get(key) for key in ("model", "classes", "shape"))
    if (
        not isinstance(model, str)
        or not (classes is None or _count(classes))
        or not (shape is None or (isinstance(shape, list) and all(map(_count, shape))))
    ):
        raise UserError(
            f"{path}: the header has model={model!r}, classes={classes!r}, shape={shape!r}, which "
            f"is no network; the file is damaged; {_MENDED}"
        )
    try:
        spec = parse_spec(model)
    except UserError as error:
        raise UserError(f"{path}: the header names no network: {error}") from None
    _check_allowed(spec, path)
    return Architecture(model, classes, None if shape is None else tuple(shape))


_MENDED = "name the network yourself and give this file as its weights (--weights FILE)"


def _check_allowed(spec: Spec, path: Path) -> None:
    prefix, colon, _ = spec.name.partition(":")
    if not colon and spec.name in NETS:
        return
    if not colon or prefix not in ZOOS:
        raise UserError(
            f"{path} names the network {spec.name!r}; a file may name only built-in networks and "
            f"those of {' and '.join(ZOOS)}, for anything else would let it choose code to run; "
            f"{_MENDED}"
        )
    for key, value in spec.options.items():
        if key not in OPTIONS or isinstance(value, str) or abs(value) > MOST:
            raise UserError(
                f"{path} names the network {str(spec)!r}; in a file it may have the options "
                f"{', '.join(OPTIONS)} with plain numbers, and {key}={value} is refused; {_MENDED}"
            )


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict(keep_vars=True)
    return {name: x for name, x in state.items() if isinstance(x, Tensor)}
