"""What is told of the regions of a mask: how well boundaries are met, and which objects there are."""

import math
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from study.task import IGNORED, Task

TOLERANCE: Final = 0.0075
"""Of the diagonal, as Csurka et al. take it: how far a boundary may be off, and at least one pixel."""


def tolerated(shape: tuple[int, ...]) -> int:
    """How many pixels a boundary may be off in a mask of this height and width."""
    return max(1, round(TOLERANCE * math.hypot(*shape)))


def boundary_scores(label: NDArray[Any], said: NDArray[Any], classes: int) -> NDArray[np.float32]:
    """The boundary F of each class in one image, NaN where neither mask has the class with a boundary.

    Csurka et al. (What is a good evaluation measure for semantic segmentation?, BMVC 2013): precision is the
    share of predicted boundary pixels within ``tolerated`` of a true one, recall the other way round. A
    boundary pixel has a neighbour (of four) of another class; the rim of the image and pixels that do not
    count make no boundary.
    """
    far = tolerated(label.shape)
    edges = [_edges(mask) for mask in (label, said)]
    scores = np.full(classes, np.nan, dtype=np.float32)
    for index in np.union1d(label[edges[0]], said[edges[1]]).tolist():
        true, named = ((mask == index) & edge for mask, edge in zip((label, said), edges, strict=True))
        if not true.any() or not named.any():
            scores[index] = 0.0
            continue
        rows, columns = np.nonzero(true | named)
        box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        true, named = true[box], named[box]
        precision, recall = _near(named, true, far), _near(true, named, far)
        whole = precision + recall
        scores[index] = 2 * precision * recall / whole if whole else 0.0
    return scores


def _near(some: NDArray[np.bool_], others: NDArray[np.bool_], far: int) -> float:
    """The share of some pixels within a Euclidean distance of others."""
    from scipy.ndimage import distance_transform_edt

    distance = distance_transform_edt(~others)
    return float((distance[some] <= far).mean())


def _edges(mask: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels that count and have a neighbour that counts and is of another class."""
    edge = np.zeros(mask.shape, dtype=bool)
    for axis in (0, 1):
        first = np.s_[:-1, :] if axis == 0 else np.s_[:, :-1]
        second = np.s_[1:, :] if axis == 0 else np.s_[:, 1:]
        differ = (mask[first] != mask[second]) & (mask[first] != IGNORED) & (mask[second] != IGNORED)
        edge[first] |= differ
        edge[second] |= differ
    return edge


def background(task: Task) -> int:
    """The class that is no object: the first one, where it is called so or the classes have no names."""
    first = task.classes[0].lower() if task.classes else "0"
    return 0 if first in ("0", "background", "bg", "none", "void", "other", "_background_") else IGNORED


def objects(label: NDArray[Any], said: NDArray[Any], *, background: int) -> NDArray[np.int64]:
    """(objects, 3): class, pixels, and pixels that are right, of each connected region of a class.

    Regions are connected by edges or corners; the background is no object.
    """
    from scipy.ndimage import label as connected

    found = [np.zeros((0, 3), dtype=np.int64)]
    for index in np.unique(label).tolist():
        if index in (IGNORED, background):
            continue
        regions, count = connected(label == index, structure=np.ones((3, 3)))
        inside = regions > 0
        sizes = np.bincount(regions[inside], minlength=count + 1)[1:]
        right = np.bincount(regions[inside & (said == index)], minlength=count + 1)[1:]
        found.append(np.stack([np.full(count, index), sizes, right], axis=1))
    return np.concatenate(found)


def counted_pixels(skipped: ArrayLike, size: ArrayLike) -> NDArray[np.int64]:
    """The places of the pixels that count, of a row of the table with these runs and (height, width)."""
    counts = np.ones(int(np.asarray(size).prod()), dtype=bool)
    for start, length in np.asarray(skipped, dtype=np.int64).reshape(-1, 2).tolist():
        counts[start : start + length] = False
    return np.flatnonzero(counts)
