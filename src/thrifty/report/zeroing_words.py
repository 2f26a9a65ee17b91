"""What zeroing small weights costs, in sentences: from the rows alone, whatever they hold."""

from collections.abc import Sequence

from thrifty.census.words import percent
from thrifty.lab.naming import titled
from thrifty.lab.zeroed import SERIES, Series, Zeroed, Zeroing
from thrifty.report.headline import MAX_DROP

FRESH = "with fresh batch norm statistics"


def headline(study: Zeroing) -> list[str]:
    """The findings of a study, the most important first, then its notes."""
    found = [_intact(study), _resolution(study)]
    if not study.cut:
        found.append("No threshold above 0 was measured.")
    elif all(study.count(row) == study.count(study.intact) for row in study.cut):
        found.append(_nothing(study))
    else:
        useful = [s for s in study.series if not guesses(study, study.intact, s)]
        found += [_safe(study, series) for series in useful]
        found += [_halved(study, useful), *_lost(study, useful)]
    return [sentence for sentence in found if sentence] + list(study.notes)


def guesses(study: Zeroing, row: Zeroed, series: Series) -> bool:
    """Whether a row's accuracy cannot be told from guessing, or is below it."""
    found = row.outcome(series)
    return found is None or study.interval(found.accuracy)[0] <= study.chance


def harmless(study: Zeroing, series: Series) -> list[Zeroed]:
    """The rows from the smallest threshold up to the first that loses more than half a point."""
    found = []
    for row in study.cut:
        if study.drop(row, series) > MAX_DROP + 1e-12:
            break
        found.append(row)
    return found


def moved(before: float, after: float) -> str:
    """How an accuracy changed, with as many digits as it takes to tell.

    Example:
        >>> moved(0.875, 0.412), moved(0.5, 0.5), moved(0.8, 0.8001)
        ('falls from 87.5 to 41.2 %', 'stays at 50.0 %', 'rises from 80.00 to 80.01 %')
    """
    if before == after:
        return f"stays at {100 * before:.1f} %"
    return f"{'falls' if after < before else 'rises'} from {_ends(before, after)} %"


def _ends(low: float, high: float) -> str:
    """Two shares in percent, with as many digits as it takes to tell them apart."""
    same = f"{100 * low:.1f}" == f"{100 * high:.1f}"
    return " to ".join(f"{100 * share:.{2 if same else 1}f}" for share in (low, high))


def _intact(study: Zeroing) -> str:
    row, n = study.intact, study.inputs
    low, high = study.interval(row.plain.accuracy)
    text = (
        f"The intact {titled(study.model, study.data)} is right on "
        f"{100 * row.plain.accuracy:.1f} % of {n:,} test inputs (95 % interval "
        f"{_ends(low, high)} %)"
    )
    if row.recalibrated is not None:
        text += f", {FRESH} on {100 * row.recalibrated.accuracy:.1f} %"
    if all(guesses(study, row, series) for series in study.series):
        text += f", which cannot be told from guessing ({100 * study.chance:.3g} %)"
    zeros, of = study.count(row)
    already = f"; {percent(zeros, of)} of its {_units(study)} are zero already" if zeros else ""
    return text + already + "."


def _resolution(study: Zeroing) -> str:
    if study.inputs * MAX_DROP >= 1:
        return ""
    return (
        f"One test input is {100 / study.inputs:.3g} points of accuracy, so half a point cannot be "
        "told here."
    )


def _nothing(study: Zeroing) -> str:
    largest = study.named(study.rows[-1].threshold)
    other = " but those that are zero already" if study.count(study.intact)[0] else ""
    which = f"{_units(study)}{_outside(study)}"
    return f"None of the {which} lies under {largest}{other}: nothing was zeroed."


