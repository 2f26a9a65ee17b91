"""How a run shows that it goes on: bars on a terminal, plain lines elsewhere, on stderr.

A view is called with the events of a run, dictionaries of figures, and closed at its end.
"""

import json
import sys
import time
from types import TracebackType
from typing import Any, TextIO

Event = dict[str, Any]


EVERY = 30.0
"""Least seconds between two lines on networks that are not done."""


class Plain:
    """A line for every network that is done, and now and then one on a network under way."""

    def __init__(self, stream: TextIO | None = None, every: float = EVERY):
        self.stream, self.every = stream or sys.stderr, every
        self.total = self.ready = 0
        self._began = self._said = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if "total" in event:
            self.total, self.ready = event["total"], event["ready"]
            note = f", {self.ready} of them done before" if self.ready else ""
            self.say(f"{self.total} {event.get('what', 'networks to make')}{note}")
        elif event.get("done"):
            self.ready += 1
            seconds = time.monotonic() - self._began
            self.say(f"[{self.ready}/{self.total}] {seconds:6.1f} s  {describe(event)}")
        elif "message" in event:
            self.say(event["message"])
        elif event.get("job") and time.monotonic() - self._said >= self.every:
            self.under_way(event)

    def under_way(self, event: Event) -> None:
        """Say how far a network is, where no bar shows it."""
        self._said = time.monotonic()
        self.say(f"{event['job']}  {100 * event.get('progress', 0):.0f} %  {noted(event)}".rstrip())

    def say(self, text: str) -> None:
        """Write a line."""
        print(text, file=self.stream, flush=True)

    def close(self) -> None:
        """Nothing to put back."""

    def __enter__(self) -> "Plain":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Quiet(Plain):
    """Nothing at all."""

    def say(self, text: str) -> None:
        """Keep silent."""


class JsonLines(Plain):
    """Every event as a line of JSON, for other programs."""

    def __call__(self, event: Event) -> None:
        """Show an event."""
        self.say(json.dumps(event))


class Bars(Plain):
    """A bar for the run and one for every job under way."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(file=self.stream),
            transient=True,
        )
        self._whole = self._progress.add_task("networks", total=None, note="")
        self._jobs: dict[str, Any] = {}
        self._progress.start()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        super().__call__(event)
        self._progress.update(self._whole, total=self.total or None, completed=self.ready)
        job = event.get("job")
        if job is None:
            return
        if job not in self._jobs:
            self._jobs[job] = self._progress.add_task(job, total=100, note="")
        if event.get("done"):
            self._progress.update(self._jobs.pop(job), visible=False)
        else:
            done = round(100 * event.get("progress", 0))
            self._progress.update(self._jobs[job], completed=done, note=noted(event))

    def under_way(self, event: Event) -> None:
        """Nothing: the bars show it."""

    def say(self, text: str) -> None:
        """Write a line above the bars."""
        self._progress.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        """Take the bars away."""
        self._progress.stop()


def describe(event: Event) -> str:
    """One finished network in words: its own, if it has any."""
    if "text" in event:
        return str(event["text"])
    threshold = event.get("threshold")
    level = f" {event['level']:g}" if event["level"] else ""
    level = level if threshold is None else f" threshold {threshold:g}"
    return (
        f"seed {event['seed']}  {event['method']}{level}:  "
        f"accuracy {100 * event['accuracy']:.2f} %  "
        f"sparsity {100 * event['sparsity']:.2f} %  {event['bytes']:,} bytes{speed(event)}"
    )


def noted(event: Event) -> str:
    """What is known of a network under way."""
    note = f"sparsity {event['level']:g}" if event.get("level") else ""
    if "loss" in event:
        note += f"  loss {event['loss']:.3f}  accuracy {100 * event['accuracy']:.1f} %"
    return (note + speed(event)).strip()


def speed(event: Event) -> str:
    """How fast a network is or was trained, in words; none, if the event does not tell."""
    rate = event.get("inputs_per_second")
    return f"  {rate:,.0f} samples/s" if rate else ""


def view(quiet: bool = False, as_json: bool = False) -> Plain:
    """The view that fits: bars on a terminal, lines elsewhere."""
    if quiet:
        return Quiet()
    if as_json:
        return JsonLines()
    return Bars() if sys.stderr.isatty() else Plain()
