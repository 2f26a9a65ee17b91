"""A training on disk: all that is needed to go on as if it had never stopped.

Randomness is derived from the seed and the epoch, so that no generator is kept at the end of an
epoch.  Within a long one the state of torch's is, from which layers draw; what batches draw is
drawn again, for they are made anew up to the step.  A checkpoint is written whole or not at all,
and read without running code.
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

WITHIN = 60.0
"""Least seconds between two saves within an epoch."""


@dataclass(frozen=True)
class Within:
    """How far an epoch has come that is not over."""

    steps: int
    seen: dict[str, Any]
    """What the epoch's row in the log is made of."""
    states: list[Tensor]
    """Of torch's generators: of the CPU, and of the GPU where the network is on one."""

    @classmethod
    def at(cls, steps: int, seen: dict[str, Any], device: torch.device) -> "Within":
        """Now, after so many steps."""
        states = [torch.get_rng_state()]
        if device.type == "cuda":
            states.append(torch.cuda.get_rng_state(device))
        return cls(steps, seen, states)

    def draw_on(self, device: torch.device) -> None:
        """In place: torch's generators go on from there."""
        torch.set_rng_state(self.states[0].cpu())
        if device.type == "cuda" and len(self.states) > 1:
            torch.cuda.set_rng_state(self.states[1].cpu(), device)


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
    ) -> tuple[int, list[dict[str, float]], Held, Within | None]:
        """In place: put all that learns where the file says, if there is one.

        Args:
            told: hands on what was read to processes that have no file.

        Returns:
            Epochs that are done, their rows, what is held at zero, and how far the next epoch is.

        Raises:
            UserError: only one of the file and the training has averages.
        """
        state = told(partial(self._read, next(model.parameters()).device))
        if state is None:
            return 0, [], masks, None
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
        within = Within(**state["within"]) if state.get("within") else None
        return state["epochs"], state["rows"], masks, within

    def due(self, within: bool = False) -> bool:
        """Whether it is time to save, at the end of an epoch or within one."""
        if self.path is None:
            return False
        return time.monotonic() - self._saved > max(self.seconds, WITHIN if within else 0.0)

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
        within: Within | None = None,
    ) -> None:
        """Write the file, unless it was written a moment ago."""
        if self.path is None or not self.due(within is not None):
            return
        self._saved = time.monotonic()
        state = {
            "epochs": epochs,
            "rows": rows,
            "model": {k: v.clone() for k, v in model.state_dict().items()},
            "optimizer": stepper.optimizer.state_dict(),
            "masks": dict(masks) if masks is not None else None,
            "average": average.state() if average is not None else None,
            "within": vars(within) if within is not None else None,
        }
        with written(self.path) as temporary:
            torch.save(state, temporary)
