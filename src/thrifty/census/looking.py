"""Look at the weights of networks from anywhere: :func:`thrifty.look`."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from thrifty.census.census import Census, Network, Tensor
from thrifty.census.counts import CHUNK, count
from thrifty.census.folding import folded
from thrifty.census.roles import CONVENTIONS, Convention, counts_in, role_of
from thrifty.census.transform import dequantised, raw
from thrifty.cores import cores
from thrifty.errors import UserError
from thrifty.shown import printable
from thrifty.sources import Source, Stored
from thrifty.sources.opening import Place, expand

if TYPE_CHECKING:
    from torch import nn

UNDER = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
MOST_THRESHOLDS = 32
CLAIMS = ("spars", "densit", "prun", "note")
"""What a source says of itself is shown where its name holds one of these."""

Counted = Literal["both", "weights", "parameters", "all"]


def look(
    *sources: "str | Path | nn.Module | Source",
    under: float | Sequence[float] = UNDER,
    counted: Counted = "both",
    fold_bn: bool = False,
    relative: bool = False,
    spread: bool = True,
    curves: bool = False,
    raw_integers: bool = False,
    threads: int | None = None,
    tell: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Census:
    """Count the weights of networks: shares under thresholds, zeros, spread; in one pass.

    Nothing in a file is run, its tensors are read piece by piece, and what it says of itself is
    not believed: every figure is counted.

    Args:
        sources: files (``.safetensors``, ``.pt``, ``.h5``, ``.keras``, ``.onnx``, ``.npz``,
            ...), folders of them, ``hf:ORG/REPO``, networks by name (``resnet20``,
            ``torchvision:alexnet?weights=DEFAULT``, ``timm:NAME``, ``keras:NAME``,
            ``package.module:factory``), modules, or sources that are open.
        under: thresholds of |w|, at most 32, each counted once; a weight is under t if |w| < t,
            strictly.
        counted: which tensors: ``"weights"`` (of two axes or more), ``"parameters"``
            (biases, scales and shifts too), ``"all"`` (running statistics too), or
            ``"both"`` weights and parameters.
        fold_bn: fold each batch normalisation into the weights before it first.
        relative: count under ``t * std`` of each tensor as well, in a second pass.
        spread: find mean and standard deviation as well, which doubles the time.
        curves: count a histogram of |w| as well, of which the energy kept and the sizes of
            weights are drawn; it takes longer than all the rest.
        raw_integers: count quantised integers as they are stored, not what they stand for.
        threads: as many as cores if ``None``.
        tell: called with ``{"source": label}`` for each network that is begun.

    Returns:
        The census; of several sources those that cannot be read are in ``failed``.

    Raises:
        UserError: a threshold is no positive number, threads are less than 1, or no source
            can be read.

    Example:
        >>> census = look("lenet_300_100", under=[0.1], counted="weights")
        >>> census.networks[0].counted("weights").count
        266200
    """
    if not sources:
        raise UserError("name a network to look at: a file, a folder, hf:ORG/REPO, a name")
    under = _thresholds(under)
    if threads is not None and threads < 1:
        raise UserError(f"threads is {threads}; it is a whole number, 1 or more")
    if counted not in (*CONVENTIONS, "both"):
        raise UserError(f"counted is {counted!r}; it is one of both, {', '.join(CONVENTIONS)}")
    conventions: tuple[Convention, ...] = (
        ("weights", "parameters") if counted == "both" else (counted,)
    )
    how = _How(fold_bn, relative, spread, curves, raw_integers)
    networks: list[Network] = []
    failed: list[tuple[str, str]] = []
    with ExitStack() as stack:
        most = threads or cores()
        pool = stack.enter_context(ThreadPoolExecutor(most)) if most > 1 else None
        for place in _places(sources, failed):
            tell({"source": place.label})
            try:
                with place.open() as source:
                    networks.append(_census(source, under, conventions, how, pool))
            except UserError as error:
                failed.append((place.label, _told(error)))
    if not networks:
        reasons = [message for _, message in failed] or ["there is nothing to look at"]
        raise UserError("\n".join(reasons))
    return Census(tuple(networks), under, conventions, tuple(failed), fold_bn, relative)


class _How(NamedTuple):
    fold_bn: bool
    relative: bool
    spread: bool
    curves: bool
    raw_integers: bool


def _places(sources: Sequence[Any], failed: list[tuple[str, str]]) -> list[Place]:
    """Where every source is; what stands for none is added to ``failed``."""
    good, modules = [], []
    for what in sources:
        if not isinstance(what, str | Path):
            modules.append(place_of(what))
            continue
        try:
            expand(what)
        except UserError as error:
            failed.append((printable(str(what)), _told(error)))
        else:
            good.append(what)
    return [*(expand(*good) if good else ()), *modules]


def _told(error: UserError) -> str:
    return "\n".join(map(printable, str(error).split("\n")))


def place_of(what: "str | Path | nn.Module | Source") -> Place:
    """Where the one network is that ``what`` stands for.

    Raises:
        UserError: it stands for none, or for several.
    """
    if isinstance(what, str | Path):
        found = expand(what)
        if len(found) != 1:
            raise UserError(f"{what} is {len(found)} networks; name one file of it")
        return found[0]
    if isinstance(what, Source):
        return Place(what.label, lambda: what)
    from thrifty.sources.formats.networks import of_module

    return Place(type(what).__name__, lambda: of_module(what, type(what).__name__))


def _census(
    source: Source,
    under: Sequence[float],
    conventions: tuple[Convention, ...],
    how: "_How",
    pool: Executor | None,
) -> Network:
    tensors, notes = source.tensors, [*source.notes, *_claims(source)]
    if how.fold_bn:
        tensors, note = folded(source)
        notes.append(note)
    names = {t.name for t in tensors}
    looked = []
    quantised = 0
    for stored in tensors:
        role = role_of(stored, names)
        counting = tuple(c for c in conventions if counts_in(stored, role, c))
        if not counting:
            continue
        quantised += stored.quantised is not None
        seen = raw(stored) if how.raw_integers else dequantised(stored)
        several = pool if stored.nbytes > 2 * CHUNK else None
        counts = count(
            seen,
            under,
            relative=how.relative,
            spread=how.spread,
            curves=how.curves,
            pool=several,
        )
        kind = _kind(stored, how.raw_integers)
        counts = replace(counts, nbytes=stored.nbytes)  # not those of what it was turned into
        looked.append(Tensor(printable(stored.name), stored.shape, kind, role, counts, counting))
    if not looked:
        raise UserError(
            f"{source.label} has {len(tensors)} tensors and none that counts as "
            f"{' or '.join(conventions)}; count them with --all"
            if tensors
            else f"{source.label} has no tensors"
        )
    if quantised:
        told = "as they are stored" if how.raw_integers else "as the numbers they stand for"
        notes.append(f"{quantised} quantised tensors, counted {told}")
    return Network(source.label, source.kind, source.nbytes, tuple(looked), tuple(notes))


def _kind(stored: Stored, raw_integers: bool) -> str:
    return stored.dtype if stored.quantised is None or raw_integers else f"{stored.dtype}*"


def _claims(source: Source) -> list[str]:
    """What a source says of itself that concerns what is counted."""
    said = {k: v for k, v in source.claims.items() if any(c in k.lower() for c in CLAIMS)}
    return [printable(f"the file says {key[:200]}: {text[:200]}") for key, text in said.items()]


def _thresholds(given: float | Sequence[float]) -> tuple[float, ...]:
    """The thresholds in the order given, each once."""
    under: list[Any] = [given] if isinstance(given, Real | str) else list(given)  # type: ignore[arg-type]
    if not under or not all(map(_is_threshold, under)):
        raise UserError(
            f"thresholds are {under}; each is a number above 0 that |w| is compared with, "
            f"such as .1 or 1e-3"
        )
    if len(under) > MOST_THRESHOLDS:
        raise UserError(f"{len(under)} thresholds are given; at most {MOST_THRESHOLDS} are counted")
    return tuple(dict.fromkeys(float(t) for t in under))


def _is_threshold(t: Any) -> bool:
    return not isinstance(t, bool) and isinstance(t, Real) and 0 < float(t) < math.inf
