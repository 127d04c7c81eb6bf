"""Which of several outputs is the score: as asked for, or the one that fits the labels."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.errors import InputError, did_you_mean

SCORE_NAMES = ("logits", "scores", "probabilities", "probs", "output", "prediction", "predictions")
"""Of several outputs that fit the labels, the one that is called so is scored."""
TABLE = 2
"""Axes of an output that has one score a class."""


def scored_name(
    outputs: Mapping[str, Any], asked: str, labels: NDArray[Any] | None, classes: int = 0
) -> tuple[str, tuple[str, ...]]:
    """The name of the scored output, and what was guessed.

    ``asked`` is a name, or a number counted from 0; ``classes`` the number of classes where it is known.

    Raises:
        InputError: there is no such output, or none at all.
    """
    if not outputs:
        raise InputError("The model gave no output.")
    names = list(outputs)
    if asked in outputs:
        return asked, ()
    if asked.isdecimal() and int(asked) < len(names):
        return names[int(asked)], ()
    if asked:
        raise InputError(f"The model has no output '{asked}'.{did_you_mean(asked, outputs)}")
    if len(names) == 1:
        return names[0], ()
    fit = [name for name in names if _fits(np.shape(outputs[name]), labels, classes)]
    pool = fit or names
    called = (name for word in SCORE_NAMES for name in pool if name.lower() == word)
    name = next(called, pool[0])
    why = ", which fits the labels" if fit and len(fit) < len(names) else ""
    said = f"The model has {len(names)} outputs; '{name}' is the one that is scored{why}"
    return name, (f"{said} (--output names another).",)


def _fits(shape: tuple[int, ...], labels: NDArray[Any] | None, classes: int) -> bool:
    """Whether an output of this shape can be about these labels: a score a class, or a number a target."""
    while len(shape) > TABLE and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > TABLE:
        return False
    width = shape[1] if len(shape) == TABLE else 1
    if classes:
        return width == classes or (width == 1 and classes == TABLE)
    if labels is None or not labels.size:
        return True
    if labels.ndim > 1 and labels.shape[1] > 1:
        return bool(width == labels.shape[1])
    given = labels.reshape(-1)
    if given.dtype.kind == "f":
        given = given[np.isfinite(given)]
        if (given != np.round(given)).any():
            return width == 1
    number = len({str(label) for label in given.tolist() if label is not None})
    if given.dtype.kind in "fiu" and given.size:
        number = max(number, int(given.max()) + 1)
    return width == number or (width == 1 and number == TABLE)
