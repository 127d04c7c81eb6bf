"""What a deployed artifact takes and gives, in words that no library of ours is needed to read.

The shapes are those that ONNX Runtime reports of the file: a server checks its configuration against them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from export.verification.agreement import TOLERANCE
from study.errors import InputError
from study.record import JSON
from study.runtimes.ort import OnnxRuntime, Tensor
from study.subject import Precision
from study.task import VALUES, Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT: Final = "diag-bundle/1"
INTEGER_TOLERANCE: Final = 0.05
"""Of the largest output: another processor rounds an integer layer to the next step here and there."""
ALONE: Final = 1e-3
"""Of the largest output: a row that differs more from itself alone depends on the rows beside it."""
CHANCES: Final[Mapping[str, Mapping[str, str]]] = {
    "multiclass": {
        "logits": "softmax over the classes",
        "probabilities": "the scores themselves",
        "log-probabilities": "exp of each score",
    },
    "binary": {
        "logits": "of the second class: 1 / (1 + exp(-score))",
        "probabilities": "of the second class: the score itself",
        "log-probabilities": "of the second class: exp of the score",
    },
    "multilabel": {
        "logits": "each label for itself: 1 / (1 + exp(-score))",
        "probabilities": "the scores themselves",
        "log-probabilities": "exp of each score",
    },
}
"""How scores become probabilities, by the kind of task and by what the scores are."""
AS_MULTICLASS: Final = ("tokens", "segmentation", "language")


@dataclass(frozen=True, slots=True)
class Signature:
    """What goes in and comes out, and how rows may be put together.

    ``batch`` is the number of rows that one call takes (None: any). ``by_row`` says whether every output has
    one entry a row, and ``apart`` whether what a row gets is the same whatever rows lie beside it.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    precision: Precision
    batch: int | None
    by_row: bool
    apart: bool

    @property
    def joins(self) -> bool:
        """Whether a server may put the rows of several requests together."""
        return self.batch is None and self.by_row and self.apart


def signature_of(
    runtime: OnnxRuntime, example: "Mapping[str, NDArray[Any]]", expected: "Mapping[str, NDArray[Any]]"
) -> Signature:
    """Read from the file, and tried on the example: its rows together, and each of them alone."""
    inputs, outputs = runtime.declared()
    precision, fixed = runtime.model.precision, runtime.fixed_batch
    if fixed is not None:
        by_row = all(one.shape[:1] == (fixed,) for one in outputs)
        return Signature(inputs, outputs, precision, fixed, by_row, apart=True)
    rows = len(next(iter(example.values())))
    free = all(one.shape and isinstance(one.shape[0], str) for one in (*inputs, *outputs))
    if not free or any(len(array) != rows for array in expected.values()):
        return Signature(inputs, outputs, precision, None, by_row=False, apart=False)
    try:
        alone = [runtime({name: array[[at]] for name, array in example.items()}) for at in range(rows)]
    except InputError:  # it takes several rows and not one
        alone = []
    by_row = bool(alone) and all(len(array) == 1 for one in alone for array in one.values())
    apart = by_row and all(
        _near(expected[name][[at]], array) for at, one in enumerate(alone) for name, array in one.items()
    )
    return Signature(inputs, outputs, precision, None, by_row, apart)


def _near(one: "NDArray[Any]", other: "NDArray[Any]") -> bool:
    if one.shape != other.shape:
        return False
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    finite = np.abs(one[np.isfinite(one)])
    return bool(np.allclose(one, other, rtol=0, atol=ALONE * float(finite.max(initial=0)), equal_nan=True))


def tolerance_of(array: "NDArray[Any]", precision: Precision) -> float:
    """How far another machine's output may be from this one: nothing, where it holds no floats."""
    finite = np.abs(array[np.isfinite(array)]) if array.dtype.kind == "f" else np.zeros(0)
    if not finite.size:
        return 0.0
    share = max(TOLERANCE.get(str(array.dtype), TOLERANCE["float16"]), TOLERANCE["float32"])
    if precision == "fp16":
        share = TOLERANCE["float16"]
    if precision in ("int8", "int4"):
        share = INTEGER_TOLERANCE
    return share * float(finite.max())


def tensors_to_json(tensors: tuple[Tensor, ...]) -> list[JSON]:
    """Names, shapes and dtypes; an axis of any size is a name."""
    return [{"name": one.name, "shape": list[JSON](one.shape), "dtype": one.dtype} for one in tensors]


def task_to_json(task: Task | None, scored: str) -> JSON:
    """What the scored output means; None where nothing said it."""
    if task is None:
        return None
    kind = "multiclass" if task.kind in AS_MULTICLASS else task.kind
    return {
        "kind": task.kind,
        "name": task.name,
        "scored": scored,
        "scores": task.output,
        "classes": list[JSON](task.classes),
        "probabilities": CHANCES.get(kind, {}).get(task.output, ""),
        "decision": _decision(task),
        "threshold": _threshold(task),
        "class_axis": task.class_axis if task.kind in AS_MULTICLASS else None,
        "steps": list[JSON](task.steps) if task.kind == "forecasting" else [],
        "quantiles": list[JSON](task.quantiles),
    }


def scored_name(task: Task | None, outputs: tuple[Tensor, ...]) -> str:
    """The scored output; an artifact may have renamed its only one. Empty without a task."""
    names = [one.name for one in outputs]
    if task is None:
        return ""
    return task.output_name if task.output_name in names else names[0]


def _threshold(task: Task) -> JSON:
    if task.kind not in ("binary", "multilabel"):
        return None
    return 0.5 if task.output == "probabilities" else 0.0


def _decision(task: Task) -> str:
    if task.kind in VALUES:
        return "the value itself" if not task.quantiles else f"the quantile {task.quantiles[task.median]:g}"
    if task.kind == "detection":
        return "each object that the model lists"
    if task.kind in ("binary", "multilabel"):
        what = "the second class" if task.kind == "binary" else "each label"
        return f"{what} where its score is above the threshold"
    return "the class with the largest score, the first of equal ones"
