"""What can go wrong, each with its sentence and its exit code."""

from collections.abc import Iterable
from difflib import get_close_matches

NAMES_SHOWN = 3


class DiagError(Exception):
    """The base of what this project raises on purpose: our fault unless a subclass says otherwise."""

    exit_code = 3


class InputError(DiagError):
    """The input is wrong: one sentence that says what to do, with at most three names in it."""

    exit_code = 2


class GateError(DiagError):
    """An artifact does not keep what was asked of it: one sentence that says what."""

    exit_code = 1


class OutputError(DiagError):
    """What was asked for cannot be written there, or there is nothing to write: one sentence that says why.

    What is whole stays: the same command goes on from it.
    """

    exit_code = 2


class SkipError(DiagError):
    """This could not be looked for, or done; the message is the reason that a SKIPPED record shows."""


class WorkerError(DiagError):
    """A worker process died, or ran past its time limit."""


def few(names: Iterable[object], shown: int = NAMES_SHOWN) -> str:
    """At most three names for a sentence: ``'a', 'b', 'c' and 4 more``."""
    every = [str(name) for name in names]
    text = ", ".join(f"'{name}'" for name in every[:shown])
    return text if len(every) <= shown else f"{text} and {len(every) - shown} more"


def counted(number: int, noun: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def are(number: int) -> str:
    """The verb of so many: ``is`` or ``are``."""
    return "is" if number == 1 else "are"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?``, or the first few known names where none is close; starts with a space."""
    known = list(known)
    close = get_close_matches(word, known, n=1)
    if close:
        return f" Did you mean '{close[0]}'?"
    return f" There are {few(known)}." if known else ""
