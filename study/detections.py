"""What a detector found, read from the layouts that detectors give it in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from study.boxes import SIDES, BoxLayout, Floats, shared
from study.errors import InputError
from study.host import to_numpy
from study.queries import Read, of_queries
from study.task import Output

KEPT = 300
"""The most detections of an image that are kept, the surest first."""
LEAST_SCORE = 0.001
"""Raw scores below it are no detections, as is usual where mean average precision is measured."""
SUPPRESSED = 0.7
"""The overlap from which the less sure of two boxes of a class is a duplicate; of raw outputs alone."""
CANDIDATES = 3000
"""Of the raw scores of one image: the most that suppression looks at."""
Outputs: TypeAlias = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Detected:
    """What was found in one image, the surest first: ``boxes`` (found, 4) in pixels of the model's input.

    ``numbers`` are what the model calls the classes. ``cut`` detections were beyond those kept, ``lost`` ones
    had a number that is not finite.
    """

    boxes: Floats
    numbers: NDArray[np.int64]
    scores: Floats
    cut: int = 0
    lost: int = 0

    def __len__(self) -> int:
        return len(self.scores)


def detected(
    layout: BoxLayout, output: Output, outputs: Mapping[str, Any], size: tuple[int, int]
) -> list[Detected]:
    """What was found in each row; ``size`` is (height, width) of the model's input.

    Raises:
        InputError: an output that the layout names is not there.
    """
    names = (layout.boxes, layout.labels, layout.scores, layout.count)
    missing = [name for name in names if name and name not in outputs]
    if missing and len(outputs) == 1 and layout.form in ("lines", "raw"):
        outputs = {layout.boxes: next(iter(outputs.values()))}  # an artifact may have renamed its only output
    elif missing:
        raise InputError(f"The model has no output '{missing[0]}', which held its detections.")
    arrays = {name: to_numpy(outputs[name]) for name in names if name}
    rows = range(len(arrays[layout.boxes]))
    read = {"lists": _of_lists, "lines": _of_lines, "raw": _of_raw, "queries": of_queries}[layout.form]
    return [_kept(*read(layout, output, arrays, row), layout, size) for row in rows]


def _of_lists(layout: BoxLayout, _: Output, arrays: Outputs, row: int) -> Read:
    boxes = arrays[layout.boxes][row].astype(np.float64)
    numbers = _whole(arrays[layout.labels][row])
    scores = arrays[layout.scores][row].astype(np.float64)
    count = int(arrays[layout.count][row].reshape(-1)[0]) if layout.count else len(scores)
    there = np.arange(len(scores)) < count
    there &= ~(scores <= 0)  # what fills a row up; NaN is kept, to be counted
    return boxes[there], numbers[there], scores[there]


def _of_lines(layout: BoxLayout, _: Output, arrays: Outputs, row: int) -> Read:
    lines = arrays[layout.boxes][row].astype(np.float64)
    there = ~(lines[:, 4] <= 0)
    if layout.count:
        there &= np.arange(len(lines)) < int(arrays[layout.count][row].reshape(-1)[0])
    lines = lines[there]
    return lines[:, :SIDES], _whole(lines[:, 5]), lines[:, 4]


def _of_raw(layout: BoxLayout, output: Output, arrays: Outputs, row: int) -> Read:
    """Every class of every anchor for itself; duplicates are suppressed class by class."""
    anchors = arrays[layout.boxes][row]
    anchors = anchors.T if layout.anchors_last else anchors
    scores = anchors[:, SIDES:].astype(np.float64)
    if output == "logits":
        scores = np.exp(-np.logaddexp(0.0, -scores))
    if layout.objectness:
        scores = scores[:, :1] * scores[:, 1:]
    lost = ~np.isfinite(scores)
    anchor, number = np.nonzero((scores > LEAST_SCORE) | lost)
    sure = scores[anchor, number]
    order = np.argsort(-np.where(np.isnan(sure), np.inf, sure), kind="stable")[:CANDIDATES]
    anchor, number, sure = anchor[order], number[order], sure[order]
    middle = anchors[anchor, :2].astype(np.float64)
    half = anchors[anchor, 2:SIDES].astype(np.float64) / 2
    boxes = np.hstack([middle - half, middle + half])
    keep = suppressed(boxes, number, SUPPRESSED, KEPT)
    return boxes[keep], number[keep].astype(np.int64), sure[keep]


def suppressed(boxes: Floats, numbers: NDArray[Any], overlap: float, most: int) -> NDArray[np.int64]:
    """The places that are left of boxes that are sorted by score: greedy, class by class.

    A box goes when it shares more than ``overlap`` with a surer one of its class that stays.
    """
    left = np.arange(len(boxes))
    kept: list[int] = []
    while len(left) and len(kept) < most:
        best, left = left[0], left[1:]
        kept.append(int(best))
        same = np.flatnonzero(numbers[left] == numbers[best])
        share = shared(np.broadcast_to(boxes[best], (len(same), SIDES)), boxes[left[same]])
        left = np.delete(left, same[share > overlap])
    return np.array(kept, dtype=np.int64)


def _kept(
    boxes: Floats,
    numbers: NDArray[np.int64],
    scores: Floats,
    layout: BoxLayout,
    size: tuple[int, int],
) -> Detected:
    if layout.shares:
        height, width = size
        boxes = boxes * np.array([width, height, width, height])
    finite = np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
    order = np.flatnonzero(finite)
    order = order[np.argsort(-scores[order], kind="stable")]
    chosen = order[:KEPT]
    corners = boxes[chosen]
    ordered = np.hstack([corners[:, :2], np.maximum(corners[:, 2:], corners[:, :2])])
    return Detected(ordered, numbers[chosen], scores[chosen], len(order) - len(chosen), int((~finite).sum()))


def _whole(numbers: NDArray[Any]) -> NDArray[np.int64]:
    if numbers.dtype.kind == "f":
        return np.nan_to_num(np.round(numbers), nan=-1, posinf=-1, neginf=-1).astype(np.int64)
    return numbers.astype(np.int64)
