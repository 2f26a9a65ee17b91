"""Jobs of a zoo on the nodes of a Ray cluster, or on one that is started for them here.

``RAY_ADDRESS`` names a cluster; without it one is started on this machine and ended with the run.
Every node needs thrifty of one version, and **the folder of the zoo at the same path**, on a file
system that all share; a node that does not see it says so.  The data are read once, here, and go
to the nodes through the object store, where all workers of a node share one copy.

A job is a task of one core.  When its worker is killed or its node goes, Ray gives it to another,
which goes on from the last segment that is done: at most one segment is lost, and the models end
the same bit for bit.
"""

import os
import platform
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch

from thrifty.data import Data, Split
from thrifty.errors import MissingExtra, UserError
from thrifty.lab.executor import Failed, Job, Tell, attempt
from thrifty.zoo.folder import Folder
from thrifty.zoo.sets import Sets, know, sets_of

RETRIES = 3
"""Times a job is given to another worker after the death of its own."""
EVERY = 0.25
"""Seconds between two looks at what workers tell."""


class OnRay:
    """Many jobs at once, each a task of one core; they have ``root``, the zoo, and ``data``.

    Args:
        workers: cores of the cluster that is started here, and the most tasks at once; all there
            are if ``None``.

    Raises:
        UserError: the package ray is not installed, or nothing answers at RAY_ADDRESS.
    """

    def __init__(self, workers: int | None = None):
        self.workers = workers
        imported()
        _answers(os.environ.get("RAY_ADDRESS", ""))

    def run(
        self, function: Callable[[Job, Tell], Any], jobs: Sequence[Job], tell: Tell
    ) -> Iterator[tuple[Job, Any]]:
        """(job, result or :class:`~thrifty.lab.executor.Failed`) for every job, as they end.

        Raises:
            UserError: the cluster cannot be reached, or the data cannot be read.
        """
        ray = imported()
        spec = {job.data: sets_of(*job.data) for job in jobs}  # type: ignore[attr-defined]
        with _connected(ray, self.workers), _post(ray) as post:
            stored = {data: ray.put(_arrays(sets)) for data, sets in spec.items()}
            task = ray.remote(num_cpus=1, max_retries=RETRIES)(_attempt)
            todo = list(reversed(jobs))
            running: dict[Any, Job] = {}
            try:
                while todo or running:
                    while todo and len(running) < (self.workers or len(jobs)):
                        job = todo.pop()
                        arrays = stored[job.data]  # type: ignore[attr-defined]
                        running[task.remote(function, job, arrays, post)] = job
                    done, _ = ray.wait(list(running), timeout=EVERY)
                    _heard(ray, post, tell)
                    for each in done:
                        yield running.pop(each), _outcome(ray, each)
            finally:
                for each in running:
                    ray.cancel(each, force=True)


def imported() -> Any:
    """The package ray.

    Raises:
        UserError: it is not installed.
    """
    # Or it warns that tasks without a GPU will some day see the GPUs all the same.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise MissingExtra("ray", "ray", "--executor ray") from None
    return ray


def _answers(address: str) -> None:
    """Refuse an address at which nothing answers, for which Ray itself waits for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, str(error)) from None


def _unreachable(address: str, why: str) -> UserError:
    where = f"at RAY_ADDRESS={address} cannot be reached" if address else "cannot be started"
    text = why.strip().split("\n")[0][:200].rstrip(".")
    return UserError(
        f"a Ray cluster {where}: {text}; start one with ray start --head, or use "
        f"--executor processes"
    )


@contextmanager
def _connected(ray: Any, workers: int | None) -> Iterator[None]:
    """Connected to the cluster of this process or of RAY_ADDRESS, or to one started for the block.

    Whoever was connected before stays so.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS", "")
    said: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if not address:
        said |= {"address": "local", "include_dashboard": False, "num_cpus": workers}
    try:
        ray.init(**said)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise _unreachable(address, str(error)) from None
    try:
        yield
    finally:
        ray.shutdown()


class _Post:
    """Takes what workers tell; lives where the run was started, so that no lost node takes it."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []

    def put(self, event: dict[str, Any]) -> None:
        """Keep an event until it is asked for."""
        self._events.append(event)

    def take(self) -> list[dict[str, Any]]:
        """The events since this was asked last."""
        found, self._events = self._events, []
        return found


@contextmanager
def _post(ray: Any) -> Iterator[Any]:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    made = ray.remote(num_cpus=0, scheduling_strategy=here)(_Post).remote()
    try:
        yield made
    finally:
        ray.kill(made)


def _heard(ray: Any, post: Any, tell: Tell) -> None:
    """Tell what workers told; progress that is lost stops no work."""
    with suppress(ray.exceptions.RayError):
        for event in ray.get(post.take.remote(), timeout=10):
            tell(event)


def _outcome(ray: Any, reference: Any) -> Any:
    """The result of a task, or :class:`Failed` if all its workers died."""
    errors = ray.exceptions
    try:
        return ray.get(reference)
    except errors.RayTaskError as error:
        raise error.cause from None
    except errors.RayError as error:
        text = str(error).strip().split("\n")[0][:200]
        return Failed(
            f"its worker died {RETRIES + 1} times (out of memory, or its nodes went): {text}; run "
            f"again to go on from what is done"
        )


def _attempt(function: Callable[[Any, Tell], Any], job: Any, arrays: list[Any], post: Any) -> Any:
    """In a worker: do a job with the data that came with it."""
    torch.set_num_threads(1)
    data, validation = job.data
    know(data, validation, _sets(arrays))

    def tell(event: dict[str, Any]) -> None:
        post.put.remote(event)

    def seen(job: Any, tell: Tell) -> Any:
        if not Folder(job.root).mark.is_file():
            raise UserError(
                f"{job.root} is not seen on node {platform.node()}; the folder of the zoo must lie "
                f"where all nodes have it, at one path: give --out such a folder"
            )
        return function(job, tell)

    return attempt(seen, job, tell)


def _arrays(sets: Sets) -> list[Any]:
    """The data as arrays, which workers read where they lie in the object store."""
    data = sets.data
    splits = (data.train, data.test, sets.validation)
    about = {n: getattr(data, n) for n in ("name", "classes", "mean", "std", "class_names")}
    return [about, *(s and (s.inputs.numpy(), s.labels.numpy()) for s in splits)]


def _sets(arrays: list[Any]) -> Sets:
    """The way back, without a copy; nobody writes to the tensors of data."""
    about, *pairs = arrays
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the arrays cannot be written to
        train, test, held = (p and Split(*map(torch.from_numpy, p)) for p in pairs)
    return Sets(Data(train=train, test=test, **about), held)
