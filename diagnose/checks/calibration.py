"""Whether its probabilities can be believed."""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

from diagnose.calibrated import (
    binned_gap,
    brier_scores,
    equal_mass_bins,
    equal_width_bins,
    fitted_temperature,
)
from diagnose.calibrated_texts import with_lengths
from diagnose.check import Check
from diagnose.judged import Judged, Scores, read_judged, read_scores
from diagnose.parted_records import calibration_of_parts
from study.errors import SkipError
from study.record import Cell, Finding, Metric, Picture, Record, Table, Verdict
from study.show import show_figures
from study.statistics import mean_interval, mean_of, share_of
from study.task import PARTS, ROWS, VALUES, Kind
from study.view import View

TWO = 2


@final
@dataclass(frozen=True, slots=True)
class Calibration(Check):
    """Whether the model is right as often as its probabilities say."""

    needs: ClassVar[tuple[str, ...]] = ("predictions",)
    kinds: ClassVar[frozenset[Kind]] = (ROWS | PARTS) - VALUES

    bins: int = 15
    matters: float = 0.02
    """A gap between confidence and accuracy that is told as a finding."""

    def check(self, view: View) -> Record:
        if view.task.kind in PARTS:
            return calibration_of_parts(view)
        every = read_judged(view)
        judged = every.only(every.finite)
        if judged.units < TWO:
            raise SkipError("an interval needs two rows (or groups) with finite outputs and labels")
        scores = read_scores(view, judged)
        if judged.label.ndim > 1:
            return self._labels(judged, scores)
        metrics = _losses(judged, scores)
        confidence, right = judged.confidence, judged.hits.astype(np.float64)
        bins = equal_width_bins(confidence, self.bins)
        metrics["ece"] = binned_gap(confidence, right, bins, judged.groups)
        metrics["ece@adaptive"] = binned_gap(
            confidence, right, equal_mass_bins(confidence, self.bins), judged.groups
        )
        if scores is not None and judged.task.kind == "multiclass":
            temperature = fitted_temperature(scores.probabilities, judged.label[scores.places])
            if temperature is not None:
                metrics["temperature@fitted"] = Metric.exact(temperature, len(scores.places))
        return with_lengths(view, judged, self._record(view, judged, metrics, bins), self.bins, self.matters)

    def _record(
        self, view: View, judged: Judged, metrics: dict[str, Metric], bins: NDArray[np.intp]
    ) -> Record:
        table = _reliability(judged, bins, self.bins)
        gap = judged.confidence - judged.hits
        low, high = mean_interval(gap, judged.groups)
        findings: tuple[Finding, ...] = ()
        mean = float(gap.mean())
        if abs(mean) >= self.matters and (low > 0 or high < 0):
            findings = (_trusted(view, judged, Metric(mean, low, high, len(judged)), metrics),)
        error = metrics["ece"]
        said = f"The expected calibration error is {100 * error.value:.2f} points"
        said += f" [{100 * error.low:.2f}, {100 * error.high:.2f}]."
        if "nll" not in metrics:
            said += " The mean log-likelihood is infinite: some labels were given no probability at all."
        none = "" if findings or error.low > self.matters else " No gap that matters could be shown."
        picture = Picture(
            table.title,
            "reliability",
            table.title,
            "Accuracy over confidence in each bin; on the diagonal the confidence can be believed.",
        )
        return Record(
            "calibration",
            Verdict.GOOD if none else Verdict.NOTED,
            said + none,
            metrics=metrics,
            findings=findings,
            tables=(table,),
            pictures=(picture,),
        )

    def _labels(self, judged: Judged, scores: Scores | None) -> Record:
        """Of a multi-label task: each label's probability for itself, all labels of a row together."""
        metrics = _losses(judged, scores)
        if scores is None:
            return Record("calibration", Verdict.NOTED, "No outputs were kept: the loss alone.", "", metrics)
        part = judged.only(scores.places)
        known = part.known.ravel()
        chance, truth = scores.probabilities.ravel()[known], part.label.ravel()[known].astype(np.float64)
        # The labels of one row depend on each other: a row is a group unless groups were given.
        rows = np.arange(len(part)) if part.groups is None else part.groups
        units = np.repeat(rows, part.label.shape[1])[known]
        error = binned_gap(chance, truth, equal_width_bins(chance, self.bins), units)
        metrics["ece"] = Metric(error.value, error.low, error.high, len(part), better="lower")
        said = f"Over all labels, probabilities miss by {100 * error.value:.2f} points"
        said += f" [{100 * error.low:.2f}, {100 * error.high:.2f}]."
        return Record("calibration", Verdict.NOTED, said, "", metrics)


def _losses(judged: Judged, scores: Scores | None) -> dict[str, Metric]:
    metrics = {}
    if np.isfinite(judged.loss).all():
        metrics["nll"] = mean_of(judged.loss, groups=judged.groups, better="lower")
    if scores is not None:
        part = judged.only(scores.places)
        brier = brier_scores(scores.probabilities, part.label, part.task.kind)
        metrics["brier"] = mean_of(brier, groups=part.groups, better="lower")
    return metrics


def _reliability(judged: Judged, bins: NDArray[np.intp], count: int) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for index in range(count):
        inside = judged.only(bins == index)
        if len(inside):
            right = share_of(inside.hits, groups=inside.groups)
            confidence = float(inside.confidence.mean())
            rows.append((confidence, right.value, right.low, right.high, len(inside)))
    return Table("Reliability", ("confidence", "accuracy", "low", "high", "rows"), tuple(rows))


def _trusted(view: View, judged: Judged, gap: Metric, metrics: dict[str, Metric]) -> Finding:
    word, side = ("over-confident", "above") if gap.value > 0 else ("under-confident", "below")
    temperature = metrics.get("temperature@fitted")
    fit = f" Dividing the logits by {temperature.value:.2f} fits these rows best." if temperature else ""
    return Finding(
        f"The model is {word}: its confidence is {100 * abs(gap.value):.1f} points {side} its accuracy.",
        rows=len(judged),
        effect=gap,
        certainty=gap.level,
        cause="Often training that went on past zero training error."
        if gap.value > 0
        else "Often smoothed labels or strong regularisation.",
        do=f"Calibrate on held-out rows before a threshold is set on these probabilities.{fit}",
        show=show_figures(view),
    )
