"""Which rows judge, and which are held back for calibration: seeded, stratified, the same for every step."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

SHARE = 0.2
MOST = 512
BINS = 10
"""Strata of labels that are measured, not counted."""


def held_back(labels: NDArray[Any] | None, rows: int, seed: int) -> NDArray[np.int64]:
    """A stratified fifth of the rows, at most 512, ascending; every class keeps a row that judges."""
    return stratified(labels, rows, min(MOST, int(rows * SHARE)), seed)


def stratified(labels: NDArray[Any] | None, rows: int, number: int, seed: int) -> NDArray[np.int64]:
    """About ``number`` positions, as many of each stratum as its share; never all rows of one."""
    strata = _strata(labels, rows)
    sizes = np.bincount(strata)
    quotas = sizes * (number / rows)
    counts = np.minimum(np.floor(quotas).astype(np.int64), np.maximum(sizes - 1, 0))
    # The largest remainders first; sorted stably, so that the seed alone decides.
    for stratum in np.argsort(np.floor(quotas) - quotas, kind="stable"):
        if counts.sum() >= number:
            break
        counts[stratum] += counts[stratum] < sizes[stratum] - 1
    random = np.random.default_rng(seed)
    chosen = [
        random.permutation(np.flatnonzero(strata == stratum))[:count] for stratum, count in enumerate(counts)
    ]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def sampled(positions: NDArray[np.int64], number: int, seed: int) -> NDArray[np.int64]:
    """A seeded sample of these positions, ascending; all of them where there are no more."""
    if number >= len(positions):
        return positions
    return np.sort(np.random.default_rng(seed).choice(positions, number, replace=False))


def _strata(labels: NDArray[Any] | None, rows: int) -> NDArray[np.int64]:
    """A number a row: its class, the tenth of the labels that it lies in, or 0 for all."""
    if labels is None or labels.ndim != 1:
        return np.zeros(rows, dtype=np.int64)
    plain = np.array([str(label) for label in labels]) if labels.dtype.kind == "O" else labels
    found, classes = np.unique(plain, return_inverse=True)
    if 2 * len(found) <= rows:
        return classes.astype(np.int64)
    if labels.dtype.kind in "OUS":
        return np.zeros(rows, dtype=np.int64)
    ranks = np.argsort(np.argsort(labels, kind="stable"), kind="stable")
    return (ranks * min(BINS, rows) // rows).astype(np.int64)
