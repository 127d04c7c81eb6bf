"""How well scores rank: areas under the ROC and precision-recall curves, with what each row adds to them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.bootstrap import Floats

GRID = 101
"""Points of a drawn curve."""


def auroc(positive: NDArray[np.bool_], score: NDArray[Any]) -> tuple[float, Floats]:
    """The area under the ROC curve (ties count half), and its derivative by each row's weight.

    There must be rows of both kinds.
    """
    tied, hits, misses = _tied(positive, score)
    below = np.cumsum(misses) - misses
    above = hits.sum() - np.cumsum(hits)
    of_positive = (below + misses / 2) / misses.sum()
    of_negative = (above + hits / 2) / hits.sum()
    value = float((hits * of_positive).sum() / hits.sum())
    influence = np.where(
        positive, (of_positive[tied] - value) / hits.sum(), (of_negative[tied] - value) / misses.sum()
    )
    return value, influence


def average_precision(positive: NDArray[np.bool_], score: NDArray[Any]) -> tuple[float, Floats]:
    """The step-wise area under the precision-recall curve, and its derivative by each row's weight.

    There must be a positive row.
    """
    tied, hits, misses = _tied(positive, score)
    true = np.cumsum(hits[::-1])[::-1]
    flagged = np.cumsum((hits + misses)[::-1])[::-1]
    precision, positives = true / flagged, hits.sum()
    value = float((hits * precision).sum() / positives)
    gain = np.cumsum(hits / flagged)[tied]
    cost = np.cumsum(hits * true / flagged**2)[tied]
    influence = (positive * (precision[tied] - value + gain) - cost) / positives
    return value, influence


def roc_curve(positive: NDArray[np.bool_], score: NDArray[Any]) -> tuple[Floats, Floats]:
    """False-positive rates on an even grid, and the best true-positive rate at no more than each."""
    _, hits, misses = _tied(positive, score)
    caught = np.concatenate([[0.0], np.cumsum(hits[::-1]) / hits.sum()])
    false = np.concatenate([[0.0], np.cumsum(misses[::-1]) / misses.sum()])
    grid = np.linspace(0, 1, GRID)
    return grid, caught[np.searchsorted(false, grid, side="right") - 1]


def precision_recall_curve(positive: NDArray[np.bool_], score: NDArray[Any]) -> tuple[Floats, Floats]:
    """Recalls on an even grid (without 0), and the precision where each is first reached."""
    _, hits, misses = _tied(positive, score)
    true = np.cumsum(hits[::-1])
    precision = true / np.cumsum((hits + misses)[::-1])
    grid = np.linspace(0, 1, GRID)[1:]
    # Half a row of slack: recall 0.3 of 10 positives is 3 of them, whatever the rounding of 0.3 * 10.
    first = np.searchsorted(true, np.ceil(grid * true[-1] - 1e-9), side="left")
    return grid, precision[first]


def _tied(positive: NDArray[np.bool_], score: NDArray[Any]) -> tuple[NDArray[np.intp], Floats, Floats]:
    """Each row's distinct score (ascending), and positives and negatives of each distinct score."""
    _, tied = np.unique(score, return_inverse=True)
    hits = np.bincount(tied, weights=positive).astype(np.float64)
    return tied, hits, np.bincount(tied).astype(np.float64) - hits
