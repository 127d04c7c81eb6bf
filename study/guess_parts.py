"""What outputs mean that have a score a part (a token, a pixel): the kind, and where the classes lie."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from study.errors import InputError
from study.scale import each_for_itself, one_of_several, tolerance_of
from study.task import PARTS, Kind, Task

LOOKED_AT: Final = 512
"""Parts whose scores are looked at."""
PLAIN: Final = 2
"""Axes of an output with one line a row."""


def parts_kind(asked: str) -> Kind | None:
    """The kind with parts that was asked for, by the user or by what the model says of itself."""
    return next((kind for kind in sorted(PARTS) if kind == asked), None)


def guess_parts(kind: Kind, output: NDArray[Any], classes: tuple[str, ...], name: str) -> tuple[Task, str]:
    """The task, and in a sentence what was guessed.

    Raises:
        InputError: the output has no axis of scores, or the classes are not as many.
    """
    if output.ndim < PLAIN:
        raise InputError(f"A {kind} task has a score a part and class; the output has one number a row.")
    scores = output.reshape(-1, output.shape[-1])
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
    return Task(kind, scale, classes, name, width), said
