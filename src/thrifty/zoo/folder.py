"""Where a zoo lies on disk: every file name in one place, and the mark of the folder.

::

    ZOO/zoo.json                            the mark: format, kind, digests, networks
    ZOO/recipe.yaml                         the recipe, resolved
    ZOO/shards/STACK-EPOCH.safetensors      the models of a stack along a leading axis
    ZOO/state/STACK-EPOCH.safetensors       what training goes on with, until it is done
    ZOO/rows/STACK-EPOCH.json               rows of the index; the segment is done when it is there
    ZOO/predictions/STACK-EPOCH.npy         uint8 (models, test inputs)
    ZOO/index.parquet                       all rows: a cache, made anew from rows/
    ZOO/lock, ZOO/lock.workers              held by who writes; readers need none

A stack's name and an epoch make the name of a segment, and nothing else is ever opened, so that
an index from anywhere cannot point out of its folder.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from thrifty import files
from thrifty.errors import UserError

FORMAT = 1
KINDS = ("models", "twins")
MOST_MARK = 1 << 24
"""Bytes of the longest zoo.json."""

_STACK = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MOST_EPOCH = 10**6


def segment(stack: str, epoch: int) -> str:
    """The name that the files of a stack at an epoch share, such as ``0003-0050``.

    Raises:
        UserError: the name would not be that of a plain file, or the epoch is no epoch.
    """
    if not isinstance(stack, str) or not _STACK.fullmatch(stack):
        raise UserError(
            f"a stack is called {stack!r}; its name is made of letters, digits, '.', '_' and '-', "
            f"100 at most, and begins with a letter or digit"
        )
    if isinstance(epoch, bool) or not isinstance(epoch, int) or not 0 <= epoch <= MOST_EPOCH:
        raise UserError(f"the epoch of stack {stack} is {epoch!r}; it is a whole number from 0")
    return f"{stack}-{epoch:04d}"


class Folder:
    """A zoo's folder; making one touches nothing on disk."""

    def __init__(self, root: Path | str):
        self.root = Path(root)
        self.mark = self.root / "zoo.json"
        self.recipe = self.root / "recipe.yaml"
        self.index = self.root / "index.parquet"
        self.shards = self.root / "shards"
        self.rows_folder = self.root / "rows"

    def shard(self, stack: str, epoch: int) -> Path:
        """The tensors of a segment."""
        return self.shards / f"{segment(stack, epoch)}.safetensors"

    def rows(self, stack: str, epoch: int) -> Path:
        """The rows of a segment, written last: the segment is done when this file is there."""
        return self.rows_folder / f"{segment(stack, epoch)}.json"

    def predictions(self, stack: str, epoch: int) -> Path:
        """The class that each model of a segment gives each test input."""
        return self.root / "predictions" / f"{segment(stack, epoch)}.npy"

    def state(self, name: str) -> Path:
        """What training goes on with: weights and what the optimizer carries.

        Args:
            name: of a segment.
        """
        segment(name, 0)
        return self.root / "state" / f"{name}.safetensors"

    def done(self, stack: str, epoch: int) -> bool:
        """Whether a segment is whole."""
        return self.rows(stack, epoch).is_file()

    def prepare(self, mark: Mapping[str, Any], recipe: str | None = None) -> None:
        """Make the folder and its mark, or find it made by the same ``mark``.

        Args:
            mark: what decides the zoo: ``kind`` (models or twins), ``recipe`` and ``data``
                (digests), ``networks`` (list of spec, shape, classes), and ``parent`` (path and
                digest) of twins.  ``format`` is added.
            recipe: the text of recipe.yaml.

        Raises:
            UserError: the folder holds something else, or another zoo, or cannot be written.
        """
        if mark.get("kind") not in KINDS:
            raise UserError(
                f"a zoo of kind {mark.get('kind')!r}; a kind is one of {', '.join(KINDS)}"
            )
        now = json.loads(json.dumps({"format": FORMAT} | dict(mark)))
        self._refuse_strange()
        if self.mark.is_file():
            self._refuse_another(now)
            return
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if recipe is not None:
                files.write_text(self.recipe, recipe)
            files.write_json(self.mark, now)
        except OSError as error:
            raise UserError(
                f"{self.root} cannot be written: {error.strerror}; give --out another folder"
            ) from None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder alone for writing; reading needs no lock.

        Raises:
            UserError: another process writes to it, or it is the folder of something else.
        """
        from thrifty.lab.store import Store

        self._refuse_strange()
        self.root.mkdir(parents=True, exist_ok=True)
        with Store(self.root).lock():
            yield

    @contextmanager
    def working(self) -> Iterator[None]:
        """Show, for the time of a segment, that a worker writes to the folder."""
        from thrifty.lab.store import Store

        with Store(self.root).working():
            yield

    def about(self) -> dict[str, Any]:
        """What the mark says.

        Raises:
            UserError: the folder is no zoo, or its mark is damaged or of another format.
        """
        if not self.mark.is_file():
            what = "there is no such folder" if not self.root.exists() else "it has no zoo.json"
            raise UserError(
                f"{self.root} is no zoo: {what}; make one with thrifty zoo train or thrifty zoo "
                f"import"
            )
        about = read_object(self.mark, MOST_MARK)
        if about.get("format") != FORMAT:
            raise UserError(
                f"{self.mark} is of format {about.get('format')!r}, and this thrifty reads format "
                f"{FORMAT}; upgrade thrifty"
            )
        if about.get("kind") not in KINDS:
            raise UserError(
                f"{self.mark} has the kind {about.get('kind')!r}; a zoo is of {' or '.join(KINDS)}"
            )
        return about

    def _refuse_strange(self) -> None:
        if self.root.exists() and not self.root.is_dir():
            raise UserError(f"{self.root} is a file; give --out a folder of its own")
        if self.mark.exists() or not self.root.exists():
            return
        allowed = ("lock", "recipe.yaml", ".")
        strange = sorted(p.name for p in self.root.iterdir() if not p.name.startswith(allowed))
        if strange:
            raise UserError(
                f"{self.root} holds {', '.join(strange[:3])} and is no zoo; give --out a new or "
                f"empty folder"
            )

    def _refuse_another(self, now: Mapping[str, Any]) -> None:
        about = self.about()
        if about.get("joined") and not now.get("joined"):
            raise UserError(
                f"{self.root} was joined from another zoo, to be read; go on in that one and join "
                f"it again, or give --out another folder"
            )
        other = [k for k in sorted(now) if _unmoved(about.get(k)) != _unmoved(now[k])]
        if other:
            said = "; ".join(
                f"{k} is {str(about.get(k))[:80]} there and {str(now[k])[:80]} here" for k in other
            )
            raise UserError(f"{self.root} holds another zoo: {said}; give --out another folder")


def _unmoved(value: Any) -> Any:
    """A value of a mark without where another zoo lies: it may be moved, and is the same zoo."""
    return {k: v for k, v in value.items() if k != "path"} if isinstance(value, dict) else value


def read_object(path: Path, most: int) -> dict[str, Any]:
    """A JSON object of a file of at most ``most`` bytes.

    Raises:
        UserError: the file is missing, too large, or no JSON object.
    """
    try:
        size = path.stat().st_size
        if size > most:
            raise UserError(f"{path} has {size:,} bytes, more than the {most:,} that are allowed")
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be read: {str(error)[:200]}; it is damaged") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is no JSON object; it is damaged")
    return value
