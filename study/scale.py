"""Whether scores are logits, probabilities or their logarithms, told from some rows of them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.task import Output

ROUNDING = {"float16": 1e-2, "float32": 5e-3, "float64": 1e-4}
"""How far probabilities may sum past one. bfloat16 has come as float32, and rounds by 0.4 %."""


def tolerance_of(scores: NDArray[Any]) -> float:
    """How far probabilities of this dtype may be off."""
    return ROUNDING.get(scores.dtype.name, ROUNDING["float32"])


def within_one(rows: NDArray[Any], tolerance: float) -> bool:
    """Whether every score may be a probability."""
    return bool(len(rows)) and bool(((rows >= -tolerance) & (rows <= 1 + tolerance)).all())


def one_of_several(rows: NDArray[Any], tolerance: float) -> Output:
    """What the scores (rows, classes) are where one class is right: probabilities sum to one."""
    if not len(rows):
        return "logits"
    if within_one(rows, tolerance) and (np.abs(rows.sum(axis=1) - 1) <= tolerance).all():
        return "probabilities"
    if (rows <= tolerance).all() and (np.abs(np.exp(rows).sum(axis=1) - 1) <= tolerance).all():
        return "log-probabilities"
    return "logits"


def each_for_itself(rows: NDArray[Any], tolerance: float) -> Output:
    """What the scores are where each is judged alone."""
    return "probabilities" if within_one(rows, tolerance) else "logits"
