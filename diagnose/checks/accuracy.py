"""How often it is right: the headline metrics, their curves, and what changed since the model as it came."""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from diagnose.check import Check
from diagnose.fallen import fallen
from diagnose.judged import Judged, Scores, class_name, is_class, is_known, read_judged, read_scores
from diagnose.metrics import class_areas, hit_metrics, regression_metrics, score_metrics
from diagnose.parted_records import accuracy_of_parts
from diagnose.ranking import precision_recall_curve, roc_curve
from study.bootstrap import Floats
from study.errors import SkipError, counted, few
from study.record import Finding, Metric, Picture, Record, Table, Verdict
from study.show import show_figures
from study.statistics import mcnemar_exact, mean_of, paired_difference
from study.task import PARTS, ROWS, VALUES, Kind
from study.view import View

TWO = 2


@final
@dataclass(frozen=True, slots=True)
class Accuracy(Check):
    """How often the model is right."""

    needs: ClassVar[tuple[str, ...]] = ("predictions",)
    kinds: ClassVar[frozenset[Kind]] = ROWS | PARTS

    drop: float = 0.01
    """A drop since the model as it came that matters: one point, a common gate for int8."""
    rise: float = 0.05
    """A rise of the mean absolute error that matters, as a part of it."""
    gain: float = 0.05
    """A model that is surely less than this better than guessing, in accuracy and in AUROC, is at fault."""
    worst: int = 5
    """Classes whose own curves are drawn."""

    def check(self, view: View) -> Record:
        if view.task.kind in PARTS:
            return accuracy_of_parts(view, self.drop)
        judged = read_judged(view)
        if view.task.kind in VALUES:
            return self._regression(view, judged)
        metrics = hit_metrics(judged)
        scores = read_scores(view, judged)
        tables: tuple[Table, ...] = ()
        if scores is not None and judged.units >= TWO:
            metrics |= score_metrics(judged, scores)
            tables = self._curves(judged, scores)
        guessed = self._no_better_than_guessing(view, judged, metrics)
        findings = [*_not_finite(view, judged), *guessed]
        verdict = Verdict.BAD if findings else Verdict.NOTED
        summary = _summary(view, judged, metrics["accuracy"])
        if view.origin is not None:
            compared = self._compared(view, judged, read_judged(view.origin))
            summary = f"{summary} {compared.summary}"
            findings += compared.findings
            verdict = Verdict.BAD if findings else compared.verdict
        pictures = tuple(
            Picture(table.title, "lines", table.title, f"{table.title}: {_what(table)}.") for table in tables
        )
        return Record("accuracy", verdict, summary, "", metrics, tuple(findings), tables, pictures)

    def _regression(self, view: View, judged: Judged) -> Record:
        finite = judged.only(judged.finite)
        if finite.units < TWO:
            raise SkipError("an interval needs two rows (or groups) with finite outputs and labels")
        metrics = regression_metrics(judged)
        findings = _not_finite(view, judged)
        if "r2" in metrics and metrics["r2"].high < 0:
            findings.append(
                Finding(
                    "The model predicts worse than the mean of the labels does.",
                    rows=len(judged),
                    effect=metrics["r2"],
                    certainty=metrics["r2"].level,
                    cause="Inputs or labels may be scaled or ordered otherwise than in training.",
                    do="Compare the preparation of inputs and labels with the training code.",
                    show=show_figures(view),
                )
            )
        verdict = Verdict.BAD if findings else Verdict.NOTED
        error = metrics["mae"]
        summary = f"The mean absolute error is {error.value:.4g} [{error.low:.4g}, {error.high:.4g}]"
        summary += f" on {len(judged)} rows."
        if view.origin is not None:
            compared = self._compared(view, judged, read_judged(view.origin))
            summary = f"{summary} {compared.summary}"
            metrics |= compared.metrics
            findings += compared.findings
            verdict = Verdict.BAD if findings else compared.verdict
        return Record("accuracy", verdict, summary, "", metrics, tuple(findings))

    def _no_better_than_guessing(
        self, view: View, judged: Judged, metrics: dict[str, Metric]
    ) -> list[Finding]:
        if judged.label.ndim > 1 or len(np.unique(judged.label)) < TWO:
            return []
        often = int(np.bincount(judged.label).argmax())
        gain = paired_difference(judged.label == often, judged.hits, groups=judged.groups)
        area = metrics.get("auroc")
        if gain.high >= self.gain or (area is not None and area.high >= 0.5 + self.gain):
            return []
        name = class_name(judged.task, often)
        return [
            Finding(
                f"The model is no better than always answering '{name}', the most frequent class.",
                rows=len(judged),
                effect=gain,
                certainty=gain.level,
                cause="Labels or inputs may be in another order or scale than in training.",
                do="Check --classes, the preparation of the inputs, and that these are the trained weights.",
                show=show_figures(view),
            )
        ]

    def _compared(self, view: View, now: Judged, came: Judged) -> Record:
        _, mine, theirs = np.intersect1d(now.position, came.position, return_indices=True)
        if len(mine) < TWO:
            return Record("accuracy", Verdict.NOTED, "The model as it came has no rows in common with it.")
        after, before = now.only(mine), came.only(theirs)
        if view.task.kind in VALUES:
            return self._errors_compared(view, before, after)
        change = paired_difference(before.hits, after.hits, groups=after.groups)
        lost, won = int((before.hits & ~after.hits).sum()), int((~before.hits & after.hits).sum())
        said = f"Against the model as it came: {100 * change.value:+.2f} points"
        said += f" [{100 * change.low:+.2f}, {100 * change.high:+.2f}]"
        said += f", {counted(lost, 'row')} lost and {won} won"
        said += "." if after.groups is not None else f" (exact McNemar p = {mcnemar_exact(lost, won):.3g})."
        if not (change.high < 0 and change.value <= -self.drop):
            sure = change.low > -self.drop
            verdict = Verdict.GOOD if sure else Verdict.NOTED
            said += "" if sure else f" A drop of {_points(self.drop)} cannot be excluded."
            return Record("accuracy", verdict, said)
        what = f"The accuracy fell by {-100 * change.value:.2f} points since the model as it came."
        return Record("accuracy", Verdict.BAD, said, findings=(fallen(view, what, change, lost),))

    def _errors_compared(self, view: View, before: Judged, after: Judged) -> Record:
        both = before.finite & after.finite
        if after.only(both).units < TWO:
            return Record("accuracy", Verdict.NOTED, "Too few rows are finite in both to compare them.")
        old, new = (_absolute_errors(one.only(both)) for one in (before, after))
        change = mean_of(new - old, groups=after.only(both).groups, better="lower")
        said = "Against the model as it came the mean absolute error changed by"
        said += f" {change.value:+.4g} [{change.low:+.4g}, {change.high:+.4g}]."
        metrics = {"mae@change": change}
        large = self.rise * float(old.mean())
        if change.low > 0 and change.value >= large:
            what = f"The mean absolute error rose by {change.value:.4g} since the model as it came."
            rows = int((new > old).sum())
            return Record("accuracy", Verdict.BAD, said, "", metrics, (fallen(view, what, change, rows),))
        sure = change.high < large or change.high <= 0
        return Record("accuracy", Verdict.GOOD if sure else Verdict.NOTED, said, "", metrics)

    def _curves(self, judged: Judged, scores: Scores) -> tuple[Table, ...]:
        finite = judged.finite[scores.places]
        part, probabilities = judged.only(scores.places[finite]), scores.probabilities[finite]
        areas, _ = class_areas(part, probabilities)
        if not areas:
            return ()
        worst = sorted(areas, key=lambda index: areas[index][0])[: self.worst]
        single = len(areas) == 1
        tables = []
        for title, x, of_class in (
            ("ROC curve", "false-positive rate", roc_curve),
            ("Precision-recall curve", "recall", precision_recall_curve),
        ):
            lines: dict[int, Floats] = {}
            total, grid = np.zeros(0), np.zeros(0)
            for index in areas:
                known = is_known(part, index)
                grid, line = of_class(is_class(part, index)[known], probabilities[known, index])
                total = line if not len(total) else total + line
                if index in worst:
                    lines[index] = line
            drawn = {} if single else {"mean of classes": total / len(areas)}
            drawn |= {class_name(part.task, index): lines[index] for index in worst}
            rows = zip(grid.tolist(), *(line.tolist() for line in drawn.values()), strict=True)
            tables.append(Table(title, (x, *drawn), tuple(rows)))
        return tuple(tables)


