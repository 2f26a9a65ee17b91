"""Set all weights under a threshold to zero, and measure what is left: the curve of what it costs.

Nothing is trained.  Where a network has batch normalisation, it is measured twice at each
threshold: as it is, and with statistics of training inputs taken anew, for zeroed weights shift
what the old statistics describe.  The intact network gets both too, so that what new statistics
change by themselves is seen.
"""

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from thrifty import files
from thrifty.data import Data, load_data
from thrifty.errors import UserError
from thrifty.lab.measure import conditions
from thrifty.lab.run import torch_threads
from thrifty.lab.store import Store
from thrifty.lab.subject import LARGE_INPUT, fitting_threads, label_of, network_of, untrained
from thrifty.lab.zeroed import Zeroing
from thrifty.lab.zeroing_steps import STUDY, Study
from thrifty.training.loop import channels_last
from thrifty.training.recovery import with_statistics

Tell = Callable[[dict[str, Any]], None]

UNDER = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 2e-2, 3e-2, 5e-2, 0.1, 0.3, 1.0)


def zero(
    model: str | Path | nn.Module,
    data: str | Data,
    *,
    weights: str | Path | None = None,
    under: float | Iterable[float] = UNDER,
    relative: bool = False,
    everything: bool = False,
    keep: Sequence[str] = (),
    out: Path | str,
    seed: int = 0,
    threads: int | None = None,
    device: str | None = None,
    tell: Tell = lambda _: None,
) -> Zeroing:
    """Zero the weights of ``model`` under each threshold and measure each network; resumes.

    A weight is zeroed if abs(w) < t, strictly, where both are compared as real numbers.  Steps
    that are done are read, not repeated, so it may be killed anywhere, and more thresholds may be
    added: the result has those asked for and those that the folder holds already.

    Args:
        model: what :func:`thrifty.resolve` takes; a module is copied, not changed.
        data: a data set or its name.  It is measured on the test inputs; statistics are taken
            from the training inputs.
        weights: a file that fills the network.
        under: thresholds t; 0, the intact network, is always measured too.
        relative: thresholds are multiples of the standard deviation of each tensor.
        everything: zero all parameters under t: weights, biases, scales and shifts of
            normalisations, embeddings.  Else only the prunable weights, which are the tensors of
            two or more axes of convolutions, linear, attention and recurrent layers.  Running
            statistics are no parameters and are never zeroed.
        keep: patterns of layers to leave whole, such as ``["conv1", "classifier.*"]``.
        out: folder of the study, made if it is not there.
        seed: draws the training inputs for new statistics, and the weights of a network that
            comes without.
        threads: that torch may use; 1 for small networks and all cores for large ones if
            ``None``.
        device: ``cpu``, ``cuda``, ...; that of a module, else a GPU if there is one.
        tell: called with a dictionary of figures as it goes on.

    Returns:
        The study; :attr:`Zeroing.rows` has a row a threshold.

    Raises:
        UserError: a threshold is negative or not finite, the network, weights and data do not
            fit, or the folder is in use or holds another run.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as out:
        ...     found = zero("lenet", "digits?train=50&test=20", under=[10], out=out)
        >>> [row.sparsity for row in found.rows]
        [0.0, 1.0]
    """
    thresholds = _thresholds(under)
    if threads is not None and threads < 1:
        raise UserError(f"threads is {threads}; it is a whole number, 1 or more")
    store = Store(out)
    store.prepare()
    loaded = load_data(data)
    network = network_of(model, weights, loaded, seed, device)
    if math.prod(loaded.shape) > LARGE_INPUT:
        channels_last(network, loaded)  # a fifth faster for ResNet-18 on ImageNet
    count = threads or fitting_threads(network, loaded)
    with store.lock(), torch_threads(count):
        now: dict[str, Any] = {
            "model": label_of(model, network),
            "data": loaded.name,
            "weights": None if weights is None else str(weights),
            "relative": relative,
            "everything": everything,
            "keep": list(keep),
            "seed": seed,
        }
        study = Study(network, loaded, store, now, untrained(model, weights))
        about = _begin(study, now, thresholds, _notes(model, weights, study), count)
        rows = study.rows(about["under"], thresholds, tell)
    return Zeroing(
        **now | {"keep": tuple(keep)},
        classes=loaded.classes,
        inputs=len(loaded.test),
        rows=rows,
        notes=tuple(about["notes"]),
        conditions=about["conditions"],
    )


