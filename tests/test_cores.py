"""How many cores there are for us: those we are bound to, and a container's share."""

import os

import pytest

import thrifty.cores as module


@pytest.fixture
def eight(monkeypatch):
    """A process that is bound to eight cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.parametrize(
    ("said", "found"),
    [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("1000 100000", 1)]
    + [("9900000 100000", 8), ("", 8), ("1 0", 8)],
)
def test_a_container_has_no_more_cores_than_its_share_of_time(
    eight, said, found, tmp_path, monkeypatch
):
    (tmp_path / "cpu.max").write_text(said)
    monkeypatch.setattr(module, "QUOTA", tmp_path / "cpu.max")
    assert module.cores() == found


def test_where_nothing_binds_all_cores_count(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setattr(module, "QUOTA", tmp_path / "none")
    assert module.cores() == 6
