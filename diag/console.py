"""What a terminal shows while a flow runs: a bar with the time left, or plain lines where nobody watches."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as Bars
from rich.text import Text

from diag.events import Watcher
from study.progress import Progress


def is_watched() -> bool:
    """Whether stderr is a terminal that somebody looks at."""
    return sys.stderr.isatty() and not os.environ.get("CI") and os.environ.get("TERM") != "dumb"


@contextmanager
def watching(*, quiet: bool) -> Iterator[Watcher]:
    """A watcher for this terminal; everything goes to stderr, since results go to stdout."""
    if quiet:
        yield Watcher()
    elif not is_watched():
        lines = Lines()
        yield lines
        lines.flush()
    else:
        console = Console(stderr=True, highlight=False)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), Pace())
        with Bars(*columns, console=console, transient=True) as bars:
            yield Screen(bars, console)


class Pace(ProgressColumn):
    """How much is done and how long the rest will take; how long it has taken where nobody knows how much."""

    def render(self, task: Task) -> Text:
        """``3/7, 0:12 left`` or ``0:05 so far``."""
        if task.total is None or task.time_remaining is None:
            parts = [] if task.total is None else [f"{task.completed:.0f}/{task.total:.0f}"]
            return Text(", ".join([*parts, f"{_clock(task.elapsed or 0.0)} so far"]))
        return Text(f"{task.completed:.0f}/{task.total:.0f}, {_clock(task.time_remaining)} left")


class Lines(Watcher):
    """One plain line a finished step.

    Nobody watches, so notes wait for the end of their step: where the input turns out to be wrong, the one
    sentence that says so stands alone.
    """

    def __init__(self) -> None:
        self._notes: list[str] = []

    def note(self, text: str) -> None:
        """Say it when the step ends."""
        self._notes.append(text)

    def ends(self, step: str, seconds: float, outcome: str) -> None:
        """Name the step, what became of it and how long it took."""
        self.flush()
        print(_line(step, seconds, outcome), file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Say what waits."""
        for text in self._notes:
            print(text, file=sys.stderr, flush=True)
        self._notes.clear()


class Screen(Watcher):
    """The step that runs as a bar, the finished ones as lines above it."""

    def __init__(self, bars: Bars, console: Console) -> None:
        self._bars = bars
        self._console = console
        self._step = ""
        self._task = bars.add_task("starting", total=None)
        self._done, self._total = 0, 0

    @property
    def progress(self) -> Progress:
        """Moves the bar."""
        return Progress(self._tell)

    def note(self, text: str) -> None:
        """Say it above the bar."""
        self._console.print(text, markup=False, soft_wrap=True)

    def begins(self, step: str, number: int, count: int) -> None:
        """Put the step on the bar."""
        self._step = f"{number + 1}/{count} {step}"
        self._bars.reset(self._task, description=self._step, total=None)

    def ends(self, step: str, seconds: float, outcome: str) -> None:
        """A line above the bar."""
        self._console.print(_line(step, seconds, outcome), markup=False)

    def _tell(self, what: str, done: int, total: int) -> None:
        if total != self._total or done < self._done:  # another piece of work has a pace of its own
            self._bars.reset(self._task, total=total or None)
        self._done, self._total = done, total
        description = f"{self._step}: {what}" if self._step else what
        self._bars.update(self._task, description=description, completed=done, total=total or None)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _line(step: str, seconds: float, outcome: str) -> str:
    return f"{step}: kept from before" if outcome == "kept" else f"{step}: {outcome} in {seconds:.1f} s"
