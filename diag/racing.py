"""Who runs in a race: for each artifact that is timed, processes that run nothing else."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from diag.environment import environment
from diag.request import Request
from diag.work import Seen
from export.generation.record import generation
from export.timing.race import RULES, Contender
from export.timing.record import race
from export.timing.seats import Way
from study.cores import cores
from study.errors import InputError, SkipError, WorkerError
from study.progress import Progress
from study.record import Record
from study.worker import Child, Worker

PROCESSES = 2
"""Of each artifact: what they differ by is the noise floor."""
LARGE = 512 << 20
"""Bytes of a model beyond which one process has to do."""
WAYS: Mapping[Way, str] = {
    "compiled": "compiled",
    "copies": "with copies to and from the host",
    "graph": "as a CUDA graph",
}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class Racers:
    """The processes of each artifact; those of the model as it came stay for the next step's race."""

    def __init__(self, request: Request, log: Path) -> None:
        self._request = request
        self._log = log
        self._open: dict[str, ExitStack] = {}
        self._processes: dict[str, tuple[Worker, ...]] = {}

    def race(self, entered: Sequence[tuple[Seen, Worker]], progress: Progress) -> tuple[Record, ...]:
        """Times the last artifact beside those before it; a worker that reads its rows is with each."""
        request, (seen, _) = self._request, entered[-1]
        if seen.artifact.model.format == "weights" or not seen.subject.inputs:
            return (Record.skipped("latency", "there is no data and no --shape to say what the model takes"),)
        rules, facts = replace(RULES, callers=request.timing.callers), environment(request)
        into, machine = seen.artifact.folder, request.machine
        runners: list[Contender] = []
        for one, reads in entered:
            plain, others = self.contender(one, reads), self.ways(one, reads)
            runners += (*others, plain) if one is seen else (plain, *others)
        try:
            raced = race(runners, machine, request.batches, progress, rules, into, facts)
            return (raced, *generation([one for one in runners if not one.way], machine, progress))
        except (WorkerError, InputError, SkipError) as error:
            return (Record.skipped("latency", str(error)),)
        finally:
            if len(entered) > 1 and len(request.models) == 1:  # the model as it came races again later
                self.leave(seen)

    def contender(self, seen: Seen, reads: Worker, way: Way = "") -> Contender:
        """An artifact in the race; ``reads`` opens its rows, and runs it too where it is live."""
        request = self._request
        threads = str(request.machine.threads or cores())
        name, model = seen.artifact.name + (f", {WAYS[way]}" if way else ""), seen.artifact.model
        if name not in self._processes:
            count = 0 if request.in_process else PROCESSES if model.bytes <= LARGE else 1
            variables = dict.fromkeys(THREADS, threads)
            stack = self._open[name] = ExitStack()
            if way == "compiled":  # what an earlier run compiled would hide how long it takes
                cache = stack.enter_context(TemporaryDirectory(prefix="diag-compiled-"))
                variables |= {"TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
            self._processes[name] = tuple(
                stack.enter_context(Child(f"{name} timing", self._log, (), variables)) for _ in range(count)
            )
        return Contender(name, model, seen.subject, reads, self._processes[name], way)

    def ways(self, seen: Seen, reads: Worker) -> tuple[Contender, ...]:
        """The same artifact in the other ways that it can be run in here, beside itself.

        A live module is not compiled: that would change the one that was handed over.
        """
        model, request = seen.artifact.model, self._request
        ways: list[Way] = []
        if request.timing.compiled and model.format != "onnx" and not request.in_process:
            ways.append("compiled")
        if request.machine.device.startswith("cuda"):
            ways.append("copies")
            if model.format == "onnx":
                ways.append("graph")
        return tuple(self.contender(seen, reads, way) for way in ways)

    def leave(self, seen: Seen) -> None:
        """It races no more, in any way."""
        for name in [one for one in self._open if one.split(",")[0] == seen.artifact.name]:
            del self._processes[name]
            self._open.pop(name).close()

    def close(self) -> None:
        """Nobody races any more."""
        with ExitStack() as stack:
            while self._open:
                stack.callback(self._open.popitem()[1].close)
