"""Which classes it takes for which."""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

from diagnose.check import Check
from diagnose.judged import Judged, class_name, read_judged, read_scores
from diagnose.label_records import labels_record
from diagnose.metrics import class_sums
from diagnose.parted_confusion import record_of_parts
from study.errors import are
from study.record import Cell, Finding, Metric, Picture, Record, Table, Verdict
from study.show import show_rows
from study.statistics import proportion, share_of
from study.task import PARTS, ROWS, Kind
from study.view import View

RESIDUAL_POINTS = 101


@final
@dataclass(frozen=True, slots=True)
class Confusion(Check):
    """Which classes the model takes for which; how far off a regression is."""

    needs: ClassVar[tuple[str, ...]] = ("predictions",)
    kinds: ClassVar[frozenset[Kind]] = ROWS - {"forecasting"} | {"tokens"}

    shown: int = 20
    """Classes in the picture: the most confused ones where there are more."""
    listed: int = 100
    """Classes in the table: those with the lowest F1 where there are more."""
    pairs: int = 3
    """Confusions, or labels with another threshold, that are told as findings."""

    def check(self, view: View) -> Record:
        if view.task.kind in PARTS:
            return record_of_parts(view, self.shown, self.listed, self.pairs)
        judged = read_judged(view)
        if view.task.kind == "regression":
            return _residuals(judged)
        if judged.label.ndim > 1:
            return labels_record(view, judged, read_scores(view, judged), self.listed, self.pairs)
        classes = self._per_class(judged)
        findings = self._worst_pairs(view, judged)
        matrix = self._matrix(judged)
        picture = Picture(
            matrix.title,
            "heatmap",
            matrix.title,
            f"Rows are labels, columns predictions; {len(matrix.rows)} of {judged.classes} classes.",
        )
        summary = findings[0].what if findings else "No class is taken for another."
        return Record(
            "confusion",
            Verdict.NOTED if findings else Verdict.GOOD,
            summary,
            findings=findings,
            tables=(classes, matrix),
            pictures=(picture,),
        )

    def _per_class(self, judged: Judged) -> Table:
        """A line a class, the lowest F1 first; precision and recall with Wilson's intervals."""
        totals = np.asarray(class_sums(judged).sum(axis=0), dtype=np.int64).ravel()
        support, predicted, both = np.split(totals, 3)
        whole = support + predicted
        score = np.divide(2 * both, whole, out=np.full(len(whole), 2.0), where=whole > 0)
        rows: list[tuple[Cell, ...]] = []
        for index in np.argsort(score, kind="stable")[: self.listed].tolist():
            found = both[index]
            f1 = float(score[index]) if whole[index] else None
            precision = _share(judged, found, predicted[index], judged.prediction, index)
            recall = _share(judged, found, support[index], judged.label, index)
            name = class_name(judged.task, index)
            rows.append((name, int(support[index]), *precision, *recall, f1))
        ends = ("", " low", " high")
        columns = [f"{name}{end}" for name in ("precision", "recall") for end in ends]
        return Table("Classes", ("class", "rows", *columns, "f1"), tuple(rows))

    def _worst_pairs(self, view: View, judged: Judged) -> tuple[Finding, ...]:
        label, prediction, count = _confused(judged)
        findings = []
        for place in np.argsort(-count, kind="stable")[: self.pairs].tolist():
            truth, said = (class_name(judged.task, int(one[place])) for one in (label, prediction))
            of_class = judged.only(judged.label == label[place])
            wrong = (of_class.prediction == prediction[place]) & of_class.finite
            share = share_of(wrong, groups=of_class.groups, better="lower")
            rows = int(count[place])
            findings.append(
                Finding(
                    f"{rows} of {len(of_class)} rows of '{truth}' {are(rows)} taken for '{said}'.",
                    where=f"label = {truth} & prediction = {said}",
                    rows=rows,
                    effect=share,
                    do="Look at these rows: the two may look alike, or be labelled wrongly.",
                    show=show_rows(view, of_class.position[wrong]),
                )
            )
        return tuple(findings)

    def _matrix(self, judged: Judged) -> Table:
        label, prediction, count = _confused(judged)
        confused = np.bincount(label, weights=count, minlength=judged.classes)
        confused += np.bincount(prediction, weights=count, minlength=judged.classes)
        every = np.arange(judged.classes)
        if judged.classes > self.shown:
            every = np.sort(np.argsort(-confused, kind="stable")[: self.shown])
        place = np.full(judged.classes, -1)
        place[every] = np.arange(len(every))
        told = judged.only(judged.finite)
        row, column = place[told.label], place[told.prediction]
        both = (row >= 0) & (column >= 0)
        cells = np.bincount(row[both] * len(every) + column[both], minlength=len(every) ** 2)
        names = [class_name(judged.task, index) for index in every.tolist()]
        lines = cells.reshape(len(every), len(every)).tolist()
        rows: tuple[tuple[Cell, ...], ...] = tuple(
            (name, *line) for name, line in zip(names, lines, strict=True)
        )
        title = "Confusion" if len(every) == judged.classes else f"The {len(every)} most confused classes"
        return Table(title, ("label \\ prediction", *names), rows)


def _confused(judged: Judged) -> "tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]":
    """Label, prediction and count of each pair of classes that was confused."""
    wrong = judged.only(judged.finite & ~judged.hits)
    code, count = np.unique(wrong.label * judged.classes + wrong.prediction, return_counts=True)
    return code // judged.classes, code % judged.classes, count


def _share(
    judged: Judged, hits: int, n: int, of: "NDArray[np.int64]", index: int
) -> tuple[float | None, float | None, float | None]:
    """A class's precision or recall with its ends: over groups where there are any."""
    if n == 0:
        return None, None, None
    metric = proportion(int(hits), int(n))
    if judged.groups is not None:
        part = judged.only(of == index)
        metric = share_of(part.hits, groups=part.groups)
    return float(hits / n), metric.low, metric.high


def _residuals(judged: Judged) -> Record:
    """A regression's residuals: quantiles of prediction minus label, of each target."""
    part = judged.only(judged.finite)
    label = part.label.reshape(len(part), -1).astype(np.float64)
    residual = part.prediction.reshape(len(part), -1).astype(np.float64) - label
    grid = np.linspace(0, 1, RESIDUAL_POINTS)
    names = [class_name(part.task, index) for index in range(residual.shape[1])]
    single = residual.shape[1] == 1
    columns = ("prediction - label",) if single else tuple(names)
    if not len(part):
        return Record.skipped("confusion", "no row has a finite output and a label")
    quantiles = np.quantile(residual, grid, axis=0)
    table = Table("Residuals", columns, tuple(tuple(line) for line in quantiles.tolist()))
    middle = Metric.exact(float(np.median(residual[:, 0])), len(part))
    summary = f"Half of the residuals lie within {_middle_half(residual)}; the median is {middle.value:+.4g}."
    text = "The share of rows whose residual (prediction minus label) is at most so large."
    picture = Picture("Residuals", "ecdf", "Residuals", text)
    return Record("confusion", Verdict.NOTED, summary, tables=(table,), pictures=(picture,))


def _middle_half(residual: "NDArray[np.float64]") -> str:
    low, high = np.quantile(residual[:, 0], [0.25, 0.75])
    return f"[{low:+.4g}, {high:+.4g}]"
