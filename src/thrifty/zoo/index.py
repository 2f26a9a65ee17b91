"""The index of a zoo: a row for each model at each checkpoint.

The truth lies in ``rows/``, a file a segment, written once and whole.  ``index.parquet`` holds
them all and only saves time: it says of which files it was made, and what it does not hold, or
holds of a file that is another now, is read from the files.  So readers never wait for a writer,
and nothing is lost if it is damaged or pyarrow is not installed.
"""

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thrifty import files
from thrifty.errors import UserError
from thrifty.zoo.folder import Folder, read_object, segment
from thrifty.zoo.shards import MOST_MODELS
from thrifty.zoo.table import Column, Table, column_of, joined

FIRST = ("model", "stack", "shard", "row", "epoch")
"""Columns that every index has, and that lead."""
MOST_ROWS = 1 << 25
"""Bytes of the longest file of rows."""
MOST_COLUMNS = 1000

_MADE_OF = b"thrifty-zoo-rows"
_STRINGS = ("string", "large_string")
_KINDS = {"b": "bool", "i": "int", "u": "int", "f": "float", "O": "text"}
_Made = dict[str, list[int]]


def write_rows(root: Path | str, stack: str, epoch: int, columns: Mapping[str, object]) -> Path:
    """Write the rows of a segment, which says that its shard is there and whole.

    Args:
        root: the zoo.
        stack: the name of the stack.
        epoch: of the checkpoint.
        columns: ``model`` (ids, in the order of the shard) and whatever else is known, each a
            sequence with a value a model, or one value for all.  Values are numbers, bools or
            text; what is not a finite number is kept as none, which reads as NaN; dictionaries
            (``layers``) become JSON.  ``stack``, ``shard``, ``row`` and ``epoch`` are added.

    Raises:
        UserError: a column has another number of values than there are models, or other values.
    """
    folder = Folder(root)
    path = folder.rows(stack, epoch)
    ids = [int(i) for i in np.asarray(columns.get("model", ())).reshape(-1)]
    if not 1 <= len(ids) <= MOST_MODELS:
        raise UserError(f"{path}: {len(ids):,} models; a segment has 1 to {MOST_MODELS:,}")
    own: dict[str, object] = {
        "model": ids,
        "stack": stack,
        "shard": folder.shard(stack, epoch).name,
        "row": list(range(len(ids))),
        "epoch": epoch,
    }
    rest = {name: value for name, value in columns.items() if name not in FIRST}
    plain = {n: _plain(n, v, len(ids), path) for n, v in (own | rest).items()}
    kinds = {name: _kind(name, values, path) for name, values in plain.items()}
    said = {"format": 1, "stack": stack, "epoch": epoch, "kinds": kinds, "columns": plain}
    files.write_text(path, json.dumps(said, allow_nan=False) + "\n")
    return path


def read_rows(path: Path) -> Table:
    """The rows of one segment, checked.

    Raises:
        UserError: the file is damaged, or says what rows of a segment cannot say.
    """
    said = read_object(path, MOST_ROWS)
    columns, kinds = said.get("columns"), said.get("kinds")
    if said.get("format") != 1 or not isinstance(columns, dict) or not isinstance(kinds, dict):
        raise UserError(f"{path} holds no rows of a zoo that this thrifty reads; upgrade thrifty")
    if len(columns) > MOST_COLUMNS or columns.keys() != kinds.keys():
        raise UserError(f"{path}: columns and their kinds disagree; it is damaged")
    table = Table({name: _column(name, v, kinds[name], path) for name, v in columns.items()})
    _check(table, said, path)
    return table


