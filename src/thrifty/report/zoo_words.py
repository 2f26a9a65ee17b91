"""What became of a zoo and its twins, in sentences: from the levels alone."""

import math
from collections.abc import Sequence

import numpy as np

from thrifty.report.zoo_charts.layers import short
from thrifty.report.zoo_marks import counted, original_spread, spread_text
from thrifty.zoo.comparing import Comparison, nearest
from thrifty.zoo.levels import Level, standing
from thrifty.zoo.statistics import curve, near_chance, quartiles

CHEAP = 0.01
"""Accuracy that the sparsest cheap twins may lose in the median."""
NOTABLE = 0.01
"""A share of collapsed twins that is worth a sentence."""


def zoo_sentences(study: Comparison) -> list[str]:
    """The zoo by itself: how accurate, how alike, how many did not train."""
    return [said for said in (_models(study), _best(study), _failed(study), _uneven(study)) if said]


def twin_sentences(study: Comparison) -> list[str]:
    """The twins beside their originals, the most important first."""
    found = [*_against(study), *_chosen(study), *_cheap(study)]
    found += [*_agreement(study), *_correlation(study), *_collapsed(study), *_layers(study)]
    return [*found, *_unfinished(study)]


def _models(study: Comparison) -> str:
    spread = original_spread(study)
    if not spread.count:
        return f"Of {counted(study)} none has a test accuracy."
    return (
        f"{counted(study).capitalize()} reach a median test accuracy of "
        f"{100 * spread.median:.2f} % (quartiles {100 * spread.q1:.2f} and {100 * spread.q3:.2f}, "
        f"mean {100 * spread.mean:.2f} +- {100 * spread.std:.2f})."
    )


def _best(study: Comparison) -> str:
    values = standing(study.last, "test_accuracy")
    if np.isfinite(values).sum() < 2:
        return ""
    best, worst = int(np.nanargmax(values)), int(np.nanargmin(values))
    models = study.last["model"]
    return (
        f"The best is model {models[best]} with {100 * values[best]:.2f} %, the worst model "
        f"{models[worst]} with {100 * values[worst]:.2f} %."
    )


def _failed(study: Comparison) -> str:
    values = standing(study.last, "test_accuracy")
    chance = int((values <= near_chance(study.classes)).sum())
    diverged = int((~np.isfinite(values)).sum())
    parts = []
    if diverged:
        parts.append(f"{diverged:,} diverged")
    if chance:
        parts.append(f"{chance:,} {'are' if chance > 1 else 'is'} hardly better than guessing")
    return f"Of {len(values):,}, {' and '.join(parts)}." if parts else ""


def _uneven(study: Comparison) -> str:
    epochs = study.last["epoch"]
    behind = int((epochs < epochs.max()).sum())
    if not behind:
        return ""
    return f"{behind:,} of {len(epochs):,} models are not yet at epoch {int(epochs.max())}."


def _against(study: Comparison) -> list[str]:
    """Which of two methods is ahead up to which sparsity."""
    found = []
    free = [m for m in study.methods if not any(level.chosen for level in study.path(m))]
    for second in free:
        for first in (m for m in study.methods if m not in free):
            said = ahead(study, first, second)
            found += [said] if said else []
    return found


def ahead(study: Comparison, first: str, second: str) -> str:
    """Up to which sparsity the median of one method is above that of another.

    Empty where they have no sparsity in common.
    """
    (x1, y1), (x2, y2) = curve(*study.medians(first)), curve(*study.medians(second))
    if not x1.size or not x2.size or max(x1[0], x2[0]) > min(x1[-1], x2[-1]):
        return ""
    start, end = max(x1[0], x2[0]), min(x1[-1], x2[-1])
    at = study.overtaking(first, second)
    last = (
        f"at {100 * end:.1f} % the medians are {100 * np.interp(end, x1, y1):.2f} % ({first}) and "
        f"{100 * np.interp(end, x2, y2):.2f} % ({second})"
    )
    if at is None:
        return (
            f"{_first_up(second)} does not overtake {first}, which is ahead at "
            f"{100 * end:.1f} %, the highest sparsity that both reach; {last}."
        )
    if at <= start + 1e-9:
        return (
            f"{_first_up(second)} is ahead of {first} at every sparsity that both reach, "
            f"{100 * start:.1f} to {100 * end:.1f} %; {last}."
        )
    return (
        f"{_first_up(second)} overtakes {first} at a sparsity of {100 * at:.1f} %, and stays ahead "
        f"up to {100 * end:.1f} %, the most that both reach; {last}."
    )


