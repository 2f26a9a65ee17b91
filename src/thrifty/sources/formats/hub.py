"""Networks on the Hugging Face Hub: ``hf:ORG/REPO[/FILE][@REV]``, by ranged reads.

The header of a safetensors file says where each tensor lies, so only the tensors that are counted
are fetched, a range each, in the order of the file.  A file that is in the local cache is read
from there.  Pickles are never fetched.  ``HF_ENDPOINT``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` are
heeded.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import numpy as np

from thrifty.errors import MissingExtra, UserError
from thrifty.sources import BITS, SOURCES, Reader, Source, Stored
from thrifty.sources.formats.safetensors import open_safetensors, tied_notes
from thrifty.sources.header import (
    LENGTH_BYTES,
    Entry,
    check_covered,
    header_length,
    parse_header,
)
from thrifty.sources.ranged import Refused, Web
from thrifty.sources.scales import with_scales
from thrifty.sources.stored import Bits

SAFETENSORS, INDEX = ".safetensors", "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_NAME = re.compile(r"([\w.-]+/[\w.-]+)((?:/[\w.-]+)*)(?:@([\w./-]+))?")


def open_hub(text: str) -> Source:
    """The safetensors weights of ``ORG/REPO[/FILE][@REV]``.

    Raises:
        MissingExtra: huggingface_hub is not installed.
        UserError: there is no such repository or file, it has no safetensors, or it cannot be
            reached.
    """
    found = _NAME.fullmatch(text)
    if not found or ".." in text:
        raise UserError(
            f"hf:{text} names no repository; write hf:ORG/REPO, hf:ORG/REPO@REVISION or "
            f"hf:ORG/REPO/FILE.safetensors"
        )
    repository, file, revision = found[1], found[2].lstrip("/"), found[3] or "main"
    hub = _hub()
    label = repository.partition("/")[2] + (f"/{file}" if file else "")
    cached = _cached(hub, repository, revision, [file] if file else ["model.safetensors"])
    if cached:
        return replace(cached[0], label=label)
    if hub.constants.HF_HUB_OFFLINE:
        raise UserError(
            f"hf:{text} is not in the cache of the Hub, and HF_HUB_OFFLINE is set; unset it, or "
            f"download the file elsewhere and give its path"
        )
    web = Web(_headers(hub))
    with ExitStack() as stack:
        stack.callback(web.close)
        source = _remote(web, hub, repository, file, revision, label)
        stack.pop_all()
    return source


def _remote(web: Web, hub: Any, repository: str, file: str, revision: str, label: str) -> Source:
    names, commit = _listed(web, hub, repository, revision)
    shards, index = _chosen(web, hub, repository, commit, names, file)
    tensors: list[Stored] = []
    claims: dict[str, str] = {}
    notes: list[str] = []
    nbytes = 0
    for shard in shards:
        url = _url(hub, repository, commit, shard)
        try:
            found, metadata, size = _file(web, url)
        except Refused as error:  # of a gated repository the list is open and the files are not
            raise _refusal(repository, revision, error) from None
        _check_shard(shard, index, found)
        tensors += found
        claims |= metadata
        notes += tied_notes(metadata, url)
        nbytes += size
    scaled, more = with_scales(tensors)
    return Source(
        label=label,
        kind="hub" if len(shards) == 1 else f"hub, {len(shards)} shards",
        tensors=scaled,
        nbytes=nbytes,
        notes=(*notes, *more),
        claims=claims,
        on_close=web.close,
    )


def _file(web: Web, url: str) -> tuple[list[Stored], dict[str, str], int]:
    """The tensors of a file, its metadata and its size; only its header is fetched."""
    size = web.size(url)
    first = b"".join(web.part(url, 0, min(LENGTH_BYTES, size)))
    length = header_length(first, size, url)
    header = parse_header(b"".join(web.part(url, LENGTH_BYTES, LENGTH_BYTES + length)), url)
    check_covered(header, length, size, url)
    start = LENGTH_BYTES + length
    return [_stored(web, url, start, e) for e in header.tensors], dict(header.metadata), size


def _stored(web: Web, url: str, start: int, entry: Entry) -> Stored:
    dtype = BITS[entry.dtype]

    def read() -> Iterator[Bits]:
        rest = b""
        for piece in web.part(url, start + entry.begin, start + entry.end):
            content = rest + piece if rest else piece
            whole = len(content) - len(content) % dtype.itemsize
            yield np.frombuffer(content, dtype, whole // dtype.itemsize)
            rest = content[whole:]

    return Stored(entry.name, entry.shape, entry.dtype, read)


def _listed(web: Web, hub: Any, repository: str, revision: str) -> tuple[list[str], str]:
    """The files of a repository, and the commit they are of."""
    endpoint = hub.constants.ENDPOINT.rstrip("/")
    url = f"{endpoint}/api/models/{repository}/revision/{quote(revision, safe='')}"
    try:
        values = json.loads(web.text(url))
        names = [str(one["rfilename"]) for one in values["siblings"]]
        return names, str(values.get("sha") or revision)
    except Refused as error:
        raise _refusal(repository, revision, error) from None
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{url} does not answer as the Hub does; look at HF_ENDPOINT") from None


def _refusal(repository: str, revision: str, error: Refused) -> UserError:
    if error.status in (401, 403):
        return UserError(
            f"hf:{repository} is private, gated or not there: {error}; log in with "
            f"'hf auth login' or set HF_TOKEN, and accept its terms on the Hub"
        )
    if error.status == 404:
        return UserError(f"hf:{repository} has no revision {revision!r}, or is not there: {error}")
    return UserError(f"hf:{repository}: {error}; try again later")


def _chosen(
    web: Web, hub: Any, repository: str, commit: str, names: Sequence[str], file: str
) -> tuple[list[str], dict[str, str]]:
    """The files to read, and which tensor lies in which where an index says so."""
    if file:
        if file not in names or not file.endswith(SAFETENSORS):
            known = [n for n in names if n.endswith(SAFETENSORS)]
            raise UserError(
                f"hf:{repository} has no safetensors file {file!r}; it has "
                f"{', '.join(known[:8]) or 'none'}"
            )
        return [file], {}
    if "model.safetensors" in names:
        return ["model.safetensors"], {}
    if INDEX in names:
        return _indexed(web, _url(hub, repository, commit, INDEX), names)
    known = [n for n in names if n.endswith(SAFETENSORS)]
    if len(known) == 1:
        return known, {}
    if known:
        raise UserError(
            f"hf:{repository} has {len(known)} safetensors files; name one, such as "
            f"hf:{repository}/{known[0]}"
        )
    pickles = [n for n in names if n.endswith(PICKLES)]
    if pickles:
        raise UserError(
            f"hf:{repository} has its weights as pickles only ({', '.join(pickles[:3])}), which "
            f"can run code and are never fetched; ask its owner for safetensors, or download the "
            f"file yourself and give its path"
        )
    raise UserError(f"hf:{repository} has no weights: no file of it ends in {SAFETENSORS}")


def _indexed(web: Web, url: str, names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    content = web.text(url)
    try:
        said = json.loads(content)["weight_map"]
        index = {str(tensor): str(shard) for tensor, shard in said.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{url} is no index of shards; the repository is damaged") from None
    shards = sorted(set(index.values()))
    missing = [s for s in shards if s not in names or not s.endswith(SAFETENSORS)]
    if missing or not shards:
        raise UserError(f"{url} names {', '.join(missing[:3]) or 'no shard'}, which is not there")
    return shards, index


def _check_shard(shard: str, index: dict[str, str], tensors: Sequence[Stored]) -> None:
    """An index and a shard must say the same."""
    if not index:
        return
    said = {name for name, where in index.items() if where == shard}
    odd = sorted(said.symmetric_difference(t.name for t in tensors))
    if odd:
        raise UserError(f"index and shard {shard} differ in {', '.join(odd[:5])}")


def _url(hub: Any, repository: str, commit: str, file: str) -> str:
    endpoint = hub.constants.ENDPOINT.rstrip("/")
    return f"{endpoint}/{repository}/resolve/{quote(commit, safe='')}/{quote(file)}"


def _cached(hub: Any, repository: str, revision: str, files: Sequence[str]) -> list[Source]:
    """The file, or the shards with their index, if all are in the local cache."""

    def path(name: str) -> str | None:
        found = hub.try_to_load_from_cache(
            repository, name, cache_dir=hub.constants.HF_HUB_CACHE, revision=revision
        )
        return found if isinstance(found, str) else None

    for name in files:
        place = path(name)
        if place and name.endswith(SAFETENSORS):
            return [open_safetensors(place)]
    index = path(INDEX) if "model.safetensors" in files else None
    if index is None:
        return []
    try:
        shards = set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    if not all(isinstance(s, str) and PurePosixPath(s).name == s and path(s) for s in shards):
        return []
    from thrifty.sources.formats.sharded import open_sharded

    return [open_sharded(index)]


def _headers(hub: Any) -> dict[str, str]:
    token = hub.get_token()
    said = {"user-agent": "thrifty"}
    return said | ({"authorization": f"Bearer {token}"} if token else {})


def _hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
    except ImportError:
        raise MissingExtra("hub", "huggingface_hub", "a network on the Hub") from None
    return huggingface_hub


SOURCES.add(
    "hub",
    Reader(
        about="Networks on the Hugging Face Hub, safetensors by ranged reads, or from the cache",
        open=open_hub,
        prefix="hf",
    ),
)
