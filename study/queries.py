"""Detections of a fixed number of queries, each with a box and scores of all classes, as DETR gives them.

Carion et al. 2020 take a softmax with a last class that is no object, and one class a query; Zhu et al. 2021
(Deformable DETR) and those after them a sigmoid a class, and the best pairs of query and class.
"""

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from study.boxes import SIDES, BoxLayout, Floats
from study.scale import each_for_itself, one_of_several, tolerance_of
from study.task import Output

NAMED: Final = ("logit", "class", "score", "conf")
"""What the output with the scores is called."""
CENTRES: Final = "box"
AXES: Final = 3
"""Rows, queries, numbers."""
WITHIN: Final = 1.5
"""Boxes are shares of the image; a net may say a little more than all of it."""
Read: TypeAlias = "tuple[Floats, NDArray[np.int64], Floats]"
"""Boxes as corners, class numbers and scores."""


def queries_layout(arrays: Mapping[str, NDArray[Any]], classes: int) -> tuple[BoxLayout, int] | None:
    """Where boxes and scores of the queries lie, and how many classes are told apart; None: this is no such.

    ``classes`` is how many the data has, 0 where it does not say.
    """
    three = {name: array for name, array in arrays.items() if array.ndim == AXES}
    shares = [name for name, array in three.items() if _are_centres(array)]
    boxes = _called(shares, (CENTRES,))
    for name in [boxes] if boxes else shares:
        beside = [
            other
            for other, array in three.items()
            if other != name and array.shape[:2] == three[name].shape[:2] and array.shape[2] > 1
        ]
        scores = _called(beside, NAMED) or (beside[0] if len(beside) == 1 else "")
        if scores:
            absent = _has_absent(three[scores], classes)
            layout = BoxLayout("queries", name, scores=scores, absent=absent)
            return layout, three[scores].shape[2] - absent
    return None


def query_scale(layout: BoxLayout, array: NDArray[Any]) -> Output:
    """What the scores are: those of one of several classes, or of each class for itself."""
    lines = array.reshape(-1, array.shape[-1]).astype(np.float64)
    lines = lines[np.isfinite(lines).all(axis=1)]
    scale = one_of_several if layout.absent else each_for_itself
    return scale(lines, tolerance_of(array))


def of_queries(layout: BoxLayout, output: Output, arrays: Mapping[str, NDArray[Any]], row: int) -> Read:
    """The detections of one row: a class a query, or as many pairs of the two as there are queries."""
    centres = arrays[layout.boxes][row].astype(np.float64)
    scores = _chances(arrays[layout.scores][row].astype(np.float64), output, one=layout.absent)
    if layout.absent:
        scores = scores[:, :-1]
        query, number = np.arange(len(scores)), np.argmax(np.nan_to_num(scores, nan=np.inf), axis=1)
    else:
        flat = np.where(np.isnan(scores), np.inf, scores).ravel()
        best = np.argsort(-flat, kind="stable")[: len(scores)]
        query, number = np.divmod(best, scores.shape[1])
    middle, half = centres[query, :2], centres[query, 2:SIDES] / 2
    return np.hstack([middle - half, middle + half]), number.astype(np.int64), scores[query, number]


def _chances(scores: Floats, output: Output, *, one: bool) -> Floats:
    """Probabilities; ``one``: of which one class is true."""
    if output == "probabilities":
        return scores
    if output == "log-probabilities":
        return np.exp(scores)
    if not one:
        return np.exp(-np.logaddexp(0.0, -scores))
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances: Floats = raised / raised.sum(axis=1, keepdims=True)
    return chances


def _are_centres(array: NDArray[Any]) -> bool:
    """Four numbers a query, none negative, all within the image."""
    if array.shape[2] != SIDES or array.dtype.kind != "f":
        return False
    finite = array[np.isfinite(array)]
    return bool(finite.size) and bool((finite >= 0).all() and (finite <= WITHIN).all())


def _called(names: list[str], words: tuple[str, ...]) -> str:
    return next((name for word in words for name in names if word in name.lower()), "")


def _has_absent(scores: NDArray[Any], classes: int) -> bool:
    """Whether the last score is that of no object: by the number of classes, else as most queries have it."""
    width = int(scores.shape[2])
    if classes and width in (classes, classes + 1):
        return width == classes + 1
    lines = scores.reshape(-1, width)
    lines = lines[np.isfinite(lines).all(axis=1)]
    return 2 * int(np.count_nonzero(lines.argmax(axis=1) == width - 1)) > len(lines)
