"""Run a network once and follow its channels through every operation.

The network runs as it is, on an example, under a dispatch mode that sees the operations torch
really executes: views, convolutions, matrix products.  Every tensor carries facets
(:mod:`thrifty.channels.labels`), and a rule an operation (:mod:`thrifty.channels.rules`) says
which atoms it ties and what its result carries.  So no symbolic tracer has to understand the
code of the network; what runs is followed.  An operation without a rule keeps the channels that
reach it whole, with a reason that names it.  What runs in training only is followed in a second
run (:mod:`thrifty.channels.late`).
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from thrifty.channels.labels import Facets, row
from thrifty.channels.modes import evaluating
from thrifty.channels.ties import Ties
from thrifty.errors import UserError
from thrifty.nets.resizing import Narrowable

SEALED = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
"""Modules that take only tensors of the sizes they were built with."""


FAULTS = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What the code of a network raises for inputs that are not its own."""


@dataclass(frozen=True)
class Axis:
    """The atoms of one dimension of one parameter or buffer: ``start`` and ``size`` numbers."""

    tensor: str
    dim: int
    start: int
    size: int


@dataclass
class Split:
    """A view that took a dimension of channels apart, as attention and channel shuffles do."""

    ids: Tensor
    """(*sizes) atoms, after the view, only along the dimensions in which they change."""
    module: str
    dims: tuple[int, ...]
    """The dimensions of the view that ``ids`` has."""


