"""Shares, sizes and thresholds as text that rounds no weight and no threshold away."""


def percent(part: int, whole: int) -> str:
    """``part`` of ``whole`` in percent; only all is 100 %, and only none is 0 %.

    Example:
        >>> percent(99_999_999, 100_000_000), percent(1, 100_000_000), percent(1, 3)
        ('> 99.99 %', '< 0.01 %', '33.33 %')
    """
    return share_text(part / whole) if whole else ""


def share_text(share: float) -> str:
    """A share in percent, by the rule of :func:`percent`."""
    if share in (0, 1):
        return "100 %" if share else "0 %"
    if share > 0.9999:
        return "> 99.99 %"
    if share < 0.0001:
        return "< 0.01 %"
    return f"{100 * share:.2f} %"


def amount(nbytes: int) -> str:
    """Bytes with a unit that leaves three or four digits.

    Example:
        >>> amount(1_099_231), amount(512)
        ('1.10 MB', '512 B')
    """
    size, unit = float(nbytes), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{nbytes} B" if unit == "B" else f"{size:#.3g}".rstrip(".") + f" {unit}"


def threshold(t: float) -> str:
    """A threshold as people write it; no two different ones are written alike.

    Example:
        >>> threshold(0.1), threshold(1e-5), threshold(1), threshold(0.10000001)
        ('0.1', '1e-5', '1', '0.10000001')
    """
    return exact(t).replace("e-0", "e-")


def exact(t: float) -> str:
    """A number in as few digits as are needed to read the same number back.

    Example:
        >>> exact(1.0), exact(1e-4), exact(1e-5)
        ('1', '0.0001', '1e-05')
    """
    short = f"{t:g}"
    return short if float(short) == t else repr(float(t))
