"""One answer a row: classes, labels or values."""

from collections.abc import Iterator, Mapping
from typing import Any, final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from study.feed import Piece
from study.reading import Reading
from study.task import VALUES, Task, encode, read


@final
class Rows(Reading):
    """``label``, ``prediction``, ``confidence``, ``loss``, ``margin``, ``entropy`` and ``output``."""

    @classmethod
    def columns(cls, task: Task, piece: Piece, outputs: Mapping[str, Any]) -> dict[str, pl.Series]:
        """As ``study.task.read`` gives them; ``output`` is left out where it is too wide."""
        labels = piece.rows.labels
        encoded = None if labels is None else encode(task, labels)
        types = dict(_types(task))
        columns = {}
        for name, values in read(task, outputs, encoded).items():
            if values is not None:
                columns[name] = _series(values, types[name])
            elif name != "output":
                columns[name] = pl.Series([None] * len(piece), dtype=types[name])
        return columns


def _types(task: Task) -> Iterator[tuple[str, Any]]:
    """What the columns hold; of several targets or steps, lists instead of numbers."""
    said = {"multilabel": pl.List(pl.Int8)}.get(task.kind, pl.Float64 if task.kind in VALUES else pl.Int64)
    yield from (("label", said), ("prediction", said))
    yield from ((name, pl.Float32) for name in ("confidence", "loss", "margin", "entropy"))
    yield "output", pl.List(pl.Float32)


def _series(values: NDArray[Any], kind: Any) -> pl.Series:
    if values.ndim == 1:
        return pl.Series(values, dtype=kind, nan_to_null=False)
    inner = kind.inner if isinstance(kind, pl.List) else kind
    width = values.shape[1]
    return pl.Series(np.ascontiguousarray(values), dtype=pl.Array(inner, width)).arr.to_list()
