"""A weighted sum of earlier outputs that is read once and differentiated once.

Written as products and sums, each of n terms is read and written several times, and the gradient
of a term is added to that of the same term in the next sum by yet another operation: for tensors
that exceed the caches this was the greater part of a training step of ThriftyNet on a CPU.  Here a
sum also hands its terms on, unchanged, to whoever reads them next.  Then the gradient of a term is
one number times the gradient of the sum plus what arrives from there: one pass, in pieces that
stay in the cache.
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

PIECE = 1 << 16
"""Elements that are worked on together on a CPU: 256 KiB of float32, half of a common L2 cache."""


def fusible(weights: Tensor, terms: Sequence[Tensor]) -> bool:
    """Whether :func:`carried_sum` can take the terms, and it is of any use.

    They must be dense and laid out alike.  Code that is traced, exported, compiled, batched by
    torch.vmap or run without gradients has nothing to gain, or cannot see into the function.
    """
    first = terms[0]
    return (
        torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and all(type(x) is Tensor and x.device.type in ("cpu", "cuda") for x in terms)
        and any(x.requires_grad for x in (weights, *terms))
        and all(x.shape == first.shape and x.stride() == first.stride() for x in terms)
        and _dense(first)
    )


def carried_sum(weights: Tensor, *terms: Tensor) -> tuple[Tensor, ...]:
    """(sum of weights[i] * terms[i], the terms themselves, to be read from here on).

    Args:
        weights: (n,), on the device of the terms.
        terms: n tensors for which :func:`fusible` holds; of any floating types.

    Returns:
        The sum, in the widest type of the terms, and the terms.  Each of these may be read by one
        operation at most, whose gradient must be a tensor of its own: it is written over.
    """
    result: tuple[Tensor, ...] = _CarriedSum.apply(weights, *terms)  # type: ignore[no-untyped-call]
    return result


class _CarriedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, *terms: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(weights, *terms)
        total = torch.empty_like(terms[0], dtype=_widest(terms))
        factors = _factors(weights)
        for out, *parts in _pieces(total, *terms):
            torch.mul(parts[0].to(out.dtype), factors[0], out=out)
            for part, factor in zip(parts[1:], factors[1:], strict=True):
                _add(out, part, factor, out)
        return total, *terms

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, *arrived: Tensor | None) -> Any:
        weights, *terms = ctx.saved_tensors
        if gradient is None:
            return None, *arrived
        gradient = _laid_out(gradient, terms[0])
        factors = _factors(weights)
        wanted = [n for n in range(len(terms)) if ctx.needs_input_grad[1 + n]]
        later = {n: _laid_out(g, terms[n]) for n in wanted if (g := arrived[n]) is not None}
        # What arrives for a term is read by nobody else: the sum takes it over, and its memory.
        made = {
            n: x if _alike(x := later.get(n), terms[n]) else torch.empty_like(terms[n])
            for n in wanted
        }
        slopes = [torch.zeros_like(weights[0]) for _ in terms]
        names = [("term", n) for n in range(len(terms))]
        names += [("later", n) for n in later] + [("made", n) for n in made]
        for g, *rest in _pieces(gradient, *terms, *later.values(), *made.values()):
            piece = dict(zip(names, rest, strict=True))
            for n, factor in enumerate(factors):
                if ctx.needs_input_grad[0]:
                    slopes[n] += _inner(g, piece["term", n])
                if n in later:
                    _add(piece["later", n], g, factor, piece["made", n])
                elif n in made:
                    torch.mul(g, factor, out=piece["made", n])
        slope = torch.stack(slopes) if ctx.needs_input_grad[0] else None
        return slope, *(made.get(n) for n in range(len(terms)))


def _factors(weights: Tensor) -> Sequence[Any]:
    """The weights as numbers; as tensors on a GPU, which would have to be waited for."""
    return weights.unbind() if weights.is_cuda else weights.tolist()


def _add(one: Tensor, other: Tensor, factor: Any, out: Tensor) -> None:
    """out = one + factor * other."""
    if isinstance(factor, Tensor):
        torch.addcmul(one, other.to(out.dtype), factor.to(out.dtype), out=out)
    else:
        torch.add(one, other, alpha=factor, out=out)


def _inner(one: Tensor, other: Tensor) -> Tensor:
    """The inner product of two pieces, in float32 at least."""
    wide = torch.promote_types(torch.promote_types(one.dtype, other.dtype), torch.float32)
    return torch.dot(one.to(wide), other.to(wide))


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same stretch of memory of each tensor, piece by piece; all of it on a GPU."""
    flat = [x.as_strided((x.numel(),), (1,), x.storage_offset()) for x in tensors]
    size = flat[0].numel() if tensors[0].is_cuda else PIECE
    return zip(*(torch.split(x, max(1, size)) for x in flat), strict=True)


def _alike(x: Tensor | None, like: Tensor) -> TypeGuard[Tensor]:
    """Whether ``x`` can hold what ``like`` holds."""
    return x is not None and x.dtype == like.dtype and x.stride() == like.stride()


def _laid_out(x: Tensor, like: Tensor) -> Tensor:
    """``x``, copied if it does not lie in memory as ``like`` does."""
    return x if x.stride() == like.stride() else torch.empty_like(like, dtype=x.dtype).copy_(x)


def _dense(x: Tensor) -> bool:
    """Whether the elements fill a stretch of memory, each place once."""
    steps = sorted((s, n) for n, s in zip(x.shape, x.stride(), strict=True) if n != 1)
    ends = [1]
    for step, count in steps:
        if step != ends[-1]:
            return False
        ends.append(step * count)
    return x.numel() > 0


def _widest(terms: Sequence[Tensor]) -> torch.dtype:
    kind = terms[0].dtype
    for x in terms[1:]:
        kind = torch.promote_types(kind, x.dtype)
    return kind
