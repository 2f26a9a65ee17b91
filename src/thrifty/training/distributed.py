"""One training in several processes, on one machine or on many, as ``torchrun`` starts them.

The first process (rank 0) does everything that a program does alone: it reads, decides, prints,
writes.  When it comes to train, it sends the network and all that the training is made of to the
others, which until then wait; they take part and keep nothing.  So no code but the loop knows of
other processes, and only one of them touches files.

Every process makes the same batches from the same seed, and takes its part of each: the batch of
a plan is that of all together, its order and augmentation are those of one process, and gradients
are averaged by ``DistributedDataParallel``.  Several processes thus give the network that one
gives, but for rounding, dropout (drawn by each for its part) and batch normalisation: in training
it normalises each part by its own mean and variance.  Its running statistics are averaged over the
processes at the end of each epoch.

What goes wrong in the first process where the others wait for word of it is sent instead, and they
go back to waiting.  A process that dies ends the run: the others lose their connection.
"""

import os
import signal
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from thrifty.errors import UserError
from thrifty.training.crew import Alone, Crew

T = TypeVar("T")

LOST = ("connection closed", "connection reset", "socket", "broken pipe", "nccl", "remote process")
"""Words by which torch says that another process is gone."""

_ALONE = Alone()
_crew: Crew | None = None


def crew() -> Alone:
    """Those that train together now."""
    return _ALONE if _crew is None else _crew


def together(work: Callable[[], T], device: str = "auto") -> T | None:
    """What ``work`` returns, all of whose trainings are done by all processes of a ``torchrun``.

    It is called in the first process; the others serve it and return ``None``.

    Args:
        device: of the networks; on ``auto`` and ``cuda`` each process takes a GPU of its own, if
            there are any.

    Example: ``together(lambda: thrifty.train(model, data, plan))`` in a program that is started
    as ``torchrun --nproc-per-node 2 program.py``.

    Raises:
        UserError: torchrun did not start this process, a machine has fewer GPUs than processes,
            or a process was lost.
    """
    global _crew
    _crew = _join(device)
    try:
        if _crew.rank:
            serve(_crew)
            dist.destroy_process_group()
            return None
        try:
            result = work()
        except (UserError, OSError):
            _crew.end()  # the others wait for the next training, so they can be told
            raise
        _crew.end()
    except RuntimeError as error:
        if not _lost(error):
            raise
        raise UserError(
            f"a process of this training was lost, of {_crew.size} (out of memory, killed, or it "
            f"failed and says so itself); what is done is kept, so run the same again to go on"
        ) from error
    finally:
        _crew = None
    dist.destroy_process_group()  # not after errors: it would wait for those that are lost
    return result


def serve(among: Crew) -> None:
    """Take part in what the first process trains, until it is done."""
    from thrifty.training.loop import train

    for number in (signal.SIGINT, signal.SIGTERM):  # in a wait, Python's own would not be heard
        signal.signal(number, signal.SIG_DFL)
    while (what := among.next()) is not None:
        ramps = what.pop("ramps")
        try:
            train(**what, ramp=_unasked if ramps else None)
        except UserError:
            continue  # the first process has the same, and says so


def started() -> bool:
    """Whether this is one of several processes of a ``torchrun``."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "TORCHELASTIC_RUN_ID" in os.environ


def _unasked(progress: float, held: Any) -> Any:
    """A ramp, which only the first process asks."""
    return None


def _join(name: str) -> Crew:
    try:
        rank, size, local = (int(os.environ[k]) for k in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    except (KeyError, ValueError):
        raise UserError(
            "distributed training needs the variables RANK, WORLD_SIZE and LOCAL_RANK, which "
            "torchrun sets; start it as: torchrun --nproc-per-node 2 -m thrifty train ... "
            "--distributed"
        ) from None
    gpus = torch.cuda.device_count() if name == "auto" or name.startswith("cuda") else 0
    if gpus and local >= gpus:
        raise UserError(
            f"process {local} of this machine has no GPU of its own, for there are {gpus}; start "
            f"torchrun with --nproc-per-node {gpus}, or give --device cpu"
        )
    device = torch.device("cuda", local) if gpus else torch.device("cpu")
    if gpus:
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", rank=rank, world_size=size)
    return Crew(rank, size, device)


def _lost(error: RuntimeError) -> bool:
    said = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in said for word in LOST)
