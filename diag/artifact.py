"""What ``diag export`` and ``diag optimize`` hand over: the last artifact, at ``model.onnx`` of the run."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from diag.events import Watcher
from diag.plan import NEAREST
from diag.state import StepState
from study.errors import OutputError
from study.loading.protobuf import read_onnx
from study.record import Verdict
from study.storage import GENERATION, RunFolder, written
from study.subject import Model


def chosen(steps: Sequence[StepState], folder: RunFolder) -> int:
    """The step whose artifact is handed over: the last one that was made.

    Raises:
        OutputError: it is not ONNX, or keeps not all budgets.
    """
    index = max(at for at, step in enumerate(steps) if step.outcome == "done" and step.model)
    if steps[-1].step.typed == NEAREST:
        raise OutputError("no artifact keeps all budgets")
    records = folder.records(steps[-1].folder) or ()
    if any(record.by == "budgets" and record.verdict is Verdict.BAD for record in records):
        raise OutputError("looked at again, the chosen artifact does not keep all budgets")
    model = steps[index].model
    if model is None or model.format != "onnx":
        raise OutputError(f"the last artifact, of step {steps[index].name}, is not ONNX")
    return index


def hand_over(steps: Sequence[StepState], folder: RunFolder, watcher: Watcher) -> None:
    """Copy the ONNX of the last step that was made, and the file that writes texts where it has one."""
    target = folder.path / "model.onnx"
    shutil.rmtree(folder.path / GENERATION, ignore_errors=True)
    try:
        step = steps[chosen(steps, folder)]
    except OutputError as reason:
        target.unlink(missing_ok=True)
        watcher.note(f"There is no {target}: {reason}.")
        return
    assert step.model is not None
    _copy(step.model, target)
    watcher.note(f"{target} is the artifact of step {step.name}.")
    if step.model.with_past is not None:
        second = folder.path / GENERATION / target.name
        _copy(step.model.with_past, second)
        watcher.note(f"{second} is the same with a key/value cache, to write texts with.")


def _copy(model: Model, target: Path) -> None:
    """The file, after the weights that lie beside it."""
    for name in (*read_onnx(model.path).external, ""):
        with written(target.parent / name if name else target) as hidden:
            shutil.copyfile(model.path.parent / name if name else model.path, hidden)
