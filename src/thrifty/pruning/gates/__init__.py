"""Trainable scales that learn which units a network needs: one file a gate, found by the registry.

A gate is put into a network (``attach``), trained with it under a penalty, read (``scores``) and
taken out again (``fold``).  It holds options only: whatever it learns lies in the model, so a
deep copy or a checkpoint of a gated model has everything, and the state dict of one loads into
a model of the same kind to which the same gate was just attached.

What a gate adds to a layer are parameters, buffers or a small module *of that layer*, and a
forward hook that is a plain function.  Replacing the layer by a wrapper would rename
``conv1.weight`` (masks, recipes and user code speak of it) and break code that reads
``conv1.out_channels``; a parametrization renames it too and changes the layer's class.  With a
hook the names, the classes and the layout of the model stay, it is copied and pickled like any
other, and after ``fold`` nothing of the gate is left.  The one thing a hook needs is that the
layer is called: code that reads the weight itself, as torch's attention does with its output
projection, goes past it; such layers get no score.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor, nn

from thrifty.channels.groups import Groups, Kept
from thrifty.errors import UserError
from thrifty.pruning.evidence import Batch
from thrifty.registry import Registry, Spec, call_spec, parse_spec


class Gate(Protocol):
    """What training and cutting ask of a gate; without a body of its own, a step does nothing.

    In the loop of a training, in this order: ``penalty`` is added to the loss,
    ``after_backward`` may change gradients, ``after_step`` may change values.
    """

    restores: ClassVar[bool] = False
    """True: ``fold`` puts the network back as it was at ``attach``; False: its outputs stay."""

    unit: ClassVar[Literal["channel", "weight"]] = "channel"
    """What a score is of: an output channel of a layer, or a single weight."""

    priced: ClassVar[bool] = True
    """False: its own units have no size that a budget could be made of; a threshold says how many
    stay."""

    def attach(self, model: nn.Module) -> None:
        """In place: put the variables into ``model``, before it is trained.

        Raises:
            UserError: the model has no place for them, or has them already.
        """

    def variables(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Parameter name -> what is trained under the penalty; weight decay leaves these out."""
        ...

    def penalty(self, model: nn.Module, progress: float) -> Tensor | None:
        """A scalar to add to the loss, in its units; ``progress`` of the training is 0..1."""
        return None

    def after_backward(self, model: nn.Module) -> None:
        """In place: change gradients, before the optimizer's step."""

    def after_step(self, model: nn.Module, lr: float, progress: float) -> None:
        """In place: change values, after the optimizer's step.

        Args:
            lr: how far a constant gradient of 1 would move a value in such a step: the learning
                rate, divided by 1 - momentum for SGD (:func:`thrifty.training.plan.step_size`).
            progress: of the training, 0..1.
        """

    def measure(self, model: nn.Module, batches: Iterable[Batch]) -> None:
        """In place: gather from inputs, in eval mode, what scores are read from; once trained.

        Args:
            batches: pairs of inputs (n, ...) and labels (n,), as the model takes them.
        """

    def scores(self, model: nn.Module) -> dict[str, Tensor]:
        """Parameter name -> how much each unit is worth; higher is kept.

        The name is that of the weight whose units are scored, such as ``conv1.weight``; of
        channels (out,), of weights the shape of the weight.
        """
        ...

    def cutoff(self, threshold: float) -> float:
        """The score above which units stay, for a threshold in the words of the gate's source.

        Raises:
            UserError: no threshold of this gate can be that, or it has none.
        """
        raise UserError(
            f"{type(self).__name__} has no scale on which a threshold means anything; give "
            f"sparsity, or a budget"
        )

    def own_units(self, model: nn.Module, keep: Sequence[str] = ()) -> Groups | None:
        """The units that this gate removes in its own way, with :meth:`removed`.

        ``None``: the units are the channels that :func:`thrifty.groups` finds, or weights.

        Args:
            keep: patterns of layers that stay whole.
        """
        return None

    def removed(self, model: nn.Module, groups: Groups, kept: Kept) -> nn.Module:
        """A smaller network, without this gate; of gates that have units of their own.

        Args:
            model: to which the gate is attached, and measured.
            groups: of :meth:`own_units`, for this model.
            kept: group name -> bool (units,); a group may lose all if the gate can go on without.
        """
        raise UserError(f"{type(self).__name__} has no units of its own; thrifty.shrink removes")

    def fold(self, model: nn.Module) -> None:
        """In place: make ``model`` what it was by names and kinds, with the outputs it has now."""


GATES: Registry[Callable[..., Gate]] = Registry("gate", "thrifty.pruning.gates", "thrifty.gates")


def has_own_units(spec: str) -> bool:
    """Whether the gate of that name removes units in its own way."""
    found = GATES.get(parse_spec(spec).name)
    return getattr(found, "own_units", Gate.own_units) is not Gate.own_units


def gate(spec: str | Spec, **given: Any) -> Gate:
    """The gate that ``spec`` asks for, such as ``bn_scale?strength=1e-5``.

    Args:
        spec: a name of ``GATES``, with options.
        given: what fills options that the spec leaves open, if the gate has them; ``groups``
            above all.

    Raises:
        UserError: no such gate or option, or a value that is not allowed.
    """
    parsed = parse_spec(spec) if isinstance(spec, str) else spec
    return call_spec("gate", parsed, GATES.get(parsed.name), defaults=given)
