"""Following what a network runs in training only, such as auxiliary heads.

A run in eval mode never reaches them, and a network cut by it would fail as soon as it is trained:
the convolution of a head still expects the channels that went.  So where parameters are left that
nothing read, a copy runs once more as in training, and what it shows is added to the same trace.
Multiply-adds are those of eval mode.  What cannot be followed keeps the channels that reach it.
"""

from typing import Any

from torch import nn

from thrifty.channels.modes import in_training
from thrifty.channels.trace import Tracer, tensors_in


def follow_training(tracer: Tracer, model: nn.Module, example: tuple[Any, ...]) -> None:
    """In place: add to a trace of ``model`` in eval mode what runs in training only."""
    left = set(tracer.untouched.values())
    late = outermost(model, left)
    tracer.counting, tracer.received = False, {name: [] for name in late}
    failed = None
    try:
        with in_training(model) as twin:
            _alias(tracer, model, twin, left)
            tracer.outputs(tensors_in([tracer.run(twin, example)]))
    except Exception as error:  # whatever the code of the model raises
        failed = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0][:160]
    ran = left - set(tracer.untouched.values())
    reached = [name for name in late if tracer.received[name] or _of(name, ran)]
    if failed is not None:
        _keep(tracer, model, left, reached, failed)
        tracer.trace.notes.append(_unknown(reached, late or sorted(left), failed))
    elif ran:
        heads = [name for name in late if _of(name, ran)]
        covered = {name for head in heads for name in _of(head, ran)}
        tracer.trace.training_only = (*heads, *sorted(ran - covered))
        tracer.trace.notes.append(
            f"run in training only, and followed there: {_some(tracer.trace.training_only)} "
            f"(their multiply-adds are not counted)"
        )


def outermost(model: nn.Module, names: set[str]) -> list[str]:
    """The largest modules of which every parameter is one of ``names``, in the model's order."""
    found: list[str] = []
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        own = [prefix + name for name, _ in module.named_parameters()]
        inside = any(path.startswith(f"{outer}.") for outer in found)
        if path and own and not inside and names.issuperset(own):
            found.append(path)
    return found


def _of(module: str, names: set[str]) -> list[str]:
    return [name for name in names if name.startswith(f"{module}.")]


def _alias(tracer: Tracer, model: nn.Module, twin: nn.Module, left: set[str]) -> None:
    """In place: the tensors of a copy have the facets of those of the model."""
    theirs = dict(twin.named_parameters()) | dict(twin.named_buffers())
    for name, tensor in (dict(model.named_parameters()) | dict(model.named_buffers())).items():
        if name in theirs:
            tracer.put(theirs[name], tracer.facets(tensor))
    tracer.untouched = {id(theirs[name]): name for name in left}


def _keep(
    tracer: Tracer, model: nn.Module, left: set[str], reached: list[str], failed: str
) -> None:
    """In place: parameters of which not all is known, and what their modules were given, stay."""
    parameters = dict(model.named_parameters())
    held = [(name, tracer.received[name]) for name in reached]
    held += [(name, [parameters[name]]) for name in sorted(left)]
    for name, tensors in held:
        why = f"{name} runs in training only, and could not be followed there: {failed}"
        for tensor in tensors:
            for ids in tracer.facets(tensor):
                tracer.ties.fix(ids, why)


def _unknown(reached: list[str], late: list[str], failed: str) -> str:
    if reached:
        return (
            f"run in training only, where the example was not taken: {_some(reached)} ({failed}); "
            f"channels that go there stay whole; give an example that the network can train on"
        )
    return (
        f"not run in eval mode: {_some(late)}; training mode did not take the example ({failed}), "
        f"so if they run there, a smaller network may not train; give an example on which the "
        f"network runs in both modes, or keep= the layers before them"
    )


def _some(names: list[str] | tuple[str, ...], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
