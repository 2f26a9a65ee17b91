"""Those that train one network together: each has its part, and they tell each other what counts.

A training asks its crew at every place where it matters that there are several: for its part of a
batch, for means and sums over all, and for what only the first process knows.  :class:`Alone`
answers for one process, at no cost.
"""

import datetime
import inspect
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from thrifty.data import Data, Split
from thrifty.errors import UserError
from thrifty.training import losses
from thrifty.training.batches import Batch, derive

T = TypeVar("T")

PATIENCE = datetime.timedelta(days=30)
"""How long processes wait for the next training; for one another within one, torch's time."""


class Stopped(UserError):
    """The first process ended a training that this one took part in; it says why."""


@dataclass(frozen=True)
class Rates:
    """Learning rates, one a step, for processes that a function cannot be sent to."""

    values: tuple[float, ...]

    def __call__(self, progress: float) -> float:
        """The rate at a progress of 0..1."""
        return self.values[min(round(progress * len(self.values)), len(self.values) - 1)]

    @classmethod
    def of(cls, rate: Callable[[float], float], steps: int) -> "Rates":
        """``rate`` at each of ``steps`` steps."""
        return cls(tuple(rate(n / steps) for n in range(steps)))


class Alone:
    """One process, which has every batch for itself."""

    rank, size = 0, 1

    def begin(self, what: dict[str, Any]) -> None:
        """Nobody else is to be told what is trained."""

    def network(self, model: nn.Module, gated: bool) -> nn.Module:
        """What a batch is given to; with a gate, not all gradients come from there."""
        return model

    def reduce(self, model: nn.Module) -> None:
        """In place: make gradients those of all processes, unless the backward pass did."""

    def parts(self, batches: Iterator[Batch], seed: int, epoch: int) -> Iterator[tuple[Batch, int]]:
        """(this process's part of a batch, inputs of the whole) for each batch."""
        return ((batch, len(batch.labels)) for batch in batches)

    def told(self, say: Callable[[], T]) -> T:
        """What ``say`` returns in the first process."""
        return say()

    def task(self, loss: Tensor) -> Tensor:
        """The mean over the labelled inputs of a part, so scaled that means of all processes make
        that of the batch."""
        return loss

    def loss(self, loss: Tensor) -> Tensor:
        """The same for a mean over all inputs of a part."""
        return loss

    def mean(self, value: Tensor) -> float:
        """The mean of a number over the processes."""
        return float(value)

    def total(self, counts: Tensor) -> Tensor:
        """The sum over the processes."""
        return counts

    def level(self, model: nn.Module) -> None:
        """In place: give all processes the numbers of one, which are equal already."""


