"""Prediction tables written by hand, and the views that show them."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diagnose.check import CHECKS
from study.record import Record
from study.runtime import Runtimes
from study.subject import Artifact, Data, Machine, Model, Split, Subject
from study.task import Task, read
from study.view import View


def table_of(
    task: Task,
    outputs: NDArray[Any],
    labels: NDArray[Any] | None,
    groups: list[str | None] | None = None,
) -> pl.DataFrame:
    """The table that the probe would write of these outputs."""
    rows = len(outputs)
    columns = {
        "position": pl.Series(np.arange(rows), dtype=pl.Int64),
        "id": pl.Series([f"row {place}" for place in range(rows)]),
    }
    for name, values in read(task, {"output": outputs}, labels).items():
        if values is None:
            columns[name] = pl.Series([None] * rows, dtype=pl.Int64 if name == "label" else pl.Float32)
        elif values.ndim == 2:
            inner = {"i": pl.Int8, "f": pl.Float32 if name == "output" else pl.Float64}[values.dtype.kind]
            columns[name] = pl.Series(values.tolist(), dtype=pl.List(inner))
        else:
            columns[name] = pl.Series(values)
    if groups is not None:
        columns["group"] = pl.Series(groups, dtype=pl.String)
    return pl.DataFrame([series.alias(name) for name, series in columns.items()])


def view_of(folder: Path, task: Task, table: pl.DataFrame, origin: View | None = None) -> View:
    """A view whose folder holds this table."""
    folder.mkdir(parents=True, exist_ok=True)
    table.write_parquet(folder / "predictions.parquet")
    model = Model(folder / "model.pt", "pytorch")
    subject = Subject(model=model, judged=Split(Data(source="rows.npz")), task=task)
    artifact = Artifact(name=folder.name, folder=folder, model=model)
    return View(artifact, subject, Machine(), Runtimes(), origin=origin)


def checked(name: str, view: View) -> Record:
    """What a check of the catalogue says."""
    return CHECKS.get(name)().check(view)
