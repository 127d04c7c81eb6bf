"""What ``diag export`` and ``diag optimize`` hand over: the last artifact, at ``model.onnx`` of the run."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from diag.events import Watcher
from diag.plan import NEAREST
from diag.state import StepState
from study.loading.protobuf import read_onnx
from study.storage import GENERATION, written
from study.subject import Model


def hand_over(steps: Sequence[StepState], folder: Path, watcher: Watcher) -> None:
    """Copy the ONNX of the last step that was made, and the file that writes texts where it has one."""
    target = folder / "model.onnx"
    name, model = [(step.name, step.model) for step in steps if step.outcome == "done" and step.model][-1]
    shutil.rmtree(folder / GENERATION, ignore_errors=True)
    if steps[-1].step.typed == NEAREST:
        target.unlink(missing_ok=True)
        watcher.note(f"There is no {target}: no artifact keeps all budgets.")
        return
    if model.format != "onnx":
        target.unlink(missing_ok=True)
        watcher.note(f"There is no {target}: the last artifact, of step {name}, is not ONNX.")
        return
    _copy(model, target)
    watcher.note(f"{target} is the artifact of step {name}.")
    if model.with_past is not None:
        second = folder / GENERATION / target.name
        _copy(model.with_past, second)
        watcher.note(f"{second} is the same with a key/value cache, to write texts with.")


def _copy(model: Model, target: Path) -> None:
    """The file, after the weights that lie beside it."""
    for name in (*read_onnx(model.path).external, ""):
        with written(target.parent / name if name else target) as hidden:
            shutil.copyfile(model.path.parent / name if name else model.path, hidden)
