"""The prediction table of an artifact as arrays: the rows that have labels, in order."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from study.errors import SkipError
from study.statistics import count_units
from study.task import IGNORED, VALUES, Task, probabilities
from study.view import View

SCORES_AT_ONCE = 50_000_000
"""More scores (rows x classes) than this are thinned to evenly spaced rows: 400 MB of float64."""
ROWS_AT_ONCE = 65_536


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Labelled rows of one artifact.

    ``label`` and ``prediction`` are (rows,) class indices or values, or (rows, labels or targets). ``finite``
    is false where the model gave NaN or an infinity: such a row is never a hit.
    """

    task: Task
    position: NDArray[np.int64]
    label: NDArray[Any]
    prediction: NDArray[Any]
    confidence: NDArray[np.float64]
    loss: NDArray[np.float64]
    finite: NDArray[np.bool_]
    groups: NDArray[Any] | None
    unlabelled: int

    def __len__(self) -> int:
        return len(self.position)

    @property
    def units(self) -> int:
        """What intervals stand on: rows, or groups."""
        return count_units(len(self), self.groups)

    @property
    def hits(self) -> NDArray[np.bool_]:
        """Rows that the model gets right, with every label of theirs that is known; of a classification."""
        same = self.label == self.prediction
        if self.label.ndim > 1:
            same = same | ~self.known
        right: NDArray[np.bool_] = (same if same.ndim == 1 else same.all(axis=1)) & self.finite
        return right

    @property
    def known(self) -> NDArray[np.bool_]:
        """(rows, labels): which are not missing; of a multi-label task."""
        there: NDArray[np.bool_] = self.label != IGNORED
        return there

    @property
    def classes(self) -> int:
        """How many classes (labels, of a multi-label task) there are."""
        if self.label.ndim > 1:
            return int(self.label.shape[1])
        seen = max(int(self.label.max(initial=-1)), int(self.prediction.max(initial=-1))) + 1
        return max(len(self.task.classes), seen, 2)

    def only(self, rows: NDArray[Any]) -> "Judged":
        """Some of the rows (a mask or places)."""
        return Judged(
            self.task,
            self.position[rows],
            self.label[rows],
            self.prediction[rows],
            self.confidence[rows],
            self.loss[rows],
            self.finite[rows],
            None if self.groups is None else self.groups[rows],
            self.unlabelled,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Probabilities (places, classes) of some rows of a ``Judged``; NaN where the outputs are not finite."""

    places: NDArray[np.int64]
    probabilities: NDArray[np.float64]


def read_judged(view: View) -> Judged:
    """The labelled rows of the view's ``predictions`` table.

    Raises:
        SkipError: there is no table, or no row has a label.
    """
    table = view.table("predictions")
    columns = table.collect_schema().names()
    wanted = ["position", "label", "prediction", "confidence", "loss"]
    frame = table.select([name for name in (*wanted, "group") if name in columns]).collect()
    if "label" not in columns or frame["label"].null_count() == len(frame):
        raise SkipError("the rows have no labels")
    labelled = frame.filter(pl.col("label").is_not_null())
    task = view.task
    label, prediction = _array(labelled["label"]), _array(labelled["prediction"])
    loss = _floats(labelled["loss"])
    confidence = _floats(labelled["confidence"])
    told = prediction.astype(np.float64) if task.kind in VALUES else confidence
    finite = np.asarray(np.isfinite(told.reshape(len(told), -1)).all(axis=1))
    return Judged(
        task=task,
        position=labelled["position"].to_numpy(),
        label=label,
        prediction=prediction,
        confidence=confidence,
        loss=loss,
        finite=finite,
        groups=codes_of(labelled["group"]) if "group" in columns else blocks_of(view, labelled["position"]),
        unlabelled=len(frame) - len(labelled),
    )


def blocks_of(view: View, positions: pl.Series) -> NDArray[np.int64] | None:
    """Of forecasts: the runs of consecutive windows that overlap, as the probe of histories numbers them."""
    if view.task.kind != "forecasting":
        return None
    try:
        table = view.table("history")
    except SkipError:
        return None
    if "block" not in table.collect_schema().names():
        return None
    blocks = table.select("position", "block")
    rows = pl.LazyFrame({"position": positions}).join(
        blocks, on="position", how="left", maintain_order="left"
    )
    return codes_of(rows.collect()["block"])


def read_scores(view: View, judged: Judged) -> "Scores | None":
    """The probabilities of the judged rows; None where the table kept no outputs.

    Evenly spaced rows where all would be too many numbers.
    """
    table = view.table("predictions")
    if "output" not in table.collect_schema().names() or not judged.finite.any():
        return None
    step = max(1, -(-len(judged) * judged.classes // SCORES_AT_ONCE))
    wanted = np.arange(0, len(judged), step)
    places, parts = [], []
    for start in range(0, len(wanted), ROWS_AT_ONCE):
        place = wanted[start : start + ROWS_AT_ONCE]
        chosen = pl.Series(judged.position[place])
        # The table is in the order of its positions, as ``judged`` is.
        outputs = table.filter(pl.col("position").is_in(chosen.implode())).select("output").collect()
        places.append(place)
        parts.append(_probabilities(judged.task, outputs["output"], judged.finite[place]))
    wide = max(part.shape[1] for part in parts)
    full = [part if part.shape[1] == wide else np.full((len(part), wide), np.nan) for part in parts]
    return Scores(np.concatenate(places), np.concatenate(full))


def _probabilities(task: Task, outputs: pl.Series, finite: NDArray[np.bool_]) -> NDArray[np.float64]:
    told = _array(outputs.filter(pl.Series(finite)))
    if not len(told):
        return np.full((len(finite), 1), np.nan)
    known = probabilities(task, told.reshape(len(told), -1))
    every = np.full((len(finite), known.shape[1]), np.nan)
    every[finite] = known
    return every


def class_name(task: Task, index: int) -> str:
    """The name of a class, or its number where it has none."""
    return task.classes[index] if 0 <= index < len(task.classes) else str(index)


def is_class(judged: Judged, index: int) -> NDArray[np.bool_]:
    """Which rows are of a class, or carry a label."""
    chosen = judged.label[:, index] == 1 if judged.label.ndim > 1 else judged.label == index
    return np.asarray(chosen, dtype=bool)


def is_known(judged: Judged, index: int) -> NDArray[np.bool_]:
    """Of which rows it is known whether they are of a class, or carry a label."""
    return judged.known[:, index] if judged.label.ndim > 1 else np.ones(len(judged), dtype=bool)


def _array(series: pl.Series) -> NDArray[Any]:
    """A column as an array: lists (of one length) become rows, and an index that is missing is -1."""
    if isinstance(series.dtype, pl.List):
        width = len(series[0]) if len(series) else 0
        return series.list.to_array(width).to_numpy()
    return (series.fill_null(-1) if series.dtype.is_integer() else series).to_numpy()


def _floats(series: pl.Series) -> NDArray[np.float64]:
    """Numbers with NaN for null."""
    return series.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def codes_of(series: pl.Series) -> NDArray[np.int64]:
    """An integer for each group; rows without a group are a group each."""
    ranks = series.rank("dense").cast(pl.Int64)
    missing = series.is_null().to_numpy()
    known = ranks.fill_null(0).to_numpy()
    return np.where(missing, known.max(initial=0) + np.cumsum(missing), known).astype(np.int64)
