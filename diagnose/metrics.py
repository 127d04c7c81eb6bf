"""The headline metrics of a prediction table, each with its interval."""

from typing import TYPE_CHECKING, Any

import numpy as np

from diagnose.judged import Judged, Scores, is_class, is_known
from diagnose.ranking import auroc, average_precision
from study.bootstrap import Floats, bootstrap
from study.record import Metric
from study.statistics import from_influence, mean_of, share_of, share_of_parts, wilson

if TYPE_CHECKING:
    from scipy.sparse import csr_array

TOP = 5
TWO = 2
MACRO = ("macro_precision", "macro_recall", "macro_f1", "balanced_accuracy")


def hit_metrics(judged: Judged) -> dict[str, Metric]:
    """Accuracy (of a multi-label row: all its labels), and precision, recall and F1 averaged over classes.

    As scikit-learn averages them: over the classes that are labels or predictions (all labels of a
    multi-label task), zero where a class is never predicted or never a label. Balanced accuracy is the mean
    recall of the classes that are labels.
    """
    metrics = {"accuracy": share_of(judged.hits, groups=judged.groups, better="higher")}
    if judged.label.ndim > 1:
        metrics |= label_metrics(judged)
    sums = class_sums(judged)
    every = judged.label.ndim > 1

    def macro(totals: Floats) -> Floats:
        return macro_averages(totals, every=every)

    values = macro(np.asarray(sums.sum(axis=0))[None].astype(np.float64))[0]
    low, high = bootstrap(sums, macro, groups=judged.groups)
    for place, name in enumerate(MACRO):
        if name == "balanced_accuracy" and every:
            continue
        value = float(values[place])
        ends = (float(low[place]), float(high[place]))
        if not ends[0] < ends[1]:
            # All replicates agree (nothing is wrong, or all is): that many units alone are the evidence.
            ends = wilson(value * judged.units, judged.units)
        metrics[name] = Metric(value, min(value, ends[0]), max(value, ends[1]), len(judged), better="higher")
    return metrics


def label_metrics(judged: Judged) -> dict[str, Metric]:
    """Of a multi-label task: over all labels of all rows together, rows kept whole.

    ``hamming_loss`` is the share of labels that are wrong, ``accuracy@labels`` the rest of them.
    """
    same, known = (judged.label == judged.prediction) & judged.finite[:, None], judged.known
    if known.all():
        right = _clustered_mean(same.mean(axis=1), judged)
    else:
        right = share_of_parts(same.sum(axis=1), known.sum(axis=1), groups=judged.groups, better="higher")
    wrong = Metric(1 - right.value, 1 - right.high, 1 - right.low, right.n, better="lower")
    metrics = {"accuracy@labels": right, "hamming_loss": wrong}
    there, said = judged.label == 1, (judged.prediction == 1) & known & judged.finite[:, None]
    both, whole = (there & said).sum(axis=1), there.sum(axis=1) + said.sum(axis=1)
    if whole.any():
        metrics["micro_f1"] = share_of_parts(2 * both, whole, groups=judged.groups, better="higher")
    return metrics


def class_sums(judged: Judged) -> "csr_array[Any]":
    """(rows, 3 x classes): whether the row is of the class, predicted as it, and both."""
    from scipy.sparse import csr_array

    n, k = len(judged), judged.classes
    if judged.label.ndim > 1:
        label = judged.label == 1
        predicted = judged.prediction.astype(bool) & judged.known & judged.finite[:, None]
        return csr_array(np.hstack([label, predicted, label & predicted]).astype(np.float64))
    rows = np.arange(n)
    told = judged.finite & (judged.prediction >= 0)
    hit = judged.hits
    row = np.concatenate([rows, rows[told], rows[hit]])
    column = np.concatenate([judged.label, k + judged.prediction[told], 2 * k + judged.label[hit]])
    return csr_array((np.ones(len(row)), (row, column)), shape=(n, 3 * k))


def macro_averages(totals: Floats, *, every: bool) -> Floats:
    """(m, 3 x classes) totals of ``class_sums`` -> (m, 4): the metrics of ``MACRO``."""
    support, predicted, both = np.split(totals, 3, axis=1)
    present = np.ones_like(support, dtype=bool) if every else support + predicted > 0
    of_rows = [
        np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
        for top, bottom in ((both, predicted), (both, support), (2 * both, support + predicted))
    ]
    averages = [np.where(present, value, 0).sum(axis=1) / present.sum(axis=1) for value in of_rows]
    labelled = np.maximum((support > 0).sum(axis=1), 1)
    return np.column_stack([*averages, of_rows[1].sum(axis=1) / labelled])


