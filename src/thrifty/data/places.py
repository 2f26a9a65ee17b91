"""The location of a spec as a folder or file that is there, or an error that says what to write."""

from pathlib import Path

from thrifty.errors import UserError


def folder_at(name: str, location: str) -> Path:
    """The folder of ``name:DIR``."""
    path = _given(name, location, "DIR")
    if not path.exists():
        raise UserError(
            f"{name}:{location}: there is no folder {str(path)!r} (seen from {_here()})"
        )
    if not path.is_dir():
        raise UserError(f"{name}:{location}: {str(path)!r} is a file; give the folder, {name}:DIR")
    return path


def file_at(name: str, location: str) -> Path:
    """The file of ``name:FILE``."""
    path = _given(name, location, "FILE")
    if not path.exists():
        raise UserError(f"{name}:{location}: there is no file {str(path)!r} (seen from {_here()})")
    if not path.is_file():
        raise UserError(f"{name}:{location}: {str(path)!r} is a folder; give the file, {name}:FILE")
    return path


def first_of(folder: Path, names: list[str]) -> Path:
    """The first of ``names`` that is in ``folder``; the error lists them all."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder} has none of {', '.join(names)}; it has {listing(folder)}")


def listing(folder: Path) -> str:
    """The first few names in a folder, for messages."""
    names = sorted(p.name for p in folder.iterdir())
    return ", ".join(names[:8]) + (f", ... ({len(names)})" if len(names) > 8 else "") or "nothing"


def reader_of(location: str) -> str:
    """The spec that would read an existing path, ``""`` if nothing is there."""
    path = Path(location).expanduser()
    try:
        if location and path.is_file():
            return f"{'npz' if path.suffix == '.npz' else 'parquet'}:{location}"
        if not location or not path.is_dir():
            return ""
    except (OSError, ValueError):  # a name that no path can have
        return ""
    if any(path.glob("*.parquet")) or any(path.glob("data/*.parquet")):
        return f"parquet:{location}"
    if any(path.glob("*idx?-ubyte*")):
        kind = "fashion_mnist" if "fashion" in path.name.lower() else "mnist"
        return f"{kind}:{location}"
    return f"folder:{location}"


def _given(name: str, location: str, what: str) -> Path:
    if not location:
        raise UserError(f"data set {name!r} needs a place to read from; write {name}:{what}")
    return Path(location).expanduser()


def _here() -> Path:
    return Path.cwd()