def _summary(view: View, judged: Judged, accuracy: Metric) -> str:
    rows = f"{len(judged)} rows"
    if judged.groups is not None:
        rows += f" in {judged.units} groups"
    whole = ", every label of a row counted together" if view.task.kind == "multilabel" else ""
    said = f"{100 * accuracy.value:.2f} % of {rows} are right"
    said += f" [{100 * accuracy.low:.2f}, {100 * accuracy.high:.2f}]{whole}."
    return said + (f" {_no_label(judged.unlabelled)}." if judged.unlabelled else "")


def _what(table: Table) -> str:
    return f"{len(table.columns) - 1} lines over the {table.columns[0]}"


def _not_finite(view: View, judged: Judged) -> list[Finding]:
    lost = judged.position[~judged.finite]
    if not len(lost):
        return []
    return [
        Finding(
            f"The outputs of {counted(len(lost), 'row')} are NaN or infinite; they count as wrong.",
            where=f"rows {few(lost)}",
            rows=len(lost),
            effect=Metric.exact(len(lost) / len(judged), len(judged), better="lower"),
            cause="NaN or overflow in the weights or on the way to the output.",
            do="Look at the health of the weights; in half precision, at what exceeds 65504.",
            show=show_figures(view),
        )
    ]


def _no_label(rows: int) -> str:
    return f"{counted(rows, 'row')} {'has' if rows == 1 else 'have'} no label"


def _points(share: float) -> str:
    number = f"{100 * share:g}"
    return f"{number} point{'' if number == '1' else 's'}"


def _absolute_errors(judged: Judged) -> Floats:
    error = np.abs(judged.prediction.astype(np.float64) - judged.label.astype(np.float64))
    return error if error.ndim == 1 else error.mean(axis=1)
