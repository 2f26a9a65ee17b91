"""Weights of Keras models, read with h5py alone and without Keras.

``.h5`` and ``.hdf5`` hold a whole model or its weights in the legacy layout, ``.weights.h5`` the
weights as Keras 3 lays them out, and ``.keras`` is a zip archive of such a file and of the
configuration.  Nothing of the configuration is run: it names layers, and says which batch
normalisation follows which of them.

Integer kernels that Keras quantised, ``kernel * kernel_scale`` rounded, are given with their
scales.
"""

import json
import os
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from thrifty.errors import UserError
from thrifty.sources import SOURCES, Reader
from thrifty.sources.hdf5 import Dataset, Group, Hdf5
from thrifty.sources.keras_config import Model, epsilon, model_of
from thrifty.sources.keras_layouts import Weight, left_out, weights_of
from thrifty.sources.keras_names import out_axis
from thrifty.sources.mapped import open_file
from thrifty.sources.stored import BITS, Bits, Norm, Quantised, Source, Stored
from thrifty.sources.unpacking import too_large

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
MOST_CONFIG = 64 << 20
STEP = 1 << 20
LISTED = 4
KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel")
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
    RecursionError,
)
"""What zipfile raises for damaged, encrypted and unsupported archives."""


def open_h5(text: str) -> Source:
    """The weights of the HDF5 file at the path ``text``.

    Raises:
        UserError: there is no such file, it is damaged, refers to other files, or holds no
            weights.
        MissingExtra: h5py is not installed.
    """
    path = Path(text)
    file = Hdf5(open_file(path), text)
    label = path.name
    for suffix in (".weights.h5", ".h5", ".hdf5"):
        if label.lower().endswith(suffix):
            label = label[: -len(suffix)]
            break
    try:
        source = _source(file, file.root.text("model_config"), _claims(file))
    except BaseException:
        file.close()
        raise
    return replace(source, label=label)


def open_keras(text: str) -> Source:
    """The weights of the ``.keras`` archive at the path ``text``.

    Raises:
        UserError: there is no such file, it is no such archive, damaged, out of proportion, or
            there is no room to unpack its weights.
        MissingExtra: h5py is not installed.
    """
    path = Path(text)
    with open_file(path) as packed:
        size = os.fstat(packed.fileno()).st_size
        config, claims, weights = _unpacked(packed, text, size)
    file = Hdf5(weights, text)
    try:
        source = _source(file, config, claims)
    except BaseException:
        file.close()
        raise
    return replace(source, label=path.name.removesuffix(".keras"), nbytes=size)


def _unpacked(packed: BinaryIO, path: str, size: int) -> tuple[str, dict[str, str], BinaryIO]:
    """The configuration, what it says of itself, and the weights as a file without a name."""
    try:
        with zipfile.ZipFile(packed) as archive:
            config = b"".join(_member(archive, CONFIG, path, MOST_CONFIG)).decode("utf-8")
            claims = _metadata(archive, path)
            weights = _temporary(path)
            try:
                for piece in _member(archive, WEIGHTS, path, None, size):
                    _write(weights, piece, path)
                _write(weights, b"", path)
            except BaseException:
                weights.close()
                raise
            return config, claims, weights
    except _DAMAGED as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path} is no whole .keras archive: {str(error)[:200]}; copy it again"
        ) from None


def _metadata(archive: zipfile.ZipFile, path: str) -> dict[str, str]:
    if METADATA not in archive.namelist():
        return {}
    said = json.loads(b"".join(_member(archive, METADATA, path, MOST_CONFIG)))
    version = said.get("keras_version") if isinstance(said, dict) else None
    return {"keras_version": version} if isinstance(version, str) else {}


def _member(
    archive: zipfile.ZipFile, name: str, path: str, most: int | None, size: int = 0
) -> Iterator[bytes]:
    """The content of a member in pieces, at most ``most`` bytes or in proportion to ``size``."""
    if name not in archive.namelist():
        raise UserError(
            f"{path} has no member {name}, which every .keras archive has; if it is a folder of "
            f"a saved model, save it again with model.save('NAME.keras')"
        )
    info = archive.getinfo(name)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"{path}: {name} is compressed in a way that Keras does not use; refused")
    if info.file_size > most if most is not None else too_large(info.file_size, size):
        raise UserError(
            f"{path}: {name} declares {info.file_size:,} bytes, out of proportion to the file; "
            f"such files are made to fill the disk"
        )
    with archive.open(info) as member:
        while piece := member.read(STEP):
            yield piece


def _temporary(path: str) -> BinaryIO:
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise UserError(f"{path} cannot be unpacked: {error}; set TMPDIR") from None


def _write(file: BinaryIO, piece: bytes, path: str) -> None:
    """In place: ``piece`` to ``file``; an empty one sees to it that all lies on the disk."""
    try:
        if piece:
            file.write(piece)
        else:
            file.flush()
    except OSError as error:
        raise UserError(
            f"{path} cannot be unpacked to {tempfile.gettempdir()}: {error}; make room, or set "
            f"TMPDIR to a folder that has it"
        ) from None


def _claims(file: Hdf5) -> dict[str, str]:
    found = {}
    for group in (file.root, file.find("model_weights")):
        for name in ("keras_version", "backend"):
            said = group.text(name) if isinstance(group, Group) else None
            if said is not None and said.isprintable():
                found[name] = said
    return found