def _safe(study: Zeroing, series: Series) -> str:
    """How much can be zeroed for half a point."""
    begin = "" if series == "as it is" else f"{FRESH}, "
    rows = harmless(study, series)
    best = rows[-1] if rows and _more(study, rows[-1]) else None
    if best is None:
        first = next(row for row in study.cut if _more(study, row))
        text = (
            f"already the smallest threshold that zeroes any, {study.named(first.threshold)}, "
            f"costs more than half a point: it leaves {_share(study, first)} zero, and accuracy "
            f"{_change(study, first, series)}"
        )
    elif len(rows) == len(study.cut):
        text = (
            f"even the largest threshold, {study.named(best.threshold)}, which leaves "
            f"{_share(study, best)} zero, costs no more than half a point: accuracy "
            f"{_change(study, best, series)}"
        )
    else:
        text = (
            f"up to {_share(study, best)}, those under {study.named(best.threshold)}"
            f"{_outside(study)}, can be zeroed for no more than half a point: accuracy "
            f"{_change(study, best, series)}"
        )
    return _capital(begin + text) + "."


def _halved(study: Zeroing, useful: Sequence[Series]) -> str:
    """The first threshold that takes half of what the network is better than guessing."""
    if SERIES[0] not in useful:
        return ""
    before = study.intact.plain.accuracy
    hurt = (row for row in study.cut if row.plain.accuracy < (before + study.chance) / 2)
    row = next(hurt, study.rows[-1])
    if row in harmless(study, SERIES[0]) or not _more(study, row):
        return ""
    t = study.named(row.threshold)
    text = f"{_share(study, row)} lie under {t}; without them"
    if study.keep:
        text = f"With {_share(study, row)} zero, those under {t}{_outside(study)},"
    text += f" accuracy {moved(before, row.plain.accuracy)}"
    if row.recalibrated is not None and study.intact.recalibrated is not None:
        fresh = moved(study.intact.recalibrated.accuracy, row.recalibrated.accuracy)
        verb, _, rest = fresh.partition(" ")
        text += f", {FRESH} {rest}" if f" {verb} " in text else f", {FRESH} it {fresh}"
    return _capital(text) + "."


def _lost(study: Zeroing, useful: Sequence[Series]) -> list[str]:
    """From where on the network only guesses, if it does."""
    found = {series: _dead(study, series) for series in useful}
    alike = len(found) > 1 and len({row and row.threshold for row in found.values()}) == 1
    return [
        _capital(
            f"{'' if series == SERIES[0] else FRESH + ', '}from {study.named(row.threshold)} on, "
            f"with {_share(study, row)} zero, the network cannot be told from guessing "
            f"({100 * study.chance:.3g} %){', recalibrated or not' if alike else ''}."
        )
        for series, row in found.items()
        if row is not None and not (alike and series == SERIES[1])
    ]


def _dead(study: Zeroing, series: Series) -> Zeroed | None:
    """The row from which on every accuracy is that of guessing."""
    dead: Zeroed | None = None
    for row in reversed(study.cut):
        if not guesses(study, row, series):
            break
        dead = row
    return dead


def _change(study: Zeroing, row: Zeroed, series: Series) -> str:
    before, after = study.intact.outcome(series), row.outcome(series)
    if before is None or after is None:
        return "was not measured"
    points = f"{-100 * study.drop(row, series) + 0.0:+.2f}"
    error = f"{100 * study.drop_error(row, series):.2f}"
    return f"{moved(before.accuracy, after.accuracy)} ({points} +- {error} points)"


def _more(study: Zeroing, row: Zeroed) -> bool:
    """Whether a row has more zeros than the intact network."""
    return study.count(row)[0] > study.count(study.intact)[0]


def _share(study: Zeroing, row: Zeroed) -> str:
    zeros, of = study.count(row)
    return f"all {_units(study)}" if zeros == of else f"{percent(zeros, of)} of the {_units(study)}"


def _outside(study: Zeroing) -> str:
    return " outside the layers left whole" if study.keep else ""


def _units(study: Zeroing) -> str:
    return "parameters" if study.everything else "weights"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