def read_index(root: Path | str) -> tuple[Table, list[str]]:
    """All rows of a zoo, by epoch and model, and what is wrong with those that are left out.

    Nothing is written, so that a zoo may lie where one may only read.
    """
    folder = Folder(root)
    present = _present(folder)
    cached, made_of = _cached(folder, present)
    tables, problems = [cached] if cached is not None else [], []
    kinds = _texts(cached) if cached is not None else {}
    for name in sorted(present.keys() - made_of):
        path = folder.rows_folder / name
        try:
            table = read_rows(path)
            _check_kinds(table, kinds, path)
        except UserError as error:
            problems.append(str(error))
            continue
        kinds |= _texts(table)
        tables.append(table)
    if not present and folder.index.exists():
        problems.append(
            f"{folder.index} is made of the files in {folder.rows_folder}, and none is there: "
            f"copy that folder too, or the whole zoo"
        )
    if cached is not None and len(tables) == 1:
        return cached, problems  # in order as it was written
    return _sorted(joined(tables)), problems


def rebuild(root: Path | str) -> Path | None:
    """Write ``index.parquet`` anew; ``None`` where pyarrow is not installed, and nothing is lost.

    Raises:
        UserError: rows of a segment are damaged.
    """
    folder = Folder(root)
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return None
    names = _present(folder)
    made: _Made = {}
    tables = []
    for name in sorted(names):
        path = folder.rows_folder / name
        made[name] = [*names[name], _crc(path)]
        tables.append(read_rows(path))
    table = _sorted(joined(tables))
    arrow = pyarrow.table({n: pyarrow.array(c) for n, c in table.to_dict().items()})
    arrow = arrow.replace_schema_metadata({_MADE_OF: json.dumps(made).encode()})
    with files.written(folder.index) as temporary:
        pyarrow.parquet.write_table(arrow, temporary, compression="zstd")
    return folder.index


def _plain(name: str, value: object, count: int, path: Path) -> list[Any]:
    """A column as JSON holds it, a value a model."""
    if isinstance(value, np.ndarray) or hasattr(value, "tolist"):
        value = np.asarray(value)
        if value.dtype == np.float32:  # the shortest text that is this number: 0.0001
            value = np.array([float(str(x)) for x in value.reshape(-1)]).reshape(value.shape)
        value = value.tolist()
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        value = [value] * count
    if len(value) != count:
        raise UserError(f"{path}: {name} has {len(value)} values for {count} models; give one each")
    return [_scalar(name, v, path) for v in value]


def _scalar(name: str, value: Any, path: Path) -> Any:
    if isinstance(value, Mapping):
        return json.dumps(value)
    if isinstance(value, np.generic):
        value = float(str(value)) if isinstance(value, np.float32) else value.item()
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    raise UserError(
        f"{path}: {name} has {type(value).__name__} values; they are numbers, bools, text, or "
        f"dictionaries"
    )


def _kind(name: str, values: list[Any], path: Path) -> str:
    try:
        return _KINDS[column_of(values).dtype.kind]
    except UserError as error:
        raise UserError(f"{path}: {name}: {error}") from None


def _column(name: str, values: object, kind: object, path: Path) -> Column:
    if not isinstance(values, list) or len(values) > MOST_MODELS:
        raise UserError(f"{path}: {name} is no list of at most {MOST_MODELS:,} values")
    try:
        column = column_of(values)
    except (UserError, OverflowError) as error:
        raise UserError(f"{path}: {name}: {error}") from None
    if kind == "float" and column.dtype.kind in "iu":
        column = column.astype(np.float64)
    if _KINDS[column.dtype.kind] != kind:
        raise UserError(f"{path}: {name} is {_KINDS[column.dtype.kind]} and said to be {kind!r}")
    return column


