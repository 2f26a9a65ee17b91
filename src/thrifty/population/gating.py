"""A gate on every model of a stack: what it learns lies beside the weights, with a leading axis."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from thrifty.data import Data
from thrifty.errors import UserError
from thrifty.population.stack import Stack, dropping
from thrifty.pruning.gates import Gate
from thrifty.pruning.gates.forwards import unnoted


@dataclass(frozen=True)
class Gating:
    """A gate, and over which epochs the models are trained with it.

    Args:
        gate: the same for all models; it holds options only.
        epochs: of the training with it.
        first: number of the epoch at which that began.
    """

    gate: Gate
    epochs: int
    first: int = 0

    def progress(self, epoch: int, share: float) -> float:
        """Share of the training that is over, 0..1, after ``share`` of the epoch ``epoch``."""
        return min(1.0, max(0.0, (epoch - self.first + share) / max(1, self.epochs)))


def begun(stack: Stack, gating: Gating) -> Stack:
    """``stack`` with what the gate of each model begins with.

    Raises:
        UserError: the network has no place for the gate.
    """
    found: list[dict[str, Tensor]] = []
    for model in stack.modules():
        before = {name for name, _ in model.named_parameters()}
        gating.gate.attach(model)
        own = dict(model.named_parameters())
        found.append({n: p.detach() for n, p in own.items() if n not in before})
    return replace(stack, gates={n: torch.stack([g[n] for g in found]) for n in found[0]})


def network(stack: Stack, data: Data, gating: Gating | None) -> nn.Module:
    """A network of the stack's architecture, with the most dropout of its models, and its gate.

    With a gate it was run once, so that the gate knows which layers are called.
    """
    model = stack.template()
    dropping(model, float(stack.columns["dropout"].max(initial=0.0)))
    if gating is not None:
        gating.gate.attach(model)
        model.eval()
        with torch.no_grad():
            model(data.prepare(data.train.inputs[:2]))
    return model


def still(model: nn.Module) -> nn.Module:
    """In place: gated layers no longer note that they are called, which no transform allows."""
    unnoted(model)
    return model


def folded(stack: Stack, gating: Gating, data: Data) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(tensors, masks) of the models once the gate is taken out; what it shut is exactly 0.0.

    A model whose gate learned no numbers keeps the tensors that it has, all of them.

    Returns:
        Each name -> (k, *shape); masks of the gated weights only, False where the gate shut.
    """
    tensors = {name: x.clone() for name, x in stack.tensors.items()}
    names = {n.partition(".weight_gate.")[0] for n in stack.gates}
    layers = [f"{n}.weight" if n else "weight" for n in sorted(names)]
    every = [n for n in stack.tensors if n in layers]  # in network order
    masks = {n: torch.ones_like(tensors[n], dtype=torch.bool) for n in every}
    template = network(stack, data, gating)
    for index in range(len(stack)):
        one = stack[[index]]
        state = {n: x[0] for n, x in (*one.tensors.items(), *one.gates.items())}
        model = network(stack, data, gating) if index else template
        model.load_state_dict(state, strict=False)
        try:
            gating.gate.fold(model)
        except UserError:  # it diverged, and the index says so
            continue
        own = model.state_dict()
        for name, x in tensors.items():
            x[index].copy_(own[name])
        for name, mask in masks.items():
            mask[index].copy_(own[name] != 0)
    return tensors, masks


def unstackable_gate(gating: Gating | None) -> str | None:
    """Why a gate cannot be trained on a stack by one call; ``None`` if it can."""
    if gating is None:
        return None
    kind = type(gating.gate)
    if kind.unit != "weight":
        return f"the gate {kind.__name__} is on channels, of which each model would lose others"
    if kind.after_step is not Gate.after_step or kind.after_backward is not Gate.after_backward:
        return f"the gate {kind.__name__} changes values between steps"
    return None
