"""A child process that does the heavy work, is reused, and dies with its parent.

The parent stays light and alive: a library that crashes, hangs or writes to the screen does so over there.
What is called is a function of a module with picklable arguments; its last argument is a ``Progress``.
"""

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

from study.errors import DiagError, WorkerError
from study.nursery import Birth, Forked, born, nurse
from study.progress import Progress
from study.storage import number_of, refused

T = TypeVar("T")

PR_SET_PDEATHSIG = 1
TELL_EVERY_S = 0.1
STOP_WITHIN_S = 2.0


class Worker(ABC):
    """Somewhere to call a function; a context manager."""

    @abstractmethod
    def call(
        self, function: Callable[..., T], *arguments: object, progress: Progress, limit_s: float | None = None
    ) -> T:
        """``function(*arguments, progress)``, there.

        Raises:
            DiagError: whatever of ours the function raised.
            WorkerError: anything else it raised (its traceback is a note), its process died, or it told no
                progress for ``limit_s``.
        """

    @abstractmethod
    def close(self) -> None:
        """Let it go."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Inline(Worker):
    """This very process: for live objects, which cannot be sent to another one."""

    def call(
        self, function: Callable[..., T], *arguments: object, progress: Progress, limit_s: float | None = None
    ) -> T:
        """Call it here; a limit cannot be kept without a process to end."""
        del limit_s
        return function(*arguments, progress)

    def close(self) -> None:
        """Nothing was taken."""


class Child(Worker):
    """A spawned process. It starts with the first call, and again with the first call after it was lost."""

    def __init__(
        self,
        name: str,
        log: Path,
        preload: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self.preload = preload
        """Modules that it will need, and that other workers need too."""
        self.environment = environment
        """Variables of its own: such a process is started and never forked, as a service would be."""
        self.starts = 0
        self._process: subprocess.Popen[bytes] | Forked | None = None
        self._line: Connection | None = None

    def call(
        self, function: Callable[..., T], *arguments: object, progress: Progress, limit_s: float | None = None
    ) -> T:
        """Send the call, pass on its progress, and wait for its end."""
        line = self._line or self._start()
        try:
            line.send((function, arguments))
            kind, value = self._answer(line, progress, limit_s)
        except (EOFError, ConnectionError) as lost:
            fate = _fate(self._end())
            raise WorkerError(f"the {self.name} worker died ({fate}); its log is {self.log}") from lost
        except BaseException:
            self._end()  # late or interrupted: what it would still send is not for the next call
            raise
        if kind == "refused":
            told, error = value
            raise refused(error, self.log.parent) or told
        if kind == "error":
            raise value
        return value  # type: ignore[no-any-return]  # what came over the line is the function's own T

    @staticmethod
    def _answer(line: Connection, progress: Progress, limit_s: float | None) -> tuple[str, Any]:
        while True:
            if limit_s is not None and not line.poll(limit_s):
                raise WorkerError(f"it was silent past its time limit of {limit_s:g} s and was ended")
            kind, *rest = line.recv()
            if kind != "progress":
                return kind, rest[0]
            progress.tell(*rest)

    def close(self) -> None:
        """Close the line; it ends by itself, or is ended."""
        if self._line is not None:
            self._line.close()
            self._line = None
        if self._process is not None:
            try:
                self._process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _start(self) -> Connection:
        ours, theirs = socket.socketpair()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with theirs, self.log.open("ab") as log:
            fresh = self.environment is not None
            birth = Birth(self.preload, {**_environment(), **(self.environment or {})}, str(Path.cwd()))
            self._process = (None if fresh else born(birth, theirs, log)) or _started(birth, theirs, log)
        self._line = Connection(ours.detach())
        self.starts += 1
        return self._line

    def _end(self) -> int | None:
        process = self._process
        if process is not None and process.poll() is None:
            try:
                process.wait(0.2)  # a process that just closed its line has its own exit code in a moment
            except subprocess.TimeoutExpired:
                process.kill()
        self.close()
        return process.returncode if process is not None else None


def _started(birth: Birth, line: socket.socket, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """A process of its own making, where none is forked."""
    return subprocess.Popen(  # noqa: S603  # our own interpreter and module
        [sys.executable, "-P", "-m", "study.worker", str(line.fileno()), str(os.getpid())],
        pass_fds=[line.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=dict(birth.environment),
        cwd=birth.folder,
    )


def _environment() -> dict[str, str]:
    """The child finds our five packages where this process found them, also in an uninstalled checkout."""
    here = str(Path(__file__).resolve().parents[1])
    paths = [here, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "default", "PYTHONIOENCODING": "utf-8"}
    return {**os.environ, **quiet, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


def _fate(code: int | None) -> str:
    """Why a process ended, in words."""
    if code is None:
        return "it cannot be said how"
    if code >= 0:
        return f"exit code {code}"
    reason = ": out of memory, probably" if -code == signal.SIGKILL else ""
    return f"{signal.Signals(-code).name}{reason}"


def _die_with(parent: int) -> None:
    """End this process when its parent does, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    if os.getppid() != parent:
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()


def _teller(line: Connection) -> Progress:
    """Sends progress home, a few times a second at most, and always the last step of a piece of work."""
    last_at, last_what = 0.0, ""

    def tell(what: str, done: int, total: int) -> None:
        nonlocal last_at, last_what
        now = time.monotonic()
        if what != last_what or done == total or now - last_at >= TELL_EVERY_S:
            last_at, last_what = now, what
            line.send(("progress", what, done, total))

    return Progress(tell)


def _log_ours() -> None:
    """What our own packages tell (what a library printed, why it failed) goes to stderr, which is the log."""
    logging.basicConfig(format="%(name)s: %(message)s")
    for name in ("study", "diagnose", "explain", "export", "diag"):
        logging.getLogger(name).setLevel(logging.INFO)


def _serve(line: Connection) -> None:
    """Answer calls until the line is closed."""
    progress = _teller(line)
    while True:
        try:
            function, arguments = line.recv()
        except (EOFError, ConnectionError):
            return
        try:
            answer: tuple[str, Any] = ("done", function(*arguments, progress))
        except DiagError as error:
            answer = ("error", error)
        except Exception as error:  # noqa: BLE001  # whatever a library raises is told to the parent
            told = WorkerError(f"{type(error).__name__}: {error}")
            told.add_note(_tell_log(error))
            plain = _plain(error)
            answer = ("refused", (told, plain)) if plain else ("error", told)
        line.send(answer)


def _plain(error: Exception) -> OSError | None:
    """What the operating system refused, as it can be sent home; None for any other fault."""
    number, name = number_of(error), getattr(error, "filename", None)
    return OSError(number, str(error), str(name) if name else None) if number else None


def _tell_log(error: Exception) -> str:
    """The traceback, which goes to the log; on a full disk it is lost, and the worker lives on."""
    text = "".join(traceback.format_exception(error))
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)  # noqa: T201  # stderr is the log
    return text


def live(line: int, parent: int) -> None:
    """The child's life: it serves its line, and dies with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent decides
    _die_with(parent)
    _log_ours()
    with Connection(line) as connection:
        _serve(connection)
    with suppress(OSError):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)  # taking torch down piece by piece would cost a second or two, and everything is written


def main() -> None:
    """``python -m study.worker FD PARENT``, or ``nursery FD``."""
    first, second = sys.argv[1:]
    if first == "nursery":
        nurse(int(second), live)
    else:
        live(int(first), int(second))


if __name__ == "__main__":
    main()
