"""What a flow tells whoever watches it."""

from study.progress import Progress


class Watcher:
    """Told what happens; this one says nothing, and ``diag.console`` has those for terminals."""

    @property
    def progress(self) -> Progress:
        """Told how far the work of a step has come."""
        return Progress()

    def note(self, text: str) -> None:
        """Something was guessed, put in or left out."""

    def begins(self, step: str, number: int, count: int) -> None:
        """A step begins."""

    def ends(self, step: str, seconds: float, outcome: str) -> None:
        """A step ended: ``done``, ``kept`` from before, ``skipped`` or ``failed``."""
