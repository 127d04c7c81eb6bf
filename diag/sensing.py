"""What the onnxruntime worker is asked after a step of static int8: what does each layer cost in it?"""

from diag.policy import Budget
from export.sensitivity.exclusion import USUAL, Tolerance
from export.sensitivity.record import NAME, Quantized, sensitivity_record
from export.settings import make_pass
from study.errors import SkipError
from study.progress import Progress
from study.record import Record
from study.subject import Machine, Model, Subject
from study.task import VALUES


def sense(
    origin: Model,
    subject: Subject,
    steps: tuple[str, ...],
    budgets: tuple[Budget, ...],
    machine: Machine,
    progress: Progress,
) -> Record:
    """The record of the float model that the last of these steps quantized; SKIPPED where it did not.

    ``origin`` is the model that the first of them, as typed, was made of; ``budgets`` say what may be lost.
    """
    from export.passes.int8 import Int8

    made = make_pass(steps[-1])
    if not isinstance(made, Int8):
        return Record.skipped(NAME, "it is about static int8, and this step is none")
    try:
        quantized = Quantized(origin, steps, made.exclude, made.calibrator)
        return sensitivity_record(subject, quantized, machine, progress, tolerance_of(budgets, subject))
    except SkipError as skipped:
        return Record.skipped(NAME, str(skipped))


def tolerance_of(budgets: tuple[Budget, ...], subject: Subject) -> Tolerance:
    """The usual one, or as much as the budgets allow; changed decisions are never fewer than flips."""
    most = {budget.kind: budget.most for budget in budgets}
    whole = subject.task is None or subject.task.kind in {*VALUES, "language"}
    drop = None if whole else most.get("drop")
    if drop is None and "flips" not in most:
        return USUAL
    return Tolerance(changed=most.get("flips"), drop=drop)
