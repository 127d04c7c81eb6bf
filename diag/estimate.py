"""About how long a request would take: the model opened, one batch of its rows timed, the rest by rule."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from diag.request import Request
from diag.work import Taking, take
from export.settings import make_pass
from study.errors import InputError
from study.feed import Feed
from study.progress import Progress
from study.runtime import of_this_process, runtime_of
from study.worker import Child, Inline, Worker

START_S = 8.0
"""Two worker processes and their imports."""
CHANGE_S = 8.0
"""One export or quantization of a small model."""
RACE_S = 8.0
"""Of one artifact beside another, in two processes each."""
STEPS_OF_A_SEARCH = 6
"""About as many as one takes; it explains the first and the last alone."""
CHAINS = 3
"""Of pruning, export and quantization, with training rows."""
PASSES_TO_LEARN = 4
"""A row forwards and back, and forwards through the teacher, in passes."""
PASSES_TO_EXPLAIN = 16 * 150
"""Rows explained, times the passes that Occlusion and Integrated Gradients take for one."""
ROWS_TIMED = 32


@dataclass(frozen=True, slots=True)
class Pace:
    """How many rows there are to judge, and how long one takes."""

    rows: int
    seconds_a_row: float
    training: int


def estimate(request: Request) -> float | None:
    """Seconds, to about a factor of two; None where there are no rows to tell by.

    Raises:
        InputError: the model and the data do not fit.
    """
    model = request.models[0]
    if request.data is None or model.format == "weights":
        return None
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.txt"
        worker: Worker = Inline() if request.in_process else Child(runtime_of(model.format), log)
        with worker:
            pace: Pace = worker.call(measure, Taking.of(request, model), progress=Progress())
    typed = [step.typed for step in request.plan.steps[1:]]
    if request.budgets:
        chain = [":".join(filter(None, ("prune:0.3", request.recovery))), "onnx", "int8"]
        typed = ["onnx"] * STEPS_OF_A_SEARCH + chain * (CHAINS if request.training else 0)
    steps = 1 + len(typed)
    seconds = START_S + CHANGE_S * len(typed) + sum(_learning(one, pace) for one in typed)
    if request.parts & {"diagnose", "explain"}:
        seconds += steps * pace.rows * pace.seconds_a_row
    if "explain" in request.parts:
        seconds += (2 if request.budgets else steps) * PASSES_TO_EXPLAIN * pace.seconds_a_row
    if "latency" in request.parts:
        seconds += steps * RACE_S * len(request.batches)
    return seconds


def _learning(typed: str, pace: Pace) -> float:
    """The seconds of the fit in a step; 0 where there is none."""
    from export.pruning.recovery import Teaching

    made = make_pass(typed)
    if not isinstance(made, Teaching) or not pace.training:
        return 0.0
    return min(made.seconds, made.epochs * pace.training * PASSES_TO_LEARN * pace.seconds_a_row)


def measure(taking: Taking, progress: Progress) -> Pace:
    """Open the model and time one batch, in a worker."""
    taken = take(taking, progress)
    judged = taken.subject.judged
    if judged is None:
        raise InputError("There are no rows to time.")
    runtime = of_this_process().get(taking.model, taking.machine)
    piece = next(iter(Feed.open(judged, taken.subject.inputs).pieces(ROWS_TIMED)))
    runtime(piece.batch)
    began = time.perf_counter()
    runtime(piece.batch)
    seconds = (time.perf_counter() - began) / max(1, len(piece))
    training = taken.subject.training
    return Pace(taken.rows, seconds, len(Feed.open(training, taken.subject.inputs)) if training else 0)
