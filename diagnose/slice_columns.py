"""The columns by which judged rows are sliced, and how much each row errs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diagnose.judged import Judged, class_name
from diagnose.parted import Parted
from diagnose.worded import sliced_texts
from study.slices import Mask
from study.statistics import count_units
from study.task import IGNORED, VALUES
from study.view import View

METADATA = "meta."
LANGUAGE_LOSS = "mean loss a token"
LABELS_SLICED = 20
"""Columns of at most so many labels of a multi-label task."""


@dataclass(frozen=True, slots=True, eq=False)
class Sliceable:
    """Judged rows with a finite loss: their columns, and the loss in ``unit``.

    ``position`` and ``groups`` are those of the rows that are kept. ``related`` says which columns are not
    to be conjoined: of a label and a prediction that differ, all rows are wrong. ``whole`` says that a loss
    is an error or none.
    """

    frame: pl.DataFrame
    loss: NDArray[np.float64]
    kept: Mask
    position: NDArray[np.int64]
    groups: NDArray[Any] | None
    related: Mapping[str, str]
    measure: str
    whole: bool

    @property
    def units(self) -> int:
        """What intervals stand on: rows, or groups."""
        return count_units(len(self.loss), self.groups)


def sliceable(view: View, judged: Judged) -> Sliceable:
    """The rows of ``judged`` with their classes, predicted classes and metadata.

    The loss is 1 for a wrong class, the share of wrong labels, or the absolute error (over several targets:
    the root of the mean square). A metadata column keeps its name unless that is taken.
    """
    columns = _with_metadata(view, _answers(judged), pl.col("label").is_not_null())
    kind = judged.task.kind
    if kind in VALUES:
        loss, measure = np.sqrt(judged.loss), "mean absolute error"
    elif kind == "multilabel":
        known = judged.known
        wrong = known & ((judged.label != judged.prediction) | ~judged.finite[:, None])
        loss, measure = wrong.sum(axis=1) / known.sum(axis=1), "share of wrong labels"
    else:
        loss, measure = (~judged.hits).astype(np.float64), "error rate"
    kept = np.isfinite(loss)
    frame = pl.DataFrame(columns).filter(pl.Series(kept)) if columns else pl.DataFrame()
    related = {"predicted": "label"} if kind != "multilabel" else {}
    whole = kind in ("binary", "multiclass")
    groups = None if judged.groups is None else judged.groups[kept]
    return Sliceable(frame, loss[kept], kept, judged.position[kept], groups, related, measure, whole)


def sliceable_parts(view: View, parted: Parted) -> Sliceable:
    """The rows of a task whose answers have parts, with their metadata.

    The loss is the share of wrong parts or, of a language model, the mean negative log-likelihood a token.
    """
    columns = _with_metadata(view, {}, pl.col("parts") > 0)
    language = parted.task.kind == "language"
    loss = parted.loss if language else 1 - parted.hits / parted.parts
    measure = LANGUAGE_LOSS if language else f"share of wrong {parted.noun}s"
    kept = np.isfinite(loss)
    frame = pl.DataFrame(columns).filter(pl.Series(kept)) if columns else pl.DataFrame()
    groups = None if parted.groups is None else parted.groups[kept]
    return Sliceable(frame, loss[kept], kept, parted.position[kept], groups, {}, measure, whole=False)


def _with_metadata(view: View, columns: dict[str, pl.Series], chosen: pl.Expr) -> dict[str, pl.Series]:
    """The columns, the metadata of the chosen rows beside them, and what slices their texts."""
    table = view.table("predictions")
    names = [name for name in table.collect_schema().names() if name.startswith(METADATA)]
    metadata = table.filter(chosen).select(names).collect()
    found = dict(columns)
    for name in names:
        plain = name.removeprefix(METADATA)
        found[name if plain in columns else plain] = metadata[name]
    return {**sliced_texts(view, chosen), **found}


def _answers(judged: Judged) -> dict[str, pl.Series]:
    """The label and what the model says; of a multi-label task, one column a label; of targets, nothing."""
    if judged.label.ndim == 1 and judged.task.kind in VALUES:
        return {"label": pl.Series(judged.label), "predicted": pl.Series(judged.prediction)}
    if judged.label.ndim == 1:
        return {"label": _named(judged, judged.label), "predicted": _named(judged, judged.prediction)}
    if judged.task.kind in VALUES or judged.classes > LABELS_SLICED:
        return {}
    return {
        f"label.{class_name(judged.task, one)}": pl.Series(judged.label[:, one]).replace(IGNORED, None)
        for one in range(judged.classes)
    }


def _named(judged: Judged, classes: NDArray[Any]) -> pl.Series:
    numbers, place = np.unique(classes, return_inverse=True)
    names = np.array([class_name(judged.task, int(number)) for number in numbers], dtype=object)
    return pl.Series(names[place], dtype=pl.String)
