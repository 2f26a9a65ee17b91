"""Where a run lies on disk: every file name in one place.

::

    OUT/run.json            what was run on what machine; the folder's mark
    OUT/recipe.yaml         the recipe, resolved
    OUT/records.jsonl       a line a measured network
    OUT/points.csv          a row a method and level, means over seeds
    OUT/report.html, *.svg, *.png
    OUT/teachers/KEY.safetensors
                            what a teacher says of training inputs that never change
    OUT/steps/seed0-magnitude-0.9-1a2b3c4d/
        model.safetensors.zst   the network
        masks.safetensors       a bit a weight
        gates.safetensors       what gates said of each channel or weight, where there were any
        predictions.npy         class of every test input
        log.jsonl               a line an epoch
        checkpoint.pt           while it trains
        timing.json             seconds, latency, the packed file and its time in the engine
        record.json             written last: the step is done

A study of zeroing (:mod:`thrifty.lab.zeroing`) lies in the same way, a step a threshold, with no
recipe and no network.

A step's folder is named by what decides its result, so a run that is started again, or started
with more seeds, levels or methods, finds what is done already and does the rest.
"""

import csv
import io
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thrifty import files
from thrifty.errors import UserError
from thrifty.lab.combined import combined
from thrifty.lab.front import Front
from thrifty.lab.gate_readings import read_readings
from thrifty.lab.records import Record, points

TIMED = ("seconds", "latency_us", "packed_bytes", "engine_ms", "engine_speedup", "engine_why")
"""Fields of a record that are measured after all training, and lie in ``timing.json``."""

PRUNING = "pruning"
"""The study of a run whose ``run.json`` names none."""


class Step:
    """The folder of one step."""

    def __init__(self, folder: Path, key: str):
        self.folder, self.key = folder, key
        self.model = folder / "model.safetensors.zst"
        self.masks = folder / "masks.safetensors"
        self.checkpoint = folder / "checkpoint.pt"
        self._record = folder / "record.json"
        self._timing = folder / "timing.json"

    @property
    def done(self) -> bool:
        """Whether its result is there, whole."""
        return self._record.is_file()

    def record(self) -> Record:
        """What was measured, times included."""
        return Record.from_dict(self.values() | self.timing())

    def values(self) -> dict[str, Any]:
        """What was measured, as it was written."""
        return _json(self._record)

    def timing(self) -> dict[str, Any]:
        """Fields of :data:`TIMED`, as far as they were measured."""
        return dict(_json(self._timing)) if self._timing.is_file() else {}

    def time(self, **figures: float | str | None) -> None:
        """Add to the times, which no result depends on."""
        files.write_json(self._timing, self.timing() | figures)

    def predictions(self, name: str = "predictions") -> NDArray[np.int32]:
        """The class given to every test input."""
        path = self.folder / f"{name}.npy"
        try:
            values: NDArray[np.int32] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(
                f"{path}: cannot be read: {error}; remove {self.folder} and run again"
            ) from None
        return values

    def predict(self, predictions: NDArray[np.int32], name: str = "predictions") -> None:
        """Write the class given to every test input."""
        with files.written(self.folder / f"{name}.npy") as temporary, temporary.open("wb") as file:
            np.save(file, predictions, allow_pickle=False)

    def write(self, values: Mapping[str, Any]) -> None:
        """Write what was measured, last of all, for it says that all is there.

        Keys keep their order, which for layers is that of the network.
        """
        files.write_text(self._record, json.dumps(dict(values), indent=2) + "\n")

    def finish(
        self, record: Record, predictions: NDArray[np.int32], log: Sequence[dict[str, Any]]
    ) -> None:
        """Write what was measured; ``record.json`` last, for it says that all is there."""
        self.predict(predictions)
        lines = "".join(json.dumps(row) + "\n" for row in log)
        files.write_text(self.folder / "log.jsonl", lines)
        values = asdict(record)
        for name in TIMED:
            values.pop(name)
        self.write(values)
        self.checkpoint.unlink(missing_ok=True)


