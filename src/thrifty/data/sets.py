"""What a data set is once it is in memory, and the registry of those that can be loaded.

Pictures stay uint8 until a batch is prepared: 50,000 CIFAR pictures are 154 MB so, 614 MB as
floats.  The tensors of a ``Data`` are shared by everyone who loads it; do not write to them.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from thrifty.registry import Registry

UNLABELED = -1
"""The label of an input that has none."""


@dataclass(frozen=True, eq=False)
class Split:
    """Inputs and their labels, row by row.

    Args:
        inputs: (n, channels, height, width) uint8 for pictures, else float32 (n, ...).
        labels: (n,) int64; :data:`UNLABELED` where an input has none, see ``Data.unlabeled``.
    """

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True, eq=False)
class Data:
    """A data set with all that is needed to present it to a network.

    Two are equal only if they are one object; compare ``digest`` to compare contents.

    Args:
        name: the spec it was loaded from.
        train: what a network learns from.
        test: what it is measured on.
        classes: number of classes; labels are 0 .. classes - 1.
        mean: one number for each channel (each feature, if inputs are (n, features)), of the
            inputs scaled to 0..1 if they are uint8.
        std: as ``mean``.
        shift: augmentation: random crop after zero padding by so many pixels.
        flip: augmentation: mirror left-right half of the time.
        class_names: one for each class, or none.
        unlabeled: whether training inputs may be without a label, for a teacher to tell of them;
            if not, such a label is a mistake.  Test inputs all have one.
    """

    name: str
    train: Split
    test: Split
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shift: int = 0
    flip: bool = False
    class_names: tuple[str, ...] = ()
    unlabeled: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input, such as (1, 8, 8)."""
        return tuple(self.train.inputs.shape[1:])

    @cached_property
    def labeled(self) -> Split:
        """The training inputs that have a label."""
        if not self.unlabeled:
            return self.train
        known = self.train.labels != UNLABELED
        return Split(self.train.inputs[known], self.train.labels[known])

    @cached_property
    def digest(self) -> str:
        """16 hex digits that name the contents: SHA-256 over types, shapes and all four tensors."""
        sha = hashlib.sha256()
        for split in (self.train, self.test):
            for tensor in (split.inputs, split.labels):
                sha.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
                raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
                sha.update(raw.numpy().data)
        return sha.hexdigest()[:16]

    def prepare(self, inputs: Tensor) -> Tensor:
        """float32 (x - mean) / std on the device of ``inputs``; uint8 is first divided by 255.

        Args:
            inputs: (n, channels, ...), uint8, or floating and then already on the scale of
                ``mean`` (0..1 for pictures).
        """
        full = 255.0 if inputs.dtype == torch.uint8 else 1.0
        shape = (-1,) + (1,) * (inputs.dim() - 2)
        scale = torch.tensor([1 / (full * s) for s in self.std], device=inputs.device)
        offset = torch.tensor(
            [-m / s for m, s in zip(self.mean, self.std, strict=True)], device=inputs.device
        )
        return torch.addcmul(offset.reshape(shape), inputs.float(), scale.reshape(shape))


DATASETS: Registry[Callable[..., Data]] = Registry("data set", "thrifty.data", "thrifty.datasets")
