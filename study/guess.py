"""What a model's outputs mean, guessed from labels and outputs, and said aloud."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.errors import InputError, did_you_mean, few
from study.guess_parts import MASK, guess_parts, parts_kind
from study.guess_series import guess_forecast
from study.scale import each_for_itself, one_of_several, tolerance_of, within_one
from study.scored_output import scored_name
from study.tags import is_tags
from study.task import Kind, Task, as_table

TASKS = (
    *("classification", "binary", "multiclass", "multilabel", "regression", "language"),
    *("forecasting", "tokens", "segmentation", "detection"),
)
"""What may be asked for with ``--task``."""
FLAGGED = ("", "classification", "multilabel")
"""Of these, the tasks whose labels may be flags."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What labels and outputs look like: finite rows of the output, and labels without the missing ones."""

    output: NDArray[Any]
    labels: NDArray[Any] | None
    words: bool
    missing: float = 0.0
    """Of flags with gaps, the share of labels that are missing; they stand as 0 in ``labels``."""

    @property
    def width(self) -> int:
        return int(self.output.shape[1])


def require_task(asked: str) -> None:
    """Refuse a task that there is not; nothing asked is guessed later.

    Raises:
        InputError: there is none of that name.
    """
    if not asked or asked in TASKS:
        return
    raise InputError(f"There is no task '{asked}'.{did_you_mean(asked, TASKS)}")


def has_gaps(labels: NDArray[Any] | None, asked: str) -> bool:
    """Whether these are several flags a row of which some are missing (NaN): a multi-label that has gaps.

    Rows that say, wherever they are whole, one of several are no such flags unless that was asked for.
    """
    several = labels is not None and labels.ndim == 2 and labels.shape[1] > 1  # noqa: PLR2004 - rows and labels
    if labels is None or not several or labels.dtype.kind != "f" or asked not in FLAGGED:
        return False
    missing = np.isnan(labels)
    whole = labels[~missing.any(axis=1)]
    one_hot = bool(len(whole)) and bool((whole.sum(axis=1) == 1).all()) and asked != "multilabel"
    partly = missing.any(axis=1) & ~missing.all(axis=1)
    return bool(partly.any()) and bool(np.isin(labels[~missing], (0, 1)).all()) and not one_hot


def guess_task(
    labels: NDArray[Any] | None,
    output_samples: Mapping[str, Any],
    *,
    asked: str = "",
    classes: tuple[str, ...] = (),
    source_classes: tuple[str, ...] = (),
    output_name: str = "",
) -> tuple[Task, tuple[str, ...]]:
    """The task, and what was guessed, in sentences.

    ``labels`` are all labels as given, ``output_samples`` the outputs of some rows. NaN among the outputs is
    looked past: it is a finding, not an error.

    Raises:
        InputError: labels, outputs and what was asked contradict each other.
    """
    require_task(asked)
    if asked == "forecasting":
        return guess_forecast(labels, output_samples, output_name, classes)
    whole = bool(parts_kind(asked, None, None)) or (labels is not None and labels.ndim == MASK)
    whole = whole or is_tags(labels)
    known = 0 if whole else len(classes or source_classes)
    name, notes = scored_name(output_samples, output_name, None if whole else labels, known)
    parts = parts_kind(asked, output_samples[name], labels)
    if not asked and labels is not None and labels.ndim == MASK and labels.dtype.kind == "f":
        raise InputError(
            f"The labels are {' x '.join(map(str, labels.shape[1:]))} numbers a row: give --task forecasting "
            "where these are steps ahead and targets."
        )
    if parts:
        found, sentence = guess_parts(parts, output_samples[name], classes or source_classes, name, labels)
        return found, (*notes, sentence)
    if is_tags(labels):
        raise InputError(
            "The label is a list a row, and the output has no score a word and class: give --label with one "
            "answer a row, or --output."
        )
    table = as_table(output_samples[name])
    seen = _look(table, labels, gaps=has_gaps(labels, asked))
    kind = "multilabel" if seen.missing else _kind(seen, asked, classes or source_classes)
    if kind == "regression":
        _must_fit_targets(seen)
        return Task("regression", "value", (), name), (
            *notes,
            f"The task is regression: {_labels_in_words(seen)} and the output has {_columns(seen.width)}.",
        )
    scale = one_of_several if kind == "multiclass" else each_for_itself
    output = scale(seen.output, tolerance_of(table))
    names, more = _classes(kind, seen, classes, source_classes)
    word = "multilabel classification" if kind == "multilabel" else "classification"
    number = seen.width if kind == "multilabel" else max(seen.width, 2)
    if seen.missing:
        _must_be_flags(seen)
        more = (*more, f"{100 * seen.missing:.3g} % of the labels are missing and do not count.")
    said = (
        f"The task is {word} of {number} classes: {_labels_in_words(seen)} "
        f"and the output has {_columns(seen.width)} of {output}."
    )
    return Task(kind, output, names, name), (*notes, said, *more)