def _thresholds(given: float | Iterable[float]) -> tuple[float, ...]:
    """The thresholds, ascending, each once, and 0 before them."""
    listed: list[Any] = [given] if isinstance(given, Real) else list(given)  # type: ignore[arg-type]
    if not listed:
        raise UserError("under is empty; give at least one threshold, such as 0.01")
    for t in listed:
        good = isinstance(t, Real) and not isinstance(t, bool)
        if not good or not 0 <= t <= sys.float_info.max:
            raise UserError(
                f"under has {t!r}; a threshold is a finite number, 0 or more: weights whose size "
                "is below it become 0"
            )
    return tuple(sorted({0.0, *(abs(float(t)) for t in listed)}))


def _begin(
    study: Study,
    now: Mapping[str, Any],
    thresholds: Sequence[float],
    notes: Sequence[str],
    threads: int,
) -> dict[str, Any]:
    """Mark the folder; refuse one that holds another run, other weights or other data."""
    store, device = study.store, next(study.model.parameters()).device
    store.refuse_another(now, STUDY)
    before = store.conditions() if store.about.exists() else {}
    if before.get("network", study.digest) != study.digest:
        raise UserError(
            f"{store.root} was begun with other weights of {now['weights'] or now['model']}: they "
            "changed since; put them back, or give --out another folder"
        )
    if not before:
        study.try_it()
    store.remember_data(study.data.digest, study.data.name)
    about = {"study": STUDY, **now, "network": study.digest, "notes": list(notes)}
    about["under"] = sorted({*before.get("under", ()), *thresholds})
    about["conditions"] = _conditions(study, threads, str(device))
    files.write_json(store.about, about)
    return about


def _conditions(study: Study, threads: int, device: str) -> dict[str, Any]:
    found = conditions(threads, device)
    del found["latency"]
    data, now, inputs = study.data, study.now, study.train_inputs
    moved = [word for word, on in (("shifted", data.shift), ("mirrored", data.flip)) if on]
    how = f", {' and '.join(moved)} as in training" if moved else ""
    statistics = f"of {inputs:,} training inputs{how}, drawn with seed {now['seed']}"
    return found | {
        "data": data.name,
        "test inputs": f"{len(data.test):,}",
        "weights": now["weights"] or "as the network comes",
        "zeroed": "all parameters" if now["everything"] else "prunable weights",
        "left whole": ", ".join(now["keep"]) or "nothing",
        "recalibration": statistics if inputs else "none",
    }


def _notes(
    model: str | Path | nn.Module, weights: str | Path | None, study: Study
) -> tuple[str, ...]:
    """What to know about the figures."""
    data, found = study.data, []
    train: Any = data.train
    if untrained(model, weights):
        found.append("No weights were given: this network is as it was drawn, untrained.")
    if study.folded and with_statistics(study.model):
        found.append(
            "The running statistics of the network are mean 0 and variance 1: they were folded "
            "into its weights, or never measured, so new ones were not taken."
        )
    elif not study.norms:
        found.append(
            "The network has no batch normalisation with running statistics, so there is nothing "
            "to recalibrate."
        )
    elif not study.train_inputs:
        found.append("The data have no training inputs, so nothing was recalibrated.")
    elif _within(train.inputs, data.test.inputs):
        found.append(
            "The training inputs are test inputs too, so the statistics were taken from the very "
            "inputs that accuracy is measured on: recalibrated figures flatter the network."
        )
    return tuple(found)


def _within(some: Tensor, others: Tensor) -> bool:
    """Whether every input of ``some`` is one of ``others``."""
    if len(some) > len(others) or some.dtype != others.dtype:
        return False
    known = {x.contiguous().cpu().numpy().tobytes() for x in others}
    return all(x.contiguous().cpu().numpy().tobytes() in known for x in some)
