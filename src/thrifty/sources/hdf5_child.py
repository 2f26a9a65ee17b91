"""The part of reading HDF5 that runs in a process of its own, for libhdf5 may crash.

The library is written in C and trusts what it reads: damaged files have made it abort, loop and
write beyond its buffers.  Here it may do so and take nobody with it; memory and processor time
are limited where the system can.  :mod:`thrifty.sources.hdf5` starts this, asks, and judges.

Requests are lines of JSON on the standard input, answers are ``length, status, bytes`` on the
standard output.  Nothing outside the file is read: external and user-defined links, external
storage, virtual data sets and filters that are plug-ins are refused before they are followed.
"""

import importlib
import json
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO

HEAD = struct.Struct("<QB")
DONE, REFUSED = 0, 1
MOST_MEMORY = 4 << 30
MOST_SECONDS = 20
"""Of processor time for one answer; libhdf5 loops without end on some damaged files."""
MOST_NODES = 200_000
MOST_DEPTH = 64
MOST_CHUNK = 256 << 20
MOST_TEXT = 64 << 20
CHUNK_CACHE = 64 << 20

FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 32000: "lzf"}
"""Those that libhdf5 and h5py bring along; any other is a library that would be loaded."""

ATTRIBUTES = ("layer_names", "weight_names", "model_config", "keras_version", "backend", "name")
"""Read from groups, also in parts with a number behind: Keras splits what is over 64 KB."""


class Refused(Exception):
    """Something in the file that is not followed; the text says what."""


