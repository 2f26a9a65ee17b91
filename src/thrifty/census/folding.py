"""Batch normalisation folded into the weights before it, as an engine would run the network.

A weight before a batch normalisation can be made ten times larger without changing what the
network computes, so its size means nothing by itself.  Folded, w' = w * g / sqrt(v + eps) and
b' = (b - m) * g / sqrt(v + eps) + s, it does.  What follows what is taken from the source where
it says so (a graph), else from names of the usual kinds; what is not recognised is left as it is
and named.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from thrifty.census.transform import of_values, scaled, values
from thrifty.sources import Norm, Source, Stored

_MEANS = ("running_mean", "moving_mean")
_VARIANCES = ("running_var", "moving_variance", "moving_var")
_SCALES, _SHIFTS = ("weight", "gamma"), ("bias", "beta")
_CALLED = re.compile(r"(bn|batch_?norm)[\d_]*[._/]?$", re.IGNORECASE)
_LISTED = 4


def folded(source: Source) -> tuple[tuple[Stored, ...], str]:
    """The tensors with every batch normalisation folded that can be, and a sentence about it."""
    tensors = {t.name: t for t in source.tensors}
    norms = source.norms if source.norms is not None else norms_by_name(source.tensors)
    found = [n for n in norms if n.weight in tensors]
    left = [base for base in _bases(tensors) if base not in {_base_of(n) for n in found}]
    result = dict(tensors)
    for norm in found:
        _fold(result, norm)
    if not found and not left:
        return source.tensors, "it has no batch normalisation to fold"
    note = f"batch normalisation folded into {len(found)} of {len(found) + len(left)} layers"
    if left:
        names = ", ".join(left[:_LISTED]) + (", ..." if left[_LISTED:] else "")
        note += f"; it is not clear what comes before {names}"
    return tuple(result.values()), note


def norms_by_name(tensors: Sequence[Stored]) -> tuple[Norm, ...]:
    """Which batch normalisation follows which weight, by the names of the usual kinds.

    ``bn1`` follows ``conv1`` beside it, ``features.1`` follows ``features.0``, ``conv_bn``
    follows ``conv``.  Nothing else is guessed, and the number of channels must agree.
    """
    known = {t.name: t for t in tensors}
    used: set[str] = set()
    found = []
    for base in _bases(known):
        norm = _norm(base, known)
        channels = {known[n].count for n in (norm.scale, norm.shift, norm.mean) if n}
        for name in _before(base):
            stored = known.get(name)
            if stored is None or len(stored.shape) < 2 or name in used:
                continue
            if channels == {stored.shape[stored.out_axis]}:
                used.add(name)
                bias = _sibling(known, name, _SHIFTS)
                found.append(Norm(name, bias, norm.scale, norm.shift, norm.mean, norm.variance))
                break
    return tuple(found)


def _bases(known: Mapping[str, Stored]) -> list[str]:
    """What the names of each batch normalisation begin with, its separator included.

    One without running statistics (mean 0 and variance 1: they were folded) is known by its
    name and by having a scale and a shift of one axis.
    """
    ends = "|".join(_MEANS)
    bases = [re.sub(rf"({ends})(:0)?$", "", n) for n in known if re.search(rf"({ends})(:0)?$", n)]
    if not bases:
        flat = [n for n, stored in known.items() if len(stored.shape) == 1]
        scales = {re.sub(r"(weight|gamma)$", "", n) for n in flat if n.endswith(_SCALES)}
        named = {b for b in scales if _CALLED.search(b)}
        more = {b for b in scales if named and _follows_convolution(b, known)}
        bases = sorted(named | more)
    return list(dict.fromkeys(bases))


def _follows_convolution(base: str, known: Mapping[str, Stored]) -> bool:
    """Whether it is called by a number, and the number before it is a convolution."""
    return base[:-1].rpartition(base[-1:])[2].isdigit() and any(
        name in known and len(known[name].shape) > 2 for name in _before(base)
    )


def _norm(base: str, known: Mapping[str, Stored]) -> Norm:
    def first(ends: Sequence[str]) -> str | None:
        return next((base + e + v for e in ends for v in ("", ":0") if base + e + v in known), None)

    return Norm("", None, first(_SCALES), first(_SHIFTS), first(_MEANS), first(_VARIANCES))


def _base_of(norm: Norm) -> str:
    name = norm.mean or norm.scale or norm.shift or ""
    return re.sub(r"[A-Za-z]+(_[a-z]+)?(:0)?$", "", name)


def _before(base: str) -> Iterator[str]:
    """Names that the weight before a batch normalisation may have, the likeliest first."""
    stem, separator = base[:-1], base[-1:]
    head, _, last = stem.rpartition(separator)
    head = f"{head}{separator}" if head else ""
    for before in _names_before(last):
        for end in ("weight", "kernel"):
            yield f"{head}{before}{separator}{end}"


def _names_before(last: str) -> Iterator[str]:
    if last.isdigit():
        yield str(int(last) - 1)
    for norm, conv in (
        (r"^batch_normalization", "conv2d"),
        (r"^batch_?norm", "conv"),
        (r"^bn", "conv"),
        (r"^norm", "conv"),
        (r"bn$", "conv"),
        (r"[_.]?(bn|batch_?norm|norm)$", ""),
        (r"^(bn|batch_?norm|norm)_", ""),
        (r"^bn", "fc"),
    ):
        changed = re.sub(norm, conv, last)
        if changed and changed != last:
            yield changed


def _sibling(known: Mapping[str, Stored], name: str, ends: Sequence[str]) -> str | None:
    base = re.sub(r"(weight|kernel)$", "", name)
    return next((base + end for end in ends if base != name and base + end in known), None)


def _fold(tensors: dict[str, Stored], norm: Norm) -> None:
    """In place: replace a weight and its normalisation by the folded weight and bias."""
    weight = tensors[norm.weight]
    axis = weight.out_axis % len(weight.shape)
    channels = weight.shape[axis]

    def vector(name: str | None, otherwise: float) -> np.ndarray:
        if name is None or name not in tensors:
            return np.full(channels, otherwise)
        return values(tensors[name]).reshape(-1)

    scale, shift = vector(norm.scale, 1.0), vector(norm.shift, 0.0)
    mean, bias = vector(norm.mean, 0.0), vector(norm.bias, 0.0)
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(vector(norm.variance, 1.0) + norm.eps)
        moved = (bias - mean) * factor + shift
    counter = f"{_base_of(norm)}num_batches_tracked"
    for name in (norm.scale, norm.shift, norm.mean, norm.variance, norm.bias, counter):
        if name is not None:
            tensors.pop(name, None)
    tensors[norm.weight] = scaled(weight, axis, factor)
    name = norm.bias or re.sub(r"(weight|kernel)$", "bias", norm.weight)
    if name == norm.weight or name in tensors:
        name = f"{norm.weight}+bias"
    tensors[name] = of_values(name, moved, "bias")
