"""Where memory is short large tensors go back to the system at once, and nowhere else."""

import pytest
import torch

from thrifty.nets import resolve
from thrifty.training import memory

GIB = 1 << 30


def system(tmp_path, free=None, most=None, used=None):
    """The files that tell of memory; ``None`` leaves one out."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    if free is not None:
        text = f"MemTotal:  99999 kB\nMemAvailable:  {free >> 10} kB\nBuffers:  1 kB\n"
        (tmp_path / "proc/meminfo").write_text(text)
    for name, value in (("max", most), ("current", used)):
        if value is not None:
            (tmp_path / "sys/fs/cgroup" / f"memory.{name}").write_text(f"{value}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("told", "left"),
    [
        ({"free": 5 * GIB}, 5 * GIB),
        ({"free": 5 * GIB, "most": "max", "used": GIB}, 5 * GIB),
        ({"free": 5 * GIB, "most": 2 * GIB, "used": GIB}, GIB),
        ({"most": 2 * GIB, "used": 3 * GIB}, 0),
        ({}, 2 * memory.ENOUGH),
    ],
)
def test_what_is_left_is_the_least_of_what_the_system_tells(tmp_path, told, left):
    assert memory.available(system(tmp_path, **told)) == left


@pytest.mark.parametrize(
    ("checkpointing", "left", "bound"),
    [(False, memory.ENOUGH, False), (True, memory.ENOUGH, True), (False, GIB, True)],
)
def test_pages_are_given_back_where_little_memory_is_wanted(
    monkeypatch, checkpointing, left, bound
):
    called = []
    monkeypatch.setattr(memory, "_bound_heap", lambda: called.append(True))
    monkeypatch.setattr(memory, "available", lambda: left)
    model = resolve("thriftynet?filters=4&iterations=3&history=2", classes=10, shape=(1, 8, 8))
    model.checkpointing = checkpointing
    memory.large_go_back(model, torch.device("cpu"))
    memory.large_go_back(resolve("lenet", classes=10, shape=(1, 28, 28)), torch.device("cpu"))
    assert bool(called) == bound
