"""A training on disk: all that is needed to go on as if it had never stopped.

Randomness is derived from the seed and the epoch, so no generator is kept; a checkpoint is
written at the end of an epoch, whole or not at all, and read without running code.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thrifty.errors import UserError
from thrifty.files import written
from thrifty.pruning.masks import Masks
from thrifty.training.averaging import Average
from thrifty.training.stepper import Stepper

Held = Mapping[str, Tensor] | None


@dataclass
class Checkpoints:
    """The file of one training, and when it was last written.

    Args:
        path: the file; ``None`` keeps nothing.
        seconds: least time between two saves.
    """

    path: Path | None
    seconds: float

    def __post_init__(self) -> None:
        self._saved = time.monotonic()

    def load(
        self,
        model: nn.Module,
        stepper: Stepper,
        masks: Held,
        average: Average | None = None,
        told: Callable[[Callable[[], Any]], Any] = lambda read: read(),
    ) -> tuple[int, list[dict[str, float]], Held]:
        """In place: put all that learns where the file says, if there is one.

        Args:
            told: hands on what was read to processes that have no file.

        Returns:
            Epochs that are done, their rows, and what is held at zero.

        Raises:
            UserError: only one of the file and the training has averages.
        """
        state = told(partial(self._read, next(model.parameters()).device))
        if state is None:
            return 0, [], masks
        averages = state.get("average")
        if (averages is None) != (average is None):
            had, has = ("no averages", "some") if averages is None else ("averages", "none")
            raise UserError(
                f"{self.path} is of a training with {had} of the weights, and this one has {has}; "
                f"train with the same plan.average, or remove the file to begin anew"
            )
        model.load_state_dict(state["model"])
        if average is not None:
            average.load(averages)
        stepper.optimizer.load_state_dict(state["optimizer"])
        if state["masks"] is not None:
            masks = Masks(state["masks"])
            stepper.hold(masks)
        return state["epochs"], state["rows"], masks

    def _read(self, device: torch.device) -> dict[str, Any] | None:
        if self.path is None or not self.path.exists():
            return None
        state: dict[str, Any] = torch.load(self.path, map_location=device, weights_only=True)
        return state

    def save(
        self,
        epochs: int,
        rows: list[dict[str, float]],
        model: nn.Module,
        stepper: Stepper,
        masks: Held,
        average: Average | None = None,
    ) -> None:
        """Write the file, unless it was written a moment ago."""
        if self.path is None or time.monotonic() - self._saved <= self.seconds:
            return
        self._saved = time.monotonic()
        state = {
            "epochs": epochs,
            "rows": rows,
            "model": {k: v.clone() for k, v in model.state_dict().items()},
            "optimizer": stepper.optimizer.state_dict(),
            "masks": dict(masks) if masks is not None else None,
            "average": average.state() if average is not None else None,
        }
        with written(self.path) as temporary:
            torch.save(state, temporary)