def score_metrics(judged: Judged, scores: Scores) -> dict[str, Metric]:
    """Top-5 accuracy, AUROC and average precision (one class against the rest, averaged over classes)."""
    metrics = {}
    finite = judged.finite[scores.places]
    part = judged.only(scores.places[finite])
    if judged.label.ndim == 1 and scores.probabilities.shape[1] > TOP:
        metrics["top5_accuracy"] = top_hits(judged, scores)
    areas = class_areas(part, scores.probabilities[finite])
    for name, of_class in zip(("auroc", "average_precision"), areas, strict=True):
        if of_class:
            value = float(np.mean([one for one, _ in of_class.values()]))
            influence = np.mean([line for _, line in of_class.values()], axis=0)
            metrics[name] = from_influence(value, influence, groups=part.groups, better="higher")
    return metrics


def top_hits(judged: Judged, scores: Scores) -> Metric:
    """The share of rows whose label is among the five most probable classes; of ties, the first ones.

    A row without finite outputs is no hit, as in the accuracy.
    """
    part, probability = judged.only(scores.places), scores.probabilities
    inside = part.finite & (part.label < probability.shape[1])
    own = probability[np.arange(len(part)), np.where(inside, part.label, 0)][:, None]
    before = np.arange(probability.shape[1]) < part.label[:, None]
    ahead = ((probability > own) | ((probability == own) & before)).sum(axis=1)
    return share_of((ahead < TOP) & inside, groups=part.groups, better="higher")


def class_areas(
    judged: Judged, probabilities: Floats
) -> tuple[dict[int, tuple[float, Floats]], dict[int, tuple[float, Floats]]]:
    """AUROC and average precision of each class against the rest, with influences.

    Of the second class alone where there are two. Classes without rows of both kinds are left out.
    """
    width = probabilities.shape[1]
    areas: tuple[dict[int, tuple[float, Floats]], dict[int, tuple[float, Floats]]] = ({}, {})
    single = width == TWO and judged.label.ndim == 1
    for index in (1,) if single else range(width):
        known = is_known(judged, index)
        positive, score = is_class(judged, index)[known], probabilities[known, index]
        if 0 < positive.sum() < len(positive):
            for of_class, area in zip(areas, (auroc, average_precision), strict=True):
                value, influence = area(positive, score)
                every = np.zeros(len(known))
                every[known] = influence
                of_class[index] = value, every
    return areas


def regression_metrics(judged: Judged) -> dict[str, Metric]:
    """MAE, RMSE and R2 of the finite rows, averaged over targets; R2 where the labels vary at all."""
    part = judged.only(judged.finite)
    label = part.label.reshape(len(part), -1).astype(np.float64)
    error = part.prediction.reshape(len(part), -1).astype(np.float64) - label
    targets = label.shape[1]
    centred = label - label.mean(axis=0)
    sums = np.hstack([np.abs(error), error**2, centred, centred**2, np.ones((len(part), 1))])

    def statistic(totals: Floats) -> Floats:
        return _regression(totals, targets)

    values = statistic(sums.sum(axis=0, keepdims=True))[0]
    low, high = bootstrap(sums, statistic, groups=part.groups)
    metrics = {}
    for place, (name, better) in enumerate((("mae", "lower"), ("rmse", "lower"), ("r2", "higher"))):
        ends = (values[place], low[place], high[place])
        if np.isfinite(ends).all():
            value, least, most = (float(end) for end in ends)
            metrics[name] = Metric(
                value,
                min(value, least),
                max(value, most),
                len(part),
                better="lower" if better == "lower" else "higher",
            )
    return metrics


def _regression(totals: Floats, targets: int) -> Floats:
    absolute, squared, label, label_squared = (
        totals[:, start * targets : (start + 1) * targets] for start in range(4)
    )
    n = totals[:, -1:]
    spread = label_squared - label**2 / n
    with np.errstate(divide="ignore", invalid="ignore"):
        determined = np.where(spread > 1e-12 * label_squared, 1 - squared / spread, np.nan)
    return np.column_stack(
        [
            (absolute / n).mean(axis=1),
            np.sqrt(squared / n).mean(axis=1),
            determined.mean(axis=1),
        ]
    )


def _clustered_mean(values: Floats, judged: Judged) -> Metric:
    if judged.units < TWO:
        return share_of(values, groups=judged.groups, better="higher")
    return mean_of(values, groups=judged.groups, better="higher")
