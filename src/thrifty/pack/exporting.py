"""A network written for other programs: any format by name, with what was checked on the way.

:func:`thrifty.pack.save` goes by the suffix of one file.  Here the format is named, may be a
folder, and may need an example of the inputs, for the operations are written too.  A file or
folder is whole or absent.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from thrifty.errors import UserError
from thrifty.files import written
from thrifty.nets.reading import located
from thrifty.pack.contents import contents
from thrifty.pack.saving import FORMATS, Format
from thrifty.shown import Shown


@dataclass(frozen=True, kw_only=True)
class Exported(Shown):
    """What was written."""

    path: str
    to: str
    """Name of the format."""
    bytes: int
    """Of the file, or of all files of the folder."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the format counted and checked, by name."""


def export(
    model: nn.Module,
    path: str | Path,
    to: str,
    *,
    example: Tensor | None = None,
    masks: Mapping[str, Tensor] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Exported:
    """Write ``model`` to ``path`` in the format ``to``, whole or not at all.

    Args:
        model: is not touched.
        path: a file with the format's suffix, or a folder that is not there yet or is empty.
        to: ``"onnx"``, ``"safetensors"``, ``"torch_sparse"``, ``"hf"`` or another format.
        example: inputs as the network takes them, (batch, ...), for formats that hold
            operations; drawn at random where the network knows its shape.
        masks: bool, by parameter name, True where a weight is kept; the others are written as 0.
        metadata: strings for the header or the model card, under any key but ``thrifty``.

    Raises:
        UnknownName: there is no such format.
        UserError: the path does not suit the format, what is written does not answer as the
            network does, or what :func:`thrifty.save` says of masks and weights.
        MissingExtra: the format needs a package that is not installed.
    """
    kind, path = FORMATS.get(to), located(path)
    check_path(path, to)
    held = contents(model, masks or {}, metadata or {}, str(path), example)
    if kind.suffix:
        with written(path) as temporary:
            facts = kind.write(held, temporary)
        size = path.stat().st_size
    else:
        with _written_folder(path) as temporary:
            facts = kind.write(held, temporary)
        size = sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return Exported(path=str(path), to=to, bytes=size, facts=dict(facts or {}))


def check_path(path: Path, to: str) -> None:
    """Whether the format ``to`` can be written to ``path``, told before anything is computed.

    Raises:
        UnknownName: there is no such format.
        UserError: the suffix is another, or something else lies there.
    """
    kind = FORMATS.get(to)
    if not kind.suffix:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(
                f"{path} exists, and {to} writes a folder of its own; name one that is not there "
                f"yet, or an empty one"
            )
        return
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file in it")
    ending = _ending(kind)
    if not path.name.lower().endswith(ending):
        raise UserError(f"{path} does not end in {ending}, as files of {to} do; name it so")


def _ending(kind: Format) -> str:
    """The last part of a suffix: a name that is given says less than one that must say all."""
    return "." + kind.suffix.rpartition(".")[2]


@contextmanager
def _written_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path``; becomes ``path`` if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        temporary.replace(path)  # an empty folder may be replaced, a full one is refused
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
