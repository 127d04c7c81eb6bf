"""Detectors: an image has objects and what was found, in lists of any length."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from study.boxes import BoxLayout, Truth
from study.detections import Detected, detected
from study.errors import InputError
from study.feed import Piece
from study.guess_boxes import fed_size, to_image
from study.reading import Reading
from study.task import Task

OTHER = -1
"""A class that the data does not have."""


@final
class Detection(Reading):
    """A row is an image; boxes are flat lists x1, y1, x2, y2, ... in pixels of the image as it came."""

    @classmethod
    def columns(cls, task: Task, piece: Piece, outputs: Mapping[str, Any]) -> dict[str, pl.Series]:
        """``parts`` (objects that count), ``truth_*`` of each, ``class``, ``score``, ``box`` of each find."""
        layout = task.boxes
        assert layout is not None
        size = fed_size(piece)
        found = detected(layout, task.output, outputs, size)
        if len(found) != len(piece):
            raise InputError(f"The model found boxes in {len(found)} images of {len(piece)}.")
        labels = piece.rows.labels
        truths = [None] * len(piece) if labels is None else labels.tolist()
        return _of_truths(layout, truths) | _of_found(layout, found, truths, size)


def _of_truths(layout: BoxLayout, truths: Sequence[Truth | None]) -> dict[str, pl.Series]:
    to_class = dict(zip(layout.data_numbers, range(len(layout.data_numbers)), strict=True))
    known = [truth for truth in truths if truth is not None]
    columns: dict[str, tuple[list[NDArray[Any]], Any]] = {
        "truth_class": ([_places(truth.numbers, to_class) for truth in known], pl.Int32),
        "truth_box": ([truth.boxes.ravel() for truth in known], pl.Float64),
        "truth_area": ([truth.area for truth in known], pl.Float64),
        "truth_crowd": ([truth.crowd for truth in known], pl.Boolean),
    }
    made = {
        name: pl.Series(
            [one.tolist() for one in lists] if known else [None] * len(truths), dtype=pl.List(inner)
        )
        for name, (lists, inner) in columns.items()
    }
    parts = [None if truth is None else int((~truth.crowd).sum()) for truth in truths]
    return {"parts": pl.Series(parts, dtype=pl.Int64), **made}


def _of_found(
    layout: BoxLayout, found: Sequence[Detected], truths: Sequence[Truth | None], size: tuple[int, int]
) -> dict[str, pl.Series]:
    to_class = dict(zip(layout.model_numbers, range(len(layout.model_numbers)), strict=True))
    boxes = [
        to_image(one.boxes, size, None if truth is None else truth.size)
        for one, truth in zip(found, truths, strict=True)
    ]
    return {
        "class": pl.Series(
            [_places(one.numbers, to_class).tolist() for one in found], dtype=pl.List(pl.Int32)
        ),
        "score": pl.Series([one.scores.tolist() for one in found], dtype=pl.List(pl.Float32)),
        "box": pl.Series([box.ravel().tolist() for box in boxes], dtype=pl.List(pl.Float32)),
        "cut": pl.Series([one.cut for one in found], dtype=pl.Int64),
        "lost": pl.Series([one.lost for one in found], dtype=pl.Int64),
    }


def _places(numbers: NDArray[np.int64], to_class: Mapping[int, int]) -> NDArray[np.int64]:
    return np.array([to_class.get(number, OTHER) for number in numbers.tolist()], dtype=np.int64)
