"""Whom a network learns from besides its labels.

What a teacher says of inputs that never change is computed once (:mod:`thrifty.training.answers`);
of augmented inputs it is asked anew in every step.  Inputs without a label are learnt from the
teacher alone: their share of the task is nothing, and where the loss asks for a class they have
the teacher's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thrifty.data import Data
from thrifty.errors import UserError
from thrifty.training import losses
from thrifty.training.batches import Batch
from thrifty.training.distillation import ALPHA, BETA, TEMPERATURE, WARMUP, Kind, share_of


@dataclass(frozen=True, eq=False)
class Teacher:
    """A network to stay close to, and how: :mod:`thrifty.training.distillation` says what is what.

    Args:
        model: on the device of the network that learns; it is run in eval mode, without gradient.
        weight: of the teacher against the labels, 0..1; that of ``kind`` if not given.
        temperature: T, by which the logits of both are divided.
        kind: ``kd`` is (1 - weight) * task + weight * distillation; ``dkd`` twice that, of the
            decoupled distillation, which rises from 0.
        alpha: dkd, weight of the class of an input against all others.
        beta: dkd, weight of how the others compare.
        warmup: dkd, share of training in which the teacher's part rises.
        logits: what ``model`` says of all training inputs, (rows, classes), if that is known;
            it is then not run.
    """

    model: nn.Module
    weight: float | None = None
    temperature: float = TEMPERATURE
    kind: Kind = "kd"
    alpha: float = ALPHA
    beta: float = BETA
    warmup: float = WARMUP
    logits: Tensor | None = None

    @property
    def share(self) -> float:
        """The weight of the teacher against the labels, 0..1."""
        return share_of(self.kind, self.weight)

    def loss(self, outputs: Tensor, batch: Batch, task: Tensor, progress: float) -> Tensor:
        """The whole loss of a step.

        Called under the precision of the training, which the forward pass of the teacher shares.

        Args:
            outputs: logits (n, classes) of the network that learns.
            batch: what it was shown.
            task: its loss against the labels, a number.
            progress: share of the training that is over, 0..1.

        Raises:
            UserError: the teacher gives other than as many logits an input.
        """
        said = self.answers(batch)
        if said.shape != outputs.shape:
            raise UserError(
                f"the teacher gives {_shown(said)} and the student {_shown(outputs)}; both "
                f"need the same classes, so take a teacher that was trained on the student's data"
            )
        labels = (1 - self.share) * task
        if self.kind == "kd":
            return labels + self.share * losses.distillation(outputs, said, self.temperature)
        classes = torch.where(batch.labels == losses.UNLABELED, said.argmax(1), batch.labels)
        gap = losses.decoupled(outputs, said, classes, self.temperature, self.alpha, self.beta)
        rise = min(1.0, progress / self.warmup) if self.warmup else 1.0
        return 2 * (labels + self.share * rise * gap)

    def answers(self, batch: Batch) -> Tensor:
        """The teacher's logits (n, classes) for a batch."""
        if self.logits is not None:
            return self.logits[batch.index.to(self.logits.device)].to(batch.labels.device)
        with torch.no_grad(), evaluating(self.model):
            said: Tensor = self.model(batch.inputs)
        return said


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """``model`` in eval mode for a block, every module put back after."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def check_labels(data: Data, share: float | None) -> None:
    """Nothing, if there is anything to learn from.

    Args:
        data: what is trained on.
        share: weight of a teacher against the labels, ``None`` without one.

    Raises:
        UserError: no training input has a label, and there is no teacher, or one of no weight.
    """
    if bool((data.train.labels != losses.UNLABELED).any()):
        return
    if share is None:
        raise UserError(
            f"no training input of {data.name} has a label, so there is nothing to learn; give a "
            f"teacher (thrifty distill --teacher, train.distill) or some labels"
        )
    if not share:
        raise UserError(
            f"no training input of {data.name} has a label, and the teacher's weight is 0, so "
            f"there is nothing to learn; give it a weight above 0"
        )


def _shown(logits: Tensor) -> str:
    if logits.dim() != 2:
        return f"outputs of shape {tuple(logits.shape)}, not (n, classes),"
    return f"{logits.shape[1]} classes"
