"""What outputs mean that have a score a part (a token, a pixel): the kind, and where the classes lie."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from study.errors import InputError
from study.guess_tags import shows_tags, tag_axis, with_tags
from study.scale import each_for_itself, one_of_several, tolerance_of
from study.task import IGNORED, PARTS, Kind, Task

LOOKED_AT: Final = 512
"""Parts whose scores are looked at."""
ROWS_LOOKED_AT: Final = 64
"""Rows whose labels are looked at."""
PLAIN: Final = 2
"""Axes of an output with one line a row."""
MASK: Final = 3
"""Axes of masks: rows, height, width."""
VOID: Final = 255
"""What a mask of bytes says where a pixel is of no class."""


def parts_kind(asked: str, output: NDArray[Any] | None, labels: NDArray[Any] | None) -> Kind | None:
    """The kind with parts that was asked for, or that the labels show: an integer a pixel, a tag a word."""
    if asked:
        return next((kind for kind in sorted(PARTS) if kind == asked), None)
    if output is None or labels is None:
        return None
    if shows_tags(output, labels):
        return "tokens"
    if labels.ndim != MASK or labels.dtype.kind not in "iub":
        return None
    return "segmentation" if _axis(output, labels) is not None else None


def guess_parts(
    kind: Kind, output: NDArray[Any], classes: tuple[str, ...], name: str, labels: NDArray[Any] | None = None
) -> tuple[Task, str]:
    """The task, and in a sentence what was guessed.

    Raises:
        InputError: the output has no axis of scores, or masks or classes do not fit it.
    """
    if output.ndim < PLAIN:
        raise InputError(f"A {kind} task has a score a part and class; the output has one number a row.")
    axis = -1
    if kind == "segmentation":
        axis = _pixel_axis(output, labels)
    elif kind == "tokens":
        axis = tag_axis(output, labels, len(classes))
    whole = np.moveaxis(output if axis else output[..., None], axis or -1, -1)
    scores = whole.reshape(-1, whole.shape[-1])
    width = int(scores.shape[1])
    if classes and len(classes) != max(width, PLAIN):
        raise InputError(
            f"The model tells {max(width, PLAIN)} classes apart and {len(classes)} are named: give --classes "
            "with as many, in the order of the outputs."
        )
    finite = scores[np.isfinite(scores).all(axis=1)][:LOOKED_AT].astype(np.float64)
    tolerance = tolerance_of(output)
    scale = one_of_several(finite, tolerance) if width > 1 else each_for_itself(finite, tolerance)
    said = f"The task is {kind}: each part has {width} scores, which are {scale}."
    task = Task(kind, scale, classes, name, width, axis)
    if kind == "tokens":
        return with_tags(task, labels, said.replace("each part", "each word"))
    return _with_ignored(task, labels, said) if kind == "segmentation" else (task, said)


def foreground(task: Task, labels: NDArray[Any]) -> NDArray[Any]:
    """Masks of two classes in which 255 is the second of them, with 1 in its place."""
    if task.ignore == VOID or task.width > PLAIN:
        return labels
    return np.where(labels == VOID, 1, labels)


def _with_ignored(task: Task, labels: NDArray[Any] | None, said: str) -> tuple[Task, str]:
    """What the masks' 255 is: a pixel of no class, or in masks of 0 and 255 alone the second class."""
    said = said.replace("each part has", "each pixel has")
    names = task.classes or tuple(str(index) for index in range(max(task.width, PLAIN)))
    ignore = IGNORED
    if labels is not None and task.width <= VOID:
        values = np.unique(labels[:ROWS_LOOKED_AT])
        if VOID in values:
            second = task.width <= PLAIN and bool(np.isin(values, (0, VOID)).all())
            ignore = IGNORED if second else VOID
            said += f" 255 in a mask is {f'class {names[1]!r}' if second else 'no class and does not count'}."
        elif task.width > PLAIN:
            ignore = VOID
    return Task(task.kind, task.output, names, task.output_name, task.width, task.class_axis, ignore), said


def _axis(output: NDArray[Any], labels: NDArray[Any]) -> int | None:
    """Where the classes of the pixels lie; 0: nowhere, there is one score a pixel. None: masks do not fit."""
    size = labels.shape[1:]
    if output.ndim == MASK:
        return 0 if output.shape[1:] == size else None
    if output.ndim != MASK + 1:
        return None
    if output.shape[2:] == size:
        return 1
    return -1 if output.shape[1:-1] == size else None


def _pixel_axis(output: NDArray[Any], labels: NDArray[Any] | None) -> int:
    """The axis of the classes.

    Raises:
        InputError: there are none, or the masks have another size than the output.
    """
    shape = "x".join(str(size) for size in output.shape[1:])
    if output.ndim not in (MASK, MASK + 1):
        raise InputError(
            f"A segmentation gives (rows, classes, height, width), and the output of a row is {shape}: name "
            "another with --output."
        )
    if labels is None:
        return 0 if output.ndim == MASK else 1
    if labels.ndim != MASK or labels.dtype.kind not in "iub":
        raise InputError(
            "A segmentation needs a mask a row, (rows, height, width), of whole numbers that are output "
            f"indices; the labels have the shape {labels.shape} and are {labels.dtype}."
        )
    axis = _axis(output, labels)
    if axis is None:
        size = "x".join(str(size) for size in labels.shape[1:])
        raise InputError(
            f"The masks are {size} and the output of a row is {shape}: they must have one size, so resize "
            "the masks, or let the model enlarge its scores."
        )
    return axis
