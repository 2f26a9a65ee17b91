"""One optimizer step with pruned weights held at zero, at no cost over a dense step.

Small networks spend their step in the overhead of many small tensors.  For those the
parameters become views of one buffer, so that the optimizer, the clipping and the clearing of
pruned weights are one operation each.  Larger networks keep their tensors.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from thrifty.pruning.masks import bit_mask, clear, named
from thrifty.training.plan import Plan

FLAT_BELOW = 200_000
"""Parameters under which one buffer is faster than many tensors (benchmarks/frozen_masks.py)."""

_ALIGN = 16  # elements: 64 bytes of float32, a cache line


class Stepper:
    """The optimizer of a :class:`Plan` over a model, with masks that it holds.

    Args:
        model: its parameters must stay where they are (device, dtype) while this lives.
        masks: parameters to hold; may be replaced by :meth:`hold`.
        flat: one buffer or many tensors; by the size of the model if ``None``.
        undecayed: parameters without weight decay, whatever their dimensions.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        masks: Mapping[str, Tensor] | None = None,
        flat: bool | None = None,
        undecayed: Iterable[Tensor] = (),
    ):
        parameters = [p for p in model.parameters() if p.requires_grad]
        size = sum(p.numel() for p in parameters)
        same = len({(p.dtype, p.device) for p in parameters}) == 1
        self.model, self.clip = model, plan.clip
        self.flat = same and (size < FLAT_BELOW if flat is None else flat)
        spared = {id(p) for p in undecayed}
        decayed = [p for p in parameters if p.dim() > 1 and id(p) not in spared]
        plain = [p for p in parameters if p.dim() <= 1 or id(p) in spared]
        self._groups = [_Group(g, self.flat) for g in (decayed, plain)]
        self.optimizer = build(plan, self._groups[0].tensors, self._groups[1].tensors)
        self._held: list[tuple[Tensor, Tensor]] = []
        if masks is not None:
            self.hold(masks)

    def hold(self, masks: Mapping[str, Tensor]) -> None:
        """In place: clear what ``masks`` prune, and its optimizer state, from now on."""
        owned = named(self.model, masks)
        bits = {id(p): bit_mask(masks[name], p) for name, p in owned.items()}
        self._held = [pair for group in self._groups for pair in group.held(bits)]
        for tensor, mask in self._held:
            clear(tensor.detach(), mask)
            for state in self.optimizer.state.get(tensor, {}).values():
                if isinstance(state, Tensor) and state.shape == tensor.shape:
                    clear(state, mask)

    def zero_grad(self) -> None:
        """Clear all gradients."""
        if self.flat:
            for group in self._groups:
                group.attach_gradients()
        else:
            self.optimizer.zero_grad(set_to_none=True)

    def step(self, lr: float) -> None:
        """One step with that learning rate; clipped if the plan says so; zeros stay zero."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if self.clip is not None:
            for tensor, mask in self._held:
                if tensor.grad is not None:
                    clear(tensor.grad, mask)
            torch.nn.utils.clip_grad_norm_([t for g in self._groups for t in g.tensors], self.clip)
        self.optimizer.step()
        self.clear_held()

    @torch.no_grad()
    def clear_held(self) -> None:
        """In place: what masks prune is exactly zero, whatever changed it."""
        for tensor, mask in self._held:
            clear(tensor.detach(), mask)

    def release(self) -> None:
        """In place: give the parameters memory of their own again and drop the gradients."""
        for group in self._groups:
            group.release()


class _Group:
    """Parameters that share an optimizer group: as they are, or as views of one buffer."""

    def __init__(self, parameters: list[nn.Parameter], flat: bool):
        self.parameters = parameters
        self.tensors: list[Tensor] = list(parameters)
        self._views: list[Tensor] = []
        self.flat = flat and bool(parameters)
        if not self.flat:
            return
        sizes = [-(-p.numel() // _ALIGN) * _ALIGN for p in parameters]
        self._starts = [sum(sizes[:i]) for i in range(len(sizes))]
        buffer = parameters[0].new_zeros(sum(sizes))
        gradient = torch.zeros_like(buffer)
        for p, start in zip(parameters, self._starts, strict=True):
            view = self._slice(buffer, start, p)
            view.copy_(p.detach())
            p.data = view
            self._views.append(self._slice(gradient, start, p))
        self._gradient = gradient
        whole = nn.Parameter(buffer)
        whole.grad = gradient
        self.tensors = [whole]

    @staticmethod
    def _slice(buffer: Tensor, start: int, like: Tensor) -> Tensor:
        return buffer.detach()[start : start + like.numel()].as_strided(
            like.size(), like.stride(), start
        )

    def attach_gradients(self) -> None:
        if self.flat:
            self._gradient.zero_()
            for p, view in zip(self.parameters, self._views, strict=True):
                p.grad = view

    def release(self) -> None:
        for p in self.parameters:
            p.grad = None
            if self.flat:
                p.data = p.detach().clone(memory_format=torch.preserve_format)

    def held(self, bits: Mapping[int, Tensor]) -> list[tuple[Tensor, Tensor]]:
        if not self.flat:
            return [(p, bits[id(p)]) for p in self.parameters if id(p) in bits]
        if not any(id(p) in bits for p in self.parameters):
            return []
        whole = self.tensors[0]
        mask = torch.full_like(
            whole, -1, dtype=next(iter(bits.values())).dtype, requires_grad=False
        )
        for p, start in zip(self.parameters, self._starts, strict=True):
            if id(p) in bits:
                self._slice(mask, start, p).copy_(bits[id(p)])
        return [(whole, mask)]


def build(plan: Plan, decayed: list[Tensor], plain: list[Tensor]) -> torch.optim.Optimizer:
    """The optimizer of ``plan``; ``decayed`` parameters get its weight decay, ``plain`` none."""
    groups = [
        {"params": decayed, "weight_decay": plan.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    fused = all(
        t.is_floating_point() and t.device.type in ("cpu", "cuda") for t in [*decayed, *plain]
    )
    if plan.optimizer == "sgd":
        return torch.optim.SGD(
            groups,
            lr=plan.lr,
            momentum=plan.momentum,
            nesterov=plan.nesterov and plan.momentum > 0,
            fused=fused,
        )
    kind = torch.optim.Adam if plan.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=plan.lr, betas=(plan.momentum, 0.999), fused=fused)
