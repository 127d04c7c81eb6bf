"""What ``diag export`` hands over: the last artifact, at ``model.onnx`` of the run folder."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from diag.events import Watcher
from diag.state import StepState
from study.loading.protobuf import read_onnx
from study.storage import written


def hand_over(steps: Sequence[StepState], folder: Path, watcher: Watcher) -> None:
    """Copy the ONNX of the last step that was made, with the weights that lie beside it."""
    target = folder / "model.onnx"
    name, model = [(step.name, step.model) for step in steps if step.outcome == "done" and step.model][-1]
    if model.format != "onnx":
        target.unlink(missing_ok=True)
        watcher.note(f"There is no {target}: the last artifact, of step {name}, is not ONNX.")
        return
    beside = read_onnx(model.path).external
    for source, place in [*((model.path.parent / one, folder / one) for one in beside), (model.path, target)]:
        with written(place) as hidden:
            shutil.copyfile(source, hidden)
    watcher.note(f"{target} is the artifact of step {name}.")
