"""The commands that show a finding again; empty where model or data live in this process alone."""

import shlex
from collections.abc import Iterable
from itertools import islice

from study.subject import Data, InputSpec, Model, Subject
from study.task import Task
from study.view import View

ROWS_SHOWN = 5
NOT_FILLED, ALLOWED = Data("").missing, Data("").max_bad_rows
"""What needs not be typed."""


def show_weights(view: View) -> str:
    """``diag analyze`` of this artifact without data."""
    return "" if view.model.live else shlex.join(["diag", "analyze", *_model(view.model)])


def show_figures(view: View) -> str:
    """``diag analyze`` of this artifact on its rows."""
    data = _rows(view)
    words = [*_model(view.model), *_data(data), *_meaning(view.subject.task)] if data else []
    return shlex.join(["diag", "analyze", *words]) if words else ""


def show_rows(view: View, positions: Iterable[int]) -> str:
    """``diag explain`` of the first of these rows; empty without rows."""
    data = _rows(view)
    rows = ",".join(str(int(position)) for position in islice(positions, ROWS_SHOWN))
    if data is None or not rows:
        return ""
    words = [*_model(view.model), *_data(data), *_meaning(view.subject.task), "--rows", rows]
    return shlex.join(["diag", "explain", *words])


def show_difference(view: View) -> str:
    """``diag compare`` of the model as it came with this artifact."""
    data, origin = _rows(view), view.origin
    if data is None or origin is None or origin.model.live:
        return ""
    # --arch is needed once where only one of the two is a state dict, as after every export.
    models = [*_model(origin.model), *_model(view.model)]
    return shlex.join(["diag", "compare", *models, *_data(data), *_meaning(view.subject.task)])


def show_steps(origin: Model, subject: Subject, steps: str) -> str:
    """``diag run`` of the model as it came through these steps."""
    judged, training = subject.judged, subject.training
    if origin.live or judged is None or judged.data.live or (training is not None and training.data.live):
        return ""
    given = ["--train", training.data.source] if training is not None else []
    words = [*_model(origin), *_data(judged.data), *_meaning(subject.task), *given]
    return shlex.join(["diag", "run", *words, "--steps", steps])


def _meaning(task: Task | None) -> list[str]:
    """``--classes`` where nobody could guess their order: indices and sorted words need not be typed.

    The task where its labels may look like another's.
    """
    if task and task.kind == "forecasting":
        levels = ",".join(f"{level:g}" for level in task.quantiles)
        return ["--task", "forecasting", *(["--classes", levels] if levels else [])]
    names = task.classes if task else ()
    guessed = list(names) in ([str(index) for index in range(len(names))], sorted(names))
    asked = ["--task", "tokens"] if task and task.kind == "tokens" else []
    named = [] if guessed or any("," in name for name in names) else ["--classes", ",".join(names)]
    return [*asked, *named]


def _rows(view: View) -> Data | None:
    split = view.subject.judged
    return None if view.model.live or split is None or split.data.live else split.data


def _model(model: Model) -> list[str]:
    words = [str(model.path)]
    if model.arch:
        words += ["--arch", model.arch]
        words += [] if model.arch_args == "{}" else ["--arch-args", model.arch_args]
    words += ["--weights", model.weights] if model.weights else []
    words += ["--adapter", str(model.adapter)] if model.adapter else []
    return [*words, "--trust"] if model.trust else words


def _data(data: Data) -> list[str]:
    given = {
        "--label": data.label,
        "--columns": ",".join(data.columns),
        "--preprocess": data.preprocess,
        "--group": data.group,
        "--tokenizer": data.tokenizer,
        "--max-tokens": str(data.max_tokens) if data.max_tokens else "",
        "--pad": "" if data.pad is None else f"{data.pad:g}",
        "--missing": "" if data.missing == NOT_FILLED else data.missing,
        "--max-bad-rows": "" if data.max_bad_rows == ALLOWED else f"{100 * data.max_bad_rows:g}%",
    }
    words = ["--data", data.source]
    for option, value in given.items():
        words += [option, value] if value else []
    for spec in data.shapes:
        words += ["--shape", _shape(spec)]
    return words


def _shape(spec: InputSpec) -> str:
    """As it is typed: the batch, which may be of any size, comes first."""
    sizes = "x".join("?" if size is None else str(size) for size in spec.shape or ())
    return f"{spec.name}={sizes}:{spec.dtype}" if spec.name else f"{sizes}:{spec.dtype}"
