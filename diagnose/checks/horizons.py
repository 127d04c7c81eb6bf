"""How errors grow with the steps ahead, and whether a forecast without a model would be better."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from diagnose.check import Check
from diagnose.forecasts import (
    ALL,
    NAIVE,
    Forecasts,
    Shift,
    absolute,
    changes,
    means,
    naive_errors,
    places,
    read_forecasts,
    skills,
    step_metrics,
)
from study.errors import are, counted, few
from study.record import Cell, Finding, Metric, Picture, Record, Table, Verdict
from study.show import show_difference, show_figures
from study.task import Kind
from study.view import View

CERTAIN = 0.95
CHART = "Mean absolute error by step ahead"


@final
@dataclass(frozen=True, slots=True)
class Horizons(Check):
    """How far forecasts are off at each step ahead, beside forecasts that need no model."""

    needs: ClassVar[tuple[str, ...]] = ("predictions", "history")
    kinds: ClassVar[frozenset[Kind]] = frozenset({"forecasting"})

    rise: float = 0.05
    """A rise of a step's mean absolute error since the model as it came that matters, as a part of it."""
    gain: float = 0.05
    """A model that surely saves less of the error of the last value than this is told."""
    bias: float = 0.5
    """A mean error that is so large a part of the mean absolute error is told."""
    listed: int = 40
    """Targets in the table of targets."""

    def check(self, view: View) -> Record:
        forecasts = read_forecasts(view)
        steps = forecasts.shown()
        metrics = step_metrics(forecasts)
        found = skills(forecasts, steps)
        faults = [*_useless(view, forecasts, found)]
        summary = [_sentence(metrics, steps), *_skill_in_words(metrics), *_left_out(forecasts, metrics)]
        if view.origin is not None:
            more, rose, said = self._compared(view, forecasts, steps)
            metrics |= more
            faults += rose
            summary.append(said)
        facts = [*self._no_gain(view, metrics), *_worse_steps(view, forecasts, found)]
        facts += self._biased(view, forecasts, metrics)
        facts = [] if faults else facts  # a record has one verdict, and its findings bear it
        chart = _chart(forecasts, steps, metrics)
        tables = [chart, _figures(metrics, steps), *self._targets(forecasts)]
        text = (
            "The mean absolute error with its interval at each step ahead, beside forecasts without a model."
        )
        return Record(
            by="horizons",
            verdict=Verdict.BAD if faults else Verdict.NOTED,
            summary=" ".join((*summary, *forecasts.notes)),
            metrics=metrics,
            findings=(*faults, *facts),
            tables=tuple(tables),
            pictures=(Picture(CHART, "lines", CHART, text),),
        )

    def _no_gain(self, view: View, metrics: dict[str, Metric]) -> Iterator[Finding]:
        skill = metrics.get(f"skill_naive@{ALL}")
        if skill is not None and skill.high < self.gain:
            yield Finding(
                f"The forecasts are at most {100 * skill.high:.1f} % better than to repeat the last value.",
                rows=skill.n,
                effect=skill,
                certainty=skill.level,
                cause="The series may be close to a random walk, of which no forecast is better.",
                do="Ask whether the model is worth its cost, or judge it on what it is to be used for.",
                show=show_figures(view),
            )

    def _biased(self, view: View, forecasts: Forecasts, metrics: dict[str, Metric]) -> Iterator[Finding]:
        bias = metrics[f"bias@{ALL}"]
        error = float(absolute(forecasts, []).mean())
        if (bias.low <= 0 <= bias.high) or abs(bias.value) < self.bias * error:
            return
        way = "high" if bias.value > 0 else "low"
        yield Finding(
            f"The forecasts are too {way} by {abs(bias.value):.4g} on average.",
            rows=bias.n,
            effect=bias,
            certainty=bias.level,
            cause="The series has another level than in training, or is scaled otherwise.",
            do="Compare the scaling of inputs and labels with the training code, or train on recent data.",
            show=show_figures(view),
        )

    def _compared(
        self, view: View, forecasts: Forecasts, steps: list[int]
    ) -> tuple[dict[str, Metric], list[Finding], str]:
        assert view.origin is not None
        came = read_forecasts(view.origin)
        _, mine, theirs = np.intersect1d(forecasts.judged.position, came.judged.position, return_indices=True)
        after, before = forecasts.only(mine), came.only(theirs)
        if after.judged.units < 2:  # noqa: PLR2004 - no spread can be seen in one
            return {}, [], "Too few rows are finite in both to compare them."
        found = changes(before, after, steps)
        old = dict(zip(places(steps), absolute(before, steps).mean(axis=0), strict=True))
        rose = {
            place: one
            for place, one in found.items()
            if one.q <= 1 - CERTAIN and one.metric.value >= self.rise * old[place] > 0
        }
        del found[ALL]  # the accuracy says it
        largest = max(found, key=lambda place: abs(found[place].metric.value))
        said = f"Against the model as it came the mean absolute error changed most at {largest}:"
        one = found[largest].metric
        said += f" {one.value:+.4g} [{one.low:+.4g}, {one.high:+.4g}]."
        metrics = {f"mae_change@{place}": one.metric for place, one in found.items()}
        return metrics, [_rose(view, rose)] if rose else [], said

    def _targets(self, forecasts: Forecasts) -> Iterator[Table]:
        error = forecasts.each(lambda some: np.abs(some.said - some.label).mean(axis=1))
        if error.shape[1] == 1:
            return
        found = means(error, forecasts.judged.groups, "lower")
        worst = sorted(range(len(found)), key=lambda target: -found[target].value)[: self.listed]
        rows: list[tuple[Cell, ...]] = [
            (f"target {target}", found[target].value, found[target].low, found[target].high)
            for target in worst
        ]
        yield Table("Mean absolute error by target", ("target", "MAE", "low", "high"), tuple(rows))


