"""The columns by which judged rows are sliced, and how much each row errs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diagnose.judged import Judged, class_name
from study.slices import Mask
from study.view import View

METADATA = "meta."
LABELS_SLICED = 20
"""Columns of at most so many labels of a multi-label task."""


@dataclass(frozen=True, slots=True, eq=False)
class Sliceable:
    """Judged rows with a finite loss: their columns, and the loss in ``unit``.

    ``related`` says which columns are not to be conjoined: of a label and a prediction that differ, all rows
    are wrong. ``whole`` says that a loss is an error or none.
    """

    frame: pl.DataFrame
    loss: NDArray[np.float64]
    kept: Mask
    related: Mapping[str, str]
    measure: str
    whole: bool


def sliceable(view: View, judged: Judged) -> Sliceable:
    """The rows of ``judged`` with their classes, predicted classes and metadata.

    The loss is 1 for a wrong class, the share of wrong labels, or the absolute error (over several targets:
    the root of the mean square). A metadata column keeps its name unless that is taken.
    """
    columns = _answers(judged)
    table = view.table("predictions")
    names = [name for name in table.collect_schema().names() if name.startswith(METADATA)]
    metadata = table.filter(pl.col("label").is_not_null()).select(names).collect()
    for name in names:
        plain = name.removeprefix(METADATA)
        columns[name if plain in columns else plain] = metadata[name]
    kind = judged.task.kind
    if kind == "regression":
        loss, measure = np.sqrt(judged.loss), "mean absolute error"
    elif kind == "multilabel":
        wrong = (judged.label != judged.prediction) | ~judged.finite[:, None]
        loss, measure = wrong.mean(axis=1), "share of wrong labels"
    else:
        loss, measure = (~judged.hits).astype(np.float64), "error rate"
    kept = np.isfinite(loss)
    frame = pl.DataFrame(columns).filter(pl.Series(kept))
    related = {"predicted": "label"} if kind != "multilabel" else {}
    return Sliceable(frame, loss[kept], kept, related, measure, kind in ("binary", "multiclass"))


def _answers(judged: Judged) -> dict[str, pl.Series]:
    """The label and what the model says; of a multi-label task, one column a label; of targets, nothing."""
    if judged.label.ndim == 1 and judged.task.kind == "regression":
        return {"label": pl.Series(judged.label), "predicted": pl.Series(judged.prediction)}
    if judged.label.ndim == 1:
        return {"label": _named(judged, judged.label), "predicted": _named(judged, judged.prediction)}
    if judged.task.kind == "regression" or judged.classes > LABELS_SLICED:
        return {}
    return {
        f"label.{class_name(judged.task, one)}": pl.Series(judged.label[:, one])
        for one in range(judged.classes)
    }


def _named(judged: Judged, classes: NDArray[Any]) -> pl.Series:
    numbers, place = np.unique(classes, return_inverse=True)
    names = np.array([class_name(judged.task, int(number)) for number in numbers], dtype=object)
    return pl.Series(names[place], dtype=pl.String)