class Crew(Alone):
    """This process among several."""

    def __init__(self, rank: int, size: int, device: torch.device):
        self.rank, self.size, self.device = rank, size, device
        self._orders: Any = dist.new_group(backend="gloo", timeout=PATIENCE)
        self._data: Data | None = None
        self._labels = self._inputs = 1.0
        self._later = False

    def begin(self, what: dict[str, Any]) -> None:
        """Let the others train the same: their :func:`serve` returns from its waiting."""
        plan, data = what["plan"], what["data"]
        least = min(plan.batch, len(data.train))
        if least < self.size:
            raise UserError(
                f"{self.size} processes share each batch, and one is of {least} inputs; start "
                f"fewer processes, or give a larger batch (train.batch)"
            )
        if self.rank:
            return
        known = data is self._data
        self._send(what | {"data": None if known else _without_test(data)})
        self._data = data

    def next(self) -> dict[str, Any] | None:
        """What the first process begins, when it does; ``None`` at its end."""
        what: dict[str, Any] | None = self._receive()
        if what is not None:
            self._data = what["data"] = what["data"] or self._data
        return what

    def end(self) -> None:
        """Let the others end."""
        self._send(None)

    def network(self, model: nn.Module, gated: bool) -> nn.Module:
        """The model, whose gradients become those of all processes in the backward pass.

        The graph is called static: the same parameters get gradients in all steps, so those that
        get none need not be looked for.  Gates do not keep to that, nor to gradients that come
        from the network's outputs only; with them gradients are averaged after the backward pass.
        """
        self._later = gated
        if gated:
            return model
        parallel: Any = nn.parallel.DistributedDataParallel
        renamed = "forward_sync_buffers" in inspect.signature(parallel.__init__).parameters
        said = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
        gpu = [self.device] if self.device.type == "cuda" else None
        made: nn.Module = parallel(model, device_ids=gpu, static_graph=True, **said)
        return made

    def reduce(self, model: nn.Module) -> None:
        """In place: make gradients those of all processes, unless the backward pass did."""
        if not self._later:
            return
        learning = [p for p in model.parameters() if p.requires_grad]
        there = torch.tensor([float(p.grad is not None) for p in learning], device=self.device)
        dist.all_reduce(there)
        used = [p for p, count in zip(learning, there.tolist(), strict=True) if count]
        for p in used:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        for kind in sorted({p.dtype for p in used}, key=str):
            self._averaged([p.grad for p in used if p.dtype == kind and p.grad is not None])

    def parts(self, batches: Iterator[Batch], seed: int, epoch: int) -> Iterator[tuple[Batch, int]]:
        """(this process's part of a batch, inputs of the whole) for each batch."""
        for number, batch in enumerate(batches):
            if number == 0 and self.rank:  # else all would drop the same of different inputs
                torch.manual_seed(derive(seed, "layers", epoch, self.rank))
            part = self._part(batch)
            known = [(b.labels != losses.UNLABELED).sum() for b in (part, batch)]
            rows = len(part.labels) / len(batch.labels)
            self._labels = known[0] / known[1].clamp(min=1) / rows  # type: ignore[assignment]
            self._inputs = self.size * rows
            yield part, len(batch.labels)

    def _part(self, batch: Batch) -> Batch:
        def mine(x: Tensor) -> Tensor:
            return x.tensor_split(self.size)[self.rank]

        targets = None if batch.targets is None else mine(batch.targets)
        return Batch(mine(batch.inputs), mine(batch.labels), targets, mine(batch.index))

    def task(self, loss: Tensor) -> Tensor:
        """The mean over the labelled inputs of a part, so scaled that means of all processes make
        that of the batch."""
        return loss * self._labels

    def loss(self, loss: Tensor) -> Tensor:
        """The same for a mean over all inputs of a part."""
        return loss * self._inputs

    def told(self, say: Callable[[], T]) -> T:
        """What ``say`` returns in the first process, where alone it is called.

        Raises:
            Stopped: it raised there; the first process raises that itself.
        """
        if self.rank:
            answer = self._receive()
            if not answer["well"]:
                raise Stopped("the first process ended this training")
            value: T = answer["value"]
            return value
        try:
            value = say()
        except (UserError, OSError):
            self._send({"well": False})
            raise
        self._send({"well": True, "value": value})
        return value

    def mean(self, value: Tensor) -> float:
        """The mean of a number over the processes."""
        return float(self.total(value.detach().double().clone())) / self.size

    def total(self, counts: Tensor) -> Tensor:
        """In place: the sum over the processes."""
        dist.all_reduce(counts)
        return counts

    @torch.no_grad()
    def level(self, model: nn.Module) -> None:
        """In place: running statistics become the means over the processes, and all the rest what
        the first process has, lest anything drift apart."""
        measured = {
            id(x)
            for m in model.modules()
            if isinstance(m, nn.modules.batchnorm._BatchNorm)
            for x in (m.running_mean, m.running_var)
            if x is not None
        }
        every = [*model.parameters(), *model.buffers()]
        for kind in sorted({x.dtype for x in every}, key=str):
            own = [x for x in every if x.dtype == kind]
            self._averaged([x for x in own if id(x) in measured])
            self._sent([x for x in own if id(x) not in measured])

    def _averaged(self, tensors: list[Tensor]) -> None:
        """In place: tensors of one type become the means over the processes."""
        if tensors:
            flat = torch.cat([x.detach().reshape(-1) for x in tensors])
            dist.all_reduce(flat)
            _put(flat / self.size, tensors)

    def _sent(self, tensors: list[Tensor]) -> None:
        """In place: tensors of one type become those of the first process."""
        if tensors:
            flat = torch.cat([x.detach().reshape(-1) for x in tensors])
            dist.broadcast(flat, 0)
            _put(flat, tensors)

    def _send(self, what: Any) -> None:
        """Give an object to all other processes.

        Raises:
            UserError: it is of something that cannot be sent.
        """
        buffer = io.BytesIO()
        try:
            torch.save(what, buffer)
        except Exception as error:  # whatever the classes of a user's network raise
            raise UserError(
                f"the network cannot be sent to the other processes: {error}; its classes and "
                f"hooks must be found by name in a module, or train in one process"
            ) from None
        dist.broadcast_object_list([buffer.getvalue()], 0, group=self._orders)

    def _receive(self) -> Any:
        box: list[Any] = [None]
        dist.broadcast_object_list(box, 0, group=self._orders)
        # What comes is from our own program, started with us, and holds networks as they are.
        return torch.load(io.BytesIO(box[0]), map_location=self.device, weights_only=False)


def _put(flat: Tensor, tensors: list[Tensor]) -> None:
    for x, new in zip(tensors, torch.split(flat, [x.numel() for x in tensors]), strict=True):
        x.detach().copy_(new.reshape(x.shape))


def _without_test(data: Data) -> Data:
    return replace(data, test=Split(data.test.inputs[:0], data.test.labels[:0]))
