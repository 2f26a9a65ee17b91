"""Which layers bear pruning: cut one at a time, leave all others whole, measure, train nothing.

It is measured on training inputs unless test inputs are asked for: what is chosen by it (how much
of each layer goes) is then not chosen by the inputs that the result is judged on.  What it finds
is a lower bound on the damage of cutting several layers at once, so that is measured too.
"""

import contextlib
import dataclasses
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from thrifty import files
from thrifty.data import Data, load_data
from thrifty.errors import UserError
from thrifty.lab.measure import conditions, run
from thrifty.lab.run import torch_threads
from thrifty.lab.sensitive import MAX_DROP, Sensitivity, check_drop
from thrifty.lab.sensitivity_cuts import cutter
from thrifty.lab.sensitivity_steps import STATISTICS, STUDY, Inputs, Study, Tell, intact_of
from thrifty.lab.store import Store
from thrifty.lab.subject import LARGE_INPUT, fitting_threads, label_of, network_of, untrained
from thrifty.pruning.allocation import check_sparsity
from thrifty.pruning.layers import prunable
from thrifty.pruning.methods import METHODS
from thrifty.pruning.structured import ROUND
from thrifty.training.loop import channels_last, derive
from thrifty.training.recovery import were_measured, with_statistics

SPARSITIES = (0.1, 0.3, 0.5, 0.7, 0.9)
INPUTS = 2000
"""Inputs measured on, unless said: one is then a twentieth of a point."""


def sensitivity(
    model: str | Path | nn.Module,
    data: str | Data,
    *,
    weights: str | Path | None = None,
    method: str = "magnitude",
    sparsity: float | Iterable[float] = SPARSITIES,
    max_drop: float = MAX_DROP,
    inputs: int = INPUTS,
    test: bool = False,
    recalibrate: bool = False,
    keep: Sequence[str] = (),
    round: int = ROUND,
    out: Path | str | None = None,
    seed: int = 0,
    threads: int | None = None,
    device: str | None = None,
    tell: Tell = lambda _: None,
) -> Sensitivity:
    """Accuracy of ``model`` with one layer pruned at a time, for every layer and sparsity; resumes.

    A layer is a prunable tensor for methods that make weights zero.  For methods that remove
    channels it is a group of channels that live and die together (:func:`thrifty.groups`); they
    are really removed, and the constants they sent are folded, as a run does.

    Args:
        model: what :func:`thrifty.resolve` takes; a module is copied, not changed.
        data: a data set or its name.
        weights: a file that fills the network.
        method: a name of ``thrifty methods``: what says which weights or channels go first.
        sparsity: shares of a layer's weights or channels that go.
        max_drop: share of accuracy that a layer may cost by itself, for
            :meth:`Sensitivity.layers`; all layers that bear a cut are then cut at once, too.
        inputs: how many inputs to measure on, drawn by the seed.
        test: measure on test inputs; else on training inputs.
        recalibrate: take the statistics of batch normalisation anew after each cut, from training
            inputs other than those measured on where there are enough; for the intact network
            too.
        keep: patterns of layers to leave whole.
        round: channels of a layer stay a multiple of this, or of an eighth of a narrow layer.
        out: folder of the study, made if it is not there; it may be killed anywhere and gone on
            with, or given more sparsities.  Nothing is kept if ``None``.
        seed: draws the inputs, and the weights of a network that comes without.
        threads: that torch may use; 1 for small networks and all cores for large ones if
            ``None``.
        device: ``cpu``, ``cuda``, ...; that of a module, else a GPU if there is one.
        tell: called with a dictionary of figures as it goes on.

    Raises:
        UserError: a sparsity, number or name that is none; the network, weights and data do not
            fit; nothing can be cut; the folder is in use or holds another run.

    Example:
        >>> found = sensitivity("lenet", "digits?train=50&test=20", sparsity=0.5, inputs=20)
        >>> [row.layer for row in found.rows][:2]
        ['conv1.weight', 'conv2.weight']
    """
    levels = _levels(sparsity)
    _check(inputs=inputs, round=round, **({} if threads is None else {"threads": threads}))
    check_drop(max_drop)
    METHODS.get(method)
    with _folder(out) as root:
        store = Store(root)
        store.prepare()
        loaded = load_data(data)
        network = network_of(model, weights, loaded, seed, device)
        if math.prod(loaded.shape) > LARGE_INPUT:
            channels_last(network, loaded)
        drawn = untrained(model, weights)
        now: dict[str, Any] = {
            "model": label_of(model, network),
            "data": loaded.name,
            "weights": None if weights is None else str(weights),
            "method": method,
            "keep": list(keep),
            "round": round,
            "seed": seed,
            "inputs": inputs,
            "test": test,
            "recalibrate": recalibrate and _recalibrates(network, drawn),
        }
        count = threads or fitting_threads(network, loaded)
        with store.lock(), torch_threads(count):
            _try(network, loaded)
            cuts = cutter(
                network,
                method,
                loaded,
                keep=tuple(keep),
                round=round,
                seed=derive(seed, "lots"),
            )
            study = Study(
                network, cuts, loaded, Inputs.drawn(loaded, inputs, test, seed), store, now
            )
            notes = _notes(study, drawn, recalibrate)
            about = _begin(study, now, levels, count)
            rows = study.measure(about["sparsity"], levels, tell)
            intact = intact_of(study)
            found = Sensitivity(
                **now | {"keep": tuple(keep), "inputs": len(study.inputs.data.test)},
                removes=METHODS.get(method).removes,
                classes=loaded.classes,
                accuracy=intact.accuracy,
                loss=intact.loss,
                prunable=sum(p.numel() for p in prunable(network).values()),
                rows=rows,
                whole=cuts.whole,
                max_drop=max_drop,
                named=not isinstance(model, nn.Module),
                trained=not drawn,
                notes=notes,
                conditions=about["conditions"],
            )
            return _finished(study, found)


