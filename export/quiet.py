"""Libraries that print and warn, kept off the screen; and their failures, as one sentence."""

import io
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import Any

from export.refusals import RefusalError, reason_for
from study.errors import DiagError, SkipError

LOG = logging.getLogger(__name__)
ANSI = re.compile(r"\x1b\[[0-9;]*m")
LONGEST = 300


@contextmanager
def quiet(what: str, *, streams: bool = True) -> Iterator[None]:
    """What is warned and logged inside, and printed with ``streams``, goes to our log at level INFO.

    Without ``streams`` whoever is told of the progress may write to the terminal meanwhile. torch's own
    handlers hold on to the stderr of the time when it was imported, so their streams are swapped; and
    onnxruntime's quantizer logs to the root logger, so its handlers are.
    """
    said, root = io.StringIO(), logging.getLogger()
    swapped = [(handler, handler.setStream(said)) for handler in _handlers_of("torch")]
    kept, root.handlers[:] = root.handlers[:], [logging.StreamHandler(said)]
    try:
        with ExitStack() as stack:
            warned = stack.enter_context(warnings.catch_warnings(record=True))
            warnings.simplefilter("always")
            if streams:
                stack.enter_context(redirect_stdout(said))
                stack.enter_context(redirect_stderr(said))
            try:
                yield
            finally:
                said.writelines(f"{one.category.__name__}: {one.message}\n" for one in warned)
    finally:
        root.handlers[:] = kept
        for handler, stream in swapped:
            if stream is not None:  # None: the handler of two loggers, swapped for the first of them
                handler.setStream(stream)
        if said.getvalue().strip():
            LOG.info("%s said:\n%s", what, ANSI.sub("", said.getvalue()).strip())


def _handlers_of(package: str) -> list[Any]:
    """The handlers of a package's loggers that write to a terminal.

    Not torch's trace handler: it opens a file when it has something to write, and closes what it was given.
    """
    return [
        handler
        for name, logger in logging.root.manager.loggerDict.items()
        if name.partition(".")[0] == package and isinstance(logger, logging.Logger)
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)
        if handler.stream is not None
    ]


@contextmanager
def descriptors(what: str) -> Iterator[None]:
    """What C++ writes past Python, to the descriptors of stdout and stderr, goes to our log too."""
    with tempfile.TemporaryFile() as said:
        kept = {number: os.dup(number) for number in (1, 2)}
        try:
            for number in kept:
                os.dup2(said.fileno(), number)
            yield
        finally:
            for number, copy in kept.items():
                os.dup2(copy, number)
                os.close(copy)
            said.seek(0)
            text = said.read().decode(errors="replace").strip()
            if text:
                LOG.info("%s said:\n%s", what, ANSI.sub("", text))


@contextmanager
def library(what: str, *, streams: bool = True) -> Iterator[None]:
    """A library's work: quiet, and what it raises becomes the reason of a skipped step.

    Raises:
        SkipError: the library raised; the message names the line of the model's own code that was the reason,
            what usually helps, and the first line of the innermost cause.
    """
    try:
        with quiet(what, streams=streams):
            yield
    except (DiagError, MemoryError, OSError):
        raise
    except Exception as error:  # these libraries document no exceptions, and raise any
        LOG.info("%s failed", what, exc_info=True)
        why = reason_for(error)
        if why.place and why.advice:
            raise RefusalError(f"{what} failed{why.place}: {why.advice} ({reason_of(error)})") from error
        raise SkipError(f"{what} failed{why.place}: {reason_of(error)}") from error


def reason_of(error: BaseException) -> str:
    """The first line of what was raised first."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in ANSI.sub("", str(error)).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
