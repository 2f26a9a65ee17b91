"""Models of one architecture as tensors with a leading axis, and the numbers each has itself."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from thrifty.errors import UserError
from thrifty.nets import resolve
from thrifty.training.loop import derive

COLUMNS = ("lr", "weight_decay", "dropout", "seed")
"""What a model of a stack may have for itself; the seed decides order, dropout and noise."""


@dataclass(frozen=True, eq=False)
class Stack:
    """K models that differ in their numbers only.

    Args:
        model: the network, as :func:`thrifty.resolve` takes it, such as ``zoo_cnn_s?act=tanh``.
        shape: of one input.
        classes: outputs.
        tensors: name -> (k, *shape) of every parameter, float32, and of every buffer that a state
            dict has: the statistics of batch normalisation and its counters.
        columns: each of ``COLUMNS`` -> (k,).
        masks: parameter name -> bool (k, *shape), False stays zero; without a name all train.
        spread: log sigma^2 of variational dropout by parameter name; none if it is not on.
        gates: what a gate learns, by the names that it has once the gate is attached.
    """

    model: str
    shape: tuple[int, ...]
    classes: int
    tensors: Mapping[str, Tensor]
    columns: Mapping[str, NDArray[np.generic]]
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    spread: Mapping[str, Tensor] | None = None
    gates: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, index: slice | Sequence[int]) -> "Stack":
        """Some of the models, as a stack."""
        chosen = np.arange(len(self))[index]

        def some(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: x[torch.from_numpy(chosen)] for name, x in tensors.items()}

        return replace(
            self,
            tensors=some(self.tensors),
            columns={name: column[chosen] for name, column in self.columns.items()},
            masks=some(self.masks),
            spread=None if self.spread is None else some(self.spread),
            gates=some(self.gates),
        )

    def module(self, index: int = 0) -> nn.Module:
        """One of the models, a network like any other; what is masked is zero."""
        made = self.template()
        state = {name: x[index] for name, x in self.tensors.items()}
        for name, mask in self.masks.items():
            state[name] = torch.where(mask[index], state[name], torch.zeros(()))
        made.load_state_dict(state)
        dropping(made, float(self.columns["dropout"][index]))
        return made.eval()

    def template(self) -> nn.Module:
        """A network of the architecture, whatever its weights."""
        return resolve(self.model, classes=self.classes, shape=self.shape)

    def modules(self) -> Iterator[nn.Module]:
        """Every model in turn."""
        return (self.module(i) for i in range(len(self)))

    @property
    def buffers(self) -> frozenset[str]:
        """Names of the tensors that are no parameters."""
        return frozenset(self.tensors) - _parameters(self.model, self.shape, self.classes)

    @property
    def parameters(self) -> int:
        """Numbers of a model that are trained."""
        buffers = self.buffers
        return sum(x[0].numel() for name, x in self.tensors.items() if name not in buffers)


def dropping(model: nn.Module, rate: float) -> None:
    """In place: every dropout of ``model`` drops that share."""
    for each in model.modules():
        if isinstance(each, nn.Dropout):
            each.p = rate


@lru_cache(maxsize=64)
def _parameters(model: str, shape: tuple[int, ...], classes: int) -> frozenset[str]:
    """Names of the parameters of a network, which is built without memory where it can be."""
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                made = resolve(model, classes=classes, shape=shape)
        except Exception:  # of code that needs numbers to build a network
            made = resolve(model, classes=classes, shape=shape)
    return frozenset(name for name, _ in made.named_parameters())


def stack(
    models: Sequence[nn.Module],
    model: str,
    shape: tuple[int, ...],
    classes: int,
    **columns: object,
) -> Stack:
    """The stack of modules that have the same tensors.

    Args:
        model: what :func:`thrifty.resolve` builds one of them from.
        columns: of ``COLUMNS``, a number for all or one each; 0 if not given, seeds 0, 1, ...

    Raises:
        UserError: no models, or they have not the same tensors.
    """
    if not models:
        raise UserError("a population has no models; give one at least")
    states = [m.state_dict() for m in models]
    shapes = {name: x.shape for name, x in states[0].items()}
    for number, state in enumerate(states):
        if {name: x.shape for name, x in state.items()} != shapes:
            raise UserError(
                f"model {number} has other tensors than model 0; a stack has one architecture: "
                f"make a stack of each"
            )
    own = dict(models[0].named_parameters(remove_duplicate=False))
    if len({id(p) for p in own.values()}) != len(own):
        raise UserError(
            f"{model} uses a parameter under two names, which a stack cannot hold; train such "
            f"networks with thrifty train"
        )
    tensors = {n: torch.stack([_stored(s[n]) for s in states]) for n in shapes}
    return Stack(model, shape, classes, tensors, filled(len(models), columns))


def _stored(x: Tensor) -> Tensor:
    return x.detach().float() if x.is_floating_point() else x.detach()


def filled(count: int, given: Mapping[str, object]) -> dict[str, NDArray[np.generic]]:
    """Every one of ``COLUMNS`` as an array (count,).

    Raises:
        UserError: a name that is none of them, or another number of values.
    """
    unknown = sorted(set(given) - set(COLUMNS))
    if unknown:
        raise UserError(f"a population has no column {unknown[0]!r}; it has {', '.join(COLUMNS)}")
    found: dict[str, NDArray[np.generic]] = {}
    for name in COLUMNS:
        kind = np.uint64 if name == "seed" else np.float32
        value = given.get(name, np.arange(count) if name == "seed" else 0.0)
        array = np.asarray(value).astype(kind)
        if array.ndim and len(array) != count:
            raise UserError(f"{name} has {len(array)} values for {count} models; give one each")
        found[name] = np.broadcast_to(array, (count,)).copy()
    return found


def born(
    models: Sequence[str],
    shape: tuple[int, ...],
    classes: int,
    seeds: Sequence[int],
    **columns: object,
) -> Stack:
    """A stack of new models, each drawn by its own seed.

    Args:
        models: of each model; they may differ in options that leave the tensors alike.
    """
    made = []
    for spec, seed in zip(models, seeds, strict=True):
        torch.manual_seed(derive(seed, "init"))
        made.append(resolve(spec, classes=classes, shape=shape))
    return stack(made, models[0], shape, classes, seed=np.array(seeds, np.uint64), **columns)
