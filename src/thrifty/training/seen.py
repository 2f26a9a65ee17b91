"""What a network answered in an epoch: the figures of its row in the log."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from thrifty.training import losses
from thrifty.training.batches import Batch
from thrifty.training.crew import Alone


class Seen:
    """What the network answered in an epoch so far."""

    def __init__(self, device: torch.device):
        self.began = time.monotonic()
        self.lost, self.inputs = 0.0, 0
        self._right, self._labeled = torch.zeros(2, dtype=torch.int64, device=device)

    def add(self, loss: float, outputs: Tensor, batch: Batch, inputs: int) -> None:
        """Take a step into account: mean loss, logits (n, classes), inputs of all processes."""
        self.lost += loss * inputs
        self.inputs += inputs
        self._right += (outputs.argmax(1) == batch.labels).sum()
        self._labeled += (batch.labels != losses.UNLABELED).sum()

    def state(self) -> dict[str, Any]:
        """What was answered, to go on from."""
        counts = {"right": int(self._right), "labeled": int(self._labeled)}
        return {"lost": self.lost, "inputs": self.inputs, **counts}

    def load(self, state: Mapping[str, Any]) -> None:
        """In place: go on from a state."""
        self.lost, self.inputs = state["lost"], state["inputs"]
        self._right.fill_(state["right"])
        self._labeled.fill_(state["labeled"])

    def means(self) -> dict[str, float]:
        """Loss an input, the share of those with a label that was answered right, and speed."""
        accuracy = float(self._right) / max(1, int(self._labeled))
        speed = self.inputs / max(1e-9, time.monotonic() - self.began)
        return {"loss": self.lost / self.inputs, "accuracy": accuracy, "inputs_per_second": speed}

    def row(self, epoch: int, lr: float, crew: Alone) -> dict[str, float]:
        """The row of the epoch in the log, which is over: of all processes."""
        self._right, self._labeled = crew.total(torch.stack([self._right, self._labeled]))
        means, took = self.means(), time.monotonic() - self.began
        speed = {"seconds": took, "inputs_per_second": means.pop("inputs_per_second")}
        return {"epoch": epoch, **means, "lr": lr, **speed}