def _source(file: Hdf5, config: str | None, claims: Mapping[str, str]) -> Source:
    model = model_of(config, file.label) if config is not None else None
    weights, notes = _readable(weights_of(file, model), file.label)
    names = _names(weights)
    by_layer = _by_layer(weights, names)
    tensors, odd = [], []
    for weight, name in zip(weights, names, strict=True):
        scale = by_layer[weight.layer].get(f"{weight.variable}_scale")
        tensor = _stored(file, weight, name)
        if scale is not None and tensor.dtype == "I8":
            how = _quantised(file, weight, scale[1].dataset)
            tensor = replace(tensor, quantised=how)
            odd += [] if how else [name]
        tensors.append(tensor)
    if odd:
        notes.append(
            f"{_listed(odd)}: the scale beside it is neither one nor one a channel; its integers "
            f"are taken as they are stored"
        )
    norms = None
    if model is not None:
        norms, skipped = _norms(model, by_layer, {t.name: t for t in tensors})
        notes += skipped
    return Source(
        label=file.label,
        kind="keras",
        tensors=tuple(tensors),
        nbytes=file.nbytes,
        notes=(*notes, *left_out(file)),
        norms=norms,
        claims=claims,
        on_close=file.close,
    )


def _readable(weights: Sequence[Weight], label: str) -> tuple[list[Weight], list[str]]:
    """Each data set once, those of numbers; and sentences about the others."""
    kept: list[Weight] = []
    seen: set[str] = set()
    notes: list[str] = []
    twice = 0
    strange: dict[str, str] = {}
    for weight in weights:
        if weight.dataset.dtype not in BITS:
            strange[weight.dataset.path] = weight.dataset.dtype
        elif weight.dataset.path in seen:
            twice += 1
        else:
            seen.add(weight.dataset.path)
            kept.append(weight)
    if strange:
        kinds = ", ".join(sorted(set(strange.values())))
        notes.append(f"left out, for their dtypes cannot be read ({kinds}): {_listed(strange)}")
    if twice:
        notes.append(f"{twice:,} weights are named more than once, and counted once")
    if not kept:
        raise UserError(f"{label} holds no weights that can be read; {'; '.join(notes)}")
    return kept, notes


def _names(weights: Sequence[Weight]) -> list[str]:
    """``layer/variable`` where that is enough, else where the data set lies."""
    short = [_printable("/".join((*w.layer, w.variable))) for w in weights]
    count = Counter(short)
    long = (_printable(w.dataset.path) for w in weights)
    return [s if count[s] == 1 else path for s, path in zip(short, long, strict=True)]


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


_Layers = Mapping[tuple[str, ...], Mapping[str, tuple[str, Weight]]]


def _by_layer(weights: Sequence[Weight], names: Sequence[str]) -> _Layers:
    found: dict[tuple[str, ...], dict[str, tuple[str, Weight]]] = {}
    for weight, name in zip(weights, names, strict=True):
        found.setdefault(weight.layer, {})[weight.variable] = name, weight
    return found


def _stored(file: Hdf5, weight: Weight, name: str) -> Stored:
    dataset = weight.dataset

    def read() -> Iterator[Bits]:
        return file.read(dataset)

    axis = out_axis(weight.kind, weight.variable) if len(dataset.shape) > 1 else -1
    return Stored(name, dataset.shape, dataset.dtype, read, None, axis, weight.role)


def _quantised(file: Hdf5, weight: Weight, scale: Dataset) -> Quantised | None:
    """None if there is not one scale, or one a channel (of an embedding: one a row)."""
    shape = weight.dataset.shape
    axis = 0 if weight.variable == "embeddings" else len(shape) - 1
    if scale.shape not in ((), (shape[axis] if shape else 0,)):
        return None
    if scale.dtype not in ("F16", "F32", "F64"):
        return None
    divisor = np.concatenate([p.astype(np.float64) for p in file.read(scale)]).reshape(scale.shape)
    if not (np.isfinite(divisor).all() and (divisor > 0).all()):
        return None
    return Quantised(1 / divisor, np.zeros_like(divisor), axis if scale.shape else None)


def _norms(
    model: Model, by_layer: _Layers, tensors: Mapping[str, Stored]
) -> tuple[tuple[Norm, ...], list[str]]:
    """The pairs of the configuration whose weights are in the file, and of which they are not."""
    count = Counter(layer[-1] for layer in by_layer if layer)
    inside = {layer[-1]: x for layer, x in by_layer.items() if layer and count[layer[-1]] == 1}
    found, skipped = [], []
    for first, norm in model.pairs:
        before, behind = inside.get(first.name, {}), inside.get(norm.name, {})
        kernel = next((before[k][0] for k in reversed(KERNELS) if k in before), None)
        if kernel is None or not behind:
            continue
        weight = tensors[kernel]
        parts = [behind[k][0] if k in behind else None for k in _PARTS]
        channels = {tensors[name].shape for name in parts if name}
        if not weight.shape or channels != {(weight.shape[weight.out_axis],)}:
            skipped.append(norm.name)
            continue
        bias = before["bias"][0] if "bias" in before else None
        scale, shift, mean, variance = parts
        found.append(Norm(kernel, bias, scale, shift, mean, variance, epsilon(norm)))
    if not skipped:
        return tuple(found), []
    return tuple(found), [
        f"{_listed(skipped)} follows a layer of another number of channels along one axis (as a "
        f"depthwise convolution with a multiplier), and is not folded"
    ]


_PARTS = ("gamma", "beta", "moving_mean", "moving_variance")


def _listed(names: Sequence[str] | Mapping[str, str]) -> str:
    names = list(names)
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return ", ".join(ascii(name[:100])[1:-1] for name in names[:LISTED]) + more


SOURCES.add(
    "keras_h5",
    Reader(
        about="Keras models and weights in HDF5, legacy and Keras 3; needs h5py",
        open=open_h5,
        suffixes=(".h5", ".hdf5", ".weights.h5"),
    ),
)
SOURCES.add(
    "keras_archive",
    Reader(
        about="Keras models as .keras archives; needs h5py",
        open=open_keras,
        suffixes=(".keras",),
    ),
)
