"""Charts as SVG and PNG, without a browser and without a network."""

import re
import zlib
from collections.abc import Collection, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from thrifty.files import write_bytes, write_text
from thrifty.report.extra import altair, vl_convert


class Drawn:
    """A chart whose specification and picture are made once, for a page and for files.

    Altair checks every part as it is put in, so the whole is not checked again.
    """

    def __init__(self, chart: Any):
        self._chart = chart

    @cached_property
    def spec(self) -> dict[str, Any]:
        """In Vega-Lite."""
        return dict(self._chart.to_dict(validate=False))

    @cached_property
    def svg(self) -> str:
        """As SVG, its words as text.

        Raises:
            MissingExtra: vl-convert-python is not installed.
        """
        text: str = vl_convert().vegalite_to_svg(self.spec, vl_version=_version())
        return _with_own_ids(text)

    def png(self, scale: float = 2) -> bytes:
        """As PNG, ``scale`` pixels to one of the SVG.

        Raises:
            MissingExtra: vl-convert-python is not installed.
        """
        draw = vl_convert().vegalite_to_png
        content: bytes = draw(self.spec, vl_version=_version(), scale=scale)
        return content


def svg(chart: Any) -> str:
    """A chart of Altair as SVG, its words as text.

    Raises:
        MissingExtra: altair or vl-convert-python is not installed.
    """
    return Drawn(chart).svg


def write_pictures(
    charts: Mapping[str, Drawn], folder: Path, formats: Collection[str] = ("svg", "png")
) -> list[Path]:
    """Write each chart to files of its name, each whole or absent; the files that were written."""
    found = []
    for name, chart in charts.items():
        if "svg" in formats:
            found.append(folder / f"{name}.svg")
            write_text(found[-1], chart.svg)
        if "png" in formats:
            found.append(folder / f"{name}.png")
            write_bytes(found[-1], chart.png())
    return found


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
