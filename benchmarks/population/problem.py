"""What all contenders train: models of one architecture, pictures of noise, Adam."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, max_pool2d

from thrifty.native import lanes
from thrifty.nets import resolve
from thrifty.population.reading import layers_of

MEAN, DEVIATION = 0.1307, 0.3081
ACTS = {"none": lambda x: x, "tanh": torch.tanh, "relu": torch.relu, "gelu": nn.functional.gelu}
RATE, DECAY = 1e-3, 1e-4
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
Weights = list[Tensor]
"""Weight and bias of each layer in turn, each (models, *shape)."""


@dataclass(frozen=True, eq=False)
class Problem:
    """Models to be and what they learn from."""

    spec: str
    models: int
    batch: int
    layers: tuple[lanes.Layer, ...]
    weights: Weights
    pictures: np.ndarray
    """uint8 (n, channels, height, width)."""
    labels: np.ndarray

    @property
    def inputs(self) -> Tensor:
        """As a network sees them."""
        return ((torch.from_numpy(self.pictures).double() / 255 - MEAN) / DEVIATION).float()

    @property
    def samples(self) -> lanes.Samples:
        """As the lanes take them."""
        count, channels = self.pictures.shape[:2]
        return lanes.Samples(
            self.pictures.reshape(count, -1),
            self.labels.astype(np.int32),
            np.full(channels, MEAN, np.float32),
            np.full(channels, DEVIATION, np.float32),
        )

    def flat(self) -> np.ndarray:
        """(models, parameters)."""
        return torch.cat([w.reshape(self.models, -1) for w in self.weights], 1).numpy().copy()

    def hyper(self) -> lanes.Hyper:
        """The same numbers for all models; each has its own seed."""
        one = np.ones(self.models, np.float32)
        return lanes.Hyper(
            lr=RATE * one,
            weight_decay=DECAY * one,
            dropout=0 * one,
            seed=np.arange(self.models, dtype=np.uint64),
        )

    def some(self, models: int, rows: int | None = None) -> "Problem":
        """The first of the models, on the first of the pictures."""
        return Problem(
            self.spec,
            models,
            self.batch,
            self.layers,
            [w[:models].clone() for w in self.weights],
            self.pictures[:rows],
            self.labels[:rows],
        )


def problem(
    spec: str, shape: tuple[int, ...], models: int, rows: int, batch: int = 10, seed: int = 0
) -> Problem:
    """A problem of that many models and pictures of noise."""
    torch.manual_seed(seed)
    states = []
    for _ in range(models):
        model = resolve(spec, classes=10, shape=shape)
        states.append([p.detach() for p in model.parameters()])
    rng = np.random.default_rng(seed)
    return Problem(
        spec,
        models,
        batch,
        layers_of(model, shape),
        [torch.stack(list(each)) for each in zip(*states, strict=True)],
        rng.integers(0, 256, (rows, *shape), dtype=np.uint8),
        rng.integers(0, 10, rows),
    )


def forward(layers: tuple[lanes.Layer, ...], weights: list[Tensor], x: Tensor) -> Tensor:
    """Outputs of one model."""
    for number, layer in enumerate(layers):
        w, b = weights[2 * number : 2 * number + 2]
        if not layer.conv:
            x = ACTS[layer.act](linear(x.flatten(1), w, b))
            continue
        x = conv2d(x, w, b, layer.stride, layer.padding)
        x = ACTS[layer.act](max_pool2d(x, layer.pool, layer.pool_stride) if layer.pool > 1 else x)
    return x


def multiply_adds(layers: tuple[lanes.Layer, ...], training: bool) -> int:
    """Of one input, counted as for dense tensors: forward, weights, and inputs but the first."""
    each = []
    for layer in layers:
        places = 1
        if layer.conv:
            sides = (
                (side + 2 * layer.padding - layer.kernel) // layer.stride + 1
                for side in (layer.height, layer.width)
            )
            places = int(np.prod(list(sides)))
        each.append(places * layer.weights)
    return 3 * sum(each) - each[0] if training else sum(each)
