"""The question that every method is asked at every step: which rows, which score, and absent means what."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from explain.choice import choose, targets
from explain.method import Explained
from study.errors import SkipError
from study.feed import Feed, Piece
from study.show import show_rows
from study.task import ROWS, Output, Task
from study.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCORES: Mapping[Output, str] = {
    "logits": "logit",
    "probabilities": "probability",
    "log-probabilities": "log-probability",
    "value": "value",
}
TABLE = 2
"""Axes of a batch of flat rows."""
BACKGROUND = 256
"""The mean of a table's features is taken over as many judged rows."""
MEAN = "the mean of the judged rows"


@dataclass(frozen=True, slots=True)
class Question:
    """The rows with what is shown of them; everything has one entry a row."""

    rows: Explained
    positions: tuple[int, ...]
    titles: tuple[str, ...]
    """``row 5, predicted cat, labelled dog``."""
    score: str
    """What is explained, in words: ``logit``."""
    features: tuple[str, ...]
    """Names of a table's columns, where they are known."""
    pictured: Mapping[str, "NDArray[Any]"]
    """Inputs that can be drawn, with the shape in which they were given where the model takes them flat."""
    shows: tuple[str, ...]
    """The command that shows the row again; empty where model or data live in this process alone."""


def ask(view: View, which: str = "", target: str = "") -> Question:
    """The question about these rows, from the predictions of the model as it came.

    Raises:
        InputError: there are no such rows, or there is no such class.
        SkipError: there is no data, or there are no predictions.
    """
    if view.task.kind not in ROWS:
        raise SkipError(f"rows of a {view.task.kind} task have no single score that could be attributed")
    origin = view.origin or view
    predictions, task = origin.table("predictions"), view.task
    chosen = choose(predictions, task, which, view.machine.seed)
    if not chosen:
        raise SkipError("there are no judged rows to explain")
    table = _in_order(predictions, chosen)
    feed = view.judged()
    piece = feed.at(np.sort(np.array(chosen)))
    order = [list(piece.rows.positions).index(at) for at in chosen]
    batch = {name: array[order] for name, array in piece.batch.items()}
    baseline = _means(feed, batch, predictions, view.machine.seed)
    rows = Explained(
        ids=tuple(piece.rows.ids[at] for at in order),
        batch=batch,
        targets=targets(table, task, _width(table, task), target),
        output_name=task.output_name,
        baseline=baseline,
        baseline_name=MEAN if baseline else "zero",
    )
    return Question(
        rows=rows,
        positions=chosen,
        titles=tuple(_title(row, task) for row in table.iter_rows(named=True)),
        score=SCORES[task.output],
        features=_features(feed, batch),
        pictured=_pictured(piece, batch, order),
        shows=tuple(show_rows(view, [position]) for position in chosen),
    )


def said(value: object, task: Task) -> str:
    """A label or a prediction in words: its class, or the number."""
    if isinstance(value, int) and value < len(task.classes):
        return task.classes[value]
    if isinstance(value, list) and task.kind == "multilabel":
        names = [said(at, task) for at, on in enumerate(value) if on]
        return " + ".join(names) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _in_order(predictions: pl.LazyFrame, chosen: tuple[int, ...]) -> pl.DataFrame:
    order = pl.LazyFrame({"position": chosen}, schema={"position": pl.Int64})
    return order.join(predictions, on="position", how="left", maintain_order="left").collect()


def _width(table: pl.DataFrame, task: Task) -> int:
    """The number of outputs of a row."""
    if task.kind == "binary":
        return 1
    if "output" in table.columns and table["output"][0] is not None:
        return len(table["output"][0])
    return 1 if task.kind == "regression" else max(len(task.classes), 2)


def _means(
    feed: Feed, batch: "Mapping[str, NDArray[Any]]", predictions: pl.LazyFrame, seed: int
) -> "dict[str, NDArray[Any]]":
    """The mean of a table's features; nothing, which is zero, where an input is no table of real numbers.

    Zero is black, silence or padding, and no age: only a table needs its mean.
    """
    if not all(array.ndim == TABLE and array.dtype.kind == "f" for array in batch.values()):
        return {}
    positions = predictions.select("position").collect()["position"].to_numpy()
    drawn = np.random.default_rng(seed).permutation(positions)[:BACKGROUND]
    piece = feed.at(np.sort(drawn))
    return {name: array.mean(axis=0, dtype=np.float64) for name, array in piece.batch.items()}


def _features(feed: Feed, batch: "Mapping[str, NDArray[Any]]") -> tuple[str, ...]:
    """The names of a table's columns: the source's, or numbers."""
    arrays = tuple(batch.values())
    if len(arrays) != 1 or arrays[0].ndim != TABLE:
        return ()
    count = arrays[0].shape[1]
    named = feed.columns
    return named if len(named) == count else tuple(f"feature {at}" for at in range(count))


def _pictured(
    piece: Piece, batch: "Mapping[str, NDArray[Any]]", order: list[int]
) -> "dict[str, NDArray[Any]]":
    """What can be drawn of the rows; a flat input in the shape of the one raw input that has its size."""
    from explain.picture import drawable

    found = {name: array for name, array in batch.items() if drawable(array.shape[1:])}
    raws = list(piece.rows.inputs.values())
    for name, array in batch.items():
        raw = raws[0] if len(raws) == 1 else None
        if isinstance(raw, np.ndarray) and array.ndim == TABLE < raw.ndim:
            shape = raw.shape[1:]
            if int(np.prod(shape)) == array.shape[1] and drawable(shape):
                found[name] = raw[order]
    return found


def _title(row: Mapping[str, object], task: Task) -> str:
    label = "" if row["label"] is None else f", labelled {said(row['label'], task)}"
    return f"row {row['id']}, predicted {said(row['prediction'], task)}{label}"
