"""A zoo as one weight file a model, for programs that know nothing of zoos.

Each file names its network in its header, so that ``thrifty.load`` builds it again, and
``index.jsonl`` has the row of each.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from thrifty.errors import UserError
from thrifty.files import write_text, written
from thrifty.zoo.building import header
from thrifty.zoo.roster import LAST
from thrifty.zoo.zoo import Member, Zoo

INDEX = "index.jsonl"
SAID = 10
"""Things left out that are told one by one."""


@dataclass(frozen=True)
class Exported:
    """What was written, and why some models were not."""

    files: tuple[Path, ...]
    left_out: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    def __str__(self) -> str:
        return said(f"{len(self):,} models exported", self.left_out)


def export(zoo: Zoo, out: Path | str, epoch: int = LAST) -> Exported:
    """Write each model to ``out`` as ``00017.safetensors``, twins as ``00017-METHOD-ASKED``.

    Models with weights that are not finite are left out, for no program could use them, and so
    are those whose shard cannot be read.

    Args:
        zoo: all or some of a zoo.
        out: a new or empty folder.
        epoch: of the checkpoint; -1 is the last of each model.

    Raises:
        UserError: ``out`` holds something, or there are no models.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is no empty folder; give --out a new one")
    if not len(zoo):
        raise UserError(f"{zoo.folder.root}: there are no models to export")
    files, rows, left_out = [], [], []
    for member in zoo:
        name = _name(member)
        try:
            _write(member, out / name, epoch)
        except UserError as error:
            left_out.append(f"model {member.id}: {error}")
            continue
        files.append(out / name)
        rows.append({"file": name} | member.row(epoch))
    if not files:
        raise UserError(f"{zoo.folder.root}: no model can be exported; {left_out[0]}")
    write_text(out / INDEX, "".join(json.dumps(_plain(row)) + "\n" for row in rows))
    return Exported(tuple(files), tuple(left_out))


def said(done: str, left_out: Sequence[str]) -> str:
    """What was done and what was not, a line each, of many the first."""
    if not left_out:
        return done
    more = [f"and {len(left_out) - SAID:,} more"] if len(left_out) > SAID else []
    return "\n  ".join([f"{done}; {len(left_out):,} left out:", *left_out[:SAID], *more])


def _name(member: Member) -> str:
    row = member.row()
    method, asked = row.get("method"), row.get("asked")
    level = "" if asked is None or asked != asked else f"-{asked:g}"
    safe = "".join(c if c.isalnum() else "_" for c in str(method))[:40] if method else ""
    return f"{member.id:05d}{'-' + safe if safe else ''}{level}.safetensors"


def _write(member: Member, path: Path, epoch: int) -> None:
    tensors = {name: np.ascontiguousarray(x) for name, x in member.tensors(epoch).items()}
    for name, x in tensors.items():
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise UserError(f"{name} has weights that are NaN or infinite: it diverged")
    shard, about = member.shard(epoch), member.mark
    with written(path) as temporary:
        save_file(
            {n: x.reshape(shard.shape(n)) for n, x in tensors.items()},
            temporary,
            metadata=header(shard.about, about),
        )


def _plain(row: dict[str, object]) -> dict[str, object]:
    return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()}