@dataclass
class Trace:
    """What one run of a network showed."""

    ties: Ties
    axes: list[Axis]
    roles: dict[tuple[str, int], str] = field(default_factory=dict)
    """(tensor, dimension) -> out, in, scale, shift, stat, each."""
    uses: dict[str, float] = field(default_factory=dict)
    """Weight -> how often each of its elements multiplies for one input."""
    splits: list[Split] = field(default_factory=list)
    halves: list[list[Tensor]] = field(default_factory=list)
    """Parts of a dimension of channels cut into equal parts: (n,) atoms each."""
    norm_after: dict[str, str | None] = field(default_factory=dict)
    """Weight -> running mean that its output, and nothing else, goes into at once."""
    products: list[tuple[float, list[Tensor]]] = field(default_factory=list)
    """Products without weights: multiply-adds for one input, and the facets of (b, n, k, m)."""
    padded: set[str] = field(default_factory=set)
    """Weights of convolutions that pad with zeros."""
    training_only: tuple[str, ...] = ()
    """Modules and parameters that run in training only, followed there."""
    notes: list[str] = field(default_factory=list)
    """What a reader should know of the whole network."""


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the operations of one forward pass; ``trace`` has what it found."""

    def __init__(self, model: nn.Module, tensors: Mapping[str, Tensor]):
        super().__init__()  # type: ignore[no-untyped-call]
        axes, count = [], 1
        self._facets: dict[int, Facets] = {}
        self._alive: list[Tensor] = []
        self._fed: set[int] = set()
        self._elements = {name: tensor.numel() for name, tensor in tensors.items()}
        self.made_by: dict[int, str] = {}
        for name, tensor in tensors.items():
            found = []
            for dim, size in enumerate(tensor.shape):
                if size > 1:
                    axes.append(Axis(name, dim, count, size))
                    found.append(row(torch.arange(count, count + size), tensor.dim(), dim))
                    count += size
            self.put(tensor, tuple(found))
        self.trace = Trace(Ties(count), axes)
        self._axis_of = [axis for axis in axes for _ in range(axis.size)]
        self._stack: list[str] = [""]
        self.batch = 1
        self.module_types = {name: type(m).__name__ for name, m in model.named_modules()}
        self.untouched = {id(p): name for name, p in model.named_parameters()}
        """Parameters that no operation has read or written."""
        self.counting = True
        """Whether multiply-adds count."""
        self.received: dict[str, list[Tensor]] = {}
        """Modules to watch -> every tensor that they were given."""
        self.zeros: dict[int, tuple[int, Tensor]] = {}
        """Tensors that were padded -> the dimension, and (size,) bool, True at zeros."""

    @property
    def ties(self) -> Ties:
        """What is tied so far."""
        return self.trace.ties

    @property
    def module(self) -> str:
        """The module at work, by name."""
        return self._stack[-1]

    def where(self, operation: str) -> str:
        """``operation in module`` for a reader."""
        return f"{operation} in {self.module or 'the network'}"

    def facets(self, tensor: object) -> Facets:
        """What is known of a tensor; nothing for one that no layer made."""
        return self._facets.get(id(tensor), ()) if isinstance(tensor, Tensor) else ()

    def put(self, tensor: Tensor, facets: Facets) -> None:
        """Remember facets; the tensor is kept alive, so that its identity stays its own."""
        self._alive.append(tensor)
        self._facets[id(tensor)] = facets

    def axis(self, atom: int) -> Axis:
        """The dimension that an atom is an index of."""
        return self._axis_of[atom - 1]

    def role(self, ids: Tensor, role: str) -> None:
        """The dimension that these atoms are of has this role; ``each`` gives way to others."""
        flat = ids.reshape(-1)
        for atom in {int(flat[0]), int(flat[-1])} - {0}:
            axis = self.axis(atom)
            key = axis.tensor, axis.dim
            if self.trace.roles.get(key, "each") == "each":
                self.trace.roles[key] = role

    def name(self, tensor: Tensor) -> str | None:
        """The parameter or buffer that a tensor is, or is a view of."""
        atom = next((int(ids.reshape(-1)[0]) for ids in self.facets(tensor)), 0)
        return self.axis(atom).tensor if atom and not self.is_fed(tensor) else None

    def use(self, weight: Tensor, times: float) -> None:
        """Each element of a weight multiplies ``times`` more for one input."""
        name = self.name(weight)
        if name is not None and self.counting:
            self.trace.uses[name] = self.trace.uses.get(name, 0.0) + times

    def product(self, macs: float, facets: list[Tensor]) -> None:
        """A product of two tensors that both depend on the input; ``macs`` of the whole batch."""
        if self.counting:
            self.trace.products.append((macs / self.batch, facets))

    def elements(self, weight: Tensor) -> int:
        """Of the parameter that a tensor is, or is a view of."""
        name = self.name(weight)
        return weight.numel() if name is None else self._elements[name]

    def is_fed(self, tensor: object) -> bool:
        """Whether a tensor depends on the input of the network."""
        return id(tensor) in self._fed

    def feed(self, tensor: Tensor) -> None:
        """This is an input of the network."""
        self._alive.append(tensor)
        self._fed.add(id(tensor))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the operation, then its rule."""
        from thrifty.channels.rules import follow

        given = [*tensors_in(args), *tensors_in(list((kwargs or {}).values()))]
        for tensor in given:
            self.untouched.pop(id(tensor), None)
        fed = any(id(x) in self._fed for x in given)
        name = str(func)
        if fed and name.startswith("aten._local_scalar_dense"):
            raise UserError(
                f"{self.where('a branch or a number')} depends on the data (item(), bool() or "
                f"int() of a tensor), so other inputs may take other ways through the network; "
                f"write it with torch.where, or shrink the parts of the network before and after"
            )
        result = func(*args, **(kwargs or {}))
        if fed:
            for tensor in tensors_in([result]):
                self.feed(tensor)
        follow(self, func, args, kwargs or {}, result)
        return result

    def _seal(self, module: nn.Module, given: Any) -> None:
        """Keep whole what a module reads whose sizes are numbers in it."""
        own = [p for name, p in module.named_parameters() if not name.startswith("out_proj")]
        why = f"{self.module} ({type(module).__name__}) has its sizes written in"
        for tensor in [*own, *tensors_in(given)]:
            for ids in self.facets(tensor):
                self.ties.fix(ids, why)

    def outputs(self, tensors: list[Tensor]) -> None:
        """These are what the network gives, whose channels its users count."""
        for tensor in tensors:
            for ids in self.facets(tensor):
                self.ties.fix(ids, "they are the output of the network")

    def run(self, model: nn.Module, example: tuple[Any, ...]) -> Any:
        """``model(*example)``, followed; the model may be a copy whose tensors have facets."""
        with torch.no_grad(), _unfused(), self._named(model), _shown(model):
            for tensor in tensors_in(example):
                self.feed(tensor)
            self.batch = _batch(example)
            with self:
                return run(model, example)

    @contextlib.contextmanager
    def _named(self, model: nn.Module) -> Iterator[None]:
        """Know the module at work while the network runs."""
        handles: list[Any] = []
        self._stack = [""]
        for name, module in model.named_modules():

            def enter(module: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
                self._stack.append(name)
                if name in self.received:
                    self.received[name] += tensors_in((args, kwargs))
                if isinstance(module, SEALED):
                    self._seal(module, (args, list(kwargs.values())))

            def leave(*_: Any) -> None:
                self._stack.pop()

            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(module.register_forward_hook(leave, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def traced(model: nn.Module, example: tuple[Any, ...]) -> Trace:
    """Run ``model`` on ``example`` in eval mode and follow its channels; both are not changed.

    If parameters are left that nothing read, a copy runs once more as in training.

    Raises:
        UserError: the network does not take the example, or its way depends on the data.
    """
    from thrifty.channels.late import follow_training

    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    tracer = Tracer(model, tensors)
    with evaluating(model):
        given = tracer.run(model, example)
    found = tensors_in([given])
    if not found:
        raise UserError(
            f"{type(model).__name__} returns {type(given).__name__}, in which no tensor is "
            f"found; it may return a tensor, or tuples, lists, dictionaries, dataclasses of them"
        )
    tracer.outputs(found)
    if tracer.untouched:
        follow_training(tracer, model, example)
    return tracer.trace


@contextlib.contextmanager
def _shown(model: nn.Module) -> Iterator[None]:
    """Modules that pick channels by a buffer do so even if it has them all."""
    shown = [module for module in model.modules() if isinstance(module, Narrowable)]
    for module in shown:
        module.followed = True
    try:
        yield
    finally:
        for module in shown:
            del module.followed


@contextlib.contextmanager
def _unfused() -> Iterator[None]:
    """Attention by its single operations."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def run(model: nn.Module, example: tuple[Any, ...]) -> Any:
    """``model(*example)``; what does not fit is said in words.

    Raises:
        UserError: the model does not take the example.
    """
    try:
        return model(*example)
    except UserError:
        raise
    except FAULTS as error:
        shapes = ", ".join(str(list(x.shape)) for x in tensors_in(example))
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{type(model).__name__} does not take the example input {shapes}: {said}; give an "
            f"input as the network takes it, with its batch dimension"
        ) from error


def _batch(example: tuple[Any, ...]) -> int:
    """Inputs in the example: the size of the first dimension of its first tensor."""
    first = next(iter(tensors_in(example)), None)
    return int(first.shape[0]) if first is not None and first.dim() else 1


def tensors_in(values: Any) -> list[Tensor]:
    """Every tensor in nested tuples, lists, dictionaries and dataclasses."""
    if isinstance(values, Tensor):
        return [values]
    if is_dataclass(values) and not isinstance(values, type | Mapping):
        values = [getattr(values, part.name) for part in fields(values)]
    if isinstance(values, Mapping):
        values = list(values.values())
    if isinstance(values, list | tuple):
        return [tensor for value in values for tensor in tensors_in(value)]
    return []


def settle(trace: Trace) -> None:
    """In place: tie what views and equal parts need to stay rectangular.

    A dimension of channels that was taken apart into several must lose the same in all of them:
    all but one dimension are tied along, and the one left is that in which the atoms still
    differ; where several do, the last.  Equal parts must lose equally many.
    """
    ties = trace.ties

    def roots(ids: Tensor) -> Tensor:
        return torch.from_numpy(ties.roots(ids.reshape(-1).numpy())).reshape(ids.shape)

    for split in trace.splits:
        found = roots(split.ids)
        differing = [d for d in range(found.dim()) if bool((found != found.narrow(d, 0, 1)).any())]
        for dim in differing[:-1]:
            because = f"a view in {split.module or 'the network'}"
            ties.tie(split.ids.narrow(dim, 0, 1), split.ids, because)
    for parts in trace.halves:
        sets = [roots(part).sort().values for part in parts]
        if any(len(s) != len(sets[0]) for s in sets):
            continue
        if not all(bool((s == sets[0]).all()) for s in sets):
            for part in parts[1:]:
                ties.tie(parts[0], part, "equal parts")
