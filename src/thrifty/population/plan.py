"""How a population is trained, as plain values, and what each of its models has for itself."""

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from thrifty.training.plan import Share, lr_share

Engine = Literal["auto", "lanes", "stacked", "single"]


class Plan(BaseModel):
    """What all models of a stack share.  Learning rate and the like are columns of the stack."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: Annotated[int, Field(ge=0)] = 50
    """Passes over the training data."""
    batch: Annotated[int, Field(ge=1)] = 10
    """Inputs a step; a last batch that is not full is left out."""
    optimizer: Literal["sgd", "adam", "adamw"] = "adam"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of sgd; beta1 of adam and adamw."""
    nesterov: bool = False
    """Nesterov momentum, for sgd."""
    schedule: Literal["constant", "cosine", "step", "one_cycle", "linear"] = "constant"
    """How the learning rate changes, as for a single network."""
    warmup: Share = 0.0
    """Share of the steps over which the learning rate rises from 0."""
    shift: Annotated[int, Field(ge=0, le=64)] = 0
    """Pictures are cropped at random after so many pixels of padding, each model's its own way."""
    flip: bool = False
    """Half of the pictures are mirrored, each model's its own way."""
    precision: Literal["f32", "bf16"] = "f32"
    """bf16 trains in bfloat16 where that is safe (autocast); engine single only."""
    shared_order: bool = False
    """All models see the inputs in one order; otherwise each in that of its seed."""
    engine: Engine = "auto"
    """lanes (small networks), stacked (torch.vmap) or single (one after another); auto chooses."""

    def rates(self, epoch: int, steps: int) -> NDArray[np.float32] | None:
        """Share of the learning rate at each step of an epoch; ``None`` if it is always 1."""
        if self.schedule == "constant" and not self.warmup:
            return None
        whole = max(1, self.epochs * steps)
        numbers = range(epoch * steps, (epoch + 1) * steps)
        shares = [lr_share(self.schedule, n / whole, self.warmup) for n in numbers]
        return np.array(shares, np.float32)
