"""Do many jobs, in this process or in several: three lines for whoever has the jobs.

::

    for job, outcome in executor.run(function, jobs, tell):
        ...

A job is a value that can be pickled and ``function(job, tell)`` a function of a module.  Jobs
must be safe to repeat: when a worker dies (out of memory, killed), its jobs are given to a new
one, at most twice.

Workers tell of their progress in files, a line an event: a queue or a lock that they share
with this process would block it if one is killed while it holds it.
"""

import contextlib
import ctypes
import json
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from thrifty.cores import cores
from thrifty.errors import UserError

Job = TypeVar("Job")
Tell = Callable[[dict[str, Any]], None]

RETRIES = 2


@dataclass(frozen=True)
class Failed:
    """A job that a mistake or a full disk stopped; the others went on."""

    message: str


class Executor(Protocol):
    """Runs jobs and gives each back with what became of it, in the order they end."""

    def run(
        self, function: Callable[[Job, Tell], Any], jobs: Sequence[Job], tell: Tell
    ) -> Iterator[tuple[Job, Any]]:
        """(job, result or :class:`Failed`) for every job."""
        ...


class InProcess:
    """One job after another, here."""

    def run(
        self, function: Callable[[Job, Tell], Any], jobs: Sequence[Job], tell: Tell
    ) -> Iterator[tuple[Job, Any]]:
        """(job, result or :class:`Failed`) for every job, in the order given."""
        for job in jobs:
            yield job, attempt(function, job, tell)


class Processes:
    """Several jobs at once, each in a process of its own with its own threads.

    Args:
        workers: processes.
        threads: threads that torch may use in each.
    """

    def __init__(self, workers: int, threads: int = 1):
        self.workers, self.threads = workers, threads

    def run(
        self, function: Callable[[Job, Tell], Any], jobs: Sequence[Job], tell: Tell
    ) -> Iterator[tuple[Job, Any]]:
        """(job, result or :class:`Failed`) for every job, in the order they end."""
        left = dict.fromkeys(range(len(jobs)), 0)
        while left:
            deaths = False
            for index, outcome in self._round(function, jobs, list(left), tell):
                if isinstance(outcome, BrokenProcessPool):
                    deaths = True
                    left[index] += 1
                    if left[index] <= RETRIES:
                        continue
                    outcome = Failed(
                        "a worker process died three times at this job (out of memory?); run with "
                        "fewer workers (machine.workers=1) to go on from what is done"
                    )
                del left[index]
                yield jobs[index], outcome
            if deaths and left:
                tell({"message": "a worker process died; its jobs are started again"})

    def _round(
        self,
        function: Callable[[Job, Tell], Any],
        jobs: Sequence[Job],
        indices: Sequence[int],
        tell: Tell,
    ) -> Iterator[tuple[int, Any]]:
        context = multiprocessing.get_context("spawn")
        with tempfile.TemporaryDirectory(prefix="thrifty-") as name, _environment(self.threads):
            post = _Post(Path(name))
            pool = ProcessPoolExecutor(
                max_workers=min(self.workers, len(indices)),
                mp_context=context,
                initializer=_begin,
                initargs=(post, self.threads, os.getpid()),
            )
            with _no_interrupt():  # which the workers inherit before they can ignore it
                futures: dict[Future[Any], int] = {
                    pool.submit(_attempt, function, jobs[i]): i for i in indices
                }
            try:
                while futures:
                    done, _ = wait(futures, timeout=0.2, return_when=FIRST_COMPLETED)
                    post.read(tell)
                    for future in done:
                        index = futures.pop(future)
                        error = future.exception()
                        if error is not None and not isinstance(error, BrokenProcessPool):
                            raise error
                        yield index, error if error is not None else future.result()
            finally:
                # Also when all is done: a worker that was killed while it waited for work took the
                # lock of the queue along, and the others would wait for it, and we for them.
                post.stop()
                pool.shutdown(wait=True, cancel_futures=True)
            post.read(tell)


class _Post:
    """Events from workers to this process, a file a worker; and the word to stop, a file too."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._read: dict[Path, int] = {}

    def write(self, event: dict[str, Any]) -> None:
        """Append an event to this worker's file."""
        with (self.folder / f"{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps(event) + "\n")

    def read(self, tell: Tell) -> None:
        """Tell of every whole line that is new."""
        for path in sorted(self.folder.glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            for line in whole.splitlines():
                tell(json.loads(line))

    def stop(self) -> None:
        """Tell all workers to end."""
        (self.folder / "stop").touch()

    @property
    def stopped(self) -> bool:
        """Whether they were told, or whoever would tell them is gone."""
        return not self.folder.exists() or (self.folder / "stop").exists()


def best(workers: int | None, threads: int, jobs: int) -> Executor:
    """Processes where several jobs can run at once, else this process."""
    count = workers or max(1, cores() // threads)
    count = min(count, jobs)
    return Processes(count, threads) if count > 1 else InProcess()


def attempt(function: Callable[[Job, Tell], Any], job: Job, tell: Tell) -> Any:
    """The result of a job, or :class:`Failed` for a mistake or what the system refuses."""
    try:
        return function(job, tell)
    except UserError as error:
        return Failed(str(error))
    except OSError as error:
        place = f" at {error.filename}" if error.filename else ""
        return Failed(f"{error.strerror or error}{place}; what was done before is kept")


_post: _Post | None = None


def _attempt(function: Callable[[Any, Tell], Any], job: Any) -> Any:
    assert _post is not None
    return attempt(function, job, _post.write)


def _begin(post: _Post, threads: int, parent: int) -> None:
    """Set up a worker: its threads, its end when told or orphaned, no Ctrl-C of its own."""
    global _post
    _post = post
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(post, parent), daemon=True).start()
    _keep_memory()
    import torch

    torch.set_num_threads(threads)


def _keep_memory() -> None:
    """Have glibc keep what is freed, for the next training step asks for as much again.

    Handing it back and asking anew costs 7 % of a step of ResNet-20 (benchmarks/README.md).
    """
    trim_threshold, mmap_threshold = -1, -3
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        library = ctypes.CDLL(None)
        for option in (trim_threshold, mmap_threshold):
            library.mallopt(option, 2**31 - 1)


def _watch(post: _Post, parent: int) -> None:
    while os.getppid() == parent and not post.stopped:
        time.sleep(0.25)
    os._exit(1)


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """Ctrl-C waits until the block is over; processes that start in it never get one."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _environment(threads: int) -> Iterator[None]:
    """Variables that OpenMP reads when a worker starts."""
    wanted = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
