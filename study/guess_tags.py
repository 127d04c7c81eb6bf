"""What the outputs of a tagger mean: where the classes of a word lie, and what they are called."""

from dataclasses import replace
from typing import Any, Final

from numpy.typing import NDArray

from study.errors import InputError, did_you_mean, few
from study.tags import SENTENCES, Row, in_words, is_tags, row_of
from study.task import Task

SCORES: Final = 3
"""Axes of the output: rows, steps, classes."""
PADDING: Final = ("<pad>", "[pad]", "pad")
TWO: Final = 2


def shows_tags(output: NDArray[Any], labels: NDArray[Any]) -> bool:
    """Whether labels and output are about words: lists, or an integer for every step, and a score a class."""
    if output.ndim != SCORES:
        return False
    if is_tags(labels):
        return True
    whole = labels.ndim == SENTENCES and labels.dtype.kind in "iu"
    return whole and labels.shape[1] in output.shape[1:]


def tag_axis(output: NDArray[Any], labels: NDArray[Any] | None, classes: int) -> int:
    """The axis of the classes; 0: there is none, each word has one score.

    Raises:
        InputError: the output has not one line a word.
    """
    if output.ndim == SENTENCES:
        return 0
    if output.ndim != SCORES:
        shape = "x".join(str(size) for size in output.shape[1:])
        raise InputError(
            f"A tagger gives (rows, words, classes), and the output of a row is {shape}: name another with "
            "--output."
        )
    steps = labels.shape[1] if labels is not None and labels.ndim == SENTENCES else 0
    if steps and steps not in output.shape[1:]:
        raise InputError(
            f"The labels have {steps} steps a row, and the output {output.shape[1]} of {output.shape[2]} "
            "scores: they must have one length."
        )
    by_steps = bool(steps) and output.shape[1] != steps
    by_classes = not steps and classes == output.shape[1] != output.shape[2]
    return 1 if by_steps or by_classes else -1


def with_tags(task: Task, labels: NDArray[Any] | None, said: str) -> tuple[Task, str]:
    """The task with the names of its tags, and the one that fills up left out.

    Raises:
        InputError: the labels are not a tag a word, or a tag is no class.
    """
    rows = None if labels is None else _rows(labels)
    width = max(task.width, TWO)
    names = task.classes
    if not names and rows is not None and any(in_words(row) for row in rows):
        names = _sorted_words(rows, width)
        said += f" The tags are words; outputs are taken to be in their sorted order: {few(names, 12)}."
    names = names or tuple(str(index) for index in range(width))
    if rows is not None:
        _must_be_classes(rows, names)
    ignore = next((at for at, name in enumerate(names) if name.lower() in PADDING), task.ignore)
    if ignore >= 0:
        said += f" Words that are tagged '{names[ignore]}' do not count."
    return replace(task, classes=names, ignore=ignore), said


def _rows(labels: NDArray[Any]) -> list[Row]:
    if labels.ndim == SENTENCES and labels.dtype.kind in "iu":
        return [labels.reshape(-1)]
    if labels.ndim == 1 and labels.dtype.kind in "OU":
        return [row_of(label) for label in labels if label is not None]
    raise InputError(
        "A tagger needs a tag a word: lists of names or of class indices, or an array (rows, steps) of class "
        f"indices; the labels have the shape {labels.shape} and are {labels.dtype}."
    )


def _words(rows: list[Row]) -> set[str]:
    return {str(tag) for row in rows if in_words(row) for tag in row.tolist() if tag is not None}


def _sorted_words(rows: list[Row], width: int) -> tuple[str, ...]:
    found = tuple(sorted(_words(rows)))
    if len(found) != width:
        raise InputError(
            f"The tags are {len(found)} different words ({few(found)}) and the model tells {width} apart: "
            "give --classes with as many names, in the order of the outputs."
        )
    return found


def _must_be_classes(rows: list[Row], names: tuple[str, ...]) -> None:
    unknown = sorted(_words(rows) - set(names))
    if unknown:
        if len(unknown) == 1:
            raise InputError(
                f"The tag '{unknown[0]}' is no class of this model.{did_you_mean(unknown[0], names)}"
            )
        raise InputError(f"The tags {few(unknown)} are no classes of this model: those are {few(names)}.")
    most = max((int(row.max()) for row in rows if len(row) and not in_words(row)), default=0)
    if most >= len(names):
        raise InputError(
            f"The tags go up to {most}, and the model tells {len(names)} classes apart, counted from 0 to "
            f"{len(names) - 1}."
        )
