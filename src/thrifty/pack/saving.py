"""Writing a network to a file and reading it back, whatever the format."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from thrifty.errors import UserError
from thrifty.files import written
from thrifty.nets.reading import located
from thrifty.pack.contents import Contents, contents
from thrifty.registry import Registry


@dataclass(frozen=True)
class Format:
    """A kind of file."""

    about: str
    """One line for listings."""
    suffix: str
    """What the names of such files end in; of two that fit, the longer is meant."""
    write: Callable[[Contents, Path], None]
    """The contents to a path that is renamed to the right name afterwards."""
    read: Callable[[Path], nn.Module]
    """The network, built from the file alone."""


FORMATS: Registry[Format] = Registry("format", "thrifty.pack.formats", "thrifty.formats")


def save(
    model: nn.Module,
    path: str | Path,
    masks: Mapping[str, Tensor] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Write ``model`` to ``path``, whole or not at all, in the format that the suffix names.

    A network that :func:`thrifty.shrink` made has really smaller tensors in the file, and the
    header says what they do not tell, such as heads.  :func:`load` builds the network that the
    header names and makes its layers as small; no code is in the file.  To use it where thrifty
    is not, export what :func:`load` gives, for instance with ``torch.onnx.export``.

    Args:
        model: parameters and buffers of any dtype, also views of a common buffer.  A tensor
            with several names is written once.  ``model`` is not touched.
        path: missing folders are made.
        masks: bool, by parameter name, True where a weight is kept; the others are written as 0.
        metadata: strings to put into the header, under any key but ``thrifty``.

    Returns:
        Bytes of the file as it lies on disk.

    Raises:
        UserError: the suffix is unknown, a mask does not fit, or a weight is NaN or infinite.
    """
    path = located(path)
    kind = _format(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file in it")
    held = contents(model, masks or {}, metadata or {}, str(path))
    with written(path) as temporary:
        kind.write(held, temporary)
    return path.stat().st_size


def load(path: str | Path) -> nn.Module:
    """The network in the file ``path``, every tensor equal to the one saved, bit for bit.

    Raises:
        UserError: there is no such file, it is damaged, or it does not say of which network it
            holds the weights.
    """
    path = located(path)
    return _format(path).read(path)


def _format(path: Path) -> Format:
    formats = [FORMATS.get(name) for name in FORMATS.names()]
    fitting = [f for f in formats if path.name.lower().endswith(f.suffix)]
    if not fitting:
        known = ", ".join(sorted(f.suffix for f in formats))
        raise UserError(f"{path} has no suffix that names a format; it may end in {known}")
    return max(fitting, key=lambda f: len(f.suffix))
