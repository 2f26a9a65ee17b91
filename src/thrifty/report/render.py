"""Charts as SVG and PNG, without a browser and without a network."""

import re
import zlib
from functools import cache
from typing import Any

from thrifty.report.extra import altair, vl_convert


def svg(chart: Any) -> str:
    """``chart`` as SVG, its words as text.

    Raises:
        MissingExtra: altair or vl-convert-python is not installed.
    """
    text: str = vl_convert().vegalite_to_svg(chart.to_dict(), vl_version=_version())
    return _with_own_ids(text)


def png(chart: Any, scale: float = 2) -> bytes:
    """``chart`` as PNG, ``scale`` pixels to one of the SVG.

    Raises:
        MissingExtra: altair or vl-convert-python is not installed.
    """
    content: bytes = vl_convert().vegalite_to_png(
        chart.to_dict(), vl_version=_version(), scale=scale
    )
    return content


@cache
def vega_script() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script without imports, about 0.9 MB.

    It defines ``window.vegaEmbed``, and it can stand inside a ``<script>`` element.

    Raises:
        MissingExtra: altair or vl-convert-python is not installed.
    """
    script: str = vl_convert().javascript_bundle(vl_version=_version())
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _with_own_ids(text: str) -> str:
    """Name the clip paths after the picture.

    Vega numbers them in the order a process draws: equal charts would differ from run to run, and
    two charts on one page could clip each other.
    """
    numbers = dict.fromkeys(re.findall(r'id="clip(\d+)"', text))
    places = {number: str(place) for place, number in enumerate(numbers)}
    plain = _CLIP.sub(lambda m: f"{m[1]}{places.get(m[2], m[2])}", text)
    name = f"{zlib.crc32(plain.encode()):08x}"
    return _CLIP.sub(lambda m: f"{m[1]}-{name}-{m[2]}", plain)


_CLIP = re.compile(r'((?:id="|url\(#)clip)(\d+)')


def _version() -> str:
    """The Vega-Lite that altair writes for, as vl_convert names it: ``6.1``."""
    return ".".join(altair().SCHEMA_VERSION.lstrip("v").split(".")[:2])
