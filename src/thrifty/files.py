"""Files that are whole or absent: written under a temporary name, synced, then renamed.

A reader, or a run that was killed and started again, never sees half a file.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; renamed to ``path`` if the block succeeds.

    Raises:
        OSError: what the file system says (no space, no permission), with ``path`` as the file
            name; the temporary is removed.
    """
    path = Path(path)
    with _told_of(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
    temporary = Path(name)
    try:
        with _told_of(path, temporary):
            yield temporary
            _settle(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _told_of(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Errors name the file that was meant, and not the temporary, which nobody knows of."""
    try:
        yield
    except OSError as error:
        own = temporary is None or error.filename in (None, str(temporary))
        if not own or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _settle(temporary: Path, path: Path) -> None:
    os.chmod(temporary, 0o666 & ~_umask())
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all."""
    with written(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write ``content`` to ``path`` as UTF-8, whole or not at all."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits, read in pieces."""
    sha = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(1 << 20):
            sha.update(piece)
    return sha.hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


Writer = Callable[[Path], None]