def _look(table: NDArray[Any], labels: NDArray[Any] | None, *, gaps: bool) -> _Seen:
    output = table.astype(np.float64)
    output = output[np.isfinite(output).all(axis=1)]
    if labels is None:
        return _Seen(output, None, words=False)
    given = np.asarray(labels)
    if gaps:
        missing = np.isnan(given)
        some = ~missing.all(axis=1)
        flags = np.where(missing, 0, given)[some].astype(np.int64)
        return _Seen(output, flags, words=False, missing=float(missing[some].mean()))
    if given.ndim == 2 and given.shape[1] == 1:  # noqa: PLR2004 - one column is one label a row
        given = given[:, 0]
    if given.dtype.kind in "OUS":
        return _Seen(output, given[[label is not None for label in given]], words=True)
    if given.dtype.kind == "f":
        given = given[np.isfinite(given) if given.ndim == 1 else np.isfinite(given).all(axis=1)]
        # A column of integers with a hole in it comes as floats.
        if given.size and (given == np.round(given)).all() and np.abs(given).max() < 2**53:
            given = given.astype(np.int64)
    return _Seen(output, given, words=False)


def _kind(seen: _Seen, asked: str, names: tuple[str, ...]) -> Kind:
    if asked in ("", "classification"):
        kind = _kind_of(seen, classes=bool(names) or asked == "classification")
    elif asked == "binary":
        if seen.width > 2:  # noqa: PLR2004 - two columns are two classes
            raise InputError(f"A binary task has one or two outputs a row; this model has {seen.width}.")
        kind = "binary" if seen.width == 1 else "multiclass"
    else:
        kind = next(known for known in ("multiclass", "multilabel", "regression") if known == asked)
    if kind == "multiclass" and seen.width == 1:
        raise InputError(
            "The model has a single output, which cannot tell several classes apart: "
            "give --task binary or --task regression."
        )
    if kind in ("binary", "multiclass"):
        _must_be_classes(seen)
    elif kind == "multilabel":
        _must_be_flags(seen)
    return kind


def _kind_of(seen: _Seen, *, classes: bool) -> Kind:
    """From what was given alone; ``classes``: class names were given, or classification was asked for."""
    labels, width = seen.labels, seen.width
    if labels is not None and labels.ndim > 1:
        return _kind_of_many(labels, width, classes=classes)
    if width > 1:
        return "multiclass"
    if labels is None or not labels.size:
        is_class = classes or within_one(seen.output, 0.0)
    elif labels.dtype.kind == "f":
        is_class = classes
    else:
        # Two integers other than 0 and 1 are refused below: they are rather classes than targets.
        is_class = classes or seen.words or len(np.unique(labels)) == 2 or bool(np.isin(labels, (0, 1)).all())  # noqa: PLR2004
    return "binary" if is_class else "regression"


def _kind_of_many(labels: NDArray[Any], width: int, *, classes: bool) -> Kind:
    """Several numbers a row: one-hot rows, flags, or targets."""
    if width == labels.shape[1] and np.isin(labels, (0, 1)).all():
        return "multiclass" if (labels.sum(axis=1) == 1).all() else "multilabel"
    return "multilabel" if classes else "regression"


