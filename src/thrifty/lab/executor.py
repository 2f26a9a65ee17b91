"""Do many jobs, in this process or in several: three lines for whoever has the jobs.

::

    for job, outcome in executor.run(function, jobs, tell):
        ...

A job is a value that can be pickled and ``function(job, tell)`` a function of a module.  Jobs
must be safe to repeat: when a worker dies (out of memory, killed), its jobs are given to a new
one, at most twice.
"""

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

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
        events, stop = context.Queue(), context.Event()
        with _environment(self.threads):
            pool = ProcessPoolExecutor(
                max_workers=min(self.workers, len(indices)),
                mp_context=context,
                initializer=_begin,
                initargs=(events, stop, self.threads, os.getpid()),
            )
            futures: dict[Future[Any], int] = {
                pool.submit(_attempt, function, jobs[i]): i for i in indices
            }
        try:
            while futures:
                done, _ = wait(futures, timeout=0.2, return_when=FIRST_COMPLETED)
                _drain(events, tell)
                for future in done:
                    index = futures.pop(future)
                    error = future.exception()
                    if error is not None and not isinstance(error, BrokenProcessPool):
                        raise error
                    yield index, error if error is not None else future.result()
        finally:
            if futures:
                stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            _drain(events, tell)
            events.cancel_join_thread()
            events.close()


def best(workers: int | None, threads: int, jobs: int) -> Executor:
    """Processes where several jobs can run at once, else this process."""
    count = workers or max(1, (os.cpu_count() or 1) // threads)
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


_events: Any = None


def _attempt(function: Callable[[Any, Tell], Any], job: Any) -> Any:
    return attempt(function, job, _events.put)


def _begin(events: Any, stop: Any, threads: int, parent: int) -> None:
    """Set up a worker: its threads, its end when told or orphaned, no Ctrl-C of its own."""
    global _events
    _events = events
    events.cancel_join_thread()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(stop, parent), daemon=True).start()
    import torch

    torch.set_num_threads(threads)


def _watch(stop: Any, parent: int) -> None:
    while os.getppid() == parent and not stop.is_set():
        time.sleep(0.25)
    os._exit(1)


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


def _drain(events: Any, tell: Tell) -> None:
    with contextlib.suppress(queue.Empty, OSError, EOFError):
        while True:
            tell(events.get_nowait())