def _chosen(study: Comparison) -> list[str]:
    """Where the methods that choose their sparsity end."""
    return [
        f"After epoch {level.epoch}, {level.method} leaves {spread_text(quartiles(level.sparsity))}"
        f" % of the weights zero, median and quartiles, at an accuracy of "
        f"{spread_text(quartiles(level.accuracy), 2)} %: "
        f"{_points(quartiles(level.drop).median)}."
        for level in study.finals
        if not level.chosen and quartiles(level.sparsity).count and quartiles(level.drop).count
    ]


def _cheap(study: Comparison) -> list[str]:
    """The largest sparsity that a method bears in the median."""
    found = []
    for method in study.methods:
        good = [
            level
            for level in study.path(method)
            if quartiles(level.drop).median <= CHEAP and quartiles(level.sparsity).median > 0
        ]
        if good:
            best = max(good, key=lambda level: quartiles(level.sparsity).median)
            found.append(f"{method} {100 * quartiles(best.sparsity).median:.1f} %")
        else:
            found.append(f"{method} none")
    if not found:
        return []
    return [f"The sparsest level that loses at most a point in the median: {', '.join(found)}."]


def _agreement(study: Comparison) -> list[str]:
    found = []
    for level in _shown(study):
        agreed = quartiles(level.agreement)
        low, high = (quartiles(end) for end in level.range)
        if not agreed.count or not low.count:
            continue
        kappa = quartiles(level.kappa)
        beyond = f"; Cohen's kappa is {kappa.median:.3f}" if kappa.count else ""
        found.append(
            f"{_first_up(_place(level))}, twins answer as their originals on "
            f"{100 * agreed.median:.1f} % of the test inputs; their accuracies alone allow "
            f"{100 * low.median:.1f} to {100 * high.median:.1f} %{beyond}."
        )
    return found


def _correlation(study: Comparison) -> list[str]:
    parts = [
        f"{level.figures['pearson']:.2f} and {level.figures['spearman']:.2f} {_place(level)}"
        for level in _shown(study)
        if math.isfinite(level.figures["pearson"])
    ]
    if not parts:
        return []
    return [f"Accuracies of originals and twins correlate, Pearson and Spearman: {_and(parts)}."]


def _collapsed(study: Comparison) -> list[str]:
    bad = [level for level in study.finals if level.figures["collapsed"] > NOTABLE]
    if not bad:
        return [f"At no level have more than {100 * NOTABLE:g} % of the twins collapsed."]
    parts = [f"{100 * level.figures['collapsed']:.1f} % {_place(level)}" for level in bad]
    chance = int((standing(study.last, "test_accuracy") <= near_chance(study.classes)).sum())
    before = f" ({chance:,} originals are as bad as guessing already)" if chance else ""
    return [f"Collapsed twins{before}: {_and(parts)}; elsewhere at most {100 * NOTABLE:g} %."]


def _layers(study: Comparison) -> list[str]:
    """The layer in which two methods differ most at about one sparsity."""
    levels = [level for level in nearest(study) if level.layers]
    if len(levels) < 2:
        return []
    one, other = levels[0], levels[1]
    apart = {
        name: abs(_mean(one, name) - _mean(other, name))
        for name in one.layers
        if name in other.layers and math.isfinite(_mean(one, name) - _mean(other, name))
    }
    if not apart:
        return []
    name = max(apart, key=lambda layer: apart[layer])
    return [
        f"The methods differ most in {short(name)}: {100 * _mean(one, name):.1f} % of its weights "
        f"are zero {_place(one)}, {100 * _mean(other, name):.1f} % {_place(other)}."
    ]


def _unfinished(study: Comparison) -> list[str]:
    models = len(study.last["model"])
    few = [level for level in study.finals if len(level.models) < models]
    if not few:
        return []
    parts = [f"{len(level.models):,} of {models:,} {_place(level)}" for level in few[:4]]
    more = f" and at {len(few) - 4} more levels" if few[4:] else ""
    return [f"Not every model has a twin at its level's last epoch: {', '.join(parts)}{more}."]


def _shown(study: Comparison) -> list[Level]:
    """The levels that sentences name: of about one sparsity, or each method's last."""
    near = nearest(study)
    if near:
        return near
    return [study.path(method)[-1] for method in study.methods]


def _place(level: Level) -> str:
    spread = quartiles(level.sparsity)
    if not spread.count:
        return f"with {level.method}, {level.name}"
    return f"with {level.method} at {100 * spread.median:.1f} %"


def _mean(level: Level, layer: str) -> float:
    return quartiles(level.layers[layer]).mean


def _points(drop: float) -> str:
    return f"{100 * abs(drop):.2f} points {'lost' if drop >= 0 else 'gained'} in the median"


def _first_up(text: str) -> str:
    return text[:1].upper() + text[1:]


def _and(parts: Sequence[str]) -> str:
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"
