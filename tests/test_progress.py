"""What a run shows of itself: a line a network, nothing at all, JSON, or bars on a terminal."""

import contextlib
import io
import json

import pytest

from thrifty import progress
from thrifty.progress import Bars, JsonLines, Plain, Quiet, view

DONE = {
    "job": "seed 0 magnitude",
    "done": True,
    "method": "magnitude",
    "level": 0.9,
    "seed": 0,
    "accuracy": 0.975,
    "sparsity": 0.9,
    "bytes": 12345,
}
EVENTS = [
    {"total": 4, "ready": 1},
    {"job": "seed 0 magnitude", "method": "magnitude", "level": 0.9, "progress": 0.5},
    {"job": "seed 0 magnitude", "loss": 1.25, "accuracy": 0.5, "progress": 0.7, "level": 0.9},
    {"message": "a worker process died"},
    DONE,
]


def shown(kind) -> list[str]:
    stream = io.StringIO()
    with kind(stream) as tell:
        for event in EVENTS:
            tell(event)
    return stream.getvalue().splitlines()


def test_plain_is_a_line_a_network():
    first, second, third = shown(Plain)
    assert first == "4 networks to make, 1 of them done before"
    assert second == "a worker process died"
    assert third.startswith("[2/4] ")
    assert third.endswith(
        "seed 0  magnitude 0.9:  accuracy 97.50 %  sparsity 90.00 %  12,345 bytes"
    )


def test_a_network_under_way_is_told_now_and_then():
    stream = io.StringIO()
    tell = Plain(stream, every=0)
    for event in EVENTS:
        tell(event)
    lines = stream.getvalue().splitlines()
    assert lines[1] == "seed 0 magnitude  50 %  sparsity 0.9"
    assert lines[2] == "seed 0 magnitude  70 %  sparsity 0.9  loss 1.250  accuracy 50.0 %"
    assert len(lines) == 5


def test_quiet_is_nothing():
    assert shown(Quiet) == []


def test_json_lines_are_the_events():
    assert [json.loads(line) for line in shown(JsonLines)] == EVENTS


def test_a_dense_network_has_no_level():
    assert "dense:" in progress.describe({**DONE, "method": "dense", "level": 0.0})


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return Terminal()


def test_bars_go_to_the_terminal_and_are_taken_away(terminal):
    with Bars(terminal) as tell:
        for event in EVENTS:
            tell(event)
    text = terminal.getvalue()
    assert "4 networks to make, 1 of them done before" in text
    assert "a worker process died" in text
    assert "[2/4]" in text
    assert text.rstrip().endswith("\x1b[2K")


def test_bars_take_events_in_any_order(terminal):
    with Bars(terminal) as tell:
        for event in reversed(EVENTS):
            tell(event)
        tell({"job": "latency", "progress": 0.5})


def test_bars_are_taken_away_when_the_run_is_stopped(terminal):
    with pytest.raises(KeyboardInterrupt), Bars(terminal) as tell:
        tell(EVENTS[0])
        raise KeyboardInterrupt
    assert "\x1b[?25h" in terminal.getvalue(), "the cursor is shown again"


@pytest.mark.parametrize(
    ("quiet", "as_json", "kind"), [(True, False, Quiet), (False, True, JsonLines)]
)
def test_the_view_that_was_asked_for(quiet, as_json, kind):
    assert type(view(quiet, as_json)) is kind


def test_without_a_terminal_lines_are_plain():
    with contextlib.redirect_stderr(io.StringIO()):
        assert type(view()) is Plain


def test_on_a_terminal_there_are_bars(terminal):
    with contextlib.redirect_stderr(terminal), view() as tell:
        assert type(tell) is Bars
