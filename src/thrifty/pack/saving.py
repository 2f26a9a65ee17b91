"""Writing a network to a file and reading it back, whatever the format."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from thrifty.errors import UserError
from thrifty.files import written
from thrifty.nets.reading import located
from thrifty.pack.contents import CONSTANT, Contents, contents
from thrifty.registry import Registry


@dataclass(frozen=True)
class Format:
    """A kind of file."""

    about: str
    """One line for listings."""
    suffix: str
    """What the names of such files end in; of two that fit, the longer is meant.  Empty for a
    format that is a folder, which only :func:`thrifty.pack.exporting.export` writes."""
    write: Callable[[Contents, Path], Mapping[str, Any] | None]
    """The contents to a path that is renamed to the right name afterwards; gives back what was
    checked or counted, if anything was."""
    read: Callable[[Path], nn.Module] | None
    """The network, built from the file alone; None for a format that is only written."""
    instead: str = ""
    """What else reads such a file, where ``read`` is None."""
    packs: bool = False
    """Whether weights may be stored in fewer bits, and a program beside them."""


FORMATS: Registry[Format] = Registry("format", "thrifty.pack.formats", "thrifty.formats")


def save(
    model: nn.Module,
    path: str | Path,
    masks: Mapping[str, Tensor] | None = None,
    metadata: Mapping[str, str] | None = None,
    *,
    values: str = "f32",
    program: Mapping[str, Any] | None = None,
    constants: Mapping[str, Tensor] | None = None,
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
        metadata: strings to put into the header, under any key but ``thrifty`` and ``program``.
        values: what weights of two and more dimensions are stored as in a ``.thrifty`` file:
            ``f32`` as they are, bit for bit; ``bf16``, ``f16``, or ``int8`` with a scale for each
            output channel, which change them.  :func:`load` gives their dtype back.
        program: the lowered graph, for the engine, in a ``.thrifty`` file; JSON.
        constants: tensors of the program that are none of the network, stored as they are;
            names begin with ``program:``.

    Returns:
        Bytes of the file as it lies on disk.

    Raises:
        UserError: the suffix is unknown, a mask does not fit, a weight is NaN or infinite or too
            large for ``values``, or the format stores tensors only as they are.
    """
    path = located(path)
    kind = _format(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file in it")
    held = contents(model, masks or {}, metadata or {}, str(path))
    held = held._replace(values=values, program=program, constants=_constants(constants or {}))
    if not kind.packs and (values != "f32" or program is not None or constants):
        packing = ", ".join(f.suffix for f in map(FORMATS.get, FORMATS.names()) if f.packs)
        raise UserError(
            f"{path} would hold tensors as they are and nothing else; values={values!r} and a "
            f"program are for {packing}"
        )
    with written(path) as temporary:
        kind.write(held, temporary)
    return path.stat().st_size


def load(path: str | Path) -> nn.Module:
    """The network in the file ``path``, every tensor equal to the one saved, bit for bit.

    Raises:
        UserError: there is no such file, it is damaged, it does not say of which network it
            holds the weights, or its format is only written.
    """
    path = located(path)
    kind = _format(path)
    if kind.read is None:
        raise UserError(
            f"{path}: files {kind.suffix} are written for other programs and not read back; load "
            f"the file it was made from.  {kind.instead}"
        )
    return kind.read(path)


def _constants(constants: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for name in constants:
        if not name.startswith(CONSTANT):
            raise UserError(f"a constant is called {name!r}; its name begins with {CONSTANT!r}")
    return {name: x.detach().cpu().contiguous() for name, x in constants.items()}


def _format(path: Path) -> Format:
    formats = [f for name in FORMATS.names() if (f := FORMATS.get(name)).suffix]
    fitting = [f for f in formats if path.name.lower().endswith(f.suffix)]
    if not fitting:
        known = ", ".join(sorted(f.suffix for f in formats))
        raise UserError(f"{path} has no suffix that names a format; it may end in {known}")
    return max(fitting, key=lambda f: len(f.suffix))
