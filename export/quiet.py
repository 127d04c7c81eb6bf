"""Libraries that print and warn, kept off the screen; and their failures, as one sentence."""

import io
import logging
import os
import re
import sysconfig
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from traceback import FrameSummary, extract_tb
from typing import Any, Final

from study.errors import DiagError, SkipError

LOG = logging.getLogger(__name__)
ANSI = re.compile(r"\x1b\[[0-9;]*m")
LONGEST = 300
HOUSE: Final = Path(__file__).resolve().parents[1]


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
        SkipError: the library raised; the message is the first line of the innermost cause.
    """
    try:
        with quiet(what, streams=streams):
            yield
    except (DiagError, MemoryError, OSError):
        raise
    except Exception as error:  # these libraries document no exceptions, and raise any
        LOG.info("%s failed", what, exc_info=True)
        raise SkipError(f"{what} failed{place_of(error)}: {reason_of(error)}{advice_of(error)}") from error


def reason_of(error: BaseException) -> str:
    """The first line of what was raised first."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in ANSI.sub("", str(error)).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def place_of(error: BaseException) -> str:
    """The line of the user's own code that failed: `` in forward, net.py line 8 (`x.item()`)``; or empty."""
    frame = _own_frame(error)
    if frame is None:
        return ""
    code = " ".join((frame.line or "").split())
    return f" in {frame.name}, {Path(frame.filename).name} line {frame.lineno}" + (
        f" (`{code}`)" if code else ""
    )


def advice_of(error: BaseException) -> str:
    """What usually helps where the line that failed is a known one; starts with a space."""
    frame = _own_frame(error)
    line = frame.line or "" if frame else ""
    if "pack_padded_sequence" in line:
        return " (pack_padded_sequence must be given the lengths as a tensor, not as a list or numbers)"
    if any(word in line for word in (".item()", ".tolist()", "int(", "float(", "if ", "while ")):
        return " (an exporter cannot follow a tensor into Python's numbers and conditions; torch.where does)"
    return ""


def _own_frame(error: BaseException) -> FrameSummary | None:
    """The innermost line of the user's own code that was running."""
    libraries = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
    ours = tuple(str(HOUSE / name) for name in ("study", "diagnose", "explain", "export", "diag"))
    found: FrameSummary | None = None
    seen: BaseException | None = error
    while seen is not None:
        own = [
            frame
            for frame in extract_tb(seen.__traceback__)
            if not frame.filename.startswith((*libraries, *(f"{folder}{os.sep}" for folder in ours), "<"))
        ]
        found = own[-1] if own else found
        seen = seen.__cause__
    return found
