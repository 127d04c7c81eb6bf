"""Who runs in a race: for each artifact that is timed, processes that run nothing else."""

from contextlib import ExitStack
from pathlib import Path

from diag.work import Seen
from export.race import Contender
from study.cores import cores
from study.subject import Machine
from study.worker import Child, Worker

PROCESSES = 2
"""Of each artifact: what they differ by is the noise floor."""
LARGE = 512 << 20
"""Bytes of a model beyond which one process has to do."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class Racers:
    """The processes of each artifact; those of the model as it came stay for the next step's race."""

    def __init__(self, machine: Machine, log: Path, *, inline: bool) -> None:
        self._threads = str(machine.threads or cores())
        self._log = log
        self._inline = inline
        self._open: dict[str, ExitStack] = {}
        self._processes: dict[str, tuple[Worker, ...]] = {}

    def contender(self, seen: Seen, reads: Worker) -> Contender:
        """An artifact in the race; ``reads`` opens its rows, and runs it too where it is live."""
        name, model = seen.artifact.name, seen.artifact.model
        if name not in self._processes:
            count = 0 if self._inline else PROCESSES if model.bytes <= LARGE else 1
            variables = dict.fromkeys(THREADS, self._threads)
            stack = self._open[name] = ExitStack()
            self._processes[name] = tuple(
                stack.enter_context(Child(f"{name} timing", self._log, (), variables)) for _ in range(count)
            )
        return Contender(name, model, seen.subject, reads, self._processes[name])

    def leave(self, contender: Contender) -> None:
        """It races no more."""
        self._processes.pop(contender.name, None)
        if contender.name in self._open:
            self._open.pop(contender.name).close()

    def close(self) -> None:
        """Nobody races any more."""
        with ExitStack() as stack:
            while self._open:
                stack.callback(self._open.popitem()[1].close)