class Reading:
    """An open file: what is in it, and the elements of its data sets."""

    def __init__(self, file: BinaryIO):
        h5py: Any = importlib.import_module("h5py")
        self._h5 = h5py
        self._file = h5py.File(file, "r", rdcc_nbytes=CHUNK_CACHE)
        self._datasets: list[Any] = []
        self._nodes: list[dict[str, Any]] = []
        self._seen: dict[int, str] = {}
        self._types = [
            (name, getattr(h5py.h5t, constant))
            for name, constant in (
                *((f"F{n}", f"IEEE_F{n}LE") for n in (16, 32, 64)),
                *((f"I{n}", f"STD_I{n}LE") for n in (8, 16, 32, 64)),
                *((f"U{n}", f"STD_U{n}LE") for n in (8, 16, 32, 64)),
            )
        ]

    def tree(self) -> list[dict[str, Any]]:
        """Every group and data set once; what else leads to it is an alias."""
        self._visit(self._file, "", 0)
        return self._nodes

    def elements(self, index: int, start: list[int], stop: list[int]) -> bytes:
        """Elements of a part of a data set, row-major and little-endian."""
        dataset = self._datasets[index]
        part = dataset[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        kind = part.dtype
        if kind.byteorder == ">" or (kind.byteorder == "=" and sys.byteorder == "big"):
            part = part.astype(kind.newbyteorder("<"))
        content: bytes = part.tobytes()
        return content

    def _visit(self, group: Any, path: str, depth: int) -> None:
        if depth > MOST_DEPTH:
            raise Refused(f"groups are nested more than {MOST_DEPTH} deep")
        self._seen[self._address(group)] = path
        self._add(path, {"attributes": self._attributes(group)})
        for name in group:
            self._link(group, name, f"{path}/{name}" if path else name, depth)

    def _link(self, group: Any, name: str, path: str, depth: int) -> None:
        h5 = self._h5
        link = group.get(name, getlink=True)
        if isinstance(link, h5.ExternalLink):
            raise Refused(f"{path} is a link to another file, {str(link.filename)[:200]!r}")
        if isinstance(link, h5.SoftLink):
            self._add(path, {"alias": str(link.path), "soft": True})
            return
        if not isinstance(link, h5.HardLink):
            raise Refused(f"{path} is a link of an unknown kind")
        thing = group[name]
        first = self._seen.get(self._address(thing))
        if first is not None:
            self._add(path, {"alias": f"/{first}"})
        elif isinstance(thing, h5.Group):
            self._visit(thing, path, depth + 1)
        elif isinstance(thing, h5.Dataset):
            self._seen[self._address(thing)] = path
            self._add(path, self._dataset(thing, path))

    def _add(self, path: str, node: dict[str, Any]) -> None:
        if len(self._nodes) >= MOST_NODES:
            raise Refused(f"it has more than {MOST_NODES:,} groups and data sets")
        self._nodes.append({"path": path, **node})

    def _address(self, thing: Any) -> int:
        return hash(self._h5.h5o.get_info(thing.id).addr)

    def _dataset(self, dataset: Any, path: str) -> dict[str, Any]:
        h5d = self._h5.h5d
        plan = dataset.id.get_create_plist()
        layout = plan.get_layout()
        if layout == h5d.VIRTUAL:
            raise Refused(f"{path} is virtual: its numbers lie in other files")
        if plan.get_external_count():
            raise Refused(f"{path} keeps its numbers in another file")
        for i in range(plan.get_nfilters()):
            code = plan.get_filter(i)[0]
            if code not in FILTERS:
                known = ", ".join(FILTERS.values())
                raise Refused(f"{path} is packed with filter {code}; those that are read: {known}")
        shape = dataset.shape
        if shape is None:
            return {"dtype": "nothing", "shape": [0], "index": -1}
        dtype = self._dtype(dataset)
        item = dataset.id.get_type().get_size()
        if layout == h5d.CHUNKED:
            chunk = item
            for side in plan.get_chunk():
                chunk *= int(side)
            if chunk > MOST_CHUNK:
                raise Refused(f"{path} lies in chunks of {chunk:,} bytes, over {MOST_CHUNK:,}")
        direct = layout == h5d.CONTIGUOUS and self._is_as_in_memory(dataset)
        self._datasets.append(dataset)
        return {
            "dtype": dtype,
            "shape": [int(n) for n in shape],
            "index": len(self._datasets) - 1,
            "offset": dataset.id.get_offset() if direct else None,
            "stored": int(dataset.id.get_storage_size()),
            "chunked": layout == h5d.CHUNKED,
        }

    def _dtype(self, dataset: Any) -> str:
        """As safetensors names it; a description of what has no such name."""
        kind = dataset.id.get_type()
        for name, known in self._types:
            if kind.equal(known):
                return name
        if kind.get_class() == self._h5.h5t.OPAQUE:  # numpy has no bfloat16, h5py writes it so
            return "BF16" if kind.get_size() == 2 else "opaque"
        with suppress(TypeError, ValueError):
            found = dataset.dtype
            if found.kind == "b":
                return "BOOL"
            if found.kind in "fiu" and found.itemsize in (1, 2, 4, 8) and not found.metadata:
                return f"{found.kind.upper()}{8 * found.itemsize}"
            return str(found)[:100]
        return "a type that numpy has not"

    def _is_as_in_memory(self, dataset: Any) -> bool:
        kind = dataset.id.get_type()
        opaque = kind.get_class() == self._h5.h5t.OPAQUE
        return opaque or any(kind.equal(known) for _, known in self._types)

    def _attributes(self, thing: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in thing.attrs:
            if name.rstrip("0123456789") in ATTRIBUTES:
                with suppress(TypeError, ValueError, KeyError, OSError, RuntimeError):
                    found[name] = self._text(thing, name)
        return {name: text for name, text in found.items() if text is not None}

    def _text(self, thing: Any, name: str) -> str | list[str] | None:
        if self._h5.h5a.open(thing.id, name.encode()).get_storage_size() > MOST_TEXT:
            raise Refused(f"the attribute {name} has more than {MOST_TEXT:,} bytes")
        value = thing.attrs[name]
        if isinstance(value, str | bytes):
            return _decoded(value)
        if getattr(value, "ndim", None) != 1 or value.dtype.kind not in "OSU":
            return None
        return [_decoded(text) for text in value.tolist() if isinstance(text, str | bytes)]


def _decoded(text: str | bytes) -> str:
    return text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else text


def _answers(requests: BinaryIO, file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The tree first, then what is asked for."""
    try:
        reading = Reading(file)
        yield DONE, json.dumps(reading.tree()).encode()
        for line in requests:
            yield DONE, reading.elements(**json.loads(line))
    except Refused as error:
        yield REFUSED, str(error).encode("utf-8", "backslashreplace")
    except Exception as error:  # whatever h5py makes of what libhdf5 says of a damaged file
        reason = f"{type(error).__name__}: {error}".split("\n")[0][:300]
        yield REFUSED, f"it is damaged or no HDF5 file ({reason})".encode("utf-8", "replace")


def limit() -> None:
    """In place: memory, processor time and core files of this process, where that can be."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        for what, most in (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_AS, MOST_MEMORY),
        ):
            _, hard = resource.getrlimit(what)
            if hard == resource.RLIM_INFINITY or most <= hard:
                resource.setrlimit(what, (most, hard))


def more_time() -> None:
    """In place: MOST_SECONDS of processor time from now on, after which this process is killed."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        most = int(used.ru_utime + used.ru_stime) + MOST_SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (most, hard))


def main(descriptor: int) -> None:
    """Answer what is asked of the open file ``descriptor`` until the standard input ends."""
    limit()
    more_time()
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no answer
    for status, content in _answers(sys.stdin.buffer, os.fdopen(descriptor, "rb")):
        out.write(HEAD.pack(len(content), status))
        out.write(content)
        out.flush()
        more_time()