def _finished(study: Study, found: Sensitivity) -> Sensitivity:
    """With all layers cut at once; writes the figures and ``layers.yaml``."""
    layers, store = found.layers(), study.store
    if layers:
        whole = study.together(layers, found.prunable)
        found = dataclasses.replace(found, together=whole)
    store.write_rows([dataclasses.asdict(row) for row in found.rows], found.to_rows())
    recipe = store.root / "layers.yaml"
    if layers:
        files.write_text(recipe, layers_yaml(found))
    else:
        recipe.unlink(missing_ok=True)
    return found


def layers_yaml(found: Sensitivity) -> str:
    """A recipe that cuts every layer as far as it bears, as YAML; ``thrifty run`` takes it."""
    which = "test" if found.test else "training"
    lines = [
        "# Each layer at the highest sparsity tried that by itself, not retrained, costs at most",
        f"# {100 * found.max_drop:g} of 100 points of accuracy ({found.inputs:,} {which} inputs).",
    ]
    if not found.named:
        lines.append("# The network was given as a module: add model: and what builds it.")
    text: str = yaml.safe_dump(found.recipe(), sort_keys=False)
    return "\n".join(lines) + "\n" + text


@contextlib.contextmanager
def _folder(out: Path | str | None) -> Iterator[Path]:
    """``out``, or a folder that is gone after the block."""
    if out is not None:
        yield Path(out)
        return
    with tempfile.TemporaryDirectory() as root:
        yield Path(root)


def _levels(given: float | Iterable[float]) -> tuple[float, ...]:
    """The sparsities, ascending, each once, without 0."""
    listed: list[Any] = [given] if isinstance(given, Real) else list(given)  # type: ignore[arg-type]
    for value in listed:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise UserError(f"sparsity has {value!r}; it is a share of a layer, such as 0.5")
        check_sparsity(float(value))
    found = tuple(sorted({float(value) for value in listed} - {0.0}))
    if not found:
        raise UserError("give at least one sparsity above 0, such as 0.5")
    return found


def _check(**counts: int) -> None:
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{name} is {value!r}; it is a whole number, 1 or more")


@torch.inference_mode()
def _try(model: nn.Module, data: Data) -> None:
    """Show that the network and the data do not fit before anything is written."""
    device = next(model.parameters()).device
    run(model, data.prepare(data.test.inputs[:2].to(device)), data)


def _recalibrates(model: nn.Module, drawn: bool) -> bool:
    """Whether new statistics can be taken: there are some, and they were not folded away."""
    norms = with_statistics(model)
    return bool(norms) and (drawn or were_measured(norms))


def _begin(
    study: Study, now: Mapping[str, Any], levels: Sequence[float], threads: int
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
    store.remember_data(study.data.digest, study.data.name)
    about: dict[str, Any] = {"study": STUDY, **now, "network": study.digest}
    about["sparsity"] = sorted({*before.get("sparsity", ()), *levels})
    about["conditions"] = _conditions(study, threads, str(device))
    files.write_json(store.about, about)
    return about


def _conditions(study: Study, threads: int, device: str) -> dict[str, Any]:
    found = conditions(threads, device)
    del found["latency"]
    now, data = study.now, study.data
    split, which = (data.test, "test") if now["test"] else (data.train, "training")
    count = len(study.inputs.data.test)
    drawn = f", drawn with seed {now['seed']}" if count < len(split) else ""
    statistics = "none"
    if now["recalibrate"]:
        apart = "other than those measured on" if study.inputs.apart else "some of them measured on"
        taken = min(STATISTICS, len(study.inputs.data.train))
        statistics = f"after every cut, of {taken:,} training inputs, {apart}"
    return found | {
        "data": data.name,
        "measured on": f"{count:,} of {len(split):,} {which} inputs, as they are{drawn}",
        "weights": now["weights"] or "as the network comes",
        "method": now["method"],
        "left whole": ", ".join(now["keep"]) or "nothing",
        "channels stay a multiple of": now["round"],
        "recalibration": statistics,
        "retraining": "none",
    }


def _notes(study: Study, drawn: bool, asked: bool) -> tuple[str, ...]:
    """What to know about the figures."""
    found, now = [], study.now
    if drawn:
        found.append("No weights were given: this network is as it was drawn, untrained.")
    if now["test"]:
        found.append(
            "Measured on test inputs: what is chosen by these figures is fitted to them, and their "
            "accuracy flatters it."
        )
    else:
        found.append(
            "Measured on training inputs, so that the test inputs stay untouched: a network that "
            "was trained on them does better there than on new ones."
        )
    if METHODS.get(now["method"]).gate is not None:
        found.append(
            f"A run of {now['method']} trains with gates before it cuts; here the network is cut "
            "as it is."
        )
    if asked and not now["recalibrate"]:
        found.append(
            "Nothing was recalibrated: the network has no running statistics, or they were folded "
            "into its weights."
        )
    return tuple(found)
