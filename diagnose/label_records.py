"""What is said of each label of a multi-label task: a table of them, and the thresholds that would gain."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from diagnose.judged import Judged, Scores, class_name
from diagnose.labels import (
    HALF,
    LEAST,
    TWO,
    Chosen,
    average_precision_of,
    change_of,
    chosen_thresholds,
    f1_of,
)
from study.errors import counted
from study.record import Cell, Finding, Metric, Record, Table, Verdict
from study.show import show_figures
from study.statistics import share_of
from study.view import View

ENDS = ("", " low", " high")
MATTERS = 0.01
"""A gain of F1 that is told as a finding."""


def labels_record(view: View, judged: Judged, scores: Scores | None, listed: int, told: int) -> Record:
    """At most ``listed`` labels, the lowest F1 first, and ``told`` findings of thresholds."""
    table = labels_table(judged, scores, listed)
    summary = f"Each of the {judged.classes} labels is right or wrong for itself; the worst is first."
    chosen = [] if scores is None else chosen_thresholds(judged, scores)
    if scores is None or not chosen:
        why = f"no label is there, and not there, in {LEAST} rows" if scores else "no outputs were kept"
        return Record(
            "confusion", Verdict.NOTED, f"{summary} Thresholds were not looked at: {why}.", tables=(table,)
        )
    chosen.sort(key=lambda one: -one.gain.value)
    gaining = [one for one in chosen if one.gain.low > 0 and one.gain.value >= MATTERS]
    whole = _mean_gain(judged, scores, chosen)
    summary += f" With a threshold each, the mean F1 of {counted(len(chosen), 'label')} changes by"
    summary += f" {100 * whole.value:+.2f} points [{100 * whole.low:+.2f}, {100 * whole.high:+.2f}]"
    summary += f"; those that surely gain: {len(gaining)}."
    return Record(
        "confusion",
        Verdict.NOTED,
        summary,
        metrics={"macro_f1_gain@thresholds": whole},
        findings=tuple(_gains(view, judged, one) for one in gaining[:told]),
        tables=(table, _thresholds_table(judged, chosen, listed)),
    )


def _thresholds_table(judged: Judged, chosen: list[Chosen], listed: int) -> Table:
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            class_name(judged.task, one.label),
            one.threshold,
            one.before,
            *_ends(one.gain),
            one.gain.n,
        )
        for one in chosen[:listed]
    )
    columns = ("label", "threshold", f"f1 at {HALF}", *(f"gain{end}" for end in ENDS), "rows")
    title = f"Thresholds with the highest F1{_cut(len(rows), len(chosen), 'those that gain most')}"
    return Table(title, columns, rows)


def labels_table(judged: Judged, scores: Scores | None, listed: int) -> Table:
    """A line a label, the lowest F1 first; labels that are neither there nor said come last."""
    told = (judged.prediction == 1) & judged.finite[:, None]
    there, known = judged.label == 1, judged.known
    lines: list[tuple[float, tuple[Cell, ...]]] = []
    for label in range(judged.label.shape[1]):
        rows = known[:, label]
        part, positive, said = judged.only(rows), there[rows, label], told[rows, label]
        score = f1_of(positive, said, part.groups)
        shares = [
            _share((positive & said)[among], None if part.groups is None else part.groups[among])
            for among in (said, positive)
        ]
        area = _average_precision(judged, scores, label)
        name = class_name(judged.task, label)
        cells = [cell for one in (*shares, score, area) for cell in _ends(one)]
        lines.append((TWO if score is None else score.value, (name, int(positive.sum()), *cells)))
    lines.sort(key=lambda line: line[0])
    names = ("precision", "recall", "f1", "average precision")
    title = f"Labels{_cut(min(listed, len(lines)), len(lines), 'those with the lowest F1')}"
    columns = ("label", "rows", *(f"{name}{end}" for name in names for end in ENDS))
    return Table(title, columns, tuple(cells for _, cells in lines[:listed]))


def _cut(shown: int, number: int, which: str) -> str:
    return f" ({shown} of {number}: {which})" if shown < number else ""


def _share(hits: NDArray[np.bool_], groups: NDArray[Any] | None) -> Metric | None:
    return share_of(hits, groups=groups, better="higher") if len(hits) else None


def _average_precision(judged: Judged, scores: Scores | None, label: int) -> Metric | None:
    if scores is None or label >= scores.probabilities.shape[1]:
        return None
    part = judged.only(scores.places)
    rows = part.finite & part.known[:, label]
    groups = None if part.groups is None else part.groups[rows]
    return average_precision_of(part.label[rows, label] == 1, scores.probabilities[rows, label], groups)


def _ends(metric: Metric | None) -> tuple[float | None, float | None, float | None]:
    return (None, None, None) if metric is None else (metric.value, metric.low, metric.high)


def _mean_gain(judged: Judged, scores: Scores, chosen: list[Chosen]) -> Metric:
    """Of the mean F1 over these labels."""
    value = float(np.mean([one.gain.value for one in chosen]))
    influence = np.mean([one.influence for one in chosen], axis=0)
    part = judged.only(scores.places[judged.finite[scores.places]])
    return change_of(value, influence, groups=part.groups, level=0.95)


def _gains(view: View, judged: Judged, one: Chosen) -> Finding:
    return Finding(
        f"A threshold of {one.threshold:.2f} instead of {HALF} would raise its F1 "
        f"of {one.before:.3f} by {one.gain.value:.3f}.",
        where=class_name(judged.task, one.label),
        rows=one.gain.n,
        effect=one.gain,
        certainty=0.95,
        cause="F1 is highest at half of its best value where probabilities are calibrated "
        "(Lipton et al., 2014), and elsewhere where they are not.",
        do="If F1 is what counts, set this label's threshold so, on rows that do not judge; "
        "the gain was measured on rows that the threshold was not chosen on.",
        show=show_figures(view),
    )
