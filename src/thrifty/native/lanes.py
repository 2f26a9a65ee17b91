"""Populations in vector lanes: sixteen models of one architecture in every instruction.

Every number of a small network is a vector that holds it for 16 models (8 on AVX2, 4 elsewhere),
so that no layer is too small for the registers: training takes four fifths of what a core can do,
where a framework that trains one such model takes two percent.  All randomness of a model comes
from its seed and the number of the epoch.
"""

import importlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thrifty.errors import UserError
from thrifty.native.targets import target

ACTS = ("none", "relu", "tanh", "sigmoid", "gelu", "leaky_relu", "silu")
OPTIMIZERS = ("sgd", "adam", "adamw")

Floats = NDArray[np.float32]

_lanes: ModuleType | None
try:
    _lanes = importlib.import_module("thrifty.native._lanes")
except ImportError:  # installed where there was no compiler
    _lanes = None


def available() -> bool:
    """Whether the compiled lanes are there, and wanted (``THRIFTY_KERNELS`` is not numpy)."""
    return _lanes is not None and target() != "numpy"


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution with a square kernel, or a linear layer, and what follows it.

    ``pool`` 1 is none; ``pool_first`` says whether it comes before the activation; dropout comes
    after both.
    """

    conv: bool
    inputs: int
    outputs: int
    height: int = 1
    width: int = 1
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    pool: int = 1
    pool_stride: int = 1
    pool_first: bool = True
    act: str = "none"
    dropout: bool = False
    bias: bool = True

    @property
    def weights(self) -> int:
        """Elements of the weight, in the order of torch's."""
        return self.outputs * self.inputs * (self.kernel**2 if self.conv else 1)


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs as bytes (n, numbers), labels int32 (n,), mean and deviation of each channel.

    The network sees (x / 255 - mean) / deviation.
    """

    inputs: NDArray[np.uint8]
    labels: NDArray[np.int32]
    mean: Floats
    deviation: Floats

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True, eq=False)
class Hyper:
    """Numbers of each model, (k,); ``seed`` is uint64."""

    lr: Floats
    weight_decay: Floats
    dropout: Floats
    seed: NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What all models of a stack share; ``momentum`` is beta1 of adam and adamw."""

    name: str = "adam"
    momentum: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    nesterov: bool = False


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Variational dropout: weight of its divergence beside the mean loss, bounds of log alpha."""

    divergence: float = 0.0
    clip_conv: float = 8.0
    clip_linear: float = 8.0
    cut: float = 3.0
    biases: bool = False
    """Noise on the biases of convolutions too."""
    decayed: bool = False
    """Weight decay pulls log sigma^2 too."""


@dataclass(eq=False)
class State:
    """What training changes, each (k, parameters) float32; moments as the optimizer needs them.

    ``spread`` is log sigma^2 of variational dropout, with moments of its own.
    """

    weights: Floats
    first: Floats | None = None
    second: Floats | None = None
    spread: Floats | None = None
    spread_first: Floats | None = None
    spread_second: Floats | None = None

    def begin(self) -> None:
        """In place: moments of zero where there are none."""
        for name in ("first", "second"):
            if getattr(self, name) is None:
                setattr(self, name, np.zeros_like(self.weights))
            if self.spread is not None and getattr(self, f"spread_{name}") is None:
                setattr(self, f"spread_{name}", np.zeros_like(self.weights))


NAMES = ("weights", "first", "second", "spread", "spread_first", "spread_second")


class Lanes:
    """The models of one architecture, trained and asked in lanes.

    Args:
        layers: of the network, first to last.
        threads: blocks of models that are worked on at once.

    Raises:
        UserError: the extension is not there, or the layers do not fit each other.
    """

    def __init__(self, layers: Sequence[Layer], threads: int = 1):
        if _lanes is None or target() == "numpy":
            raise UserError(
                "the compiled lanes are not available; install thrifty where there is a C++ "
                "compiler, or train with engine=torch"
            )
        self.layers, self.threads = tuple(layers), threads
        self._native = _lanes.Lanes(target())
        for layer in layers:
            self._native.add(**asdict(layer))
        try:
            self.parameters: int = self._native.parameters()
        except ValueError as error:
            raise UserError(f"the network does not fit the lanes: {error}") from None
        self.width: int = self._native.lanes()

    def train(
        self,
        state: State,
        samples: Samples,
        hyper: Hyper,
        optimizer: Optimizer,
        *,
        batch: int,
        epoch: int,
        mask: NDArray[np.bool_] | None = None,
        rate: Floats | None = None,
        shared: bool = False,
        noise: Noise | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """In place: one epoch.  A last batch that is not full is left out.

        Args:
            epoch: counted from 0; decides order, dropout and noise with each model's seed.
            mask: (k, parameters), False stays exactly zero.
            rate: share of the learning rate at each step.
            shared: all models see the samples in the order of the first.

        Returns:
            Mean loss and share of right answers, while training, (k,).
        """
        state.begin()
        size = min(batch, len(samples))
        steps = len(samples) // size if size else 0
        found = self._run(
            state, samples, hyper, noise or Noise(), mask,
            training=True, optimizer=optimizer.name, momentum=optimizer.momentum,
            beta2=optimizer.beta2, epsilon=optimizer.epsilon, nesterov=optimizer.nesterov,
            shared=shared, batch=size or 1, rate=rate, epoch=epoch, step=epoch * steps,
        )  # fmt: skip
        seen = max(1, steps * size)
        return found[0] / seen, found[1] / seen

    def evaluate(
        self, state: State, samples: Samples, *, cut: float = 3.0
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint8]]:
        """Mean loss (k,), accuracy (k,) and the class of every sample (k, n).

        With ``spread``, weights of log alpha from ``cut`` on are zero.
        """
        count = len(state.weights)
        numbers = np.zeros(count, np.float32)
        hyper = Hyper(
            lr=numbers, weight_decay=numbers, dropout=numbers, seed=np.zeros(count, np.uint64)
        )
        loss, right, classes = self._run(
            state, samples, hyper, Noise(cut=cut), None,
            training=False, optimizer="sgd", momentum=0.0, beta2=0.0, epsilon=0.0, nesterov=False,
            shared=False, batch=1, rate=None, epoch=0, step=0,
        )  # fmt: skip
        seen = max(1, len(samples))
        return loss / seen, right / seen, classes

    def peak(self, seconds: float = 0.2) -> float:
        """Products and sums a second of one core, measured for so long."""
        return float(self._native.peak(seconds))

    def _run(
        self,
        state: State,
        samples: Samples,
        hyper: Hyper,
        noise: Noise,
        mask: NDArray[np.bool_] | None,
        **said: Any,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint8]]:
        count = len(state.weights)
        training = said["training"]
        arrays = {
            name: None if (array := getattr(state, name)) is None else self._blocks(array)
            for name in NAMES
        }
        blocks = self._rows(count)
        loss = np.zeros((blocks, self.width))
        right = np.zeros((blocks, self.width), np.int64)
        classes = None
        if not training:
            classes = np.zeros((blocks, len(samples), self.width), np.uint8)
        self._native.run(
            **arrays,
            **said,
            mask=None if mask is None else self._blocks(mask.astype(np.uint8)),
            lr=self._lined(hyper.lr),
            weight_decay=self._lined(hyper.weight_decay),
            dropout=self._lined(hyper.dropout),
            seed=self._lined(hyper.seed),
            inputs=samples.inputs,
            labels=samples.labels,
            mean=samples.mean,
            deviation=samples.deviation,
            divergence=noise.divergence,
            clip_conv=noise.clip_conv,
            clip_linear=noise.clip_linear,
            cut=noise.cut,
            noisy_biases=noise.biases,
            decayed=noise.decayed,
            threads=self.threads,
            loss=loss,
            right=right,
            classes=classes,
            gradient=None,
            spread_gradient=None,
        )
        if training:
            for name, array in arrays.items():
                if array is not None:
                    getattr(state, name)[...] = self._models(array, count)
        found = np.zeros((0, 0), np.uint8)
        if classes is not None:
            found = np.ascontiguousarray(self._models(classes, count))
        return loss.reshape(-1)[:count], right.reshape(-1)[:count].astype(np.float64), found

    def _rows(self, count: int) -> int:
        return -(-count // self.width)

    def _blocks(self, array: NDArray[Any]) -> NDArray[Any]:
        """(k, numbers) as (blocks, numbers, lanes), the last block filled with its last model."""
        missing = self._rows(len(array)) * self.width - len(array)
        if missing:
            array = np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])
        whole = array.reshape(-1, self.width, array.shape[1]).transpose(0, 2, 1)
        return np.ascontiguousarray(whole)

    @staticmethod
    def _models(array: NDArray[Any], count: int) -> NDArray[Any]:
        """The way back: (blocks, numbers, lanes) as (k, numbers)."""
        found: NDArray[Any] = array.transpose(0, 2, 1).reshape(-1, array.shape[1])[:count]
        return found

    def _lined(self, array: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(self._blocks(array[:, None])[:, 0])


def order(seed: int, epoch: int, count: int) -> NDArray[np.int32]:
    """The order in which a model of that seed sees so many samples in an epoch."""
    if _lanes is not None:
        found: NDArray[np.int32] = _lanes.order(seed, epoch, count)
        return found
    state = _mixed(seed, epoch, 0)
    places = list(range(count))
    for i in range(count, 1, -1):
        state = (state + _GOLDEN) & _ALL
        j = ((_scrambled(state) >> 32) * i) >> 32
        places[i - 1], places[j] = places[j], places[i - 1]
    return np.array(places, np.int32)


_ALL, _GOLDEN = (1 << 64) - 1, 0x9E3779B97F4A7C15


def _scrambled(x: int) -> int:
    """The output of SplitMix64 (Steele et al., 2014) for a state."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _ALL
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _ALL
    return x ^ (x >> 31)


def _mixed(*numbers: int) -> int:
    x = 0
    for number in numbers:
        x = _scrambled(((x ^ number) + _GOLDEN) & _ALL)
    return x
