"""What a person writes for a network, turned into a module."""

import json
from pathlib import Path

from torch import nn

from thrifty.errors import UserError
from thrifty.nets.architecture import NETS, architecture_of
from thrifty.nets.build import build
from thrifty.nets.fit import load_weights
from thrifty.nets.reading import COMPRESSED, PICKLES, SAFETENSORS, located
from thrifty.nets.stored import load_model

IN_FOLDER = (f"model{COMPRESSED}", f"model{SAFETENSORS}")


def resolve(
    model: str | nn.Module | Path,
    *,
    weights: str | Path | None = None,
    classes: int | None = None,
    shape: tuple[int, ...] | None = None,
) -> nn.Module:
    """The network that ``model`` stands for.

    Args:
        model: a module, which is taken as it is; a path to a file that :func:`thrifty.pack.save`
            wrote, or to a folder with one; or a name: built in (``resnet20?width=2``),
            ``torchvision:NAME``, ``timm:NAME`` or ``package.module:factory``.  What exists as a
            path is a path, unless the name is built in and the path no folder with a network.
        weights: a file whose tensors fill the network, see :func:`thrifty.nets.load_weights`.
            If it says that channels were removed from this very network, so they are from what
            is built; a module that is given is not resized.
        classes: outputs of the last layer, for networks that take it and unless ``model`` says.
        shape: shape of one input without the batch, likewise.

    Returns:
        On the CPU, in training mode as torch builds it.  If it was built from a name or a file,
        :func:`thrifty.nets.architecture_of` tells how.

    Raises:
        UserError: there is no such network, or it and the weights do not fit.

    Example:
        >>> sum(p.numel() for p in resolve("resnet20").parameters())
        269722
    """
    module = model if isinstance(model, nn.Module) else _resolved(model, classes, shape)
    if weights is not None:
        load_weights(module, weights, resize=False if module is model else None)
    return module


def _resolved(model: str | Path, classes: int | None, shape: tuple[int, ...] | None) -> nn.Module:
    if not isinstance(model, str | Path) or not str(model).strip():
        raise UserError(
            f"{model!r} names no network; give a name such as 'resnet20', a path or a module"
        )
    file = file_of(model)
    if file is None:
        return build(str(model), classes, None if shape is None else tuple(shape))
    if file.name.lower().endswith(PICKLES):
        raise UserError(
            f"{file} holds weights and does not say of which network; name the network and give "
            f"this file as its weights: resnet20 --weights {file}"
        )
    module = load_model(file)
    found = architecture_of(module)
    if found and classes is not None and found.classes not in (None, classes):
        raise UserError(
            f"{file} is a network of {found.classes} classes and {classes} are asked for; use data "
            f"with as many classes, or name the network ({found.model}) and train it"
        )
    return module


def file_of(model: str | Path) -> Path | None:
    """The file that ``model`` is a path to, None if it is no path.

    A built-in name is never one, so that a folder of results called ``lenet`` does not hide the
    network; write ``./lenet`` for the folder.
    """
    path = located(model)
    if isinstance(model, str) and model in NETS:
        return None
    try:
        folder, there = path.is_dir(), path.exists()
    except (OSError, ValueError):  # a name that no path can have
        return None
    if folder:
        return _in_folder(path)
    if there:
        return path
    if isinstance(model, Path):
        raise UserError(f"there is no file or folder {str(model)!r} (seen from {Path.cwd()})")
    return None


def _in_folder(folder: Path) -> Path:
    for name in IN_FOLDER:
        if (folder / name).is_file():
            return folder / name
    run = folder / "run.json"
    if not run.is_file():
        raise UserError(
            f"the folder {folder} has no network; it would hold {', '.join(IN_FOLDER)} or the "
            f"run.json of an experiment"
        )
    try:
        dense = json.loads(run.read_text(encoding="utf-8")).get("dense")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{run} cannot be read as the record of a run: {error}") from None
    if not isinstance(dense, str) or not dense:
        raise UserError(f"{run} does not say which file is the dense network ('dense'); name it")
    file = (folder / dense).resolve()
    if not file.is_relative_to(folder.resolve()):
        raise UserError(f"{run} names {dense!r}, which is not in {folder}; name the file yourself")
    if not file.is_file():
        raise UserError(f"{run} names {dense!r}, which is missing; run the experiment again")
    return file