def _must_be_classes(seen: _Seen) -> None:
    """Labels that are given as numbers must be output indices."""
    labels, number = seen.labels, max(seen.width, 2)
    if labels is None or not labels.size:
        return
    if labels.ndim > 1:
        one_hot = labels.ndim == 2 and labels.shape[1] == number and np.isin(labels, (0, 1)).all()  # noqa: PLR2004
        if not one_hot or (labels.sum(axis=1) != 1).any():
            raise InputError(
                f"Labels of shape {labels.shape} do not name one of {number} classes a row: "
                "give one label a row, or --task multilabel."
            )
        return
    if seen.words:
        return
    if labels.dtype.kind == "f":
        fraction = float(labels[labels != np.round(labels)][0])
        raise InputError(
            f"The labels are fractions such as {fraction:g} and the output has {_columns(seen.width)}: "
            "give labels that are classes, or --task regression for a single output."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0:
        raise InputError(f"The label {low} is negative: labels are output indices, counted from 0.")
    if high >= number:
        hint = " Labels are counted from 0." if low == 1 and high == number else ""
        raise InputError(
            f"The labels go up to {high}, and the model has {_columns(seen.width)}: "
            f"labels are output indices from 0 to {number - 1}.{hint}"
        )


def _must_be_flags(seen: _Seen) -> None:
    labels = seen.labels
    if labels is None:
        return
    wide = labels.shape[1] if labels.ndim == 2 else 1  # noqa: PLR2004 - rows and labels
    if seen.words or wide != seen.width or not np.isin(labels, (0, 1)).all():
        raise InputError(
            f"A multilabel task needs {seen.width} labels of 0 or 1 a row, one an output; "
            f"the labels have shape {labels.shape}."
        )


def _must_fit_targets(seen: _Seen) -> None:
    labels = seen.labels
    if seen.words:
        raise InputError("Words cannot be the targets of a regression: give --task or another --label.")
    if labels is None or not labels.size:
        return
    wide = 1 if labels.ndim == 1 else int(np.prod(labels.shape[1:]))
    if wide != seen.width:
        raise InputError(
            f"The labels have {_columns(wide)} and the model's output has {seen.width}: "
            "a regression needs as many, so name them with --label, or give another --task."
        )


def _classes(
    kind: Kind, seen: _Seen, asked: tuple[str, ...], own: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The class names, from what was asked, what the source knows, or the labels in sorted order."""
    number = seen.width if kind == "multilabel" else max(seen.width, 2)
    names = asked or own
    if names:
        if len(set(names)) != len(names):
            raise InputError(f"A class is named twice among {few(names)}.")
        if len(names) != number:
            where = "--classes names" if asked else "the data has"
            raise InputError(
                f"The model tells {number} classes apart and {where} {len(names)} ({few(names)}): "
                f"give --classes with {number} names in the order of the outputs."
            )
        own_said = () if asked or not seen.words else (f"The classes are in sorted order: {few(names)}.",)
        return names, own_said
    if not seen.words or seen.labels is None:
        return tuple(str(index) for index in range(number)), ()
    found = tuple(sorted({str(label) for label in seen.labels}))
    if len(found) != number:
        raise InputError(
            f"The labels are {len(found)} different words ({few(found)}) and the model tells "
            f"{number} classes apart: give --classes with {number} names in the order of the outputs."
        )
    return found, (f"The labels are words; outputs are taken to be in their sorted order: {few(found, 12)}.",)


def _labels_in_words(seen: _Seen) -> str:
    labels = seen.labels
    if labels is None:
        return "there are no labels"
    if not labels.size:
        return "every label is missing"
    if labels.ndim > 1:
        return f"there are {int(np.prod(labels.shape[1:]))} labels a row"
    if seen.words:
        return f"labels are {len({str(label) for label in labels})} different words"
    if labels.dtype.kind == "f":
        return f"labels are numbers from {float(labels.min()):g} to {float(labels.max()):g}"
    return f"labels are the integers {int(labels.min())} to {int(labels.max())}"


def _columns(number: int) -> str:
    return "one column" if number == 1 else f"{number} columns"
