"""Worker processes by fork, from a process that has imported their framework and done nothing else.

Importing torch takes seconds, and every export, quantization and timed artifact wants a process of its own.
On Linux one process imports and forks them; each is as fresh as a started one, in milliseconds. Elsewhere
forking is not safe, and processes are started.
"""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import IO, Final

LARGEST: Final = 1 << 18
"""Bytes of one message: the environment is most of it."""
POLL_S: Final = 0.01
END_WITHIN_S: Final = 0.2
READ_AT_IMPORT: Final = (
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "TORCH", "PYTORCH", "ORT_", "CUDA_", "NVIDIA_", "LD_"),
    *("MALLOC_", "PYTHONHASHSEED", "PYTHONWARNINGS"),
)
"""Variables that libraries read when they are loaded: where one is changed, what was loaded is of no use."""


@dataclass(frozen=True, slots=True)
class Birth:
    """What a process is given: modules to import before it is forked, its environment and its folder."""

    preload: tuple[str, ...]
    environment: Mapping[str, str]
    folder: str


class Forked:
    """A process that the nursery forked, with the part of ``subprocess.Popen`` that is asked for."""

    def __init__(self, nursery: "Nursery", pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._nursery = nursery

    def poll(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it lives."""
        if self.returncode is None:
            self.returncode = self._nursery.fate(self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The same, waited for.

        Raises:
            subprocess.TimeoutExpired: it lives on.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired("a worker", timeout or 0.0)
            time.sleep(POLL_S)
        return code

    def kill(self) -> None:
        """End it at once."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class Nursery:
    """The process that forks, and the line to it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
                [sys.executable, "-P", "-m", "study.worker", "nursery", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=dict(environment),
            )
        self._line = ours
        self._lock = threading.Lock()
        self.owner = os.getpid()
        self.read_at_import = _read_at_import(environment)
        weakref.finalize(self, _end, ours, self._process)  # at the latest when this process ends

    def fork(self, birth: Birth, line: socket.socket, log: IO[bytes]) -> Forked:
        """A process that serves ``line``, and writes what libraries say to ``log``."""
        with self._lock:
            message = json.dumps(asdict(birth)).encode()
            socket.send_fds(self._line, [message], [line.fileno(), log.fileno()])
            pid = self._answer()
            assert pid is not None
            return Forked(self, pid)

    def fate(self, pid: int) -> int | None:
        """The exit code of a process; None while it lives. One whose nursery is gone was killed with it."""
        with self._lock:
            try:
                self._line.send(json.dumps(pid).encode())
                return self._answer()
            except OSError:
                return -signal.SIGKILL

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Whether it lives, is ours, and what it has imported was imported with these variables."""
        alive = self._process.poll() is None and self.owner == os.getpid()
        return alive and self.read_at_import == _read_at_import(environment)

    def _answer(self) -> int | None:
        """What it replied: a process, or a fate.

        Raises:
            ConnectionError: it is gone.
        """
        reply = self._line.recv(LARGEST)
        if not reply:
            raise ConnectionError("the process that forks workers is gone")
        value: int | None = json.loads(reply)
        return value


def _end(line: socket.socket, process: subprocess.Popen[bytes]) -> None:
    """Close the line, which ends it."""
    line.close()
    try:
        process.wait(END_WITHIN_S)
    except subprocess.TimeoutExpired:  # it imports
        process.kill()
        process.wait()


_NURSERIES: list[Nursery] = []
"""The one of this process."""


def born(birth: Birth, line: socket.socket, log: IO[bytes]) -> Forked | None:
    """A forked process; None where there is no forking here, and one has to be started."""
    if sys.platform != "linux":
        return None
    if not _NURSERIES or not _NURSERIES[0].fits(birth.environment):
        _NURSERIES[:] = [Nursery(birth.environment)]
    try:
        return _NURSERIES[0].fork(birth, line, log)
    except OSError:  # out of processes, or a message that is too long
        _NURSERIES.clear()
        return None


def _read_at_import(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(READ_AT_IMPORT)}


def nurse(descriptor: int, live: Callable[[int, int], None]) -> None:
    """The nursery's life: fork when told to, say how a child ended, end with its owner.

    ``live`` is a child's life, of the descriptor of its line and of its parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    me, found = os.getpid(), list(sys.path)
    own = set(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    fates: dict[int, int] = {}
    with socket.socket(fileno=descriptor) as line:
        while True:
            message, descriptors, _, _ = socket.recv_fds(line, LARGEST, 2)
            if not message:
                os._exit(0)
            asked = json.loads(message)
            if isinstance(asked, int):
                _reap(fates)
                line.send(json.dumps(fates.pop(asked, None)).encode())
                continue
            birth = Birth(**asked)
            for name in birth.preload:
                with suppress(Exception):  # the child imports it again, and says what is wrong
                    importlib.import_module(name)
            child = os.fork()
            if not child:
                line.close()
                _settle(birth, descriptors[1], [path for path in found if path not in own])
                live(descriptors[0], me)
            for one in descriptors:
                os.close(one)
            line.send(json.dumps(child).encode())


def _settle(birth: Birth, log: int, found: list[str]) -> None:
    """In the child: its own environment, folder, path and log."""
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.environ.clear()
    os.environ.update(birth.environment)
    os.chdir(birth.folder)
    paths = filter(None, birth.environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:] = list(dict.fromkeys([*paths, *found]))
    importlib.invalidate_caches()


def _reap(fates: dict[int, int]) -> None:
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            fates[pid] = os.waitstatus_to_exitcode(status)
