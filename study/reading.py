"""How outputs become lines of the prediction table: one file a kind of task, or a few that read alike."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import polars as pl

from study.catalog import Catalog
from study.feed import Piece
from study.task import Task


class Reading(ABC):
    """Reads the outputs of some rows, and keeps what the checks need and no more."""

    @classmethod
    @abstractmethod
    def columns(cls, task: Task, piece: Piece, outputs: Mapping[str, Any]) -> dict[str, pl.Series]:
        """The columns of the prediction table, one line a row of the piece.

        Raises:
            InputError: outputs or labels do not fit the task.
        """


READINGS: Catalog[Reading] = Catalog(
    "task",
    {
        "binary": "study.readings.rows:Rows",
        "multiclass": "study.readings.rows:Rows",
        "multilabel": "study.readings.rows:Rows",
        "regression": "study.readings.rows:Rows",
        "forecasting": "study.readings.rows:Rows",
        "language": "study.readings.language:Language",
        "tokens": "study.readings.tokens:Tokens",
        "segmentation": "study.readings.segmentation:Segmentation",
        "detection": "study.readings.detection:Detection",
    },
)
"""By the kind of the task."""