def _check(table: Table, said: Mapping[str, Any], path: Path) -> None:
    """That rows are of the segment that the file's name says, each once."""
    missing = [name for name in FIRST if name not in table]
    if missing or not len(table):
        raise UserError(f"{path} has no {', '.join(missing) or 'rows'}; it is damaged")
    name = segment(said.get("stack"), said.get("epoch"))  # type: ignore[arg-type]
    whole = all(table[c].dtype.kind == "i" for c in ("model", "row", "epoch"))
    if (
        path.name != f"{name}.json"
        or not whole
        or set(table["stack"]) != {said["stack"]}
        or set(table["shard"]) != {f"{name}.safetensors"}
        or set(table["epoch"].tolist()) != {said["epoch"]}
    ):
        raise UserError(f"{path} has rows of another segment; it was renamed, or is damaged")
    rows, models = table["row"], table["model"]
    if len(set(rows.tolist())) != len(rows) or rows.min() < 0 or rows.max() >= MOST_MODELS:
        raise UserError(f"{path} has a row of its shard twice, or one that no shard has")
    if len(set(models.tolist())) != len(models) or models.min() < 0:
        raise UserError(f"{path} has a model twice, or one of a negative number")


def _texts(table: Table) -> dict[str, bool]:
    """Which columns are text."""
    return {name: table[name].dtype == object for name in table.columns}


def _check_kinds(table: Table, known: Mapping[str, bool], path: Path) -> None:
    for name, text in _texts(table).items():
        if known.get(name, text) != text:
            kind = "text" if text else "numbers"
            raise UserError(f"{path}: {name} is {kind} there and not in the rows before it")


def _present(folder: Folder) -> dict[str, tuple[int, int]]:
    """Bytes and time of change of every file of rows."""
    found = {}
    try:
        with os.scandir(folder.rows_folder) as entries:
            for entry in entries:
                if entry.name.endswith(".json") and not entry.name.startswith("."):
                    about = entry.stat()
                    found[entry.name] = (about.st_size, about.st_mtime_ns)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"{folder.rows_folder} cannot be read: {error.strerror}") from None
    return found


def _cached(
    folder: Folder, present: Mapping[str, tuple[int, int]]
) -> tuple[Table | None, set[str]]:
    """The table of ``index.parquet`` and the files it was made of, if they are as they were."""
    try:
        import pyarrow.parquet
    except ImportError:
        return None, set()
    try:
        with pyarrow.parquet.ParquetFile(folder.index) as file:
            about = file.metadata
            made: _Made = json.loads(about.metadata[_MADE_OF])
            most = sum(size for size, _ in present.values())
            if about.num_rows * about.num_columns > most or about.num_columns > MOST_COLUMNS:
                return None, set()  # a value takes more than a byte in rows/
            if not all(_same(folder, n, present.get(n), said) for n, said in made.items()):
                return None, set()
            texts = [f.name for f in file.schema_arrow if f.type in _STRINGS]
        with pyarrow.parquet.ParquetFile(folder.index, read_dictionary=texts) as file:
            read = file.read()
        return Table({n: _from_arrow(read.column(n)) for n in read.column_names}), set(made)
    except Exception:  # a cache: whatever is wrong with it, the rows are there
        return None, set()


def _same(folder: Folder, name: str, now: tuple[int, int] | None, said: list[int]) -> bool:
    size, changed, crc = said
    if now is None or now[0] != size:
        return False
    return now[1] == changed or _crc(folder.rows_folder / name) == crc


def _from_arrow(column: Any) -> Column:
    """A column of arrow; of texts one object a text and not one a row, for most are alike."""
    whole = column.combine_chunks()
    if hasattr(whole, "dictionary") or column.type in _STRINGS:
        coded = whole if hasattr(whole, "dictionary") else whole.dictionary_encode()
        texts = np.empty(len(coded.dictionary), object)
        texts[:] = coded.dictionary.to_pylist()
        return np.asarray(texts[coded.indices.to_numpy(zero_copy_only=False)])
    return np.array(whole.to_numpy(zero_copy_only=False))


def _crc(path: Path) -> int:
    return zlib.crc32(path.read_bytes())


def _sorted(table: Table) -> Table:
    if not len(table):
        return table
    order = {name: i for i, name in enumerate(sorted(set(table["stack"].tolist())))}
    stacks = np.array([order[name] for name in table["stack"].tolist()], np.int64)
    return table.take(np.lexsort((stacks, table["model"], table["epoch"])))
