"""What is explained of a tagger: the score of one word's tag, in each sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from study.feed import Piece
from study.readings.tokens import sentence
from study.task import IGNORED, Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

OUTSIDE = ("O", "0")
"""What a word of no entity is tagged."""


@dataclass(frozen=True, slots=True, eq=False)
class Tagged:
    """One word of each row: which of those that count, the step at which it is scored, and its class."""

    parts: tuple[int, ...]
    steps: "NDArray[np.int64]"
    classes: "NDArray[np.int64]"
    titles: tuple[str, ...]


def words_asked(piece: Piece, order: Sequence[int], table: pl.DataFrame, task: Task, steps: int) -> Tagged:
    """Of each row the word that is wrong with the highest loss; else of an entity, else any, the surest.

    ``table`` has the predictions of the model as it came of the rows of the piece, in this order; ``steps``
    are those of a row of the batch.
    """
    parts, places, classes, titles = [], [], [], []
    for row, line in zip(order, table.iter_rows(named=True), strict=True):
        at = _word(line, task)
        said, label = line["prediction"][at], line["label"][at]
        parts.append(at)
        places.append(int(sentence(task, piece, row, steps).step[at]))
        classes.append(said)
        title = f"row {line['id']}, '{line['word'][at]}' predicted {task.classes[said]}"
        titles.append(title + (f", labelled {task.classes[label]}" if label >= 0 else ""))
    return Tagged(tuple(parts), np.array(places), np.array(classes, dtype=np.int64), tuple(titles))


def _word(line: Mapping[str, Any], task: Task) -> int:
    label, said = np.array(line["label"]), np.array(line["prediction"])
    wrong = (label != said) & (label != IGNORED)
    if wrong.any():
        return int(np.argmax(np.where(wrong, np.nan_to_num(line["part_loss"], nan=np.inf), -np.inf)))
    sure = np.nan_to_num(np.array(line["part_confidence"]))
    inside = np.array([task.classes[one] not in OUTSIDE for one in said])
    return int(np.argmax(sure + inside))
