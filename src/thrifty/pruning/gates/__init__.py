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

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from thrifty.registry import Registry, Spec, call_spec, parse_spec


class Gate(Protocol):
    """What training and cutting ask of a gate; without a body of its own, a step does nothing.

    In the loop of a training, in this order: ``penalty`` is added to the loss,
    ``after_backward`` may change gradients, ``after_step`` may change values.
    """

    restores: ClassVar[bool] = False
    """True: ``fold`` puts the network back as it was at ``attach``; False: its outputs stay."""

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

    def scores(self, model: nn.Module) -> dict[str, Tensor]:
        """Parameter name -> (out,) how much each output channel is worth; higher is kept.

        The name is that of the weight whose channels are scored, such as ``conv1.weight``.
        """
        ...

    def fold(self, model: nn.Module) -> None:
        """In place: make ``model`` what it was by names and kinds, with the outputs it has now."""


GATES: Registry[Callable[..., Gate]] = Registry("gate", "thrifty.pruning.gates", "thrifty.gates")


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