class Store:
    """A run folder."""

    def __init__(self, root: Path | str):
        self.root = Path(root)
        self.about = self.root / "run.json"
        self.recipe = self.root / "recipe.yaml"
        self.records = self.root / "records.jsonl"
        self.points = self.root / "points.csv"

    def step(self, label: str, key: str) -> Step:
        """The folder of the step that ``key`` decides."""
        return Step(self.root / "steps" / f"{label}-{key[:8]}", key)

    def prepare(self) -> None:
        """Make the folder, or say why it cannot be.

        Raises:
            UserError: it is a file, holds something else, or cannot be written.
        """
        if self.root.exists() and not self.root.is_dir():
            raise UserError(f"{self.root} is a file; give --out a folder of its own")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            files.write_text(self.root / ".writable", "")
            (self.root / ".writable").unlink()
        except OSError as error:
            raise UserError(
                f"{self.root} cannot be written: {error.strerror}; give --out another folder"
            ) from None
        if not self.about.exists() and any(self.root.iterdir()):
            strange = sorted(p.name for p in self.root.iterdir() if not p.name.startswith("lock"))
            if strange:
                raise UserError(
                    f"{self.root} holds {', '.join(strange[:3])} and is no run of thrifty; give "
                    "--out a new or empty folder"
                )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder alone; the system lets go when the process ends, however it ends.

        Workers of a run that was killed are waited for, and what they were writing, under
        temporary names, is removed.

        Raises:
            UserError: another process is at work in it.
        """
        path = self.root / "lock"
        with path.open("a+") as file:
            if not _try_lock(file):
                file.seek(0)
                raise UserError(
                    f"{self.root} is in use by process {file.read().strip() or '?'}; wait for it, "
                    "or give --out another folder"
                )
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            self._wait_for_orphans()
            for left_over in self.root.rglob(".*.part"):
                left_over.unlink(missing_ok=True)
            yield

    @contextmanager
    def working(self) -> Iterator[None]:
        """Show, for the time of a job, that a worker is at work in the folder."""
        with (self.root / "lock.workers").open("a") as file:
            _try_lock(file, shared=True)
            yield

    def _wait_for_orphans(self, seconds: float = 30.0) -> None:
        end = time.monotonic() + seconds
        with (self.root / "lock.workers").open("a") as file:
            while not _try_lock(file):
                if time.monotonic() > end:
                    raise UserError(f"workers of a run that was killed still write to {self.root}")
                time.sleep(0.05)

    def refuse_another(self, now: Mapping[str, Any], study: str = PRUNING) -> None:
        """Refuse to go on with a folder that was begun with other than ``now`` says.

        Args:
            now: what decides the study, as ``run.json`` says it.
            study: the kind of study that is to be done in the folder.
        """
        if not self.about.exists():
            return
        about, now = {"study": PRUNING} | self.conditions(), {"study": study} | dict(now)
        other = [k for k, v in now.items() if about.get(k) != v]
        if other:
            said = "; ".join(f"{k} is {about.get(k)!r} there and {now[k]!r} here" for k in other)
            raise UserError(f"{self.root} holds another run: {said}; give --out another folder")

    def remember_data(self, digest: str, name: str) -> None:
        """Refuse to go on with data that are not those the run began with."""
        path = self.root / "data.json"
        if not path.exists():
            files.write_json(path, {"digest": digest, "name": name})
        elif _json(path)["digest"] != digest:
            raise UserError(
                f"{self.root} was begun with other contents of {_json(path)['name']}: the data "
                f"changed since; put them back, or give --out another folder"
            )

    def write_records(self, records: Sequence[Record]) -> None:
        """Replace ``records.jsonl`` and ``points.csv``."""
        self.write_rows([asdict(r) for r in records], [p.to_dict() for p in points(records)])

    def write_rows(
        self, records: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Replace ``records.jsonl`` and the rows of ``points.csv``, all with the same columns."""
        lines = "".join(json.dumps(dict(r)) + "\n" for r in records)
        files.write_text(self.records, lines)
        out = io.StringIO()
        if rows:
            writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        files.write_text(self.points, out.getvalue())

    def front(self) -> Front:
        """Everything the run has measured.

        Raises:
            UserError: the folder holds no run, or a damaged one.
        """
        if not self.about.is_file():
            raise UserError(f"{self.root} is no run of thrifty (it has no run.json)")
        study = self.conditions().get("study", PRUNING)
        if study != PRUNING:
            raise UserError(
                f"{self.root} holds a study of {study}, not a run of a recipe; its page is "
                f"{self.root / 'report.html'}"
            )
        if not self.records.is_file():
            raise UserError(f"{self.root} has measured nothing yet; run it again to go on")
        records = []
        for number, line in enumerate(self.records.read_text().splitlines(), 1):
            try:
                records.append(Record.from_dict(json.loads(line)))
            except (ValueError, TypeError) as error:
                raise UserError(f"{self.records}, line {number}: not a record: {error}") from None
        return self.front_of(records)

    def front_of(self, records: Sequence[Record]) -> Front:
        """The front of some records of the run, with what gates said of their parents."""
        about = self.conditions()
        model, data = str(about.get("model", "")), str(about.get("data", ""))
        readings = read_readings(self.root, model, data, records)
        return Front(tuple(records), str(self.root), readings)

    def conditions(self) -> dict[str, Any]:
        """What ``run.json`` says of the machine and the measurements."""
        return dict(_json(self.about))


def read_front(*folders: Path | str) -> Front:
    """The records of one run folder, or of several as one front.

    A record that is in two runs is taken once; see :mod:`thrifty.lab.combined`.

    Raises:
        UserError: no folder is given, or one holds no run or a damaged one.
    """
    if not folders:
        raise UserError("name at least one run folder, such as runs/demo")
    return combined([Store(folder).front() for folder in folders], folders)


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}; remove it and run again") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: not a table; remove it and run again")
    return values


def _try_lock(file: io.TextIOWrapper, shared: bool = False) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
