"""What a teacher says of every training input, computed once and kept on disk.

It holds where a row of the data gives the same input in every epoch: without augmentation.  A file
is named by what decides it (the teacher's tensors, the data, how they are normalised, the kind of
device), is whole or absent, and is believed only if it is of the size, the name and the checksum
that it must be of; otherwise it is made again.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from thrifty.data import Data
from thrifty.errors import UserError
from thrifty.files import written
from thrifty.nets import architecture_of
from thrifty.training.plan import Plan
from thrifty.training.teachers import evaluating

MOST = 1 << 30
"""Bytes of logits that are kept, on disk and in memory; of more the teacher is asked anew."""

HEADER = 1 << 16
"""Bytes that the header of a file takes at most."""

MIXING = ("cutout", "mixup", "cutmix", "randaugment")
"""What a plan says of changes to inputs besides its ``augment``; off if false."""

KEEP, ABOUT = "logits", "answers"
"""Names of the tensor in a file and of what its header says of it."""


def varies(data: Data, plan: Plan) -> bool:
    """Whether training shows the same row as another input in another epoch."""
    moved = plan.augment and (data.shift or data.flip)
    return bool(moved) or any(getattr(plan, name, None) for name in MIXING)


def kept_answers(model: nn.Module, data: Data, plan: Plan, folder: Path) -> Tensor | None:
    """The logits (rows, classes) of ``model`` for all training inputs, from ``folder`` if there.

    Returns:
        float32 on the device of ``model``; ``None`` if inputs vary, or the logits of all take more
        than :data:`MOST` bytes.
    """
    size = 4 * len(data.train) * data.classes
    if varies(data, plan) or size > MOST:
        return None
    device = next(model.parameters()).device
    name = digest_of(model, data, device)
    path = folder / f"{name}.safetensors"
    found = _read(path, name, (len(data.train), data.classes))
    if found is None:
        found = answers(model, data).cpu()
        _write(path, name, found)
    return found.to(device)


@torch.no_grad()
def answers(model: nn.Module, data: Data, batch: int = 500) -> Tensor:
    """The logits (rows, classes) of ``model`` in eval mode for all training inputs, in float32.

    Raises:
        UserError: it gives other than one logit for each class of the data.
    """
    parameter = next(model.parameters())
    found = torch.empty(len(data.train), data.classes, device=parameter.device)
    with evaluating(model):
        for start in range(0, len(data.train), batch):
            inputs = data.prepare(data.train.inputs[start : start + batch].to(parameter.device))
            said = model(inputs)
            if said.shape != found[start : start + batch].shape:
                raise UserError(
                    f"the teacher gives outputs of shape {tuple(said.shape)} for {len(inputs)} "
                    f"inputs of {data.name}, which has {data.classes} classes; take a teacher "
                    f"that was trained on these"
                )
            found[start : start + batch] = said
    return found


def digest_of(model: nn.Module, data: Data, device: torch.device) -> str:
    """16 hex digits that name the logits of ``model`` for the training inputs of ``data``."""
    sha = hashlib.sha256()
    built = architecture_of(model)
    what = (1, built.model if built else type(model).__qualname__, repr(model))
    sha.update(repr((*what, data.digest, data.mean, data.std, device.type)).encode())
    for name, tensor in model.state_dict().items():
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(_bytes(tensor))
    return sha.hexdigest()[:16]


def _write(path: Path, name: str, logits: Tensor) -> None:
    about = {ABOUT: _about(name, logits)}
    with written(path) as temporary:
        safetensors.torch.save_file({KEEP: logits.contiguous()}, temporary, metadata=about)


def _about(name: str, logits: Tensor) -> str:
    """The name of a file and the checksum of what it holds."""
    return f"{name} {hashlib.sha256(_bytes(logits)).hexdigest()}"


def _read(path: Path, name: str, shape: tuple[int, int]) -> Tensor | None:
    """The logits of a file, ``None`` if there is none that can be believed."""
    size = 4 * shape[0] * shape[1]
    try:
        if not size < path.stat().st_size <= size + HEADER:
            return None
        with safetensors.safe_open(path, framework="pt") as file:
            about: Mapping[str, str] = file.metadata() or {}
            if list(file.keys()) != [KEEP]:
                return None
            found: Tensor = file.get_tensor(KEEP)
    except (OSError, safetensors.SafetensorError):
        return None
    right = found.dtype == torch.float32 and tuple(found.shape) == shape
    return found if right and about.get(ABOUT) == _about(name, found) else None


def _bytes(tensor: Tensor) -> bytes | memoryview:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
