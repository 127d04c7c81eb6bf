"""Calibration on plain arrays: bins, the gap between confidence and accuracy, Brier scores, temperature."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.bootstrap import Floats, bootstrap_sums
from study.record import Metric
from study.task import IGNORED, Kind

TWO = 2
COLDEST, HOTTEST = 0.05, 20.0


def equal_width_bins(confidence: NDArray[Any], bins: int) -> NDArray[np.intp]:
    """The bin of each confidence: right-closed, 0 in the first and 1 in the last (Guo et al., ICML 2017)."""
    edges = np.linspace(0, 1, bins + 1)
    # Single-precision confidences must meet edges of their own precision: 0.2 lies on the edge 0.2.
    return np.clip(np.searchsorted(edges.astype(np.float32), confidence.astype(np.float32)) - 1, 0, bins - 1)


def equal_mass_bins(confidence: NDArray[Any], bins: int) -> NDArray[np.intp]:
    """As many rows in each bin as ties allow (Nixon et al., 2019)."""
    edges = np.quantile(confidence, np.linspace(0, 1, bins + 1)[1:-1])
    return np.searchsorted(np.unique(edges), confidence)


def binned_gap(
    confidence: NDArray[Any],
    right: NDArray[Any],
    bins: NDArray[np.intp],
    groups: NDArray[Any] | None = None,
    level: float = 0.95,
) -> Metric:
    """The expected calibration error: the mean over rows of their bin's |confidence - accuracy|.

    The interval takes in that sampling noise alone makes bins miss the diagonal: its half-width is the
    quantile of the error that replicates show around the measured gaps, so a calibrated model's interval
    starts at zero. By the triangle inequality its coverage is at least the level.
    """
    from scipy.sparse import csr_array, hstack

    count = int(bins.max()) + 1
    gap = confidence.astype(np.float64) - right.astype(np.float64)
    rows = np.arange(len(bins))
    of_bin = csr_array((gap, (rows, bins)), shape=(len(bins), count))
    measured = np.bincount(bins, weights=gap, minlength=count) / len(bins)
    ones = csr_array((np.ones(len(bins)), (rows, bins)), shape=(len(bins), count))

    def noise(totals: Floats) -> Floats:
        gaps, sizes = totals[:, :count], totals[:, count:]
        missed: Floats = np.abs(gaps / sizes.sum(axis=1, keepdims=True) - measured).sum(axis=1)
        return missed

    half = float(
        np.quantile(bootstrap_sums(hstack([of_bin, ones], format="csr"), noise, groups=groups), level)
    )
    value = float(np.abs(measured).sum())
    return Metric(
        value, max(0.0, value - half), min(1.0, value + half), len(bins), better="lower", level=level
    )


def brier_scores(probabilities: Floats, label: NDArray[Any], kind: Kind) -> Floats:
    """A row's squared error of its probabilities, summed over classes; scikit-learn's definitions.

    Of two classes half of it, the second's alone; of a multi-label task the mean over known labels.
    """
    if kind == "multilabel":
        known = label != IGNORED
        each: Floats = np.where(known, np.square(probabilities - label), 0.0).sum(axis=1) / known.sum(axis=1)
        return each
    own = probabilities[np.arange(len(label)), label]
    total: Floats = np.square(probabilities).sum(axis=1) - np.square(own) + np.square(1 - own)
    return total / 2 if probabilities.shape[1] == TWO else total


def fitted_temperature(probabilities: Floats, label: NDArray[Any]) -> float | None:
    """The temperature that makes these rows most likely (Guo et al., ICML 2017).

    None outside [0.05, 20], and where no row is wrong: the colder, the likelier. Logits are taken back from
    the probabilities, of which softmax forgets only a constant a row.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    logits = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    own = logits[np.arange(len(label)), label]
    if (own == logits.max(axis=1)).all():
        return None

    def loss(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float((logsumexp(logits * scale, axis=1) - own * scale).mean())

    found = minimize_scalar(loss, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded")
    temperature = float(np.exp(found.x))
    return temperature if COLDEST * 1.05 < temperature < HOTTEST / 1.05 else None
