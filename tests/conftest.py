"""Shared by all tests: where real data lie, and a way to refuse skipped tests."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

# Tests run beside each other, a file to a process; torch would take all cores for each of them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from thrifty.errors import MissingExtra

# The same examples every time: what passes here passes there.  Others are looked for with
# pytest --hypothesis-profile=explore.
hypothesis.settings.register_profile("fixed", derandomize=True)
hypothesis.settings.register_profile("explore", derandomize=False, print_blob=True)
hypothesis.settings.load_profile("fixed")

SLOW = (
    "test_sanitizers.py",
    "test_run.py",
    "test_recursions.py",
    "test_lanes_sanitizers.py",
    "test_cli.py",
    "test_shrunk.py",
    "test_gated_runs.py",
    "test_fronts.py",
    "test_distributed.py",
)
"""Files that take longest: begun first, for the suite ends when the last file does."""


def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores: many tests wait for processes of their own, or for a clock."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items):
    """Slow files first, in the order above, then all others in theirs."""
    place = {name: number for number, name in enumerate(SLOW)}
    items.sort(key=lambda item: place.get(item.path.name, len(SLOW)))


@pytest.fixture(autouse=True)
def signals_put_back() -> Iterator[None]:
    """Commands take signals; the next test finds them as they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def one_process() -> Iterator[None]:
    """A run that names no workers takes this process: starting others takes seconds each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("thrifty.lab.executor.cores", lambda: 1)
        yield


@pytest.fixture(scope="session")
def ended() -> Callable[..., int]:
    """Runs a command in this process: its words, as texts or paths, to its exit status."""

    def run(*words: object) -> int:
        from thrifty.cli import main

        try:
            main(list(map(str, words)))
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return run


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without altair a report is a page alone, which takes no time."""
    monkeypatch.setitem(sys.modules, "altair", None)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets and weights that THRIFTY_DATA names."""
    folder = os.environ.get("THRIFTY_DATA")
    if not folder:
        pytest.skip("THRIFTY_DATA names no folder of real data")
    return Path(folder)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A test that needs an extra which is not installed is skipped, unless none may be.

    With THRIFTY_NO_SKIPS set, a skipped test has failed: it guards nothing.
    """
    outcome = yield
    report = outcome.get_result()
    if report.failed and call.excinfo is not None and call.excinfo.errisinstance(MissingExtra):
        report.outcome = "skipped"
        report.longrepr = (str(item.path), item.location[1], str(call.excinfo.value))
    if report.skipped and os.environ.get("THRIFTY_NO_SKIPS"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and no test may be: {report.longrepr}"


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector):
    """The same for whole files that are skipped as they are read."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("THRIFTY_NO_SKIPS"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and no test may be: {report.longrepr}"
