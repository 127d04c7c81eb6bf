"""Which rows are explained: chosen by the predictions of the model as it came, so the same at every step."""

import re

import numpy as np
import polars as pl

from study.errors import InputError, SkipError, did_you_mean, few
from study.task import IGNORED, VALUES, Task

ROWS = 16
"""As many rows, where they are not named."""
TEXTS = 8
"""As many of a language model's: each costs a pass over a text for each of its words."""
CHOICES = ("errors", "confident-errors", "random")
GRADUAL = VALUES | {"language"}
"""Kinds of which no row is right or wrong: all have some loss."""
POSITIONS = re.compile(r"\d+(\s*,\s*\d+)*")


def choose(predictions: pl.LazyFrame, task: Task, which: str = "", seed: int = 0) -> tuple[int, ...]:
    """Positions of the rows to explain: the worst errors, the most confident, random rows, or those named.

    With no word: up to half the worst errors, and random other rows.

    Raises:
        InputError: no such choice, or no such row.
        SkipError: there are no errors, or no labels to tell.
    """
    if POSITIONS.fullmatch(which.strip()):
        return _named(predictions, tuple(dict.fromkeys(int(word) for word in which.split(","))))
    if which and which not in CHOICES:
        raise InputError(f"There are no rows '{which}'.{did_you_mean(which, (*CHOICES, '0,5,9'))}")
    count = TEXTS if task.kind == "language" else ROWS
    if task.kind == "language":
        predictions = predictions.filter(pl.col("parts") > 0)
    if which in ("errors", "confident-errors"):
        by = "loss" if which == "errors" or task.kind in GRADUAL else "confidence"
        found = _errors(predictions, task, by, count)
        if not found:
            raise SkipError("there are no errors to explain: none was made, or the rows have no labels")
        return found
    errors = () if which else _errors(predictions, task, "loss", count // 2)
    positions = predictions.select("position").collect()["position"].to_numpy()
    others = positions[~np.isin(positions, errors)]
    drawn = np.random.default_rng(seed).permutation(len(others))[: count - len(errors)]
    return (*errors, *(int(others[at]) for at in np.sort(drawn)))


def targets(
    predictions: pl.DataFrame, task: Task, width: int, target: str = ""
) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """The output index that is explained of each row: the predicted class or, if given, ``target``.

    ``width`` is the number of outputs of a row; a single number is explained as it is,
    and of several values the first.

    Raises:
        InputError: there is no such class, or only one score.
    """
    if width == 1:
        if target:
            raise InputError("The model has one score, which is explained as it is: leave --target out.")
        return np.zeros(len(predictions), np.int64)
    if target:
        return np.full(len(predictions), _index(target, task, width), np.int64)
    if task.kind == "multiclass":
        return predictions["prediction"].to_numpy().astype(np.int64)
    if task.kind == "multilabel" and "output" in predictions.columns:
        return np.array([int(np.argmax(row)) for row in predictions["output"].to_list()], np.int64)
    return np.full(len(predictions), task.median, np.int64)


def _index(target: str, task: Task, width: int) -> int:
    names = task.classes or task.steps
    if target in names:
        return names.index(target)
    if target.isdecimal() and int(target) < width:
        return int(target)
    known = names or tuple(str(at) for at in range(width))
    what = "step" if task.kind == "forecasting" else "class"
    raise InputError(f"There is no {what} '{target}'.{did_you_mean(target, known)}")


def _judged(predictions: pl.LazyFrame) -> str:
    """Some rows that are."""
    first = predictions.select("position").head(3).collect()["position"].to_list()
    return ", ".join(map(str, first))


def _named(predictions: pl.LazyFrame, wanted: tuple[int, ...]) -> tuple[int, ...]:
    known = predictions.filter(pl.col("position").is_in(wanted)).select("position").collect()
    missing = [at for at in wanted if at not in set(known["position"].to_list())]
    if missing:
        raise InputError(
            f"There are no judged rows {few(missing)}: rows count from 0 in the order of the data, and some "
            f"may be held back to calibrate; {_judged(predictions)} are judged."
        )
    return wanted


def _errors(predictions: pl.LazyFrame, task: Task, by: str, count: int) -> tuple[int, ...]:
    """The rows that are wrong (for a regression: all labelled rows), the largest ``by`` first."""
    wrong = pl.col("label").is_not_null()
    if task.kind == "multilabel":
        wrong &= pl.col("position").is_in(_with_wrong_labels(predictions))
    elif task.kind not in GRADUAL:
        wrong &= pl.col("label") != pl.col("prediction")
    found = predictions.filter(wrong).sort([by, "position"], descending=[True, False], nulls_last=True)
    return tuple(found.select("position").head(count).collect()["position"].to_list())


def _with_wrong_labels(predictions: pl.LazyFrame) -> list[int]:
    """The positions of rows with a label that is known and wrong."""
    labelled = predictions.filter(pl.col("label").is_not_null())
    every = labelled.select("position", "label", "prediction").explode(
        "label", "prediction", empty_as_null=True
    )
    wrong = every.filter((pl.col("label") != IGNORED) & (pl.col("label") != pl.col("prediction")))
    return wrong.select(pl.col("position").unique()).collect()["position"].to_list()
