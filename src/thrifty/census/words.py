"""Shares, sizes and thresholds as text that does not round a few weights away."""


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
    """A threshold as people write it.

    Example:
        >>> threshold(0.1), threshold(1e-5), threshold(1)
        ('0.1', '1e-5', '1')
    """
    return f"{t:g}" if 0.0001 <= t < 1e4 or not t else f"{t:.3g}".replace("e-0", "e-")