def _useless(view: View, forecasts: Forecasts, found: dict[str, dict[str, Shift]]) -> Iterator[Finding]:
    """That the model is worse than its target's last value, over all steps."""
    skill = found.get("naive", {}).get(ALL)
    if skill is None or skill.metric.high >= 0:
        return
    yield Finding(
        "The forecasts are worse than to repeat the last value.",
        rows=len(forecasts.judged),
        effect=skill.metric,
        certainty=skill.metric.level,
        cause="Inputs or labels may be scaled or ordered otherwise than in training; of a random walk no "
        "forecast is better than its last value.",
        do="Compare the preparation of inputs and labels with the training code, or ship the last value.",
        show=show_figures(view),
    )


def _worse_steps(view: View, forecasts: Forecasts, found: dict[str, dict[str, Shift]]) -> Iterator[Finding]:
    """Steps at which a forecast without a model is surely better, corrected for their number."""
    for name, skill in found.items():
        worse = {
            place: one
            for place, one in skill.items()
            if place != ALL and one.q <= 1 - CERTAIN and one.metric.high < 0
        }
        if not worse:
            continue
        worst = min(worse, key=lambda place: worse[place].metric.value)
        yield Finding(
            f"{NAIVE[name].capitalize()} forecasts better than the model at {_steps(worse)}.",
            where=worst,
            rows=len(forecasts.judged),
            effect=worse[worst].metric,
            certainty=1 - worse[worst].q,
            cause="The model does not use what its history holds, or was trained for other steps.",
            do="Give the model the last value (or that of the last season) to add its forecast to.",
            show=show_figures(view),
        )


def _rose(view: View, rose: dict[str, Shift]) -> Finding:
    worst = max(rose, key=lambda place: rose[place].metric.value)
    return Finding(
        f"The mean absolute error rose since the model as it came at {_steps(rose)}.",
        where=worst,
        rows=rose[worst].metric.n,
        effect=rose[worst].metric,
        certainty=1 - rose[worst].q,
        cause=f"The steps from {view.origin.artifact.name if view.origin else ''} to {view.artifact.name}.",
        do="Ship an earlier artifact, or give training data (--train) to calibrate or recover on.",
        show=show_difference(view),
    )


def _steps(found: dict[str, Shift]) -> str:
    return f"{counted(len(found), 'step')} ahead ({few(found)})".replace("'", "")


def _sentence(metrics: dict[str, Metric], steps: list[int]) -> str:
    first, last = (metrics[f"mae@h={step + 1}"] for step in (steps[0], steps[-1]))
    said = f"The mean absolute error is {first.value:.4g} [{first.low:.4g}, {first.high:.4g}] one step ahead"
    if len(steps) > 1:
        said += f" and {last.value:.4g} [{last.low:.4g}, {last.high:.4g}] at {steps[-1] + 1} steps"
    return f"{said}, on {counted(first.n, 'row')}."


def _skill_in_words(metrics: dict[str, Metric]) -> Iterator[str]:
    for name, said in NAIVE.items():
        skill = metrics.get(f"skill_{name}@{ALL}")
        if skill is None:
            continue
        if skill.low <= 0 <= skill.high:
            yield f"Its error does not differ measurably from that of {said}."
        else:
            word = "less" if skill.value >= 0 else "more"
            low, high = sorted((100 * abs(skill.low), 100 * abs(skill.high)))
            share = f"{100 * abs(skill.value):.1f} % [{low:.1f}, {high:.1f}]"
            yield f"Its error is {share} {word} than that of {said}."


def _left_out(forecasts: Forecasts, metrics: dict[str, Metric]) -> Iterator[str]:
    if forecasts.moved is None:
        return
    constant = int((~(forecasts.moved > 0).any(axis=1)).sum())
    if constant:
        yield (
            f"The history of {counted(constant, 'row')} {are(constant)} constant: the scaled error (MASE) "
            + ("leaves these out." if f"mase@{ALL}" in metrics else "has no rows to stand on.")
        )


def _chart(forecasts: Forecasts, steps: list[int], metrics: dict[str, Metric]) -> Table:
    lines: dict[str, list[float]] = {}
    for name in forecasts.naive:
        lines[NAIVE[name]] = naive_errors(forecasts, name, steps).mean(axis=0)[1:].tolist()
    rows = []
    for place, step in enumerate(steps):
        error = metrics[f"mae@h={step + 1}"]
        rows.append((step + 1, error.value, error.low, error.high, *(line[place] for line in lines.values())))
    return Table(CHART, ("step ahead", "model", "model, low", "model, high", *lines), tuple(rows))


def _figures(metrics: dict[str, Metric], steps: list[int]) -> Table:
    kinds = {
        "mae": "MAE",
        "rmse": "RMSE",
        "smape": "sMAPE, %",
        "mase": "MASE",
        "bias": "bias",
        "skill_naive": "skill against the last value",
        "skill_seasonal": "skill against the last season",
    }
    there = [name for name in kinds if any(metric.startswith(f"{name}@h=") for metric in metrics)]
    rows: list[tuple[Cell, ...]] = []
    for step in steps:
        found = (metrics.get(f"{name}@h={step + 1}") for name in there)
        rows.append((f"h={step + 1}", *(None if one is None else one.value for one in found)))
    return Table("Errors by step ahead", ("step", *(kinds[name] for name in there)), tuple(rows))
